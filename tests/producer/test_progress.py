"""Promises of progress: who is overdue, and what is said of it while a loop hangs and goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire._progress import Progress, checked_promise
from runwire.testing import Captured, capture
from runwire_schemas.events import Heartbeat
from tests.services.process import wait_until

LOG, SAY = "log", "say"


@dataclass
class Worker:
    """Counts its calls."""

    calls: int = 0


# (time, what happens then, how long it is overdue when it is looked at just after).
STORIES: list[list[tuple[float, Any, float]]] = [
    # Without a promise never.
    [(0, None, 0), (1e9, None, 0), (1e9, LOG, 0), (2e9, SAY, 0), (3e9, None, 0)],
    # From the promise on, until the next log.
    [(0, 10, 0), (9, None, 0), (10, None, 0), (12, None, 2), (15, None, 5), (16, LOG, 0), (26, None, 0), (27, None, 1)],
    # progress() without a word renews the promise, and takes as log() does.
    [(0, 10, 0), (9, SAY, 0), (18, None, 0), (20, None, 1), (21, SAY, 0)],
    # The same promise again renews it; another one replaces it; None takes it back.
    [
        (0, 10, 0),
        (9, 10, 0),
        (18, None, 0),
        (19, 100, 0),
        (100, None, 0),
        (120, None, 1),
        (130, None, 11),
        (131, "off", 0),
    ],
    [(0, 10, 0), (1, "off", 0), (1000, None, 0), (1001, SAY, 0), (2000, None, 0), (2001, 5, 0), (2007, None, 1)],
]


@pytest.mark.parametrize("story", STORIES)
def test_stories(story: list[tuple[float, Any, float]]) -> None:
    """Each log and each progress() is progress; overdue is what lies beyond the promise."""
    worker = Worker()
    progress = Progress(worker)
    for now, happens, overdue in story:
        if happens == LOG:
            worker.calls += 1
        elif happens == SAY:
            progress.say()
        elif happens is not None:
            progress.say(None if happens == "off" else happens)
        assert progress.overdue_seconds(now) == overdue, now


@pytest.mark.parametrize(
    ("given", "kept"), [(None, None), (1, 1.0), (0.25, 0.25), (10**300, 1e300), (True, TypeError), ("5", TypeError),
                        ([1], TypeError), (0, ValueError), (-1, ValueError), (math.nan, ValueError),
                        (math.inf, ValueError), (10**400, ValueError)]
)  # fmt: skip
def test_a_promise_is_a_positive_number_of_seconds(given: Any, kept: Any) -> None:
    if isinstance(kept, type):
        with pytest.raises(kept, match="expect_next_in"):
            checked_promise(given)
    else:
        assert checked_promise(given) == kept


def told(captured: Captured) -> list[bool]:
    """Of each heartbeat, whether it told of an overdue loop."""
    return [event.overdue_seconds > 0 for event in captured.events() if isinstance(event, Heartbeat)]


def until(captured: Captured, *, overdue: bool) -> None:
    """Wait until the newest heartbeat says so."""
    wait_until(lambda: told(captured)[-1:] == [overdue], what=f"overdue {overdue}")


def test_a_hanging_loop_is_told_by_the_runs_own_heartbeats(tmp_path: Path) -> None:
    """Soon after the promise is broken, and soon after the loop goes on: the sender has its own clock."""
    with capture() as captured, runwire.init(url=captured.url, home=tmp_path) as run:
        run.log({"loss": 1.0})
        run.progress(expect_next_in=0.01)
        until(captured, overdue=True)
        run.progress(expect_next_in=1000)
        until(captured, overdue=False)
        run.progress(expect_next_in=0.01)
        until(captured, overdue=True)
        run.progress(expect_next_in=None)
        until(captured, overdue=False)


def test_off_and_ended_runs_take_it_too(tmp_path: Path) -> None:
    run = runwire.init(url="memory:off", home=tmp_path / "home", mode="off")
    run.progress(expect_next_in=5)
    with pytest.raises(runwire.UsageValueError):
        run.progress(expect_next_in=-5)
    run.finish()
    run.progress()
