"""What is shown of the live runs at one moment: one read of the store, cut to a budget by an order that holds still.

Who gets the room, and so what is left out first when it is too small:

1. Runs that live before runs that ended; of each the newest first. A run's own facts come before any metric.
2. Metrics in rounds: one of every run, then a second of every run, and so on, so that no run takes another's room.
   Within a run those that are written, in the order in which their names first came; behind them those that have been
   silent for METRIC_SILENT_SECONDS while the run went on, the longest silent last.
3. Ranks behind all reductions, all ranks of a metric or none, the metrics with the fewest ranks first.

Nothing in that order moves between two reads unless something happened: a run came, ended or left, a name was new,
or a metric fell silent or was written again after that. It depends on the store alone, so a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import duckdb
import pyarrow as pa

METRIC_SILENT_SECONDS = 1_800
SERIES_A_RUN = 5
SERIES_A_METRIC = 3

# A run that has ended stays for a while after its end, or, where a clock ran ahead, after it was last heard of.
_RUNS_SQL = """
WITH candidates AS (
    SELECT r.run_key, s.state, s.since, coalesce(s.state, 'running') IN ('running', 'stuck') AS alive
    FROM store.live_runs r LEFT JOIN store.run_states s USING (run_key)
    WHERE alive OR s.since > CASE s.state WHEN 'lost' THEN $lost_after ELSE $ended_after END
),
heard AS (
    SELECT run_key, max(seen_at) AS heard_at FROM store.emitters SEMI JOIN candidates USING (run_key)
    WHERE role <> 'edit' GROUP BY run_key
)
SELECT run_key, alive FROM candidates JOIN heard USING (run_key)
WHERE alive OR least(since, heard_at) > CASE state WHEN 'lost' THEN $lost_after ELSE $ended_after END
ORDER BY alive DESC, CASE WHEN NOT alive THEN since END DESC, run_key DESC
"""

# As the view `store.senders`, of the runs that are shown alone: a read costs what lives, however many runs there were.
_SENDERS_SQL = """
WITH numbered AS (
    SELECT run_key, attempt AS token, row_number() OVER (
        PARTITION BY run_key ORDER BY max(restart_count), min(started_at), attempt
    ) AS number
    FROM store.emitters SEMI JOIN shown USING (run_key)
    WHERE role = 'train' GROUP BY run_key, attempt
)
SELECT e.emitter_key, e.run_key, r.alive, r.run_place, e."rank", e.seen_at, e.next_seq, e.journal_rows,
       coalesce(a.number, 0) AS attempt,
       row_number() OVER (PARTITION BY e.run_key ORDER BY coalesce(a.number, 0), e.started_at, e.emitter_id) AS standing
FROM store.emitters e JOIN shown r USING (run_key)
LEFT JOIN numbered a ON a.run_key = e.run_key AND a.token = CASE WHEN e.role = 'train' THEN e.attempt END
WHERE e.role <> 'edit'
"""

_FACTS_SQL = """
WITH told AS (
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
    FROM store.edits d JOIN store.emitters e USING (emitter_key) SEMI JOIN shown USING (run_key) GROUP BY e.run_key
),
signs AS (
    SELECT run_key, min(seen_at) FILTER (living) AS silent_since, sum(journal_rows) FILTER (living) AS journal_rows
    FROM (
        SELECT *, next_seq IS NULL AND attempt = max(attempt) OVER (PARTITION BY run_key) AS living FROM senders
    ) GROUP BY run_key
),
stepped AS (
    SELECT t.run_key, t.attempt, max(s.step) AS step
    FROM (SELECT emitter_key, max(last_step) AS step FROM store.series GROUP BY emitter_key) s
    JOIN senders t USING (emitter_key) GROUP BY t.run_key, t.attempt
),
steps AS (SELECT run_key, arg_max(step, attempt) AS step FROM stepped GROUP BY run_key)
SELECT r.run_key, r.project, r.run_id, coalesce(d.name, t.told.name, r.run_id), coalesce(d."group", t.told."group", ''),
       coalesce(t.told."user", ''), coalesce(t.told."commit", ''), coalesce(s.state, 'running'), silent_since,
       journal_rows, step
FROM shown JOIN store.live_runs r USING (run_key) JOIN signs USING (run_key)
LEFT JOIN told t ON t.run_key = r.run_key
LEFT JOIN edited d ON d.run_key = r.run_key
LEFT JOIN store.run_states s ON s.run_key = r.run_key
LEFT JOIN steps ON steps.run_key = r.run_key
ORDER BY shown.run_place
"""

# From the running totals of every emitter and metric, never from the points. Where the sum of values is beyond what a
# double holds, their mean needn't be.
_METRICS_SQL = """
WITH wanted AS (
    SELECT t.run_key, s.metric_key, max(t.attempt) AS newest, max(s.last_time) AS written_at,
           any_value(t.alive) AS alive, any_value(t.run_place) AS run_place
    FROM store.series s JOIN senders t USING (emitter_key) GROUP BY t.run_key, s.metric_key
),
timed AS (SELECT *, max(written_at) OVER (PARTITION BY run_key) - written_at AS silent_us FROM wanted),
placed AS (
    SELECT *, count(*) OVER () AS total, row_number() OVER (
        PARTITION BY run_key ORDER BY CASE WHEN silent_us < $silent_us THEN 0 ELSE silent_us END, metric_key
    ) AS round
    FROM timed
),
chosen AS (FROM placed ORDER BY alive DESC, round, run_place LIMIT $metrics_max),
by_rank AS MATERIALIZED (
    SELECT c.run_key, c.metric_key, t."rank", arg_max(s.last_value, t.standing) AS value,
           arg_max(s.last_step, t.standing) AS step, arg_max(s.last_time, t.standing) AS time
    FROM store.series s JOIN senders t USING (emitter_key)
    JOIN chosen c ON c.run_key = t.run_key AND c.metric_key = s.metric_key AND c.newest = t.attempt
    GROUP BY ALL
),
reduced AS (
    SELECT run_key, metric_key, count(*) AS ranks, max(step) AS step, max(time) AS time,
           CASE WHEN isinf(avg(value)) AND bool_and(isfinite(value)) THEN avg(value / 1048576) * 1048576
                ELSE avg(value) END AS mean,
           coalesce(min(value) FILTER (NOT isnan(value)), 'nan'::DOUBLE) AS low,
           coalesce(max(value) FILTER (NOT isnan(value)), 'nan'::DOUBLE) AS high
    FROM by_rank GROUP BY ALL
),
fitted AS (
    SELECT *, ranks > 1 AND sum(CASE WHEN ranks > 1 THEN ranks ELSE 0 END) OVER (
        ORDER BY ranks, alive DESC, round, run_place ROWS UNBOUNDED PRECEDING
    ) <= $series_max - $series_a_metric * count(*) OVER () AS room
    FROM reduced JOIN chosen USING (run_key, metric_key)
),
members AS (
    SELECT run_key, metric_key, list("rank" ORDER BY "rank") AS members, list(value ORDER BY "rank") AS member_values
    FROM by_rank SEMI JOIN (FROM fitted WHERE room) USING (run_key, metric_key) GROUP BY ALL
)
SELECT run_key, metric_key, m.name, mean, low, high, ranks, members, member_values, step, time, total
FROM fitted JOIN store.metrics m USING (metric_key) LEFT JOIN members USING (run_key, metric_key)
ORDER BY alive DESC, round, run_place
"""


@dataclass(frozen=True, slots=True)
class GaugeOptions:
    """Bounds of what is shown.

    Attributes:
        series_max: Most series of live runs.
        bytes_max: Most bytes of their lines; names of the longest kind reach it before `series_max`.
        ended_runs_kept_seconds: How long a run stays after its end.
        lost_runs_kept_seconds: How long one stays that was lost: it may come back.
    """

    series_max: int = 10_000
    bytes_max: int = 3_900_000
    ended_runs_kept_seconds: float = 600.0
    lost_runs_kept_seconds: float = 86_400.0


class LiveRun(NamedTuple):
    """A run that is shown; its fields are columns of a query.

    Attributes:
        run_key: The store's key.
        project: As it was sent, as all texts here.
        run_id: Names the run for ever.
        name: Of the last edit, else as rank 0 of the newest attempt says.
        group: Empty without one, as `user` and `commit`.
        user: Who started it.
        commit: Of the code.
        state: A word of `runstate.py`.
        silent_since_us: Oldest among the newest signs of life of the newest attempt's processes; None when all ended.
        journal_rows: Rows that wait in these processes' journals, as each said with its last heartbeat; None likewise.
        step: Highest last step in the newest attempt that logged anything; None when none did.
    """

    run_key: int
    project: str
    run_id: str
    name: str
    group: str
    user: str
    commit: str
    state: str
    silent_since_us: int | None
    journal_rows: int | None
    step: int | None


class LiveMetric(NamedTuple):
    """The last values of one metric of a run in its newest attempt; its fields are columns of a query.

    Attributes:
        run_key: Its run.
        metric_key: The store's key.
        metric: Its name.
        mean: Over ranks; NaN if any is.
        low: Least over ranks of what is not NaN; NaN if nothing is.
        high: Greatest, likewise.
        ranks: How many ranks have a value.
        members: Those ranks, where the budget has room for them; else None.
        member_values: Their values, in the same order.
        step: Highest step among the ranks' last values.
        time_us: Latest time among them.
    """

    run_key: int
    metric_key: int
    metric: str
    mean: float
    low: float
    high: float
    ranks: int
    members: list[int] | None
    member_values: list[float] | None
    step: int = 0
    time_us: int = 0


@dataclass(frozen=True, slots=True)
class Live:
    """What is shown at one moment, in the order in which it gets room.

    Attributes:
        wanted_runs: Keys of all runs that would be shown without a budget.
        runs: Those within it.
        metrics: Metrics of `runs` within it.
        metrics_wanted: Metrics that `runs` have.
    """

    wanted_runs: frozenset[int] = frozenset()
    runs: tuple[LiveRun, ...] = ()
    metrics: tuple[LiveMetric, ...] = ()
    metrics_wanted: int = 0


def read_live(cursors: Callable[[], duckdb.DuckDBPyConnection], options: GaugeOptions, now_us: int) -> Live:
    """Read the runs that are shown and their last values, all of one committed state.

    Args:
        cursors: Makes a connection of its own.
        options: Bounds.
        now_us: Microseconds since the epoch.

    Raises:
        duckdb.Error: The store can't be read now.
    """
    with closing(cursors()) as cursor:
        cursor.begin()
        after = {
            "ended_after": now_us - int(options.ended_runs_kept_seconds * 1e6),
            "lost_after": now_us - int(options.lost_runs_kept_seconds * 1e6),
        }
        wanted = cursor.execute(_RUNS_SQL, after).fetchnumpy()
        keys, alive = wanted["run_key"], wanted["alive"]
        shown = min(len(keys), options.series_max // SERIES_A_RUN)
        places = pa.array(range(shown), pa.int32())
        cursor.register(
            "shown", pa.table({"run_key": pa.array(keys[:shown]), "alive": alive[:shown], "run_place": places})
        )
        cursor.register("senders", cursor.execute(_SENDERS_SQL).to_arrow_table())
        runs = tuple(map(LiveRun._make, cursor.execute(_FACTS_SQL).fetchall()))
        room = options.series_max - SERIES_A_RUN * shown
        bounds = {
            "silent_us": METRIC_SILENT_SECONDS * 1_000_000,
            "metrics_max": room // SERIES_A_METRIC,
            "series_max": room,
            "series_a_metric": SERIES_A_METRIC,
        }
        found = cursor.execute(_METRICS_SQL, bounds).fetchall()
    metrics = tuple(LiveMetric._make(row[:-1]) for row in found)
    return Live(frozenset(keys.tolist()), runs, metrics, found[0][-1] if found else 0)
