"""System metrics: one thread a node and run that measures machine, process and GPUs every 5 s, as `system/...`.

1. Who samples: a process with local rank 0 that trains. Where several claim that (no launcher tells their places), the
   one that holds the run's lock in the home; the others wait for its end. An `eval` process doesn't: its machine may
   be another, and the run's curves are of the machines that train.
2. Samples are rows like others, at the highest step that was logged. Before the first `log()` they have the step that
   the run starts from; where nobody knows it (a named run may be a resumed one) they begin with the first `log()`:
   at a step too low they would supersede what earlier attempts measured.
3. All readings are done under a lock that a fork waits for: psutil and NVML have locks of their own, and a child must
   inherit none that is held. Rows are written outside of it.
4. Nothing is imported before the thread runs; whatever fails is said once, and costs one value, or this thread.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, Protocol

from runwire._forks import ForkLock
from runwire._notices import NOTICES
from runwire._system_gpus import GpuProbe, load_nvml
from runwire._system_host import HostProbe, metrics_between

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FIRST_AFTER_SECONDS = 1.0  # short runs have a sample too
INTERVAL_SECONDS = 5.0
STOP_SECONDS = 0.2  # a driver may be stuck: the run's end doesn't wait for it
FORK_WAIT_SECONDS = 1.0
_UNITS = {
    "_percent": "%",
    "_bytes": "B",
    "_bytes_per_second": "B/s",
    "_watts": "W",
    "_celsius": "°C",
}

_reading = ForkLock(FORK_WAIT_SECONDS)


def unit_of(metric: str) -> str | None:
    """The unit that a metric's name ends with."""
    return next((unit for ending, unit in _UNITS.items() if metric.endswith(ending)), None)


class Keeper(Protocol):
    """The run, as its sampler needs it."""

    @property
    def highest_step(self) -> int | None:
        """The highest step of all `log()` calls so far, else the one that was set; None before both."""

    def log_automatic(self, metrics: Mapping[str, float], step: int, units: Mapping[str, str | None]) -> None:
        """Keep a row of measured values, and the units of those that have none yet."""


class Turn:
    """One process's claim to sample a run on its node: a byte of a file in the home, locked while it samples.

    One file serves all runs, a byte each, so nothing is left to clean up; a dead process's lock is gone with it. On a
    shared file system each node has bytes of its own.
    """

    def __init__(self, path: Path, run_id: str, host: str) -> None:
        self._path = path
        self._byte = zlib.crc32(f"{run_id}@{host}".encode())
        # A number, no file object: a child that collected that as garbage would give up a lock of its own.
        self._fd = -1

    def take(self) -> bool:
        """Whether it is this process's turn, from now until `give_back`.

        Raises:
            OSError: The home can't be written, or its file system has no locks.
        """
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def give_back(self) -> None:
        """Let another process sample."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Sampler(threading.Thread):
    """Samples until it is stopped."""

    def __init__(
        self,
        keeper: Keeper,
        turn: Turn,
        *,
        folder: Path,
        visible_gpus: str | None,
        ranks: int,
        first_step: int | None,
        nvml: Callable[[], Any] = load_nvml,
    ) -> None:
        """Nothing is measured, nor imported, before `start`.

        Args:
            keeper: Gets the rows.
            turn: Says whether this process samples.
            folder: Whose file system's room is measured.
            visible_gpus: CUDA_VISIBLE_DEVICES.
            ranks: Ranks of this node, for all of which it samples.
            first_step: Step of samples before the first `log()`; None where nobody knows.
            nvml: Gives NVML's module, or None where there is no driver.
        """
        super().__init__(name="runwire-system", daemon=True)
        self._keeper = keeper
        self._turn = turn
        self._folder = folder
        self._visible_gpus = visible_gpus
        self._ranks = ranks
        self._first_step = first_step
        self._nvml = nvml
        self._stopping = threading.Event()
        self._said: set[tuple[str, type]] = set()
        self._defined: set[str] = set()
        self.cpu_seconds = 0.0

    def stop(self) -> None:
        """End it, at once unless a reading is stuck."""
        self._stopping.set()
        self.join(STOP_SECONDS)

    def run(self) -> None:
        """The thread's whole life."""
        try:
            while not self._turn.take():
                if self._stopping.wait(INTERVAL_SECONDS):
                    return
            self._sample()
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach training
            if not self._stopping.is_set():  # while Python ends, nothing can be imported any more
                NOTICES.say("system", f"System metrics are off: {error!r}.")
        finally:
            self._turn.give_back()

    def _sample(self) -> None:
        with _reading:
            host = HostProbe(self._folder, self._warn)
            gpus = GpuProbe(self._nvml(), self._visible_gpus, self._ranks, self._warn)
            before = host.read()
        try:
            pause_seconds = FIRST_AFTER_SECONDS
            while not self._stopping.wait(pause_seconds):
                pause_seconds = INTERVAL_SECONDS
                with _reading:
                    after = host.read()
                    of_gpus = gpus.read()
                self._keep(metrics_between(before, after) | of_gpus)
                before = after
                self.cpu_seconds = time.thread_time()
        finally:
            with _reading:
                gpus.close()
            self.cpu_seconds = time.thread_time()

    def _keep(self, metrics: Mapping[str, float]) -> None:
        step = self._keeper.highest_step
        if step is None:
            step = self._first_step
        if step is None or not metrics:
            return
        units = {name: unit_of(name) for name in metrics if name not in self._defined}
        self._keeper.log_automatic(metrics, step, units)
        self._defined |= units.keys()

    def _warn(self, what: str, error: Exception) -> None:
        """Once a cause."""
        if (what, type(error)) not in self._said:
            self._said.add((what, type(error)))
            NOTICES.say(f"system: {what}", f"System metrics: {what} can't be read and is left out: {error!r}.")
