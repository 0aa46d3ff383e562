"""A fault of ours at each internal boundary: a warning, training goes on, and what was journaled arrives or waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire import _delivery, _emitter, _journal, _sender, _start
from runwire.testing import Captured
from runwire_schemas.events import RowsLost
from tests.producer.journals import recovered
from tests.producer.programs import Program

ROWS = 40


def after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Works for so many calls, then breaks in a way that nobody expects."""
    left = iter(range(calls))

    def doomed(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise ArithmeticError("a fault of ours")
        return function(*args, **kwargs)

    return doomed


# (what breaks, where, its name, calls that still work, rows that are kept, what finish returns)
BOUNDARIES: list[tuple[str, Any, str, int, int, bool]] = [
    ("append of a row", _journal.Journal, "append_row", 20, 20, True),
    ("room for a new key set", _journal.Journal, "_make_room", 1, ROWS, True),
    ("append of a record", _journal.Journal, "append_event", 1, ROWS, True),
    ("encode of a record", _emitter, "encode", 2, ROWS, True),
    ("the wall clock", _emitter, "wall_time_us", 1, ROWS, False),
    ("the description", _start._EmitterMaker, "_describe", 0, ROWS, True),
    ("imports of the sender", _sender, "import_all", 0, ROWS, True),
    ("the transport", _sender, "make_transport", 0, ROWS, False),
    ("the sender's cut", _sender, "messages", 0, ROWS, False),
    ("the sender's delivery", _delivery.Delivery, "send", 1, ROWS, False),
    ("the sender's reading", _sender.Sender, "_read", 0, ROWS, False),
    ("the sender's trimming", _sender.Sender, "_trim", 0, ROWS, False),
    ("a heartbeat", _emitter.Emitter, "heartbeat", 0, ROWS, False),
    ("the last message", _emitter.Emitter, "ended", 0, ROWS, False),
    ("recovery of others", _emitter, "recover", 0, ROWS, True),
    ("the next segment", _journal.Journal, "prepare", 0, ROWS, False),
    ("seal of the journal", _journal.Journal, "seal", 0, ROWS, False),
    ("finish of the sender", _sender.Sender, "finish", 0, ROWS, False),
    ("finish of the emitter", _emitter.Emitter, "finish", 0, ROWS, False),
    ("close of the journal", _journal.Journal, "close", 0, ROWS, False),
]


@pytest.mark.parametrize(
    ("where", "name", "calls", "kept", "delivers"), [row[1:] for row in BOUNDARIES], ids=[row[0] for row in BOUNDARIES]
)
def test_a_fault_at_a_boundary(  # noqa: PLR0917 - pytest passes by name, a column of the table each
    where: Any,
    name: str,
    calls: int,
    kept: int,
    delivers: bool,  # noqa: FBT001
    captured: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No call raises, each cause is named once, and what was kept before has arrived or is in a whole journal."""
    monkeypatch.setattr(_start, "FINISH_TIMEOUT_SECONDS", 100.0 if delivers else 2.0)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, after(calls, getattr(where, name)))
        run = runwire.init(project="p", url=captured.url, home=tmp_path)
        emitter = run._emitter
        assert emitter is not None
        for step in range(ROWS):
            run.log({"a": 1.0}, step=step)
        run.log({"another": 1.0}, step=ROWS)
        run.alert("look")
        run.log_params({"lr": 0.1})
        assert run.finish() == delivers
    assert caplog.records or name == "recover"
    assert len(caplog.messages) == len(set(caplog.messages)) <= 3
    assert all("fault of ours" in message or "has ended" in message for message in caplog.messages)
    # What `finish` couldn't end.
    if emitter.sender is not None:
        emitter.sender.finish(5)
    emitter.journal.close(delete=False)
    steps = {step for _, step, _ in captured.points()}
    if emitter.journal.folder.exists():
        left = recovered(emitter.journal.folder)
        assert left.lost == []
        left.assert_complete()
        steps |= left.steps
    assert steps >= set(range(kept))


def test_an_emitter_that_can_not_be_opened_in_a_fork(tmp_path: Path) -> None:
    """The child trains on untracked and says so; the parent doesn't notice."""
    source = """
        import os, runwire._emitter
        run = runwire.init()
        run.log({"parent": 1}, step=1)
        child = os.fork()
        if child == 0:
            def broken(*_, **__):
                raise ArithmeticError("a fault of ours")
            runwire._emitter.Emitter.__init__ = broken
            for step in range(3):
                run.log({"child": 2}, step=step)
            run.alert("look")
            run.finish()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        run.log({"parent": 3}, step=3)
    """
    program = Program(tmp_path, source)
    done = program.run()
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert program.points() == [("parent", 1, 1.0), ("parent", 3, 3.0)]
    warning, _ = done.stderr.splitlines()
    assert "is off in process" in warning
    assert "a fault of ours" in warning


MODES = """
run = runwire.init()
run.log({"a": 1.0}, step=1)
run.log_params({"lr": 0.1})
runwire.log({"a": 2.0}, step=2)
print(runwire.current_run() is run, runwire.finish(), runwire.current_run(), run.finish())
"""


def test_mode_offline_waits_for_sync(tmp_path: Path) -> None:
    """Nothing is sent, `finish` says that it waits, and the next start in this home sends it."""
    program = Program(tmp_path, MODES)
    done = program.run(RUNWIRE_MODE="offline")
    assert done.stdout == "True False None False\n"
    assert "wait in" in done.stderr
    assert not program.topic.exists() or program.points() == []
    assert len(program.journals()) == 1
    assert program.run(RUNWIRE_MODE="ON").stdout == "True True None True\n"
    assert program.journals() == []
    assert program.points() == [("a", 1, 1.0), ("a", 1, 1.0), ("a", 2, 2.0), ("a", 2, 2.0)]


def test_mode_off_takes_every_call(tmp_path: Path) -> None:
    """And leaves nothing; a mode that isn't one is an error of `init` that names the three."""
    program = Program(tmp_path, MODES)
    done = program.run(RUNWIRE_MODE="off")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True None True\n", "")
    assert not program.home.exists()
    wrong = program.run(RUNWIRE_MODE="maybe")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1] == (
        "runwire._errors.SettingsError: RUNWIRE_MODE must be one of on, offline, off, not 'maybe'."
    )


def test_rows_behind_a_fault_are_declared_lost(captured: Captured, tmp_path: Path) -> None:
    """Nothing that was logged is missing from the receipt, although it is kept no more."""
    run = runwire.init(project="p", url=captured.url, home=tmp_path)
    for step in range(ROWS):
        if step == 10:
            run._switch_off(RuntimeError("ours"))
        run.log({"loss": 0.5}, step=step)
    run.finish()
    assert [step for _, step, _ in captured.points()] == list(range(10))
    lost = [(event.count, event.reason) for event in captured.events() if isinstance(event, RowsLost)]
    assert lost == [(ROWS - 10, "tracking was off after a fault")]
