"""Attempts, resumption and states of real processes, through a topic folder and the real consumer."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources.directory import DirectorySource
from runwire_consumer.store import Store
from tests.producer.programs import Program
from tests.services.process import wait_until

LIMITS = ServiceLimits(batch_seconds=0.0, backlog_batch_seconds=0.0, poll_seconds=0.002, tick_seconds=0.0)
HOUR = 3600
Rows = list[tuple[Any, ...]]

# Logs steps FIRST .. LAST - 1 whose values tell the attempt, then waits for a file, or for a signal.
TRAINS = """
import os, time
run = runwire.init(**KEYWORDS)
for step in range(FIRST, LAST):
    run.log({"loss": 1000.0 * ATTEMPT + step}, step=step)
END
"""
WAITS = """
print("ready", flush=True)
while not os.path.exists("go"): time.sleep(0.005)
"""
EVALUATES = """
with runwire.init(resume=True, role="eval") as run:
    for step in (9, 19, 29):
        run.log({"val/acc": step / 100, "loss": -1.0}, step=step)
"""


class World:
    """Programs that share a folder, and one database that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topic = folder / "topic"
        self.topic.mkdir()

    def program(self, source: str, **words: object) -> Program:
        """One, its capital words replaced."""
        for word, value in words.items():
            source = source.replace(word, str(value))
        return Program(self.folder, source)

    def ask(self, *questions: str, seconds_later: float = 0.0) -> Any:
        """The answers of a consumer that has read everything; of one question its rows."""
        store = Store.open(self.folder / "runwire.duckdb")
        source = DirectorySource(self.topic, "dir:topic")
        clock = time.time_ns
        service = Service(store, [source], limits=LIMITS, clock=lambda: clock() // 1000 + int(seconds_later * 1e6))
        asyncio.run(service.run_once())
        store = Store.open(self.folder / "runwire.duckdb")
        with store.cursor() as cursor:
            answers = [cursor.execute(question).fetchall() for question in questions]
        store.close()
        return answers if len(answers) > 1 else answers[0]

    def until(self, question: str, expected: Rows) -> None:
        """Wait for an answer."""
        wait_until(lambda: self.ask(question) == expected, what=f"{question}: {expected}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@contextmanager
def started(program: Program) -> Iterator[subprocess.Popen[str]]:
    """A program that is ready; killed where the test ends before it."""
    with program.start() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", line or process.stderr.read()
            yield process
        finally:
            process.kill()


STATE = "SELECT state, attempts FROM runs"


def test_preempted_twice_resumed_from_an_earlier_step_and_evaluated(world: World) -> None:
    """One run of three attempts with one clean curve, in which no point of a superseded try is; all is in `metrics`."""
    for attempt, first, last, keywords in ((1, 0, 10, {}), (2, 10, 20, {"resume": True})):
        with started(
            world.program(TRAINS + WAITS, KEYWORDS=keywords, FIRST=first, LAST=last, ATTEMPT=attempt, END="")
        ) as process:
            world.until(STATE + f" WHERE points >= {last}", [("running", attempt)])
            process.send_signal(signal.SIGTERM)
            assert process.wait() == -signal.SIGTERM
        assert world.ask(STATE) == [("preempted", attempt)]
    resumed = {"resume": True, "resumed_from_step": 14}
    done = world.program(TRAINS, KEYWORDS=resumed, FIRST=15, LAST=30, ATTEMPT=3, END="").run()
    assert done.returncode == 0, done.stderr
    assert world.ask(STATE) == [("finished", 3)]
    assert world.program(EVALUATES).run().returncode == 0

    state, curve, every, hidden, attempts, evaluated, receipts = world.ask(
        "SELECT state, attempts, ranks FROM runs",
        "SELECT step, value FROM curves WHERE metric = 'loss' ORDER BY step",
        "SELECT attempt, min(step), max(step), count(*) FROM metrics WHERE metric = 'loss' GROUP BY ALL ORDER BY ALL",
        "SELECT attempt, step FROM metrics WHERE superseded ORDER BY ALL",
        "SELECT attempt, resumed_from_step, emitters FROM attempts ORDER BY attempt",
        "SELECT step, value FROM curves WHERE metric = 'val/acc' ORDER BY step",
        "SELECT attempt, role, ended, complete, missing, lost FROM emitters ORDER BY started_at",
    )
    assert state == [("finished", 3, 1)]
    tries = [1] * 10 + [2] * 5 + [3] * 15
    assert curve == [(step, 1000.0 * attempt + step) for step, attempt in enumerate(tries)]
    assert every == [(1, 0, 9, 10), (2, 10, 19, 10), (3, 15, 29, 15), (None, 9, 29, 3)]
    assert hidden == [(2, step) for step in range(15, 20)]
    assert attempts == [(1, None, 1), (2, None, 1), (3, 14, 1)]
    assert evaluated == [(9, 0.09), (19, 0.19), (29, 0.29)]
    assert receipts == [
        (1, "train", "preempted", True, 0, 0),
        (2, "train", "preempted", True, 0, 0),
        (3, "train", "finished", True, 0, 0),
        (None, "eval", "finished", True, 0, 0),
    ]


DEATHS = [
    ("os._exit(0)", 0),
    ("import signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
]


@pytest.mark.parametrize(("end", "exit_code"), DEATHS)
def test_a_death_without_a_word_is_lost_then_crashed_once_recovery_says_so(
    world: World, end: str, exit_code: int
) -> None:
    """Silence alone is no proof: a journal that nobody holds any more is."""
    words = {"KEYWORDS": {"name": "dead"}, "FIRST": 0, "LAST": 50, "ATTEMPT": 1, "END": end}
    assert world.program(TRAINS, **words).run().returncode == exit_code
    state = "SELECT state, state_reason FROM runs WHERE name = 'dead'"
    # What was not sent yet may be everything: then nobody knows of the run.
    # Of a machine that stood still since, it may be lost already.
    assert world.ask(state) in ([], [("running", "1 of 1 ranks")], [("lost", "rank 0 is silent")])
    assert world.ask(state, seconds_later=HOUR) in ([], [("lost", "rank 0 is silent")])
    assert world.program("runwire.init(name='next').finish()").run().returncode == 0
    assert world.ask(state) == [("crashed", "rank 0 died without a word")]
    assert world.ask("SELECT count(*) FROM metrics") == [(50,)]
    assert world.ask("SELECT complete, missing FROM emitters WHERE how = 'crashed'") == [(True, 0)]


def test_an_exception_is_a_failure(world: World) -> None:
    words = {"KEYWORDS": {}, "FIRST": 0, "LAST": 5, "ATTEMPT": 1, "END": "raise ValueError('no')"}
    assert world.program(TRAINS, **words).run().returncode == 1
    assert world.ask("SELECT state, state_reason FROM runs") == [("failed", "rank 0: ValueError: no")]


def test_a_loop_that_hangs_is_stuck_and_goes_on(world: World) -> None:
    """It said when it would be heard of again; its process lives."""
    promise = (
        "run.progress(expect_next_in=0.2)"
        + WAITS
        + "os.remove('go')\nrun.log({'loss': 1.0})\nrun.progress(expect_next_in=99)"
        + WAITS
    )
    words = {"KEYWORDS": {}, "FIRST": 0, "LAST": 5, "ATTEMPT": 1, "END": promise}
    with started(world.program(TRAINS, **words)) as process:
        world.until("SELECT state, state_reason FROM runs", [("stuck", "rank 0 makes no progress")])
        assert world.ask("SELECT state FROM runs", seconds_later=HOUR) == [("lost",)]
        (world.folder / "go").touch()
        world.until("SELECT state, ended_at FROM runs", [("running", None)])
        (world.folder / "go").touch()
        assert process.wait() == 0
    assert world.ask("SELECT state FROM runs") == [("finished",)]
