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
_ANCESTORS_MAX = 16
_ARGUMENTS_MAX = 6  # `python -u -m deepspeed.launcher.launch`: the program stands in front


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


def machine_identity() -> str | None:
    """A name of this machine since it was booted; None where the system doesn't tell."""
    boot = _read("/proc/sys/kernel/random/boot_id").strip() or _ask("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
    return f"{os.uname().nodename}/{boot}" if boot else None


def ancestor_identity(programs: frozenset[str]) -> str | None:
    """A name of the nearest ancestor that runs one of these programs; no other process on any machine has it.

    Not simply of the parent: a shell or a script between the launcher and a rank is another one for each rank.

    Args:
        programs: Names of files, or of modules that `python -m` runs.

    Returns:
        None where no ancestor runs one, or the system doesn't tell when it started.
    """
    machine = machine_identity()
    pid = os.getppid()
    for _ in range(_ANCESTORS_MAX):
        parent, started, arguments = _process(pid)
        if machine and started and any(argument.rpartition("/")[2] in programs for argument in arguments):
            return f"{machine}/{pid}/{started}"
        if parent <= 1:
            break
        pid = parent
    return None


def _process(pid: int) -> tuple[int, str, list[str]]:
    """(parent, when it started, first arguments) of a process; (0, "", []) where it is gone."""
    # The name may hold spaces and brackets.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) > _START_FIELD:
        return int(fields[1]), fields[_START_FIELD], _read(f"/proc/{pid}/cmdline").split("\0")[:_ARGUMENTS_MAX]
    told = _ask("/bin/ps", "-o", "ppid=,lstart=,command=", "-p", str(pid)).split()
    # lstart is five words: Sat Jun  1 12:00:00 2030
    return (int(told[0]), " ".join(told[1:6]), told[6 : 6 + _ARGUMENTS_MAX]) if len(told) > 6 else (0, "", [])  # noqa: PLR2004


def _ask(program: str, *arguments: str) -> str:
    """What a program says, on systems without /proc."""
    import subprocess  # noqa: PLC0415 - macOS alone gets here, under a launcher that gave no id

    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [program, *arguments], capture_output=True, text=True, timeout=2, check=True
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
