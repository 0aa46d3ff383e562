"""The table of runs for the page: one query, as columns, of metrics and params only those that are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from runwire_consumer.errors import QueryError
from runwire_consumer.queries import Ask, Row

ROWS_MAX = 5_000
CHOSEN_MAX = 20
CHOSEN_UNASKED_MAX = 3
NAMES_MAX = 2_000
SEEN_RUNS = 50

# A metric that has a best value is shown by it, else by its last one.
_TABLE_SQL = """
SELECT
    run_id, project, name, "group", "user", tags, state, started_at, ended_at, duration_seconds, "commit", dirty,
    points, ranks, attempts,
    list_transform($metrics::VARCHAR[], lambda m: coalesce(best[m], last[m])) AS metric_values,
    list_transform($metrics::VARCHAR[], lambda m: best[m] IS NOT NULL) AS is_best,
    list_transform($params::VARCHAR[], lambda p: params[p]) AS param_values
FROM runs
WHERE $project::VARCHAR IS NULL OR project = $project
ORDER BY started_at DESC NULLS LAST, run_id
LIMIT $limit
"""
_SEEN_SQL = """
SELECT map_keys(last) AS metrics, map_keys(best) AS best, params FROM runs
WHERE $project::VARCHAR IS NULL OR project = $project
ORDER BY started_at DESC NULLS LAST, run_id LIMIT $limit
"""
_NAMES_SQL = {
    "metrics": "SELECT DISTINCT metric AS name FROM latest ORDER BY name LIMIT $limit",
    "params": "SELECT DISTINCT key AS name FROM params ORDER BY name LIMIT $limit",
}
_PLAIN = (
    "run_id", "project", "name", "group", "user", "tags", "state", "started_at", "ended_at", "duration_seconds",
    "commit", "dirty", "points", "ranks", "attempts",
)  # fmt: skip


def read_table(
    ask: Ask, project: str | None, metrics: Sequence[str] | None = None, params: Sequence[str] | None = None
) -> Row:
    """The newest runs, a list a column; without a choice of metrics or params, those that tell most.

    Raises:
        QueryError: More metrics or params are chosen than are shown at once.
    """
    if max(len(metrics or ()), len(params or ())) > CHOSEN_MAX:
        raise QueryError(f"At most {CHOSEN_MAX} metrics and {CHOSEN_MAX} params are shown at once: choose fewer.")
    if metrics is None or params is None:
        seen = ask(_SEEN_SQL, {"project": project, "limit": SEEN_RUNS})
        metrics = _telling_metrics(seen) if metrics is None else metrics
        params = _telling_params(seen) if params is None else params
    rows = ask(
        _TABLE_SQL,
        {"project": project, "limit": ROWS_MAX + 1, "metrics": list(metrics), "params": list(params)},
    )
    more = len(rows) > ROWS_MAX
    rows = rows[:ROWS_MAX]
    return {
        "columns": {name: [row[name] for row in rows] for name in _PLAIN},
        "metrics": {name: [row["metric_values"][at] for row in rows] for at, name in enumerate(metrics)},
        "best": [name for at, name in enumerate(metrics) if any(row["is_best"][at] for row in rows)],
        "params": {name: [row["param_values"][at] for row in rows] for at, name in enumerate(params)},
        "note": f"The newest {ROWS_MAX:,} runs are shown: choose a project, or ask for others by SQL."
        if more
        else None,
    }


def read_names(ask: Ask) -> Row:
    """Names of all metrics and params, for choosing among them."""
    return {kind: [row["name"] for row in ask(sql, {"limit": NAMES_MAX})] for kind, sql in _NAMES_SQL.items()}


def _telling_metrics(seen: Sequence[Row]) -> list[str]:
    """Those with a best value first, then what most runs log; what comes by itself tells nothing about a model."""
    counts = Counter(name for row in seen for name in row["metrics"])
    best = {name for row in seen for name in row["best"]}
    own = [name for name in counts if name.partition("/")[0] not in {"system", "time"}]
    return sorted(own, key=lambda name: (name not in best, -counts[name], name))[:CHOSEN_UNASKED_MAX]


def _telling_params(seen: Sequence[Row]) -> list[str]:
    """Those that differ first."""
    values: dict[str, set[Any]] = {}
    counts: Counter[str] = Counter()
    for row in seen:
        for name, value in row["params"].items():
            values.setdefault(name, set()).add(value)
            counts[name] += 1
    return sorted(values, key=lambda name: (len(values[name]) < 2, -counts[name], name))[:CHOSEN_UNASKED_MAX]  # noqa: PLR2004 - differ
