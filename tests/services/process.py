"""Start real programs for tests: free ports, readiness probes, kept logs, and a certain end.

A program started here runs in a process group of its own. It ends with `ServiceProcess.kill` or `.stop`,
at the latest when the process that started it is gone, however that happened: a small reaper holds the
read end of a pipe and kills what is left when the pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
"""What the tests fetch once and keep; ignored by git, safe to delete."""

PORT_RANGE = range(20_000, 32_000)
"""Below Linux's ephemeral ports: a client that retries towards a dead server there can connect to itself."""

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 90.0
"""How long tests wait for what must come and has no bound of its own: longer than a busy machine stands still."""

LOG_TAIL_LINES = 40

REAPER = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    verb, group = line.split()
    (groups.add if verb == "add" else groups.discard)(int(group))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class ServiceMissing(Exception):
    """A service can't be started on this machine: its name, and one line on how to get it."""

    def __init__(self, name: str, how_to_get: str) -> None:
        super().__init__(f"{name} is not here: {how_to_get}")
        self.name = name
        self.how_to_get = how_to_get


class ServiceFailed(Exception):
    """A program ended or did not answer in time; the message ends with the tail of its log."""


def free_ports(count: int) -> list[int]:
    """Return `count` loopback TCP ports on which nothing listens at the moment; none that it returned before."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(PORT_RANGE)
        # Binding does not tell: with SO_REUSEADDR two sockets can hold one port until one of them listens.
        if _is_free(port) and _is_ours(port):
            ports.append(port)
    return ports


_our_ports: list[socket.socket] = []


def _is_ours(port: int) -> bool:
    """Whether nobody was given this port: neither here, nor by a test process beside this one that still lives."""
    name = socket.socket(socket.AF_UNIX)  # no file: it is gone with the process
    try:
        name.bind(f"\0runwire-test-port-{port}")
    except OSError:
        name.close()
        return False
    _our_ports.append(name)
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a killed server left waits for its time
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], T], *, what: str, timeout_seconds: float = PATIENCE_SECONDS) -> T:
    """Poll `condition` until it returns something true, and return that.

    Raises:
        TimeoutError: it stayed false for `timeout_seconds`; the message is `what`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)


def run_blocking(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end from ordinary code, also where this thread already runs an event loop."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=target, name="run-blocking")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


class _Reaper:
    """One helper process a Python process; kills the groups it was told of when its input closes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def tell(self, verb: str, group: int) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-c", REAPER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    text=True,
                )
            pipe = self._process.stdin
            assert pipe is not None
            pipe.write(f"{verb} {group}\n")
            pipe.flush()


_reaper = _Reaper()


class ServiceProcess:
    """One running program, its log file, and the ways to end it.

    Args:
        name: what error messages call it.
        command: program and arguments.
        log: file that gets stdout and stderr; appended to, so restarts stay in one story.
        environment: replaces the inherited environment when given.
        outlives_us: keep it running when this process ends (`manage.py up`).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        outlives_us: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._reaped = not outlives_us
        log.parent.mkdir(parents=True, exist_ok=True)
        stream: IO[bytes]
        with log.open("ab") as stream:
            try:
                self._process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=None if environment is None else dict(environment),
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise ServiceMissing(name, f"{error.filename} is not installed") from error
        if self._reaped:
            _reaper.tell("add", self._process.pid)

    @property
    def pid(self) -> int:
        """Process id; also its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, -N when signal N ended it."""
        return self._process.poll()

    def wait_ready(self, probe: Callable[[], bool], *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Return when `probe` holds.

        Raises:
            ServiceFailed: the program ended first, or the time is up.
        """

        def ready_or_dead() -> bool:
            return self.exit_code is not None or probe()

        try:
            wait_until(ready_or_dead, timeout_seconds=timeout_seconds, what=f"{self.name} answers")
        except TimeoutError as error:
            raise ServiceFailed(self._with_log(str(error))) from error
        if self.exit_code is not None:
            raise ServiceFailed(self._with_log(f"{self.name} ended with {self.exit_code} before it answered"))

    def wait(self, *, timeout_seconds: float) -> int:
        """Wait for the program to end by itself and return its exit code.

        Raises:
            ServiceFailed: it still runs after `timeout_seconds`.
        """
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise ServiceFailed(self._with_log(f"{self.name} still runs after {timeout_seconds:g} s")) from error
        self._forget()
        return code

    def kill(self) -> None:
        """SIGKILL the whole process group and wait until it is gone. Harmless when it already is."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._forget()

    def stop(self, *, timeout_seconds: float = PATIENCE_SECONDS) -> int:
        """SIGTERM, a bounded wait, then SIGKILL; returns the exit code."""
        if self.exit_code is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        self.kill()
        return self._process.returncode

    def log_tail(self) -> str:
        """The last lines it printed."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _with_log(self, sentence: str) -> str:
        return f"{sentence}; its log {self.log} ends with\n{self.log_tail()}"

    def _forget(self) -> None:
        if self._reaped:
            _reaper.tell("forget", self.pid)
            self._reaped = False
