"""The live runs as Prometheus gauges, read from the store at scrape time.

    runwire_metric{project, run_id, run, metric, reduce}    reduce = mean | min | max over the ranks' last values
    runwire_metric_rank{project, run_id, run, metric, rank}    only of runs with several ranks
    runwire_run_info{project, run_id, run, group, user, commit} 1
    runwire_run_state{project, run_id, run}    0 running, 1 finished, 2 lost, 3 preempted, 4 crashed, 5 failed, 6 stuck
    runwire_step{project, run_id, run}    highest step of the newest attempt
    runwire_heartbeat_age_seconds{project, run_id, run}    of the most silent process that hasn't ended

The state is the value, not a label, so a run stays one series for ever: a state timeline needs no join and no old
state lingers beside the new one. Reductions: mean propagates NaN; min and max take the values that are not NaN.

A run leaves some time after its end, a lost one later. At most `series_max` series are shown: the metrics that are
unchanged for longest go first, ranks before reductions; what is left out is counted.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import duckdb
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runwire_consumer.wanted import want

STATE_CODES = {"running": 0, "finished": 1, "lost": 2, "preempted": 3, "crashed": 4, "failed": 5, "stuck": 6}
LABEL_CHARACTERS_MAX = 128
SERIES_A_RUN = 4
SERIES_A_METRIC = 3

_RUN_LABELS = ("project", "run_id", "run")

# Which runs are shown comes first, from two narrow columns: everything after it looks at their emitters alone, so
# that a scrape costs what lives, however many runs there ever were. `senders` is the view of that name, for these runs.
_LIVE_SQL = """
SELECT r.run_key FROM store.live_runs r LEFT JOIN store.run_states s USING (run_key)
WHERE coalesce(s.state, 'running') IN ('running', 'stuck')
   OR s.since > CASE s.state WHEN 'lost' THEN $lost_after ELSE $ended_after END
"""

_SENDERS_SQL = """
WITH live AS (
    SELECT run_key, run_id, project FROM store.live_runs WHERE run_key IN (FROM wanted)
),
numbered AS (
    SELECT run_key, attempt AS token, row_number() OVER (
        PARTITION BY run_key ORDER BY max(restart_count), min(started_at), attempt
    ) AS number
    FROM store.emitters JOIN live USING (run_key)
    WHERE role = 'train' GROUP BY run_key, attempt
),
senders AS (
    SELECT e.emitter_key, r.run_key, r.run_id, e."rank", e.seen_at, e.next_seq, coalesce(a.number, 0) AS attempt,
           row_number() OVER (
               PARTITION BY r.run_key ORDER BY coalesce(a.number, 0), e.started_at, e.emitter_id
           ) AS standing
    FROM store.emitters e JOIN live r USING (run_key)
    LEFT JOIN numbered a ON a.run_key = e.run_key AND a.token = CASE WHEN e.role = 'train' THEN e.attempt END
    WHERE e.role <> 'edit'
),
"""

_RUNS_SQL = (
    _SENDERS_SQL  # noqa: S608 - texts of our own
    + """
told AS (
    SELECT t.run_key, arg_max(
        {'name': st.name, 'group': st."group", 'user': st."user", 'commit': st."commit"},
        (t.attempt, -t."rank", t.standing, st.seq)
    ) AS told
    FROM store.starts st JOIN senders t USING (emitter_key) GROUP BY t.run_key
),
edited AS (
    SELECT e.run_key,
           arg_max(d.name, (d.time, d.seq)) FILTER (d.name IS NOT NULL) AS name,
           arg_max(d."group", (d.time, d.seq)) FILTER (d."group" IS NOT NULL) AS "group"
    FROM store.edits d JOIN store.emitters e USING (emitter_key) JOIN live USING (run_key) GROUP BY e.run_key
),
spoken AS (
    SELECT run_key, max(seen_at) AS heard_at, min(seen_at) FILTER (next_seq IS NULL AND attempt = newest) AS silent
    FROM (SELECT *, max(attempt) OVER (PARTITION BY run_key) AS newest FROM senders) GROUP BY run_key
)
SELECT r.project, r.run_id, coalesce(d.name, t.told.name, r.run_id), coalesce(d."group", t.told."group", ''),
       coalesce(t.told."user", ''), coalesce(t.told."commit", ''), coalesce(s.state, 'running'), p.silent
FROM live r JOIN spoken p USING (run_key)
LEFT JOIN told t ON t.run_key = r.run_key
LEFT JOIN edited d ON d.run_key = r.run_key
LEFT JOIN store.run_states s ON s.run_key = r.run_key
ORDER BY p.heard_at DESC
"""
)

# From the running totals of every emitter and metric, never from the points.
_SERIES_SQL = (
    _SENDERS_SQL  # noqa: S608 - texts of our own
    + """
changed AS (
    SELECT t.run_id, s.metric_key, max(s.last_time) AS changed_at, count(*) OVER () AS total
    FROM store.series s JOIN senders t USING (emitter_key)
    GROUP BY t.run_id, s.metric_key
    ORDER BY changed_at DESC, t.run_id, s.metric_key
    LIMIT $limit
),
by_rank AS (
    SELECT c.run_id, c.metric_key, c.changed_at, c.total, t."rank", max(t.attempt) AS attempt,
           arg_max(s.last_value, t.standing) AS value, max(s.last_step) AS step
    FROM store.series s JOIN senders t USING (emitter_key)
    JOIN changed c ON c.run_id = t.run_id AND c.metric_key = s.metric_key
    GROUP BY ALL
),
newest AS (
    SELECT *, max(attempt) OVER (PARTITION BY run_id, metric_key) AS newest FROM by_rank
)
SELECT run_id, any_value(m.name), list("rank" ORDER BY "rank"), list(value ORDER BY "rank"), max(step),
       any_value(total)
FROM newest JOIN store.metrics m USING (metric_key)
WHERE attempt = newest
GROUP BY run_id, metric_key
ORDER BY any_value(changed_at) DESC, run_id, any_value(m.name)
"""
)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run that is shown.

    Attributes:
        state: A key of `STATE_CODES`.
        silent_since_us: Oldest among the newest signs of life of its processes; None when all have ended.
    """

    project: str
    run_id: str
    name: str
    group: str
    user: str
    commit: str
    state: str
    silent_since_us: int | None


@dataclass(frozen=True, slots=True)
class LiveMetric:
    """The last values of one metric of a run: `values[i]` is that of `ranks[i]`."""

    run_id: str
    metric: str
    ranks: tuple[int, ...]
    values: tuple[float, ...]
    step: int


@dataclass(frozen=True, slots=True)
class Live:
    """What is shown at one moment.

    Attributes:
        runs: Most recently heard of first.
        metrics: Most recently changed first.
        metrics_left_out: Metrics beyond those above.
    """

    runs: tuple[LiveRun, ...]
    metrics: tuple[LiveMetric, ...]
    metrics_left_out: int = 0


@dataclass(frozen=True, slots=True)
class GaugeOptions:
    """Bounds of what is shown."""

    series_max: int = 10_000
    ended_runs_kept_seconds: float = 600.0
    lost_runs_kept_seconds: float = 86_400.0


class RunGauges(Collector):
    """Reads the live runs whenever it is scraped.

    Args:
        cursors: Makes a connection of its own to the open database.
        options: Bounds of what is shown.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        cursors: Callable[[], duckdb.DuckDBPyConnection],
        options: GaugeOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read yet."""
        self._cursors = cursors
        self._options = options or GaugeOptions()
        self._clock = clock
        self._lock = threading.Lock()
        self._evicted = 0
        self._left_out = 0

    def describe(self) -> Iterable[Metric]:
        """Names only: registering must not read the store."""
        return families(Live((), ()), self._options.series_max, 0.0)[0]

    def collect(self) -> Iterator[Metric]:
        """All gauges, and how many series were left out."""
        with self._lock:
            now = self._clock()
            live = read_live(self._cursors, self._options, int(now * 1e6))
            shown, left_out = families(live, self._options.series_max, now)
            self._evicted += max(0, left_out - self._left_out)
            self._left_out = left_out
            evicted = self._evicted
        yield from shown
        yield GaugeMetricFamily("runwire_series_left_out", "Series that the budget leaves out now.", value=left_out)
        yield CounterMetricFamily("runwire_series_evicted", "Series that had to leave for the budget.", value=evicted)


def make_registry(cursors: Callable[[], duckdb.DuckDBPyConnection]) -> CollectorRegistry:
    """A registry of its own that holds the live runs of a database."""
    registry = CollectorRegistry()
    registry.register(RunGauges(cursors))
    return registry


def read_live(cursors: Callable[[], duckdb.DuckDBPyConnection], options: GaugeOptions, now_us: int) -> Live:
    """Read the runs that are shown and their last values.

    Args:
        cursors: Makes a connection of its own.
        options: Bounds.
        now_us: Microseconds since the epoch.
    """
    with closing(cursors()) as cursor:
        after = {
            "ended_after": now_us - int(options.ended_runs_kept_seconds * 1e6),
            "lost_after": now_us - int(options.lost_runs_kept_seconds * 1e6),
        }
        keys = [key for (key,) in cursor.execute(_LIVE_SQL, after).fetchall()]
        want(cursor, keys)
        runs = tuple(LiveRun(*row) for row in cursor.execute(_RUNS_SQL).fetchall())
        limit = max(1, options.series_max // SERIES_A_METRIC)
        found = cursor.execute(_SERIES_SQL, {"limit": limit}).fetchall()
    metrics = tuple(LiveMetric(row[0], row[1], tuple(row[2]), tuple(row[3]), row[4]) for row in found)
    return Live(runs, metrics, found[0][5] - len(found) if found else 0)


def families(live: Live, series_max: int, now: float) -> tuple[list[Metric], int]:  # noqa: C901 - the families beside each other
    """The gauges of a moment, and how many series the budget leaves out.

    Args:
        live: What is shown.
        series_max: Most series in all families together.
        now: Seconds since the epoch.
    """
    info = _gauge("runwire_run_info", "What a run is; always 1.", *_RUN_LABELS, "group", "user", "commit")
    codes = ", ".join(f"{code} {state}" for state, code in STATE_CODES.items())
    state = _gauge("runwire_run_state", f"State of a run: {codes}.", *_RUN_LABELS)
    step = _gauge("runwire_step", "Highest step of the newest attempt.", *_RUN_LABELS)
    age = _gauge(
        "runwire_heartbeat_age_seconds",
        "Age of the last sign of life of the most silent process.",
        *_RUN_LABELS,
    )
    metric = _gauge("runwire_metric", "Last value, reduced over ranks.", *_RUN_LABELS, "metric", "reduce")
    by_rank = _gauge("runwire_metric_rank", "Last value of a rank.", *_RUN_LABELS, "metric", "rank")

    budget = _Budget(series_max)
    steps: dict[str, int] = {}
    for line in live.metrics:
        steps[line.run_id] = max(steps.get(line.run_id, line.step), line.step)
    labels: dict[str, list[str]] = {}
    for run in live.runs:
        if not budget.take(SERIES_A_RUN):
            continue
        names = labels[run.run_id] = [label(run.project), label(run.run_id), label(run.name)]
        info.add_metric([*names, label(run.group), label(run.user), label(run.commit)], 1)
        state.add_metric(names, STATE_CODES.get(run.state, -1))
        if run.silent_since_us is not None:
            age.add_metric(names, max(0.0, now - run.silent_since_us / 1e6))
        if run.run_id in steps:
            step.add_metric(names, steps[run.run_id])
    lines = [line for line in live.metrics if line.run_id in labels]
    shown = [line for line in lines if budget.take(SERIES_A_METRIC)]
    for line in shown:
        for reduction, value in zip(("mean", "min", "max"), reduce_ranks(line.values), strict=True):
            metric.add_metric([*labels[line.run_id], label(line.metric), reduction], value)
    for line in shown:
        if len(line.ranks) > 1 and budget.take(len(line.ranks)):
            for rank, value in zip(line.ranks, line.values, strict=True):
                by_rank.add_metric([*labels[line.run_id], label(line.metric), str(rank)], value)
    return [
        info,
        state,
        step,
        age,
        metric,
        by_rank,
    ], budget.left_out + SERIES_A_METRIC * live.metrics_left_out


def reduce_ranks(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean (NaN if any is), min and max of what is not NaN (NaN if nothing is)."""
    numbers = [value for value in values if not math.isnan(value)]
    return _mean(values), min(numbers, default=math.nan), max(numbers, default=math.nan)


def label(text: str) -> str:
    """A label's value of bounded length: a longer text is cut and ends with a hash of the whole."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= LABEL_CHARACTERS_MAX:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: LABEL_CHARACTERS_MAX - 10]}…-{digest}"


class _Budget:
    def __init__(self, series_max: int) -> None:
        self._free = series_max
        self.left_out = 0

    def take(self, count: int) -> bool:
        if count > self._free:
            self.left_out += count
            return False
        self._free -= count
        return True


def _mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return sum(values)  # NaN, or the one kind of infinity
    try:
        return math.fsum(values) / len(values) if values else math.nan
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
