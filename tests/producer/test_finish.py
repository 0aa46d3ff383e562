"""The end is bounded whatever the destination does, and the last line says what was sent, what waits, what it cost."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import runwire
from runwire import _kafka, _start
from runwire._batch import Message
from runwire._display import Balance, last_line
from runwire._memory import MemoryTransport
from runwire._recovery import sync
from runwire.testing import capture
from tests.producer.journals import recovered
from tests.producer.programs import Program
from tests.producer.troubles import black_hole, nobody

FINISH_SECONDS = 0.5
# Well above what a loaded machine adds, well below the minutes that a library would take which nobody bounds.
AT_MOST_SECONDS = 50.0

WAITS = "10 points, 3 rows sent to URL, 1,002 rows wait in JOURNAL: `runwire sync` sends them"
LOST = "10 points, all sent to URL; lost: 1 row, for the journal couldn't be written"
BALANCES: list[tuple[Balance, str]] = [
    (Balance(1_000, True, 105, 0, 0, 0.01, 10.0), "1,000 points, all sent to URL; tracking cost 0.10 % of 10.0 s"),
    (Balance(10, False, 3, 1_002, 0, 0.0, 1.0), f"{WAITS}; tracking cost 0.00 s of 1.0 s"),
    (Balance(10, True, 3, 0, 1, 0.5, 1.0), f"{LOST}; tracking cost 0.50 s of 1.0 s"),
    (Balance(0, True, 2, 0, 0, 0.0, 0.0), "0 points, all sent to URL; tracking cost 0.00 s of 0.0 s"),
]


@pytest.mark.parametrize(("balance", "text"), BALANCES)
def test_the_last_line(balance: Balance, text: str) -> None:
    assert last_line("name", "id", "URL", replace(balance, journal="JOURNAL")) == f"runwire: name (id) {text}"


def test_finish_is_bounded_when_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It gives up in time, says what waits, and leaves all of it to `runwire sync`."""
    give_up(nobody(), tmp_path, capsys)


def test_finish_is_bounded_when_the_broker_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with one that takes connections and never answers."""
    with black_hole() as url:
        give_up(url, tmp_path, capsys)


def test_finish_is_bounded_when_the_broker_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same with one that takes a second for a request."""
    send = MemoryTransport.send

    async def hesitate(transport: MemoryTransport, messages: Sequence[Message]) -> None:
        await asyncio.sleep(1.0)
        await send(transport, messages)

    monkeypatch.setattr(MemoryTransport, "send", hesitate)
    with capture() as captured:
        give_up(captured.url, tmp_path, capsys)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is ten seconds otherwise."""
    monkeypatch.setattr(_start, "FINISH_TIMEOUT_SECONDS", FINISH_SECONDS)
    monkeypatch.setattr(_kafka, "OPEN_TIMEOUT_SECONDS", FINISH_SECONDS)
    monkeypatch.setattr(_kafka, "SEND_TIMEOUT_SECONDS", 600.0)


def give_up(url: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose destination takes nothing in time, to its end."""
    run = runwire.init(project="p", url=url, home=home)
    emitter = run._emitter
    assert emitter is not None
    assert emitter.sender is not None
    for step in range(1_000):
        run.log({"a": float(step)}, step=step)
    start = time.monotonic()
    assert run.finish() is False
    assert time.monotonic() - start < AT_MOST_SECONDS
    [line] = capsys.readouterr().err.splitlines()
    told = re.fullmatch(
        rf"runwire: {run.name} \({run.id}\) 1,000 points, ([\d,]+) rows? sent to {re.escape(run.url)}, "
        rf"([\d,]+) rows? wait in {re.escape(str(emitter.journal.folder))}: `runwire sync` sends them; "
        r"tracking cost [\d.]+ (?:s|%) of [\d.]+ s",
        line,
    )
    assert told, line
    sent, waiting = (int(number.replace(",", "")) for number in told.groups())
    assert sent + waiting == emitter.journal.next_seq
    assert recovered(emitter.journal.folder).steps == set(range(1_000))
    emitter.sender.join(30)
    assert not emitter.sender.is_alive()


@pytest.mark.parametrize("hangs", [False, True], ids=["down", "hanging"])
def test_a_process_without_an_end_of_its_own(tmp_path: Path, hangs: bool) -> None:  # noqa: FBT001 - a column
    """Nothing is called at the end: Python ends in time all the same, with its own exit code; `sync` sends it."""
    source = """
        runwire._start.FINISH_TIMEOUT_SECONDS = 1.0
        run = runwire.init()
        for step in range(1_000):
            run.log({"a": float(step)}, step=step)
        import sys; sys.exit(3)
    """
    with black_hole() if hangs else contextlib.nullcontext(nobody()) as url:
        program = Program(tmp_path, source, url=url)
        start = time.monotonic()
        done = program.run()
        assert time.monotonic() - start < AT_MOST_SECONDS + 5
    assert done.returncode == 3
    *warnings, last = done.stderr.splitlines()
    assert len(warnings) <= 1
    assert re.search(r"1,000 points, 0 rows sent to kafka:.* rows wait in .*: `runwire sync` sends them; .*cost", last)
    assert [outcome.state for outcome in sync(program.home / "journal", to=f"dir:{program.topic}")] == ["sent"]
    assert program.points() == [("a", step, float(step)) for step in range(1_000)]
    assert program.endings() == [("failed", 3, "SystemExit: 3")]
