"""A frame of the live view: how runs and curves share the lines of a terminal, and what goes where it is small."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from runwire_cli.chart import Bucket, chart, is_logarithmic, sparkline
from runwire_cli.text import duration, number, pairs, short
from runwire_cli.views import STATE_STYLES, differing_keys

if TYPE_CHECKING:
    from rich.console import RenderableType

NAME_CELLS = 24
METRIC_CELLS = 20
SPARK_CELLS = 48
METRICS_OF_RUN_MAX = 3
CHART_CELLS_MIN, CHART_LINES_MIN = 60, 5
LEFT_SECONDS_MAX = 1e9
RATE_MAX, GOAL_MAX = 1e12, 2**63
_AUTOMATIC = ("system/", "time/")
_TELLING = re.compile(r"(loss)|(perplexity|ppl|error)|(acc|reward|return|score|auc|f1)", re.IGNORECASE)
_LEAST_TELLING = 9
# Columns of the heads, and those that are left out first where they don't fit.
_HEAD = ("run", "state", "step", "of", "steps/s", "left", "ranks", "heard", "alerts", "params", "best", "id")
_RIGHT = {"step", "of", "steps/s", "left", "ranks", "heard", "alerts"}
_DROP = ("id", "best", "params", "of", "ranks", "steps/s", "left", "heard", "alerts", "step")


@dataclass(slots=True)
class Shown:
    """One run as it was last read: its row, and its curves with (when they were read, points that the run had then)."""

    row: Mapping[str, Any]
    curves: dict[str, list[Bucket]] = field(default_factory=dict)
    read_at: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def is_living(self) -> bool:
        """Whether it goes on as far as was read."""
        return self.row["state"] in {"running", "stuck"}

    @property
    def goal(self) -> float | None:
        """How many steps there will be, where a parameter says so."""
        return _within(self.row["goal"], GOAL_MAX)

    @property
    def pace(self) -> float | None:
        """Steps a second, while it lives."""
        return _within(self.row["pace"], RATE_MAX) if self.is_living else None

    @property
    def left_seconds(self) -> float | None:
        """How long it still takes; None where that isn't known."""
        goal, step, pace = self.goal, self.row["step"], self.pace
        if goal is None or step is None or not pace:
            return None
        return _within(max(0.0, goal - 1 - step) / pace, LEFT_SECONDS_MAX)

    @property
    def heard_seconds(self) -> float | None:
        """Age of the newest sign of life, while it lives."""
        return None if not self.is_living or self.row["heard_ago"] is None else max(0.0, self.row["heard_ago"])

    def metrics(self, patterns: Sequence[str]) -> list[str]:
        """Names of the metrics that match, in the order of the patterns; without any its own, a loss first."""
        names = sorted(self.row["last"])
        if patterns:
            return list(dict.fromkeys(name for wanted in patterns for name in names if fnmatchcase(name, wanted)))
        own = [name for name in names if not name.startswith(_AUTOMATIC)] or names
        return sorted(own, key=_telling)

    def value(self, metric: str) -> str:
        """The last one, for people."""
        value = self.row["last"].get(metric)
        return "" if value is None else number(value)


@dataclass(frozen=True, slots=True)
class Frame:
    """Runs in a terminal of some size.

    Attributes:
        shown: The runs, the most important first.
        patterns: Of the metrics to draw.
        charts: Whether curves are charts under all heads, not lines of blocks under each.
        cells: Width.
        lines: Height that runs and curves may take.
    """

    shown: Sequence[Shown]
    patterns: Sequence[str]
    charts: bool
    cells: int
    lines: int

    def pictured(self) -> list[tuple[Shown, str]]:
        """Runs and metrics whose curves have room; in charts one metric of all runs stands together."""
        if not self.shown:
            return []
        if not self.charts:
            fitting = self.shown[: self._room]
            lines = self.lines - 1 - (len(fitting) < len(self.shown))
            each = max(1, min(METRICS_OF_RUN_MAX, lines // len(fitting) - 1))
            return [(one, metric) for one in fitting for metric in one.metrics(self.patterns)[:each]]
        of_all = dict.fromkeys(metric for one in self.shown for metric in one.metrics(self.patterns))
        room = max(1, self._chart_lines // CHART_LINES_MIN) * max(1, self.cells // CHART_CELLS_MIN)
        return [(one, metric) for metric in of_all for one in self.shown if metric in one.row["last"]][:room]

    def drawn(self) -> Iterator[RenderableType]:
        """Heads and curves."""
        if not self.shown:
            return
        fitting = self.shown[: self._heads if self.charts else self._room]
        differing = differing_keys(one.row["params"] for one in fitting)
        head, *heads = _aligned([_HEAD, *(_head(one, differing) for one in fitting)], self.cells)
        pictured = self.pictured()
        yield head
        for drawn, one in zip(heads, fitting, strict=True):
            yield drawn
            if not self.charts:
                yield from (self._spark_line(one, metric) for other, metric in pictured if other is one)
        if self.charts:
            yield self._chart_grid(pictured)
        elif len(self.shown) > self._room:
            yield line("There are more runs: name some, or make the terminal taller.", "dim")

    @property
    def _room(self) -> int:
        """How many runs fit as heads with a line of blocks each, under the columns' names."""
        return max(1, (self.lines - 1) // 2 if 2 * len(self.shown) < self.lines else (self.lines - 2) // 2)

    @property
    def _heads(self) -> int:
        """How many heads stand above charts: a third of all lines at most."""
        return max(1, min(len(self.shown), self.lines // 3, self.lines - 1 - CHART_LINES_MIN))

    @property
    def _chart_lines(self) -> int:
        return self.lines - 1 - self._heads

    def _spark_line(self, one: Shown, metric: str) -> Text:
        cells = max(8, min(SPARK_CELLS, self.cells - METRIC_CELLS - 16))
        drawn = line(f"  {_fitted(short(metric, METRIC_CELLS), METRIC_CELLS)} ")
        drawn.append(sparkline(one.curves.get(metric, []), cells).ljust(cells), style="bold")
        return drawn.append(f"  {one.value(metric)}")

    def _chart_grid(self, pictured: Sequence[tuple[Shown, str]]) -> Table:
        columns = max(1, min(self.cells // CHART_CELLS_MIN, len(pictured)))
        lines = max(CHART_LINES_MIN, self._chart_lines // max(1, -(-len(pictured) // columns)))
        cells = self.cells // columns - 1
        grid = Table.grid(padding=(0, 1, 0, 0))
        texts = []
        for one, metric in pictured:
            buckets = one.curves.get(metric, [])
            title = Text(short(metric, cells // 2), style="bold")
            title.append(f"  {one.value(metric)}")
            if len(self.shown) > 1:
                title.append(f"  {short(one.row['name'], NAME_CELLS)}", style="dim")
            title.append("  log" if is_logarithmic(buckets) else "", style="dim")
            title.truncate(cells, overflow="ellipsis")
            texts.append(Text("\n", no_wrap=True).join([title, *map(Text, chart(buckets, cells, lines - 1))]))
        for at in range(0, len(texts), columns):
            grid.add_row(*texts[at : at + columns])
        return grid


def line(text: str, style: str = "") -> Text:
    """Text that is cut at the terminal's edge, never wrapped."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def rate(per_second: float) -> str:
    """Three digits, all of a large number."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"  # noqa: PLR2004 - three digits


def _head(one: Shown, differing: Sequence[str]) -> tuple[str, ...]:
    row, pace = one.row, one.pace
    params = {key: row["params"][key] for key in differing if key in row["params"]}
    return (
        short(row["name"], NAME_CELLS), row["state"], "" if row["step"] is None else f"{row['step']:,}",
        "" if one.goal is None else f"{one.goal:,.0f}", "" if pace is None else rate(pace),
        duration(one.left_seconds), f"{row['ranks']}/{row['world_size'] or '?'}", duration(one.heard_seconds),
        str(row["alerts"] or ""), pairs(params, 2), pairs(row["best"], 1), row["run_id"],
    )  # fmt: skip


def _telling(metric: str) -> int:
    found = _TELLING.search(metric)
    return _LEAST_TELLING if found is None else found.lastindex or 0


def _within(value: object, most: float) -> float | None:
    """A number from 0 to the most; a parameter may be anything, and JSON's infinities are text."""
    found = float(value) if isinstance(value, (int, float, str)) else math.nan
    return found if 0 <= found <= most else None


def _fitted(text: str, cells: int, *, right: bool = False) -> str:
    blank = " " * (cells - cell_len(text))
    return blank + text if right else text + blank


def _aligned(rows: Sequence[tuple[str, ...]], cells: int) -> list[Text]:
    """Lines of columns under their names; empty columns, and then the least important ones, are left out."""
    filled = {name: at for at, name in enumerate(_HEAD) if any(row[at] for row in rows[1:])}
    widths = {name: max(cell_len(row[at]) for row in rows) for name, at in filled.items()}
    for name in _DROP:
        if sum(widths.values()) + 2 * (len(widths) - 1) <= cells:
            break
        widths.pop(name, None)
    lines = [line("  ".join(_fitted(name, width, right=name in _RIGHT) for name, width in widths.items()), "bold dim")]
    for row in rows[1:]:
        drawn = line("")
        for name, width in widths.items():
            text = row[filled[name]]
            style = {"run": "bold", "alerts": "red", "state": STATE_STYLES.get(text, "red")}.get(name, "")
            drawn.append("  " if drawn else "").append(_fitted(text, width, right=name in _RIGHT), style=style)
        lines.append(drawn)
    return lines
