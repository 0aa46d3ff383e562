"""The live view draws what SQL says, and nothing it doesn't, in the room there is."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from runwire_cli.client import FileReader, rows_of
from runwire_cli.errors import ServerRefused, ServerUnreachable
from runwire_cli.live import LiveView, living, of_group
from runwire_consumer.errors import RunNotFound
from tests.consumer.small_store import DIGITS, OLD, OTHER, small_store

SIGN = "\N{REPLACEMENT CHARACTER}"
NAN_MARK = "\N{MULTIPLICATION SIGN}"
RUN: dict[str, Any] = {
    "run_id": "r", "name": "brave-otter-7", "state": "running", "state_reason": "", "points": 48_000, "ranks": 4,
    "world_size": 4, "params": {"lr": "0.1"}, "last": {"train/loss": 0.5, "system/cpu_percent": 7.0}, "best": {},
    "step": 3_000, "goal": 12_001.0, "pace": 250.0, "heard_ago": 0.4, "newest_ago": 0.12, "alerts": 0, "alert": None,
}  # fmt: skip
CURVE = [
    {"first_step": at, "last_step": at, "value": value, "min": value, "max": value, "nan": 0, "infinite": 0}
    for at, value in enumerate([2.0, 1.0, 0.5])
]


@dataclass
class _Store:
    """Answers the view's questions from values, and counts which curves it was asked for."""

    runs: list[dict[str, Any]] = field(default_factory=lambda: [RUN])
    curve: list[dict[str, Any]] = field(default_factory=lambda: CURVE)
    asked: list[str] = field(default_factory=list)

    def __call__(self, sql: str, params: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        if "FROM curve(" in sql:
            self.asked.append(params["metric"])
            return self.curve
        return [run for run in self.runs if "runs" not in params or run["run_id"] in params["runs"]]


class _Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def drawn(view: LiveView, width: int = 120, height: int = 40) -> str:
    """What a terminal of this size gets; None of it may be larger."""
    console = Console(width=width, height=height, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width
    assert len(text.splitlines()) <= height
    return text


@pytest.fixture(scope="module")
def store() -> Iterator[FileReader]:
    reader = FileReader(small_store())
    yield reader
    reader.close()


def test_it_reads_a_real_store(store: FileReader) -> None:
    """Living runs first, then those that ended in the last ten minutes; NaN, infinities and odd names are there."""
    view = LiveView(rows_of(store), living)
    view.refresh()
    text = drawn(view, 80, 24)
    assert [line.split()[0] for line in text.splitlines()[1:6:2]] == ["brave-fox-1", "val/acc", "train/loss"]
    for part in ("running", "finished", "failed", "2/2", NAN_MARK, "Infinity", "lr=0.01", "error: look", f"1{SIGN}"):
        assert part in text or part == f"1{SIGN}", part
    assert f'odd "name"{SIGN}=1' in text
    assert not view.is_over
    grouped = LiveView(rows_of(store), of_group("sweep"), ["val/*"])
    grouped.refresh()
    assert {one.row["run_id"] for one in grouped.shown} == {DIGITS, OTHER, OLD}
    assert "train/loss" not in drawn(grouped)


def test_a_head_says_how_far_and_how_fast() -> None:
    """A curve and the last value below it; what the machine does isn't drawn unless it is asked for."""
    view = LiveView(_Store(), living)
    view.refresh()
    head, values, curve, summary = drawn(view).splitlines()
    assert head.split() == ["run", "state", "step", "of", "steps/s", "left", "ranks", "heard", "id"]
    assert values.split() == ["brave-otter-7", "running", "3,000", "12,001", "250", "36.0", "s", "4/4", "0.4", "s", "r"]
    assert curve.split() == ["train/loss", "█▃▁", "0.5"]
    assert "newest point 120 ms old" in summary
    assert view.first_curve_seconds is not None


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", -5.0, 1e300, None])
def test_odd_numbers_say_nothing(odd: object) -> None:
    """A parameter called max_steps may be anything."""
    for name in ("goal", "pace"):
        view = LiveView(_Store([{**RUN, name: odd}]), living)
        view.refresh()
        assert "left" not in drawn(view)


@pytest.mark.parametrize(("width", "height"), [(30, 10), (40, 12), (80, 24), (130, 30), (200, 60)])
@pytest.mark.parametrize("charts", [False, True])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_it_fits(width: int, height: int, count: int, charts: bool) -> None:  # noqa: FBT001 - a column of the table
    """Into any terminal: columns, runs and curves that have no room are left out, and aren't read."""
    names = {f"metric/{at}\x1b[2J": 1.0 for at in range(30)}
    runs = [
        {**RUN, "run_id": f"run-{at}", "name": "漢字" * 30, "last": names, "alert": "error: \x1b]0;x\x07"}
        for at in range(count)
    ]
    store = _Store(runs)
    view = LiveView(store, living, charts=charts, size=(width, height))
    view.refresh()
    text = drawn(view, width, height)
    assert "\x1b" not in text
    assert SIGN in text
    assert 1 <= len(store.asked) <= max(1, height // 2) * max(1, width // 60)
    assert (count == 40 and not charts) <= ("more runs" in text or width < 40)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), ["train/loss", "perplexity", "val/acc", "a", "lr"]),
        (("time/*", "l?"), ["time/step", "lr"]),
        (("Lr",), []),
    ],
)
def test_metrics_that_tell_most_come_first(patterns: tuple[str, ...], names: list[str]) -> None:
    """A loss, then errors, then scores; patterns choose, in their order."""
    last = dict.fromkeys(("a", "val/acc", "lr", "train/loss", "perplexity", "time/step"), 1.0)
    store = _Store([{**RUN, "last": last}])
    view = LiveView(store, living, patterns, charts=True, size=(80, 1_000))
    view.refresh()
    assert store.asked == names
    assert ("No metric of these runs matches Lr." in drawn(view)) is (not names)


def test_a_chart_names_run_metric_and_scale() -> None:
    """One metric of all runs stands together, so that they can be compared."""
    curve = [{**point, "value": 10.0**-at, "min": 10.0**-at, "max": 10.0**-at} for at, point in enumerate(CURVE)]
    store = _Store([RUN, {**RUN, "run_id": "s", "name": "calm-river-1"}], curve)
    view = LiveView(store, living, charts=True, size=(130, 30))
    view.refresh()
    title = next(line for line in drawn(view, 130, 30).splitlines() if "train/loss" in line)
    assert title.split() == ["train/loss", "0.5", "brave-otter-7", "log", "train/loss", "0.5", "calm-river-1", "log"]


def test_names_are_text_not_markup() -> None:
    """A run may be called anything; rich's markup in it stays text, the demo's own notes have some."""
    view = LiveView(_Store([{**RUN, "name": "[bold]x[/] [link=e]"}]), living)
    view.refresh()
    view.note("[bold red]rank 2 killed -9[/]")
    text = drawn(view)
    assert "[bold]x[/] [link=e]" in text
    assert " s  rank 2 killed -9" in text


def test_a_curve_is_read_when_points_came() -> None:
    """All of it: a restart changes the past. Of a run that stands still nothing is asked."""
    store = _Store()
    view = LiveView(store, living)
    for points, reads in ((48_000, 1), (48_000, 1), (48_001, 2)):
        store.runs = [{**RUN, "points": points}]
        view.refresh()
        assert store.asked == ["train/loss"] * reads


def test_curves_take_turns_where_reading_is_slow() -> None:
    """Heads are new each time; the curve that was read longest ago comes next."""
    clock = _Clock()

    answers = _Store()

    def slow(sql: str, params: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        clock.seconds += 1
        answers.runs = [{**RUN, "last": {"a": 1.0, "b": 1.0, "c": 1.0}, "points": clock.seconds}]
        return answers(sql, params)

    view = LiveView(slow, living, clock=clock)
    for _ in range(6):
        view.refresh(0.5)
    assert answers.asked == ["a", "b", "c"] * 2
    view.refresh()
    assert answers.asked[6:] == ["a", "b", "c"]


def test_a_run_that_is_gone_leaves() -> None:
    """Deleted in the store, it is no longer shown."""
    store = _Store()
    view = LiveView(store, lambda _: ["r"], charts=True)
    view.refresh()
    store.runs = []
    view.refresh()
    assert drawn(view).strip() == "These runs are gone."


def test_rates_and_age_of_what_is_shown() -> None:
    """Points a second over the last frames; while the consumer is away, how old the frame is and why."""
    clock, store = _Clock(), _Store()
    view = LiveView(store, living, clock=clock)
    assert drawn(view).strip() == "Reading …"
    view.refresh()
    clock.seconds += 2
    store.runs = [{**RUN, "points": 50_000}]
    view.refresh()
    assert "1,000 points/s into SQL" in drawn(view)
    clock.seconds += 34
    view.waiting = "Waiting: it is away."
    assert drawn(view).splitlines()[-1] == "34 s old. Waiting: it is away."
    assert "brave-otter-7" in drawn(view)


@pytest.mark.parametrize(
    ("errors", "ends"),
    [
        ([ServerUnreachable("away"), None], False),
        ([None, ServerUnreachable("away"), ServerRefused("busy"), None], False),
        ([ServerRefused("no token")], True),
        ([RunNotFound("no such run")], True),
        ([None, ZeroDivisionError("a bug")], True),
    ],
)
def test_what_is_waited_for(
    errors: list[Exception | None],
    ends: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A consumer that is away, and after the first frame one that refuses; anything else ends the view."""
    store, left = _Store(), list(errors)

    def choose(_: object) -> list[str]:
        error = left.pop(0) if left else None
        if not left:
            view._ended.set()
        if error is not None:
            raise error
        return ["r"]

    view = LiveView(store, choose)
    monkeypatch.setattr(view._ended, "wait", lambda _: None)
    view._follow()
    assert view.failed is (errors[-1] if ends else None)
    assert view.is_over is ends
    assert not left
