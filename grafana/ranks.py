"""One run's ranks and nodes: who is slow, whether they drift apart, what each machine does."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, heatmap, timeseries

from grafana.panels import WIDTH, chart, heat, matrix, rows, wide_curves
from grafana.picking import board, metric, one_run, project
from grafana.queries import CHOSEN_METRIC, CHOSEN_METRIC_SQL, CHOSEN_RUNS_SQL, Sql, columns, digits, promql

UID = "runwire-ranks"

_HOSTS_SQL = f"""hosts AS (
    SELECT "rank", arg_max(body->>'$.host.name', time) AS host,
           arg_max(json_array_length(body, '$.host.gpus'), time) AS gpus
    FROM events WHERE {CHOSEN_RUNS_SQL} AND type = 'RunStarted' GROUP BY "rank"
)"""  # noqa: S608 - texts of our own

# What a straggler is, the macro knows; beside it how far each rank has come. Without a run there are no rows.
_STRAGGLERS_SQL = f"""WITH places AS (
    SELECT "rank", max(step) AS step, max(time) AS last_at FROM latest WHERE {CHOSEN_RUNS_SQL} GROUP BY "rank"
)
SELECT s."rank", s.host, s.median AS step_takes, s.slowdown - 1 AS slower,
       CASE WHEN s.straggler THEN 'straggler' ELSE '' END AS verdict, p.step,
       max(p.step) OVER () - p.step AS behind, epoch(now()) - epoch(p.last_at) AS last_value_ago
FROM stragglers((SELECT max(run_id) FROM runs WHERE run_id = '${{run:raw}}')) s
LEFT JOIN places p ON p."rank" = s."rank"
ORDER BY s.slowdown DESC NULLS LAST, behind DESC, s."rank" LIMIT 200"""  # noqa: S608 - texts of our own
_STRAGGLERS_COLUMNS = columns(
    "rank number, host, step_takes number, slower number, verdict, step number, behind number, last_value_ago number"
)

_SECTIONS_SQL = f"""SELECT metric, 'rank ' || "rank" AS "rank", {digits("value", 3)} || ' s' AS value FROM latest
WHERE {CHOSEN_RUNS_SQL} AND starts_with(metric, 'time/') AND metric <> 'time/steps_per_second'
ORDER BY metric, latest."rank" """  # noqa: S608 - texts of our own

_SPREAD_SQL = f"""WITH points AS (
    SELECT step, value AS mean, min, max FROM curves
    WHERE {CHOSEN_RUNS_SQL} AND {CHOSEN_METRIC_SQL} AND isfinite(value)
),
span AS (SELECT min(step) AS first, max(step) - min(step) + 1 AS steps FROM points)
SELECT min(p.step) AS step, avg(p.mean) AS mean, min(p.min) AS least, max(p.max) AS greatest
FROM points p, span s GROUP BY (p.step - s.first) * 400 // s.steps ORDER BY 1"""  # noqa: S608 - texts of our own
_SPREAD_COLUMNS = columns("step number, mean number, least number, greatest number")

_RANKS_SQL = f"""WITH {_HOSTS_SQL}
SELECT e."rank", h.host, h.gpus, e.attempt, e.role, coalesce(e.ended, 'lives') AS state,
       epoch(now()) - epoch(e.seen_at) AS heard_ago, e.overdue_seconds AS overdue, e.journal_rows AS waiting,
       e.stored, e.missing, e.error, e.emitter_id
FROM emitters e LEFT JOIN hosts h ON h."rank" = e."rank"
WHERE {CHOSEN_RUNS_SQL} ORDER BY e.attempt DESC, e."rank", e.started_at DESC LIMIT 500"""  # noqa: S608
_RANKS_COLUMNS = columns(
    "rank number, host, gpus number, attempt number, role, state, heard_ago number, overdue number, "
    "waiting number, stored number, missing number, error, emitter_id"
)

_NODES_SQL = f"""WITH {_HOSTS_SQL}
SELECT l.metric, coalesce(h.host, '?') || ' (rank ' || l."rank" || ')' AS node, {digits("l.value", 4)} AS value
FROM latest l LEFT JOIN hosts h ON h."rank" = l."rank"
WHERE {CHOSEN_RUNS_SQL} AND starts_with(l.metric, 'system/') ORDER BY l.metric, l."rank" """  # noqa: S608

_ONE = 'run_id="$run"'


def build() -> dashboard.Dashboard:
    """Return the whole dashboard."""
    return (
        board("ranks", UID, "One run's ranks and nodes.")
        .time("now-30m", "now")
        .refresh("10s")
        .variables([project(), one_run(), metric(many=False)])
        .with_panel(_step_times())
        .with_panel(
            rows(
                "Stragglers",
                Sql(_STRAGGLERS_SQL, _STRAGGLERS_COLUMNS),
                {"step_takes": "s", "slower": "percentunit", "last_value_ago": "s"},
            )
            .description(
                "The median of each rank's time/step against the others'. Ranks that wait for each other in every "
                "step take equally long: the sections beside tell who made them wait."
            )
            .span(WIDTH // 2)
        )
        .with_panel(
            matrix("Where the time goes", _SECTIONS_SQL, "metric", "rank")
            .description("The last value of each section that run.time() measures, a column a rank.")
            .span(WIDTH // 2)
        )
        .with_panel(
            wide_curves(
                "$metric over ranks, by step",
                Sql(_SPREAD_SQL, _SPREAD_COLUMNS),
            ).description("The mean over ranks, and between which values they lie.")
        )
        .with_panel(_spread())
        .with_row(dashboard.Row("Nodes"))
        .with_panel(_nodes("CPU in use", "system/cpu_percent", "percent").max(100))
        .with_panel(_nodes("Memory in use", "system/memory_percent", "percent").max(100))
        .with_panel(matrix("Each node now", _NODES_SQL, "metric", "node"))
        .with_panel(
            rows(
                "Ranks",
                Sql(_RANKS_SQL, _RANKS_COLUMNS),
                {"heard_ago": "s", "overdue": "s"},
            ).description(
                "`waiting`: rows in the rank's journal; `overdue`: how long it is past its promise of progress."
            )
        )
    )


def _of_ranks(metric: str) -> str:
    """Return PromQL of a metric a rank; a run of one rank has no series a rank, and its mean is that rank's value."""
    alone = f'label_replace(runwire_metric{{{_ONE}, {metric}, reduce="mean"}}, "rank", "0", "", "")'
    return f"runwire_metric_rank{{{_ONE}, {metric}}} or on (run_id, metric) {alone}"


def _step_times() -> heatmap.Panel:
    # Rows come in the order of their labels: with three digits each, in the order of ranks.
    padded = _of_ranks('metric="time/step"')
    for zeros, pattern in (("00", "(.)"), ("0", "(..)"), ("", "(...+)")):
        padded = f'label_replace({padded}, "row", "rank {zeros}$1", "rank", "{pattern}")'
    return heat("Step time of each rank", promql(f"max by (row) ({padded})", "{{row}}"), "s")


def _spread() -> timeseries.Panel:
    return chart("$metric of each rank", [promql(_of_ranks(CHOSEN_METRIC), "rank {{rank}}")])


def _nodes(title: str, metric: str, unit: str) -> timeseries.Panel:
    return chart(title, [promql(_of_ranks(f'metric="{metric}"'), "rank {{rank}}")], unit).min(0)
