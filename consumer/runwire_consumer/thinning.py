"""Thinning: of a settled run only rollups are kept; `curve()` goes on answering from them, `best` is remembered.

What goes are the points of blocks that can stand for them exactly: those that share their steps with no other process
of their rank and lie wholly before, or wholly behind, the step from which they are superseded. All others stay, rows
too. What became of a run is in `runs.full_resolution`, and of a series in `store.series.dropped`.
"""

from __future__ import annotations

import contextlib

import duckdb

from runwire_consumer.compaction import SLICE_POINTS_MAX
from runwire_consumer.database import translated
from runwire_consumer.store import Store

_IS_SETTLED = "SELECT full_resolution FROM store.summaries WHERE run_key = $run_key"
_REMEMBER_BEST = """
INSERT INTO store.extremes
SELECT s.run_key, m.metric_key, d.best, s.entry.value
FROM (SELECT run_key, run_id, unnest(map_entries(best)) AS entry FROM store.summaries WHERE run_key = $run_key) s
JOIN store.metrics m ON m.name = s.entry.key
JOIN store.definitions_now d ON d.run_id = s.run_id AND d.metric_key = m.metric_key
"""
_SAY_SO = (
    "UPDATE store.layout SET full_resolution = false WHERE run_key = $run_key",
    "UPDATE store.summaries SET full_resolution = false WHERE run_key = $run_key",
)
_CHOOSE = """
CREATE OR REPLACE TEMP TABLE chosen AS
WITH visible AS (
    SELECT
        s.*, t."rank", t.standing, least(s.max_step, s.hidden_from - 1) AS high
    FROM store.series s JOIN store.senders t USING (emitter_key)
    WHERE t.run_key = $run_key
),
apart AS (
    SELECT
        *,
        max(high) OVER (behind ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) + 1 AS behind_others,
        lead(min_step) OVER behind - 1 AS before_others
    FROM visible WHERE min_step <= high
    WINDOW behind AS (PARTITION BY metric_key, "rank" ORDER BY min_step, standing)
),
lines AS (
    SELECT
        v.emitter_key, v.metric_key, v.hidden_from, greatest(a.min_step, a.behind_others) AS clear_from,
        CASE WHEN a.increasing THEN least(a.high, a.before_others) END AS clear_to
    FROM visible v LEFT JOIN apart a ON a.emitter_key = v.emitter_key AND a.metric_key = v.metric_key
),
goes AS (
    SELECT r.emitter_key, r.metric_key, r.first_seq, r.points
    FROM store.rollups r JOIN lines l ON l.emitter_key = r.emitter_key AND l.metric_key = r.metric_key
    WHERE r.level = 1 AND r.kept
        AND ((r.first_step >= l.clear_from AND r.last_step <= l.clear_to) OR r.first_step >= l.hidden_from)
)
SELECT emitter_key, metric_key, first_seq
FROM goes
QUALIFY sum(points) OVER (ORDER BY metric_key, emitter_key, first_seq) <= $points_max
"""
_MARK = """
UPDATE store.rollups AS r SET kept = false FROM chosen AS c
WHERE r.level = 1 AND r.emitter_key = c.emitter_key AND r.metric_key = c.metric_key AND r.first_seq = c.first_seq
"""
_COUNT = """
UPDATE store.series AS s SET dropped = s.dropped + n.points
FROM (
    SELECT p.emitter_key, p.metric_key, count(*) AS points
    FROM store.cold_points p
    JOIN chosen c ON c.emitter_key = p.emitter_key AND c.metric_key = p.metric_key AND c.first_seq = p.block
    GROUP BY p.emitter_key, p.metric_key
) AS n
WHERE n.emitter_key = s.emitter_key AND n.metric_key = s.metric_key
"""
_DELETE = """
DELETE FROM store.cold_points AS p USING chosen AS c
WHERE p.emitter_key = c.emitter_key AND p.metric_key = c.metric_key AND p.block = c.first_seq
"""


def drop_full_resolution(store: Store, run_key: int, points_max: int = SLICE_POINTS_MAX) -> int:
    """Delete points of a settled run that its rollups stand for, a slice of them; on the store's thread.

    Returns:
        How many went: to be called again until that is 0. It is 0 at once for a run that isn't settled.

    Raises:
        StoreError: Nothing of it was kept.
    """
    cursor, run = store.writer, {"run_key": run_key}
    with translated():
        found = cursor.execute(_IS_SETTLED, run).fetchall()
        if not found:
            return 0
        cursor.execute("BEGIN")
        try:
            if found[0][0]:
                cursor.execute(_REMEMBER_BEST, run)
                for statement in _SAY_SO:
                    cursor.execute(statement, run)
            cursor.execute(_CHOOSE, {**run, "points_max": points_max})
            cursor.execute(_COUNT)
            ((gone,),) = cursor.execute(_DELETE).fetchall()
            cursor.execute(_MARK)
            cursor.execute("DROP TABLE chosen")
            cursor.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                cursor.execute("ROLLBACK")
            raise
    return int(gone)
