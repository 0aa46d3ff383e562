"""What machine and process do, by psutil: processors, memory, disks, network.

A rate lies between two readings, so a reading keeps what counts up apart from what is. What a system doesn't tell,
or what counted backwards (an interface that went away), is left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPBACK = frozenset({"lo", "lo0"})
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(slots=True)
class Reading:
    """One look at the machine.

    Attributes:
        at_seconds: When, by the monotonic clock.
        now: Metrics to values that hold now.
        totals: Metrics to what they are the rates of, a second.
        busy_seconds: CPU time that was used, of all processors.
        cpu_seconds: CPU time that there was.
    """

    at_seconds: float
    now: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    cpu_seconds: float = 0.0


def metrics_between(before: Reading, after: Reading) -> dict[str, float]:
    """Metrics to values: what holds at the later reading, and the rates between both."""
    found: dict[str, float] = {}
    cpu_seconds = after.cpu_seconds - before.cpu_seconds
    busy_seconds = after.busy_seconds - before.busy_seconds
    if cpu_seconds > 0 and busy_seconds >= 0:
        found["system/cpu_percent"] = min(100.0, 100 * busy_seconds / cpu_seconds)
    found |= after.now
    seconds = after.at_seconds - before.at_seconds
    for name, total in after.totals.items():
        if seconds > 0 and total >= before.totals.get(name, float("inf")):
            found[name] = (total - before.totals[name]) / seconds
    return found


class HostProbe:
    """Reads the machine; needs psutil, which it imports."""

    def __init__(self, folder: Path, warn: Callable[[str, Exception], None]) -> None:
        """Look for psutil and for the container's limit.

        Args:
            folder: Whose file system's room is measured.
            warn: Gets what couldn't be read, and why; as often as it happens.

        Raises:
            ImportError: There is no psutil.
        """
        import psutil  # noqa: PLC0415 - not below `import runwire`; the caller holds the lock that a fork waits for

        self._psutil = psutil
        self._process = psutil.Process()
        self._folder = folder
        self._warn = warn
        self._cgroup = limiting_cgroup(psutil.virtual_memory().total)
        self._reads = (
            ("processors", self._read_cpu),
            ("memory", self._read_memory),
            ("this process", self._read_process),
            ("disks", self._read_disks),
            (f"the file system of {folder}", self._read_disk_room),
            ("network", self._read_network),
        )

    def read(self) -> Reading:
        """Look at everything; what can't be read is left out, never raises."""
        reading = Reading(time.monotonic())
        for what, read in self._reads:
            try:
                read(reading)
            except Exception as error:  # noqa: BLE001 - systems refuse in many ways, one value is no reason to stop
                self._warn(what, error)
        return reading

    def _read_cpu(self, reading: Reading) -> None:
        times = self._psutil.cpu_times()
        # What guests use is in user and nice already.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        reading.cpu_seconds = sum(times) - guests
        reading.busy_seconds = reading.cpu_seconds - times.idle - getattr(times, "iowait", 0.0)

    def _read_memory(self, reading: Reading) -> None:
        memory = self._psutil.virtual_memory()
        used_bytes, total_bytes = memory.total - memory.available, memory.total
        if self._cgroup is not None:
            used_bytes, total_bytes = cgroup_memory(self._cgroup)
        reading.now["system/memory_percent"] = 100 * used_bytes / total_bytes
        reading.now["system/memory_bytes"] = float(used_bytes)

    def _read_process(self, reading: Reading) -> None:
        reading.totals["system/process_cpu_percent"] = 100 * time.process_time()
        reading.now["system/process_memory_bytes"] = float(self._process.memory_info().rss)

    def _read_disks(self, reading: Reading) -> None:
        # nowrap would take a lock of psutil's and remember every counter.
        counters: Any = self._psutil.disk_io_counters(nowrap=False)
        if counters is not None:  # a container may see no disk
            reading.totals["system/disk_read_bytes_per_second"] = counters.read_bytes
            reading.totals["system/disk_write_bytes_per_second"] = counters.write_bytes

    def _read_disk_room(self, reading: Reading) -> None:
        reading.now["system/disk_used_percent"] = self._psutil.disk_usage(str(self._folder)).percent

    def _read_network(self, reading: Reading) -> None:
        found = self._psutil.net_io_counters(pernic=True, nowrap=False)
        counters = [counter for name, counter in found.items() if name not in LOOPBACK]
        if counters:
            sent, received = (sum(getattr(one, name) for one in counters) for name in ("bytes_sent", "bytes_recv"))
            reading.totals["system/network_sent_bytes_per_second"] = sent
            reading.totals["system/network_received_bytes_per_second"] = received


def limiting_cgroup(total_bytes: int, root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> Path | None:
    """The folder of the cgroup (version 2) with the lowest memory limit over this process; None without a limit.

    Args:
        total_bytes: The machine's memory: a limit above it is none.
        root: Where cgroups are mounted.
        own: Which one this process is in; its parents' limits count too.
    """
    limits: list[tuple[int, Path]] = []
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
        path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        return None
    folder = root / path
    for candidate in (folder, *folder.parents):
        if not candidate.is_relative_to(root):
            break
        try:
            text = (candidate / "memory.max").read_text(encoding="ascii").strip()
        except OSError:  # the topmost has none, unless it is a container's
            continue
        if text.isdecimal() and 0 < int(text) < total_bytes:
            limits.append((int(text), candidate))
    return min(limits)[1] if limits else None


def cgroup_memory(folder: Path) -> tuple[int, int]:
    """(bytes used, limit in bytes) of a cgroup; files that were read and can be forgotten at once don't count.

    Raises:
        OSError: It can't be read.
        ValueError: It has no limit any more.
    """
    used_bytes = int((folder / "memory.current").read_text(encoding="ascii"))
    for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
        if line.startswith("inactive_file "):
            used_bytes -= int(line.split()[1])
    return max(0, used_bytes), int((folder / "memory.max").read_text(encoding="ascii"))
