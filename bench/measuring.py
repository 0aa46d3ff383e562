"""Starts the measured process of one tool, leads it through its stages, and takes the figures from outside."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.environments import REPOSITORY, python_of
from bench.processes import MARK, Tree, new_mark
from bench.tools import Tool

WORKER = REPOSITORY / "bench" / "worker.py"
START_TIMEOUT_SECONDS = 60.0
QUIET_TIMEOUT_SECONDS = 5.0
COUNT_TIMEOUT_SECONDS = 120.0
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What measured programs get of our environment: no tool's own settings."""


class MeasuringFailed(Exception):
    """A tool did not do its part; the message says where, and what it printed last."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is logged.

    Attributes:
        keys: values a call.
        calls: calls at most.
        calls_per_second: 0 is a tight loop.
        seconds_max: wall-clock limit of the loop.
        close_seconds_max: wall-clock limit of the tool's end: it may have a backlog.
    """

    keys: int = 10
    calls: int = 100_000
    calls_per_second: float = 0.0
    seconds_max: float = 30.0
    close_seconds_max: float = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process of a tool did and took; CPU and memory are those of its whole tree.

    `loop_cpu_seconds` leaves out the tool's end, when it may have a backlog. `anonymous_extra_bytes` is None where
    the kernel doesn't tell, and holds numpy's own where the tool `has_numpy`.
    """

    calls: int
    warm_up_calls: int
    seconds: float
    cpu_seconds: float
    loop_cpu_seconds: float
    rss_extra_bytes: int
    anonymous_extra_bytes: int | None
    has_numpy: bool
    stored_bytes: int
    durations_ns: array[int]


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="runwire-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment_of(tool: Tool, folder: Path, mark: str) -> dict[str, str]:
    """Return the environment of a measured process: home, temporary and data folders of its own."""
    for name in ("home", "tmp", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    own = {name: value.format(data=folder / "data") for name, value in tool.environment.items()}
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(REPOSITORY)}
    return {**{name: os.environ[name] for name in KEPT if name in os.environ}, **own, **places, MARK: mark}


class Worker:
    """One measured process; as a context manager, it and all it started are gone at the end."""

    def __init__(self, tool: Tool, folder: Path, url: str, load: Load) -> None:
        self.mark = new_mark()
        self.tree = Tree(self.mark)
        self.folder = folder
        self.durations = folder / "durations"
        self.counter = folder / "returned"
        environment = environment_of(tool, folder, self.mark)
        numbers = (load.keys, load.calls, load.calls_per_second, load.seconds_max)
        places = (folder / "data", url)
        command = [python_of(tool.package), "-P", WORKER, "log", tool.name, *places, *numbers]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in [*command, self.durations, self.counter]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=folder / "data",
                text=True,
                start_new_session=True,
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def stage(self, name: str, timeout_seconds: float) -> dict[str, Any]:
        """Wait until the worker is done with a stage; it then waits for `go_on`.

        Raises:
            MeasuringFailed: It ended before, or took longer.
        """
        try:
            line = self._answers.get(timeout=timeout_seconds)
        except queue.Empty:
            raise MeasuringFailed(f"not {name} within {timeout_seconds:g} s; {self._last_words()}") from None
        if not line:
            raise MeasuringFailed(f"ended before it was {name}; {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def go_on(self) -> None:
        """Let it do the next stage."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def sigkill(self) -> int:
        """SIGKILL the logging process alone; returns how many of its calls had returned."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        (returned,) = struct.unpack("<q", self.counter.read_bytes())
        return int(returned)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tree.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _last_words(self) -> str:
        text = (self.folder / "log").read_text(errors="replace").strip()
        return f"it said last: {text[-300:]}" if text else "it said nothing"


def log_rows(tool: Tool, folder: Path, url: str, load: Load) -> Figures:
    """Log with one tool until its end and return the figures.

    The count of CPU time begins when the tool has opened its run and is quiet, and ends when its close has returned.

    Raises:
        MeasuringFailed: The tool failed or took longer than the load allows.
    """
    with Worker(tool, folder, url, load) as worker:
        worker.stage("started", START_TIMEOUT_SECONDS)
        rss_before, anonymous_before = worker.tree.rss_bytes(), worker.tree.anonymous_bytes()
        worker.go_on()
        opened = worker.stage("open", START_TIMEOUT_SECONDS)
        worker.tree.wait_until_quiet(QUIET_TIMEOUT_SECONDS)
        cpu_before = worker.tree.cpu_seconds()
        worker.go_on()
        logged = worker.stage("through the loop", load.seconds_max + START_TIMEOUT_SECONDS)
        rss, cpu_after_loop = worker.tree.rss_bytes(), worker.tree.cpu_seconds()
        anonymous = worker.tree.anonymous_bytes()
        worker.go_on()
        worker.stage("closed", load.close_seconds_max)
        cpu = worker.tree.cpu_seconds()
        worker.go_on()
        worker.tree.wait_until_gone(10)
    durations = array("q")
    durations.frombytes(worker.durations.read_bytes())
    return Figures(
        calls=logged["calls"],
        warm_up_calls=opened["warm_up_calls"],
        seconds=logged["seconds"],
        cpu_seconds=cpu - cpu_before,
        loop_cpu_seconds=cpu_after_loop - cpu_before,
        rss_extra_bytes=rss - rss_before,
        anonymous_extra_bytes=None if anonymous is None or anonymous_before is None else anonymous - anonymous_before,
        has_numpy=logged["has_numpy"],
        stored_bytes=size_of(folder / "data"),
        durations_ns=durations,
    )


def rows_after_sigkill(tool: Tool, folder: Path, url: str, load: Load, seconds: float) -> tuple[int, int]:
    """Kill a logging process after some seconds; returns how many calls had returned, how many rows are readable.

    Raises:
        MeasuringFailed: The tool failed before, or its data can't be read.
    """
    with Worker(tool, folder, url, load) as worker:
        worker.stage("started", START_TIMEOUT_SECONDS)
        worker.go_on()
        worker.stage("open", START_TIMEOUT_SECONDS)
        worker.go_on()
        time.sleep(seconds)
        returned = worker.sigkill()
        # A background process of the tool may still save what it was given.
        worker.tree.wait_until_gone(10)
    return returned, count_rows(tool, folder, url, load.keys)


def count_rows(tool: Tool, folder: Path, url: str, keys: int) -> int:
    """Count the rows that the tool's own data holds.

    Raises:
        MeasuringFailed: The data can't be read.
    """
    command = [python_of(tool.package), "-P", WORKER, "count", tool.name, folder / "data", url, keys]
    done = _run(tool, folder, command)
    return int(json.loads(done)["rows"])


def import_cpu_seconds(tool: Tool, folder: Path, module: str) -> float:
    """CPU seconds of the import in a fresh process, compiled files being there: the median of five.

    Raises:
        MeasuringFailed: It can't be imported.
    """
    code = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
    command = [python_of(tool.package), "-P", "-c", code]
    times = [float(_run(tool, folder, command).split()[-1]) for _ in range(6)]
    return sorted(times[1:])[2]


def numpy_anonymous_bytes(tool: Tool, folder: Path) -> int:
    """What numpy alone adds to a process in the tool's environment.

    Raises:
        MeasuringFailed: It can't be imported.
    """
    code = (
        "import re; kib = lambda: int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1]); "
        "before = kib(); import numpy; print(kib() - before)"
    )
    return 1024 * int(_run(tool, folder, [python_of(tool.package), "-P", "-c", code]).split()[-1])


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _run(tool: Tool, folder: Path, command: list[Any]) -> str:
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=environment_of(tool, folder, new_mark()),
            cwd=folder / "data",
            capture_output=True,
            text=True,
            check=False,
            timeout=COUNT_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasuringFailed(f"took over {COUNT_TIMEOUT_SECONDS:g} s") from error
    if done.returncode:
        raise MeasuringFailed(done.stderr.strip()[-300:])
    return done.stdout
