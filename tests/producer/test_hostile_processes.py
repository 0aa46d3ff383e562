"""Processes that make it hard: no standard error, warnings as errors, and calls while Python ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.producer.programs import Program

# Every kind of notice: a second init, a call after the end, a call without a run, a fault of ours.
NOTICES = """
import logging, os, sys
STDERR
first = runwire.init()
first.log({"a": 1}, step=1)
second = runwire.init()
first.log({"late": 1})
def broken(*_):
    raise RuntimeError("a fault of ours")
second.log({"a": 2}, step=2)
second._append = broken
second.log({"a": 3}, step=3)
second.log({"a": 4}, step=4)
assert second.finish()
runwire.log({"none": 1})
"""
STDERRS = {
    "closed": "sys.stderr.close()",
    "None": "sys.stderr = None",
    "its descriptor closed": "os.close(2)",
    "one that raises": "sys.stderr = type('', (), {'write': lambda *_: 1 / 0, 'flush': lambda _: None})()",
}


@pytest.mark.parametrize("stderr", STDERRS.values(), ids=STDERRS)
def test_notices_without_a_standard_error(tmp_path: Path, stderr: str) -> None:
    """What can't be said is not said: no exception, no exit code, no row lost for it."""
    program = Program(tmp_path, NOTICES.replace("STDERR", stderr))
    assert program.run().returncode == 0
    assert program.points() == [("a", 1, 1.0), ("a", 2, 2.0)]


def test_each_notice_is_one_line(tmp_path: Path) -> None:
    """And the two last lines."""
    done = Program(tmp_path, NOTICES.replace("STDERR", "")).run()
    beginnings = [line.split(" ")[1] for line in done.stderr.splitlines() if line.startswith("runwire: ")]
    assert [word for word in beginnings if word.istitle()] == ["Run", "Run", "Tracking", "There"], done.stderr
    assert len(beginnings) == len(done.stderr.splitlines()) == 6
    assert "Traceback" not in done.stderr


ALL = """
import asyncio, os, threading, warnings
run = runwire.init()
for step in range(3):
    run.log({"a": step, "nested": {"b": 1}}, step=step)
run.define("a", unit="s", best="min")
run.alert("look")
run.log_params({"lr": 1})
thread = threading.Thread(target=run.log, args=({"a": 4.0},))
thread.start()
thread.join()
child = os.fork()
if child == 0:
    run.log({"child": 1}, step=1)
    run.finish()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("url", [None, "kafka://127.0.0.1:1/t"])
def test_warnings_as_errors_find_nothing(tmp_path: Path, url: str | None) -> None:
    """With `-W error` nothing of ours is deprecated, unclosed or never awaited."""
    source = ALL if url is None else "runwire._start.FINISH_TIMEOUT_SECONDS = 1.0\n" + ALL
    done = Program(tmp_path, source, url=url).run(PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("runwire: ") for line in lines), done.stderr
    assert len(lines) == 1 or url is not None, done.stderr  # else that nobody is reached, of the child too
    assert "tracking cost" in lines[-1]


LAST_CALLS = """
import sys, atexit, weakref, threading
MODE
class Last:
    def __init__(self, name):
        self.name, self.run = name, run
        self.runwire = runwire
    def __del__(self):
        for call in (
            lambda: self.run.log({self.name: 1.0}),
            lambda: self.run.log({self.name: {"new": 1.0}}),
            lambda: self.run.log_params({"a": {"b": 1}}),
            lambda: self.run.define("a", best="min"),
            lambda: self.run.alert("last", "words"),
            lambda: self.runwire.log({self.name: 1.0}),
            lambda: self.runwire.alert("last"),
            lambda: setattr(self.run, "step", 7),
            lambda: (repr(self.run), self.run.step),
            lambda: self.run.finish(),
            lambda: self.runwire.finish(),
        ):
            call()
run = runwire.init()
run.log({"a": 1.0}, step=1)
last = Last("module")
sys.last = Last("sys")                       # goes when sys is cleared
cycle = Last("cycle"); cycle.itself = cycle  # goes with the last collection
threading.local().last = Last("local")
kept = lambda: last
atexit.register(Last("atexit").__del__)
"""


@pytest.mark.parametrize("mode", ["on", "off", "offline"])
def test_calls_while_python_ends(tmp_path: Path, mode: str) -> None:
    """From finalizers, when modules are half gone: nothing is raised, which Python would print."""
    source = LAST_CALLS.replace("MODE", "")
    done = Program(tmp_path, source).run(RUNWIRE_MODE=mode)
    assert done.returncode == 0
    assert "Exception" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
