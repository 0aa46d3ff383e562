"""Curves of SQL, small enough for a browser: in each of some stretches the least and the greatest value are kept.

What isn't finite has no place on an axis and is left out; `runwire sql` shows it.
"""

from __future__ import annotations

from grafana.queries import CHOSEN_METRIC_SQL, CHOSEN_RUNS_SQL

BUCKETS = 400

_CHOSEN = f"""chosen AS (
    SELECT run_id, run || CASE WHEN count(*) OVER (PARTITION BY run) > 1 THEN '  ' || run_id ELSE '' END AS line
    FROM (SELECT DISTINCT run_id, run FROM latest WHERE {CHOSEN_RUNS_SQL} AND {CHOSEN_METRIC_SQL})
)"""  # noqa: S608 - texts of our own

_ACTIVE_POINTS = f"""SELECT run_id, active_seconds(run_id, time) AS x, value FROM curves
    WHERE {CHOSEN_RUNS_SQL} AND {CHOSEN_METRIC_SQL} AND isfinite(value)"""  # noqa: S608 - texts of our own


def by_step() -> str:
    """Return a SELECT of step, run, value: the chosen metric of each chosen run, the mean over ranks."""
    points = f"""SELECT run_id, step AS x, value FROM curves
    WHERE {CHOSEN_RUNS_SQL} AND {CHOSEN_METRIC_SQL} AND isfinite(value)"""  # noqa: S608 - texts of our own
    return _thinned(points, "step")


def by_active_time() -> str:
    """Return a SELECT of seconds, run, value, as above, over the time in which some attempt of the run lived."""
    return _thinned(_ACTIVE_POINTS, "seconds")


def _thinned(points: str, x: str) -> str:
    return f"""WITH {_CHOSEN},
points AS (
    {points}
),
spans AS (SELECT run_id, min(x) AS first, max(x) - min(x) AS length FROM points GROUP BY run_id),
kept AS (
    SELECT p.run_id, arg_min(p.x, p.value) AS low_x, min(p.value) AS low, arg_max(p.x, p.value) AS high_x,
           max(p.value) AS high
    FROM points p JOIN spans s ON s.run_id = p.run_id
    GROUP BY p.run_id, CASE WHEN s.length > 0 THEN floor((p.x - s.first) * {BUCKETS} / s.length) END
)
SELECT k.x AS {x}, c.line AS run, k.value
FROM (SELECT run_id, low_x AS x, low AS value FROM kept UNION SELECT run_id, high_x, high FROM kept) k
JOIN chosen c ON c.run_id = k.run_id
ORDER BY k.x, c.line"""  # noqa: S608 - texts of our own
