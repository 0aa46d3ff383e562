"""A measured program with all it started: CPU time and memory of the whole tree, found by a mark in the environment.

A background process may detach itself from its parent; it keeps the environment it was started with.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "RUNWIRE_BENCH_MARK"
QUIET_SECONDS = 0.3
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)
QUIET_CPU_SECONDS = 0.011  # one tick of the kernel's clock


def new_mark() -> str:
    """Return a value for the variable MARK that no other program has."""
    return uuid.uuid4().hex


class Tree:
    """Every process whose environment carries a mark."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def cpu_seconds(self) -> float:
        """User and system time so far, with that of children that ended and were waited for."""
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss_bytes(self) -> int:
        """Resident memory now, summed over the processes."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def anonymous_bytes(self) -> int | None:
        """Memory now that is no file's, summed over the processes; None where the kernel doesn't tell."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(OSError):
                found = _ANONYMOUS.search(Path(f"/proc/{process.pid}/status").read_text())
                if found is None:
                    return None
                total += int(found[1]) * 1024
        return total or None

    def wait_until_quiet(self, timeout_seconds: float) -> None:
        """Return when hardly any CPU time is used, so that what a start leaves running isn't counted later."""
        deadline = time.monotonic() + timeout_seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(QUIET_SECONDS)
            now = self.cpu_seconds()
            if now - before < QUIET_CPU_SECONDS:
                return
            before = now

    def wait_until_gone(self, timeout_seconds: float) -> None:
        """Return when none is left, at the latest after the time-out."""
        deadline = time.monotonic() + timeout_seconds
        while list(self._processes()) and time.monotonic() < deadline:
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL what is left."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
