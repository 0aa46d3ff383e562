"""How processes end: exit codes and tracebacks stay Python's own, and the run says what happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from runwire_schemas.events import EmitterEnded, RunStarted
from tests.producer.programs import Program, of_kind

LOGS = """
run = runwire.init()
run.log({"loss": 0.5}, step=1)
"""
WITH = """
with runwire.init() as run:
    run.log({"loss": 0.5}, step=1)
"""
RAISES = 'raise ValueError("token=abc123secret456 was refused")'
REDACTED = "ValueError: token=*** was refused"

ENDINGS = [
    ("", 0, ("finished", None, None)),
    (RAISES, 1, ("failed", 1, REDACTED)),
    ("import sys; sys.exit(3)", 3, ("failed", 3, "SystemExit: 3")),
    ("import sys; sys.exit('no data')", 1, ("failed", 1, "SystemExit: no data")),
    ("raise SystemExit(0)", 0, None),
    ("import sys; sys.exit()", 0, None),
    ("raise KeyboardInterrupt", -signal.SIGINT, ("failed", 130, "KeyboardInterrupt")),
    ("import sys; sys.excepthook = lambda *_: None; 1 / 0", 1, ("failed", 1, "ZeroDivisionError: division by zero")),
]


@pytest.mark.parametrize(("last_line", "exit_code", "ending"), ENDINGS)
def test_a_run_without_with_ends_as_its_process_does(
    tmp_path: Path, last_line: str, exit_code: int, ending: tuple[str, int | None, str | None] | None
) -> None:
    """Its status, code and redacted text are the process's, and everything is delivered."""
    program = Program(tmp_path, LOGS + last_line)
    done = program.run()
    assert done.returncode == exit_code, done.stderr
    assert program.endings() == [ending or ("finished", None, None)]
    assert program.points() == [("loss", 1, 0.5)]
    assert program.journals() == []
    assert done.stderr.splitlines()[-1].startswith("runwire: ")


@pytest.mark.parametrize(("last_line", "exit_code", "ending"), ENDINGS)
def test_a_with_block_ends_the_run(
    tmp_path: Path, last_line: str, exit_code: int, ending: tuple[str, int | None, str | None] | None
) -> None:
    """The same from inside a `with` block, which sees every exception itself."""
    program = Program(tmp_path, f"{WITH}    {last_line or 'pass'}")
    assert program.run().returncode == exit_code
    assert program.endings() == [ending or ("finished", 0, None)]


def test_tracebacks_are_pythons_own(tmp_path: Path) -> None:
    """With Runwire a traceback says, word for word, what it says without."""
    source = "\n\n" + RAISES
    without = Program(tmp_path, source).run().stderr
    tracked = Program(tmp_path, "run = runwire.init()\n\n" + RAISES).run().stderr
    assert tracked.startswith(without)
    assert len(tracked.splitlines()) == len(without.splitlines()) + 1


def test_a_caught_exit_is_no_end(tmp_path: Path) -> None:
    """Training that goes on after somebody's `sys.exit(3)` was caught has finished."""
    program = Program(
        tmp_path,
        LOGS
        + """
import sys
try:
    sys.exit(3)
except SystemExit:
    run.log({"loss": 0.25}, step=2)
""",
    )
    assert program.run().returncode == 0
    assert program.endings() == [("finished", None, None)]


def test_exit_handlers_and_threads_still_log(tmp_path: Path) -> None:
    """What threads and later exit handlers log while Python ends is kept."""
    program = Program(
        tmp_path,
        LOGS
        + """
import atexit, threading
atexit.register(lambda: run.log({"at_exit": 1}, step=2))
ended = threading.Event()
def wait():
    threading.main_thread().join()
    run.log({"thread": 1}, step=3)
threading.Thread(target=wait).start()
""",
    )
    assert program.run().returncode == 0
    assert program.points() == [("at_exit", 2, 1.0), ("loss", 1, 0.5), ("thread", 3, 1.0)]


def test_the_same_program_twice_is_two_runs(tmp_path: Path) -> None:
    """Two starts of a script share nothing but their home."""
    program = Program(tmp_path, LOGS)
    assert [program.run().returncode, program.run().returncode] == [0, 0]
    assert len({event.run_id for event in program.events()}) == 2


def test_a_short_run_knows_what_it_ran_on(tmp_path: Path) -> None:
    """A run that ends before git and the packages answered waits for them, sent or offline."""
    program = Program(tmp_path, LOGS)
    program.run()
    assert any(event.packages for event in of_kind(program.events(), RunStarted))
    assert program.run(RUNWIRE_MODE="offline").returncode == 0
    assert len(program.journals()) == 1
    program.run()  # sends what waits
    told = [event for event in of_kind(program.events(), RunStarted) if event.packages]
    assert len(told) == 3
    assert program.journals() == []


def test_mode_off_leaves_no_trace(tmp_path: Path) -> None:
    """Nothing is written, said or kept."""
    program = Program(tmp_path, LOGS + "assert runwire.current_run() is run and run.finish()")
    done = program.run(RUNWIRE_MODE="off")
    assert (done.returncode, done.stderr) == (0, "")
    assert not program.home.exists()
    assert not program.topic.exists()


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_process_that_dies_without_a_word_is_recovered_by_the_next_start(tmp_path: Path, end: str) -> None:
    """Its rows are sent, its end is a crash."""
    Program(tmp_path, LOGS + f"import os, signal; {end}").run()
    Program(tmp_path, LOGS).run()
    program = Program(tmp_path, LOGS)
    assert sorted(event.how for event in of_kind(program.events(), EmitterEnded)) == ["crashed", "finished"]
    assert program.points().count(("loss", 1, 0.5)) >= 2
    assert program.journals() == []


@pytest.mark.parametrize("shell", ["2>&-", ">&-", ">&- 2>&-", "2>/dev/full"])
def test_broken_streams_change_no_exit_code(tmp_path: Path, shell: str) -> None:
    """A closed or full standard error takes the last line away, and nothing else."""
    program = Program(tmp_path, LOGS)
    assert program.run(shell=shell).returncode == 0
    assert program.points() == [("loss", 1, 0.5)]


def test_without_a_broker_training_starts_and_ends(tmp_path: Path) -> None:
    """One warning, a bounded end, the journal keeps everything and says how to send it."""
    source = LOGS + "\nfor step in range(2, 1000):\n    run.log({'loss': 1 / step}, step=step)\n"
    program = Program(tmp_path, source, url="kafka://localhost:1")  # a name, to be looked up while Python ends
    start = time.monotonic()
    done = program.run()
    assert done.returncode == 0
    assert time.monotonic() - start < 50
    warning, last = done.stderr.splitlines()
    assert "kafka://localhost:1/runwire.events can't be reached: no broker answers at localhost:1." in warning
    assert "Error" not in warning
    assert "`runwire sync` sends them" in last
    assert len(program.journals()) == 1
