"""The live view: runs as they train, read by SQL again and again beside whoever draws them: the demo, and `watch`."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.text import Text

from runwire_cli.chart import Bucket
from runwire_cli.errors import CommandError, ServerUnreachable
from runwire_cli.frame import NAME_CELLS, SPARK_CELLS, Frame, Shown, line
from runwire_cli.text import clean, short
from runwire_consumer import queries

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

Query = Callable[[str, Mapping[str, Any]], Sequence[dict[str, Any]]]
Choose = Callable[[Query], Sequence[str]]
"""Says by which ids runs are shown; asked anew each time."""

REFRESH_SECONDS = 1.0
FIRST_REFRESH_SECONDS = 0.5
CURVES_SECONDS = 0.15
REFRESH_SECONDS_MAX = 2.0
QUIT_SECONDS = 2.0
ENDED_SHOWN_SECONDS = 600
RUNS_SHOWN_MAX = 100
NOTES_SHOWN = 6
CHART_BUCKETS = 240

_LIVING = f"""
SELECT run_id FROM runs
WHERE state IN ('running', 'stuck') OR epoch(now()) - epoch(ended_at) < {ENDED_SHOWN_SECONDS}
ORDER BY state NOT IN ('running', 'stuck'), started_at DESC LIMIT {RUNS_SHOWN_MAX}
"""  # noqa: S608 - numbers of our own
_OF_GROUP = 'SELECT run_id FROM runs WHERE "group" = $group'
_NOW = """
WITH pace AS (
    SELECT run_id, max(step) AS step, max(time) AS time, avg(value) FILTER (metric = 'time/steps_per_second') AS pace
    FROM latest WHERE run_id IN (SELECT unnest($runs::VARCHAR[])) GROUP BY run_id
),
goal AS (
    SELECT run_id, max(number) AS goal FROM params
    WHERE run_id IN (SELECT unnest($runs::VARCHAR[])) AND regexp_full_match(lower(key), $steps_in_all) GROUP BY run_id
),
heard AS (
    SELECT run_id, max(seen_at) AS at FROM emitters
    WHERE run_id IN (SELECT unnest($runs::VARCHAR[])) GROUP BY run_id
),
told AS (
    SELECT run_id, count(*) AS alerts, arg_max(level || ': ' || title, time) AS alert
    FROM alerts WHERE run_id IN (SELECT unnest($runs::VARCHAR[])) GROUP BY run_id
)
SELECT r.run_id, r.name, r.state, r.state_reason, r.points, r.ranks, r.world_size, r.params, r.last, r.best,
       p.step, g.goal, coalesce(p.pace, p.step / nullif(r.duration_seconds, 0)) AS pace,
       epoch(now()) - epoch(h.at) AS heard_ago, epoch(now()) - epoch(p.time) AS newest_ago,
       coalesce(t.alerts, 0) AS alerts, t.alert
FROM runs r LEFT JOIN pace p USING (run_id) LEFT JOIN goal g USING (run_id) LEFT JOIN heard h USING (run_id)
LEFT JOIN told t USING (run_id)
WHERE r.run_id IN (SELECT unnest($runs::VARCHAR[]))
ORDER BY r.state NOT IN ('running', 'stuck'), r.started_at DESC NULLS LAST, r.run_id
"""
# One run and one metric a question: such filters reach the points, lists don't.
_CURVE = "SELECT first_step, last_step, value, min, max, nan, infinite FROM curve($run, $metric, $buckets)"


def living(ask: Query) -> list[str]:
    """Runs that live, and those that ended in the last ten minutes."""
    return [row["run_id"] for row in ask(_LIVING, {})]


def of_group(group: str) -> Choose:
    """The runs of a group."""
    return lambda ask: [row["run_id"] for row in ask(_OF_GROUP, {"group": group})]


class LiveView:
    """Reads runs, and is drawn by rich as large as the console is.

    Attributes:
        failed: What ended the reading; a consumer that is away doesn't.
        waiting: Why nothing new is shown, a sentence; "" when it is.
        hint: Said in the last line.
        first_curve_seconds: From the start to the first curve that was read.
    """

    def __init__(
        self,
        query: Query,
        choose: Choose,
        metrics: Sequence[str] = (),
        *,
        charts: bool = False,
        size: tuple[int, int] = (80, 24),
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
    ) -> None:
        """Nothing is read before `refresh`.

        Args:
            query: Runs SQL with parameters: rows as mappings.
            choose: Which runs.
            metrics: Patterns of the metrics to draw, in this order; none: a loss first, of what the run itself logs.
            charts: Whether curves are charts, not lines of blocks.
            size: (cells, lines) that it has until it is drawn; what has no room isn't read.
            clock: Seconds that only go on.
            started: What it said at the start, from which the times count; None: now.
        """
        self._query, self._choose, self._patterns, self._charts = query, choose, tuple(metrics), charts
        self._clock = clock
        self._started = clock() if started is None else started
        self._shown: dict[str, Shown] = {}
        self._size = size
        self.hint = ""
        self._notes: deque[str] = deque(maxlen=NOTES_SHOWN)
        self._counted: deque[tuple[float, int]] = deque(maxlen=8)
        self._ended = threading.Event()
        self.has_read = False
        self.failed: Exception | None = None
        self.waiting = ""
        self.first_curve_seconds: float | None = None

    @property
    def shown(self) -> list[Shown]:
        """The runs as they were last read."""
        return list(self._shown.values())

    @property
    def is_over(self) -> bool:
        """Whether no run goes on as far as was read, or reading failed."""
        return self.failed is not None or not any(shown.is_living for shown in self.shown)

    def note(self, text: str) -> None:
        """Say something below the curves, with the time since the start; rich's markup counts."""
        self._notes.append(f"[dim]{self._clock() - self._started:5.1f} s[/]  {text}")

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
            thread.join(QUIT_SECONDS)  # one that still waits for an answer must not hold anybody up
        if self.failed is not None:
            raise self.failed

    def refresh(self, curves_seconds: float = math.inf) -> None:
        """Read the runs, and those curves that have grown and have room.

        Args:
            curves_seconds: After so long no further curve is begun; those that were read longest ago come first.
        """
        ids = list(self._choose(self._query))
        asked = {"runs": ids, "steps_in_all": "|".join(queries.STEPS_IN_ALL)}
        rows = self._query(_NOW, asked) if ids else []
        known = self._shown
        shown = {row["run_id"]: Shown(row) for row in rows}
        for run_id, one in shown.items():
            if run_id in known:
                one.curves, one.read_at = known[run_id].curves, known[run_id].read_at
        self._shown = shown
        began = self._clock()
        for one, metric in sorted(self._frame().pictured(), key=_read_when):
            self._read_curve(one, metric)
            if self._clock() - began >= curves_seconds:
                break
        self._counted.append((self._clock(), sum(row["points"] for row in rows)))
        self.has_read, self.waiting = True, ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """What is drawn, as large as the console is."""
        self._size = options.max_width, console.height
        yield from self._frame().drawn()
        yield from self._told()
        yield Text(self._waiting(), "yellow") if self.waiting else line(self._summary(), "dim")

    def _frame(self) -> Frame:
        cells, lines = self._size
        return Frame(self.shown, self._patterns, self._charts, cells, max(3, lines - 1 - len(self._told())))

    def _told(self) -> list[Text]:
        """Notes, where there are any; else the newest alert of each run that has one."""
        if self._notes:
            return [Text("", no_wrap=True).append(Text.from_markup(note)) for note in self._notes]
        most = min(NOTES_SHOWN, self._size[1] // 4)
        alerts = [(one.row["name"], one.row["alert"]) for one in self.shown if one.row["alert"]]
        return [line(f"{short(name, NAME_CELLS)}  {clean(alert)}", "yellow") for name, alert in alerts[:most]]

    def _follow(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self.refresh(CURVES_SECONDS)
            except Exception as error:  # noqa: BLE001 - raised again where the reading was asked for
                if not isinstance(error, CommandError if self.has_read else ServerUnreachable):
                    self.failed = error
                    return
                self.waiting = f"Waiting: {clean(error)}"
            # Looking takes at most a third of the time: the cores are there for the training.
            took = time.monotonic() - began
            period = REFRESH_SECONDS if self.first_curve_seconds is not None else FIRST_REFRESH_SECONDS
            self._ended.wait(min(max(period - took, 2 * took), REFRESH_SECONDS_MAX))

    def _read_curve(self, shown: Shown, metric: str) -> None:
        """Read a curve unless nothing came since; all of it, for a restart changes the past."""
        buckets = CHART_BUCKETS if self._charts else SPARK_CELLS
        points = shown.row["points"]
        if metric in shown.read_at and shown.read_at[metric][1] == points:
            return
        rows = self._query(_CURVE, {"run": shown.row["run_id"], "metric": metric, "buckets": buckets})
        shown.curves[metric], shown.read_at[metric] = [Bucket.of(row) for row in rows], (self._clock(), points)
        if rows and self.first_curve_seconds is None:
            self.first_curve_seconds = self._clock() - self._started

    def _waiting(self) -> str:
        return f"{self._clock() - self._counted[-1][0]:.0f} s old. {self.waiting}" if self._counted else self.waiting

    def _summary(self) -> str:
        if not self.has_read:
            return "Reading …"
        if not self._shown:
            return "These runs are gone." if self._charts else "No run is running; one that starts is shown here."
        if self._patterns and not self._frame().pictured():
            return f"No metric of these runs matches {', '.join(map(clean, self._patterns))}."
        parts = [f"{self._clock() - self._started:.0f} s"]
        if len(self._counted) > 1 and self._counted[-1][0] > self._counted[0][0]:
            (first_at, first), (last_at, last) = self._counted[0], self._counted[-1]
            parts.append(f"{max(0.0, (last - first) / (last_at - first_at)):,.0f} points/s into SQL")
        newest = [one.row["newest_ago"] for one in self.shown if one.is_living and one.row["newest_ago"] is not None]
        if newest:
            parts.append(f"newest point {1000 * max(0.0, min(newest)):,.0f} ms old")
        return "   ".join(filter(None, [*parts, self.hint]))


def _read_when(curve: tuple[Shown, str]) -> float:
    shown, metric = curve
    return shown.read_at[metric][0] if metric in shown.read_at else -math.inf
