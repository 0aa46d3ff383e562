"""Chosen runs side by side: their curves by step and by active time, what they reached, and what was different."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from grafana.curves import by_active_time, by_step
from grafana.live import UID as LIVE
from grafana.panels import curves, linked, matrix, rows
from grafana.picking import board, metric, project, run
from grafana.queries import CHOSEN_RUNS_SQL, Sql, columns, digits

UID = "runwire-compare"
RUNS_MAX = 100

# Names are columns of the tables below: where two runs share one, the id is added.
_CHOSEN_SQL = f"""chosen AS (
    SELECT *, name || CASE WHEN count(*) OVER (PARTITION BY name) > 1 THEN '  ' || run_id ELSE '' END AS line
    FROM (SELECT * FROM runs
          WHERE {CHOSEN_RUNS_SQL} AND regexp_full_match(project, '${{project:regex}}')
          ORDER BY started_at DESC LIMIT {RUNS_MAX})
)"""  # noqa: S608 - texts of our own


def _text(value: str) -> str:
    """A number as text that a person compares: six digits; NaN and infinities as what they are."""
    return f"CASE WHEN isfinite({value}) THEN {digits(value, 6)} ELSE {value}::VARCHAR END"


_REACHED_SQL = f"""WITH {_CHOSEN_SQL},
reached AS (
    SELECT line, started_at, unnest(map_keys(last)) AS metric, unnest(map_values(last)) AS value, 'last' AS what
    FROM chosen
    UNION ALL
    SELECT line, started_at, unnest(map_keys(best)), unnest(map_values(best)), 'best' FROM chosen
)
SELECT metric || ' ' || what AS metric, line AS run, {_text("value")} AS value
FROM reached
ORDER BY starts_with(metric, 'system/') OR starts_with(metric, 'time/'), metric, what, started_at DESC"""  # noqa: S608

# Code and length of a run are always shown; of its parameters those that differ, or that some runs don't have.
_DIFFERENT_SQL = f"""WITH {_CHOSEN_SQL},
told AS (
    SELECT c.line, c.started_at, p.key AS what, coalesce(p.value, '') AS value,
           count(*) OVER (PARTITION BY p.key) AS runs,
           count(DISTINCT coalesce(p.value, '')) OVER (PARTITION BY p.key) AS "values"
    FROM params p JOIN chosen c ON c.run_id = p.run_id
),
facts AS (
    SELECT line, started_at, 0 AS place, 'commit' AS what,
           coalesce(left("commit", 10), '') || CASE WHEN dirty THEN ' and changes' ELSE '' END AS value
    FROM chosen
    UNION ALL
    SELECT line, started_at, 1, 'state', state FROM chosen
    UNION ALL
    SELECT line, started_at, 2, 'took', round(duration_seconds)::BIGINT || ' s' FROM chosen
    UNION ALL
    SELECT line, started_at, 3, 'ranks', ranks::VARCHAR FROM chosen
    UNION ALL
    SELECT line, started_at, 4, what, value FROM told
    WHERE "values" > 1 OR runs < (SELECT count(*) FROM chosen)
)
SELECT what, line AS run, value FROM facts ORDER BY place, what, started_at DESC"""  # noqa: S608 - texts of our own

_RUNS_SQL = f"""WITH {_CHOSEN_SQL}
SELECT line AS run, project, state, duration_seconds AS took, ranks, attempts, points, left("commit", 10) AS "commit",
       branch, "user", started_at AS started, tracking_share, run_id
FROM chosen ORDER BY started_at DESC"""  # noqa: S608 - texts of our own
_RUNS_COLUMNS = columns(
    "run, project, state, took number, ranks number, attempts number, points number, commit, branch, "
    "user, started timestamp, tracking_share number, run_id"
)


def build() -> dashboard.Dashboard:
    """Return the whole dashboard."""
    return (
        board("compare", UID, "Chosen runs side by side.")
        .time("now-90d", "now")
        .refresh("30s")
        .variables([project(), run(), metric(many=True)])
        .with_row(dashboard.Row("$metric").repeat("metric"))
        .with_panel(curves("$metric by step", by_step(), "step", "run"))
        .with_panel(
            curves("$metric by active time", by_active_time(), "seconds", "run").description(
                "Seconds in which the run trained: what lay between two attempts is left out."
            )
        )
        .with_row(dashboard.Row("Numbers"))
        .with_panel(matrix("What they reached", _REACHED_SQL, "metric", "run").height(12))
        .with_panel(
            matrix("What was different", _DIFFERENT_SQL, "what", "run").description(
                "Code, state, length; and the parameters that are not the same in all of them."
            )
        )
        .with_panel(
            linked(
                rows(
                    "The runs",
                    Sql(_RUNS_SQL, _RUNS_COLUMNS),
                    {"took": "s", "tracking_share": "percentunit"},
                ),
                "run",
                LIVE,
                "It alone",
            )
        )
    )
