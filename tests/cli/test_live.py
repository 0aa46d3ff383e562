"""The live view draws what SQL says, and nothing it doesn't."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from rich.console import Console

from runwire_cli.live import LiveView, sparkline

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([3.0, 3.0], "▁▁"),
        ([0.0, 7.0], "▁█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([0.0, NAN, 7.0], "▁ █"),
        ([0.0, INF, -INF, 7.0], "▁█▁█"),
        ([NAN], ""),
    ],
)
def test_sparkline(values: list[float], line: str) -> None:
    """Between the finite values' own minimum and maximum; NaN is a gap, infinities stand at the ends."""
    assert sparkline(values) == line


class _Store:
    """Answers the view's three questions from values."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []

    def __call__(self, sql: str, params: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        if "FROM runs" in sql:
            return [run for run in self.runs if run["group"] == params["group"]]
        if "FROM curves" in sql:
            return [
                row
                for row in self.curves
                if row["run_id"] == params["run"]
                and row["metric"] == params["metric"]
                and row["step"] >= params["first"]
            ]
        return [{"newest": 1_763_900_000_000_000}]


def _drawn(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=120, legacy_windows=False)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _run(**changes: Any) -> dict[str, Any]:
    run = {"run_id": "r", "name": "brave-otter-7", "group": "g", "state": "running", "lr": "0.1", "points": 48_000}
    return {**run, "ranks": 4, "last": {}, "best": {"val/acc": 0.9125}, **changes}


def test_view_shows_name_state_curve_and_best() -> None:
    store = _Store()
    store.runs = [_run()]
    store.curves = [
        {"run_id": "r", "metric": "train/loss", "step": at, "bucket": at, "value": value}
        for at, value in enumerate([2.0, 1.0, 0.5])
    ]
    view = LiveView(store, "g", 100, ["train/loss"], 0.0)
    view.refresh()
    view.note("[bold]rank 2 killed -9[/]")
    drawn = _drawn(view)
    for expected in (
        "brave-otter-7",
        "lr 0.1",
        "48,000 points",
        "running",
        "0.912",
        "█▃▁",
        "0.5000",
        "rank 2 killed -9",
    ):
        assert expected in drawn
    assert view.first_curve_seconds is not None


def test_view_without_runs_draws_nothing_and_waits() -> None:
    view = LiveView(_Store(), "g", 100, ["train/loss"], 0.0)
    view.refresh()
    assert view.runs == []
    assert view.first_curve_seconds is None
    assert "points/s" not in _drawn(view)


def test_names_are_text_not_markup() -> None:
    """A run may be called anything; rich's markup in a name stays text."""
    store = _Store()
    store.runs = [_run(name="[bold]x[/] [link=http://evil]")]
    view = LiveView(store, "g", 100, [], 0.0)
    view.refresh()
    assert "[bold]x[/] [link=http://evil]" in _drawn(view)


def test_ended_run_is_read_once() -> None:
    """The curve of a run that has ended is not asked for again."""
    store = _Store()
    store.runs = [_run(state="finished")]
    store.curves = [{"run_id": "r", "metric": "m", "step": 0, "bucket": 0, "value": 1.0}]
    view = LiveView(store, "g", 100, ["m"], 0.0)
    view.refresh()
    store.curves = []
    view.refresh()
    assert "1.0000" in _drawn(view)


def test_only_what_is_new_is_read_while_a_run_goes_on() -> None:
    """The last bucket and what follows are read again; at the end all of it, for a restart changes the past."""
    store = _Store()
    store.runs = [_run()]
    store.curves = [
        {"run_id": "r", "metric": "m", "step": 10 * at, "bucket": at, "value": float(at)} for at in (0, 10, 20)
    ]
    view = LiveView(store, "g", 480, ["m"], 0.0)
    view.refresh()
    store.curves[0]["value"], store.curves[2]["value"] = 5.0, 40.0
    view.refresh()
    assert "▁▃█" in _drawn(view)
    store.runs[0]["state"] = "finished"
    view.refresh()
    assert "▁▂█" in _drawn(view)
