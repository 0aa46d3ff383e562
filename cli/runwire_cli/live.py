"""The live view in a terminal: curves, states, points a second and freshness of some runs, from SQL while they run."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    Query = Callable[[str, Mapping[str, Any]], Sequence[dict[str, Any]]]

CURVE_COLUMNS = 48
NOTES_SHOWN = 6
REFRESH_SECONDS = 0.5
REFRESH_SECONDS_MAX = 2.0
_BARS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {"running": "cyan", "finished": "green", "preempted": "yellow", "lost": "yellow", "stuck": "yellow"}

_RUNS = """
SELECT run_id, name, state, params['lr'] AS lr, points, ranks, last, best
FROM runs WHERE "group" = $group ORDER BY started_at
"""
# A curve in as many buckets as there are columns, from a step on: a line of blocks can show their means.
# One run and one metric a question: such filters reach the points, lists don't.
_CURVE = """
SELECT (step * $columns) // $steps AS bucket, avg(value) AS value FROM curves
WHERE run_id = $run AND metric = $metric AND step >= $first GROUP BY ALL ORDER BY ALL
"""
_NEWEST = """
SELECT epoch_us(max(time)) AS newest FROM latest WHERE run_id IN (SELECT unnest($runs::VARCHAR[]))
"""


@dataclass(slots=True)
class _Shown:
    """One run as it was last read: its row, the curves' buckets by metric, and whether they still move."""

    row: dict[str, Any]
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    moving: bool = True


class LiveView:
    """Reads the runs of a group, and is drawn by rich's Live."""

    def __init__(self, query: Query, group: str, steps: int, metrics: Sequence[str], started: float) -> None:
        """Nothing is read before `refresh`.

        Args:
            query: Runs SQL with parameters: rows as mappings.
            group: Group of the runs.
            steps: Steps of a whole run: the curves' full width.
            metrics: Metrics to draw, in this order.
            started: `time.monotonic()` at the start, from which the times count.
        """
        self._query = query
        self._group = group
        self._steps = steps
        self._metrics = list(metrics)
        self._runs: dict[str, _Shown] = {}
        self._notes: deque[str] = deque(maxlen=NOTES_SHOWN)
        self._started = started
        self._ended = threading.Event()
        self.failed: Exception | None = None
        self._counted: deque[tuple[float, int]] = deque(maxlen=8)
        self._fresh_seconds: float | None = None
        self.first_curve_seconds: float | None = None

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The rows of `runs` as they were last read."""
        return [shown.row for shown in list(self._runs.values())]

    @property
    def is_over(self) -> bool:
        """Whether no run goes on as far as was read, or reading failed."""
        return self.failed is not None or all(row["state"] != "running" for row in self.runs)

    def note(self, text: str) -> None:
        """Say something below the curves, with the time since the start."""
        self._notes.append(f"[dim]{time.monotonic() - self._started:5.1f} s[/]  {text}")

    @contextmanager
    def following(self) -> Iterator[None]:
        """Read again and again on a thread of its own: what is drawn, and who draws it, never waits for SQL.

        Raises:
            Exception: What stopped the reading, at the end.
        """
        thread = threading.Thread(target=self._follow, name="live-view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        if self.failed is not None:
            raise self.failed

    def refresh(self) -> None:
        """Read the runs, their curves and how fresh they are."""
        for row in self._query(_RUNS, {"group": self._group}):
            shown = self._runs.setdefault(row["run_id"], _Shown(row))
            shown.row = row
        for shown in self._runs.values():
            if shown.moving:
                for metric in self._metrics:
                    self._read_curve(shown, metric)
                shown.moving = shown.row["state"] == "running"
        self._read_freshness([row["run_id"] for row in self.runs if row["state"] == "running"])
        self._counted.append((time.monotonic(), sum(row["points"] for row in self.runs)))

    def __rich__(self) -> RenderableType:
        """What is drawn."""
        table = Table.grid(padding=(0, 1))
        for shown in list(self._runs.values()):  # a copy: another thread reads on
            table.add_row(*self._head(shown))
            for metric in self._metrics:
                values = list(shown.curves.get(metric, {}).values())
                last = f"{values[-1]:.4f}" if values else ""
                table.add_row(Text(metric, style="dim"), Text(sparkline(values), style="bold"), last)
        notes = Text.from_markup("\n".join(list(self._notes)))
        return Group(table, Text(self._summary(), style="dim"), notes)

    def _follow(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001 - raised again where the reading was asked for
                self.failed = error
                return
            # Looking takes at most a third of the time: the cores are there for the training.
            seconds = time.monotonic() - began
            self._ended.wait(min(max(REFRESH_SECONDS, 2 * seconds), REFRESH_SECONDS_MAX))

    def _head(self, shown: _Shown) -> tuple[Text, Text, Text]:
        row = shown.row
        style = _STATE_STYLES.get(row["state"], "red")
        what = Text(row["state"], style=style)
        what.append(f"  lr {row['lr']}  {row['points']:,} points", style="default")
        best = row["best"].get("val/acc")
        if best is not None:
            what.append(f"  best acc {best:.3f}", style="default")
        return Text(row["name"], style="bold"), what, Text(f"{row['ranks']} ranks")

    def _summary(self) -> str:
        parts = [f"{time.monotonic() - self._started:.0f} s"]
        if len(self._counted) > 1:
            (first_at, first), (last_at, last) = self._counted[0], self._counted[-1]
            parts.append(f"{max(0.0, (last - first) / (last_at - first_at)):,.0f} points/s into SQL")
        if self._fresh_seconds is not None:
            parts.append(f"newest point {1000 * self._fresh_seconds:,.0f} ms old")
        return "   ".join(parts)

    def _read_curve(self, shown: _Shown, metric: str) -> None:
        """Read what is new of a curve; all of it once the run has ended, for a restart may have changed the past."""
        known = shown.curves.get(metric, {})
        first_bucket = max(known, default=0) if shown.row["state"] == "running" else 0
        first = -(-first_bucket * self._steps // CURVE_COLUMNS)
        params = {"run": shown.row["run_id"], "metric": metric, "columns": CURVE_COLUMNS, "steps": self._steps}
        rows = self._query(_CURVE, {**params, "first": first})
        kept = {bucket: value for bucket, value in known.items() if bucket < first_bucket}
        shown.curves[metric] = kept | {row["bucket"]: float(row["value"]) for row in rows}
        if rows and self.first_curve_seconds is None:
            self.first_curve_seconds = time.monotonic() - self._started

    def _read_freshness(self, running: list[str]) -> None:
        newest = self._query(_NEWEST, {"runs": running})[0]["newest"] if running else None
        self._fresh_seconds = None if newest is None else max(0.0, time.time() - float(newest) / 1e6)


def sparkline(values: Sequence[float]) -> str:
    """Values as a line of block characters between their own minimum and maximum; NaN is a gap."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if math.isnan(value) else _BARS[round((min(max(value, low), high) - low) * scale)] for value in values
    )
