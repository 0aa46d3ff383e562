"""How long steps and sections take comes by itself, without a thread and without a clock of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import runwire
from runwire._pace import Pace
from runwire.testing import capture
from runwire_schemas.events import MetricDefined

S = 10**9


@pytest.mark.parametrize(
    ("logged", "found"),
    [
        pytest.param([(0, 0)], [], id="one step has no pace"),
        pytest.param([(0, 0), (10, 4 * S)], [], id="nothing is due before five seconds"),
        pytest.param([(0, 0), (10, 5 * S)], [(0.5, 2.0)], id="ten steps in five seconds"),
        pytest.param([(0, 0), (0, 6 * S), (1, 20 * S)], [(20.0, 0.05)], id="a step longer than the interval"),
        pytest.param([(100, 0), (0, 6 * S), (2, 11 * S)], [(2.5, 0.4)], id="steps that are counted anew"),
        pytest.param(
            [(0, 0), (5, 5 * S), (7, 8 * S), (9, 10 * S)], [(1.0, 1.0), (1.25, 0.8)], id="interval by interval"
        ),
        pytest.param([(-10, 0), (-5, 5 * S)], [(1.0, 1.0)], id="steps below zero"),
    ],
)
def test_pace(logged: list[tuple[int, int]], found: list[tuple[float, float]]) -> None:
    """(step, time in ns) of calls to (seconds a step, steps a second)."""
    pace = Pace(is_automatic=True)
    told = [pace.take(step, now_ns) for step, now_ns in logged if now_ns >= pace.due_ns]
    assert [(one["time/step"], one["time/steps_per_second"]) for one in told if one] == found


def test_an_interval_ends_with_the_keys_it_began_with() -> None:
    """Rows of other keys may count steps of another kind, such as episodes; after a while the pace is theirs."""
    pace = Pace(is_automatic=True)
    logged = [(1000, 0, "a"), (3, 5 * S, "b"), (6000, 6 * S, "a"), (5, 12 * S, "b"), (6, 16 * S, "b"), (8, 21 * S, "b")]
    told = [pace.take(step, now_ns, keys) for step, now_ns, keys in logged]
    assert [one.get("time/step") for one in told] == [None, None, 6 / 5000, None, None, 2.5]


def test_a_short_run_has_a_pace_too() -> None:
    """What has begun counts at the end."""
    pace = Pace(is_automatic=True)
    assert pace.take(0, 0) == {}
    assert pace.take(4, 2 * S, is_last=True) == {"time/step": 0.5, "time/steps_per_second": 2.0}


def test_sections_are_added_up_until_the_next_step() -> None:
    """Timed parts go with the step that is logged next, whether or not steps are timed."""
    for is_automatic in (True, False):
        pace = Pace(is_automatic=is_automatic)
        pace.take(0, 0)
        pace.add("data", S)
        pace.add("data", S // 2)
        pace.add("a/b", S // 4)
        assert pace.due_ns == 0
        assert pace.take(1, S) == {"time/data": 1.5, "time/a/b": 0.25}
        assert pace.take(2, 2 * S) == {}


def test_a_run_times_sections(tmp_path: Path) -> None:
    """One value a step, in seconds and said so; also where the section ends by an exception."""
    with capture() as captured:
        with runwire.init(project="p", url=captured.url, home=tmp_path) as run:
            for step in range(3):
                with run.time("data"):
                    began = time.perf_counter()
                    while time.perf_counter() == began:
                        pass
                run.log({"loss": 1.0}, step=step)
            with pytest.raises(ZeroDivisionError), runwire.time("eval"):
                1 / 0  # noqa: B018
            run.log({"val": 1.0}, step=3)
        points = [(name, step) for name, step, _ in captured.points()]
        assert points == [(n, s) for s in range(3) for n in ("loss", "time/data")] + [("val", 3), ("time/eval", 3)]
        assert all(value > 0 for _, _, value in captured.points())
        units = {event.metric: event.unit for event in captured.events() if isinstance(event, MetricDefined)}
        assert units == {"time/data": "s", "time/eval": "s"}


def test_an_evaluation_has_no_pace_of_its_own(tmp_path: Path) -> None:
    """Its steps are none of the training's, whose curves it would spoil; what it times itself is kept."""
    with capture() as captured:
        for role in ("eval", "train"):
            with runwire.init(project="p", role=role, url=captured.url, home=tmp_path, auto_metrics=True) as run:
                with run.time("data"):
                    pass
                run.log({"a": 1.0}, step=0)
                run.log({"a": 1.0}, step=4)
        names = [name for name, _, _ in captured.points() if name.startswith("time/")]
        assert sorted(names) == ["time/data", "time/data", "time/step", "time/steps_per_second"]


def test_what_a_section_may_be_called(tmp_path: Path) -> None:
    """Wrong names are refused where they are given; without a run nothing is kept."""
    with capture() as captured, runwire.init(project="p", url=captured.url, home=tmp_path) as run:
        for name in ("", 3, "x" * 2000):
            with pytest.raises(runwire.UsageError, match="name"):
                run.time(name)  # type: ignore[arg-type]
    with runwire.time("data"):
        pass
