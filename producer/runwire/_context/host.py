"""The machine a process runs on, from cheap files and system calls; what can't be known stays empty.

Processors and memory are what this process may use: its affinity, its container's limit.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runwire_schemas.events import Host

_GPUS = "/proc/driver/nvidia/gpus"
_FILE_BYTES_MAX = 64 * 1_024
_START_FIELD = 19  # of /proc/PID/stat, counted after the name: ticks since boot


def read_host(environ: Mapping[str, str]) -> Host:
    """Name, system, Python, processors, memory and GPUs; never raises."""
    # Imported here: settings import this module for the user's name, and `import runwire` stays light.
    from runwire_schemas.events import Host  # noqa: PLC0415

    return Host(
        name=host_name(environ),
        os=_system(),
        python=".".join(map(str, sys.version_info[:3])),
        cpus=_cpus(),
        memory_bytes=_memory_bytes(),
        gpus=_gpus(environ),
    )


def host_name(environ: Mapping[str, str]) -> str:
    """The scheduler's name of this node, else the system's."""
    return environ.get("SLURMD_NODENAME") or os.uname().nodename or "unknown"


def user_name(environ: Mapping[str, str]) -> str | None:
    """Who runs this: the login name, where there is one."""
    for variable in ("LOGNAME", "USER"):
        if environ.get(variable):
            return environ[variable]
    with suppress(Exception):  # containers run users without a name
        # Imported here: only needed where the environment is bare.
        import pwd  # noqa: PLC0415

        return pwd.getpwuid(os.getuid()).pw_name
    return None


def parent_identity() -> str | None:
    """A name of the parent process that no other process ever has, on this machine or another.

    None where the system doesn't tell when a process started.
    """
    parent = os.getppid()
    # The name may hold spaces and brackets.
    fields = _read(f"/proc/{parent}/stat").rpartition(")")[2].split()
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    if len(fields) > _START_FIELD:
        return f"{os.uname().nodename}/{boot}/{parent}/{fields[_START_FIELD]}"
    started = _ask_ps(parent)
    return f"{os.uname().nodename}/{parent}/{started}" if started else None


def _ask_ps(pid: int) -> str:
    """When a process started, on systems without /proc."""
    import subprocess  # noqa: PLC0415 - macOS alone gets here, under a launcher that gave no id

    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=2, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(done.stdout.split())


def _system() -> str:
    system = os.uname()
    parts = [f"{system.sysname} {system.release} {system.machine}"]
    parts += [value.strip("\"'") for value in _values(_read("/etc/os-release"), "PRETTY_NAME=")]
    container = _container()
    return ", ".join([*parts, container] if container else parts)


def _values(text: str, name: str) -> list[str]:
    """What stands behind a name at the beginning of a line."""
    return [line.removeprefix(name).strip() for line in text.splitlines() if line.startswith(name)]


def _container() -> str:
    for mark, kind in (
        ("/.dockerenv", "docker"),
        ("/run/.containerenv", "podman"),
        ("/.singularity.d", "apptainer"),
        ("/var/run/secrets/kubernetes.io", "kubernetes"),
    ):
        if os.path.exists(mark):  # noqa: PTH110 - a fixed name; no need of a Path
            return kind
    return ""


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _memory_bytes() -> int:
    total = 0
    with suppress(OSError, ValueError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [total] if total > 0 else []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdecimal():
            limits.append(int(text))
    return min(limits, default=0)


def _gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the GPUs this process may use; numbers alone where the driver doesn't tell names."""
    names: list[str] = []
    with suppress(OSError):
        for folder in sorted(os.listdir(_GPUS)):  # noqa: PTH208 - names are enough
            names += _values(_read(f"{_GPUS}/{folder}/information"), "Model:")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(names)
    devices = [device.strip() for device in visible.split(",") if device.strip() not in {"", "-1", "NoDevFiles"}]
    # Devices may be numbers in another order than the driver's, or UUIDs: a name is sure when all are the same.
    model = names[0] if len(set(names)) == 1 else "GPU"
    return tuple(f"{model} [{device}]" for device in devices)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - fixed names; no need of a Path
            return file.read(_FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
