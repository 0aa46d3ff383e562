"""Runs while they train: how far, how fast, whether they live, their curves by time and by step, their machines."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, table, timeseries
from grafana_foundation_sdk.models.common import ScaleDistribution

from grafana.curves import by_step
from grafana.panels import HEIGHT, WIDTH, chart, curves, linked, number, of_living, rows, states
from grafana.picking import board, marks, metric, project, run
from grafana.queries import CHOSEN_METRIC, CHOSEN_RUNS, CHOSEN_RUNS_SQL, SHOWN_TIME_SQL, Sql, columns, promql
from grafana.story import STORY_SQL
from runwire_consumer.gauges import STATE_CODES
from runwire_consumer.queries import STEPS_IN_ALL

UID = "runwire-live"

# The last step over ranks, and the pace that `time/steps_per_second` says; where it is off, the mean since the start.
_NOW_SQL = f"""WITH pace AS (
    SELECT run_id, max(step) AS step, avg(value) FILTER (metric = 'time/steps_per_second') AS steps_per_second
    FROM latest WHERE {CHOSEN_RUNS_SQL} GROUP BY run_id
),
goal AS (
    SELECT run_id, max(number) AS steps_in_all FROM params
    WHERE {CHOSEN_RUNS_SQL} AND regexp_full_match(lower(key), '{"|".join(STEPS_IN_ALL)}') GROUP BY run_id
),
heard AS (
    SELECT run_id, max(seen_at) AS heard_at, max(overdue_seconds) AS overdue_seconds FROM emitters
    WHERE {CHOSEN_RUNS_SQL} GROUP BY run_id
)
SELECT r.name AS run, r.run_id, r.project, r.state, r.state_reason AS reason,
       epoch(now()) - epoch(h.heard_at) AS heard_ago, p.step, g.steps_in_all AS "of",
       coalesce(p.steps_per_second, p.step / nullif(r.duration_seconds, 0)) AS steps_per_second,
       CASE WHEN r.state IN ('running', 'stuck') THEN
           greatest(g.steps_in_all - 1 - p.step, 0)
           / coalesce(p.steps_per_second, p.step / nullif(r.duration_seconds, 0)) END AS "left",
       r.ranks, r.attempts, r.duration_seconds AS took, r.started_at AS started, left(r."commit", 10) AS "commit"
FROM runs r LEFT JOIN pace p ON p.run_id = r.run_id LEFT JOIN goal g ON g.run_id = r.run_id
LEFT JOIN heard h ON h.run_id = r.run_id
WHERE regexp_full_match(r.run_id, '${{run:regex}}') AND regexp_full_match(r.project, '${{project:regex}}')
ORDER BY r.state NOT IN ('running', 'stuck'), r.started_at DESC LIMIT 50"""  # noqa: S608 - texts of our own

_NOW_COLUMNS = columns(
    "run, run_id, project, state, reason, heard_ago number, step number, of number, steps_per_second "
    "number, left number, ranks number, attempts number, took number, started timestamp, commit"
)

_STORY_SQL = f"""{STORY_SQL}
SELECT time, run, kind, text, run_id FROM story WHERE {SHOWN_TIME_SQL} ORDER BY time DESC LIMIT 200"""  # noqa: S608
_STORY_COLUMNS = columns("time timestamp, run, kind, text, run_id")

_LEARNING_RATE = "(.*[/._])?(lr|learning_rate)([/._].*)?"
_PERCENT = "system/(cpu|memory|gpu[0-9]+/utilization|gpu[0-9]+/memory)_percent"
_BYTES = "system/(memory|process_memory|gpu[0-9]+/memory)_bytes"


def build() -> dashboard.Dashboard:
    """Return the whole dashboard."""
    troubles = [STATE_CODES[state] for state in ("lost", "crashed", "failed", "stuck")]
    trouble = " + ".join(f"(runwire_run_state{{{CHOSEN_RUNS}}} == bool {code})" for code in troubles)
    return (
        board("live", UID, "Runs while they train.")
        .time("now-15m", "now")
        .refresh("5s")
        .variables([project(), run(), metric(many=True)])
        .annotations(marks())
        .with_panel(number("Training now", f"sum(runwire_run_state{{{CHOSEN_RUNS}}} == bool 0)", "short"))
        .with_panel(number("Lost, stuck, failed or crashed", f"sum({trouble})", "short", worry=1))
        .with_panel(number("Silent for, at most", f"max({of_living('runwire_heartbeat_age_seconds')})", "s", worry=15))
        .with_panel(number("Steps a second", f"sum({_steps_a_second()})", "short"))
        .with_panel(number("Points a second", "sum(rate(runwire_points_stored_total[$__rate_interval]))", "cps"))
        .with_panel(number("Shown after, p99", freshness(0.99), "s", worry=5))
        .with_panel(_now())
        .with_panel(states("States", f"runwire_run_state{{{CHOSEN_RUNS}}}", "{{run}}"))
        .with_row(dashboard.Row("$metric").repeat("metric"))
        .with_panel(_growing())
        .with_panel(
            curves("$metric by step", by_step(), "step", "run").description(
                "The mean over ranks, what a later attempt superseded left out. Least and greatest values are kept."
            )
        )
        .with_row(dashboard.Row("Pace"))
        .with_panel(_learning_rate())
        .with_panel(chart("Steps a second", [promql(_steps_a_second(), "{{run}}")]))
        .with_panel(
            chart("Step", [promql(f"runwire_step{{{CHOSEN_RUNS}}}", "{{run}}")]).description(
                "The highest step of the newest attempt."
            )
        )
        .with_panel(
            chart("Silent for", [promql(of_living("runwire_heartbeat_age_seconds"), "{{run}}")], "s").description(
                "Since the last sign of life of each living run's most silent process."
            )
        )
        .with_row(dashboard.Row("Machines"))
        .with_panel(_machine("CPU, memory and GPU in use", _PERCENT, "percent").min(0).max(100))
        .with_panel(_machine("Memory in use", _BYTES, "bytes").min(0))
        .with_row(dashboard.Row("What happened"))
        .with_panel(_happened())
    )


def freshness(quantile: float) -> str:
    """Return PromQL of the time from a message's append to its commit in the store."""
    rate = "sum by (le) (rate(runwire_freshness_seconds_bucket[$__rate_interval]))"
    return f"histogram_quantile({quantile}, {rate})"


def _steps_a_second() -> str:
    """From the step itself, so that a run says it whatever it logs; a restart that counts back is no pace."""
    return f"clamp_min(deriv(runwire_step{{{CHOSEN_RUNS}}}[30s]), 0)"


def _growing() -> timeseries.Panel:
    expression = f'runwire_metric{{{CHOSEN_RUNS}, {CHOSEN_METRIC}, reduce="mean"}}'
    return (
        chart("$metric as it grows", [promql(expression, "{{run}}")])
        .description("The mean over ranks, by time.")
        .height(HEIGHT)
    )


def _learning_rate() -> timeseries.Panel:
    expression = f'runwire_metric{{{CHOSEN_RUNS}, metric=~"{_LEARNING_RATE}", reduce="mean"}}'
    logarithmic = common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10)
    return chart("Learning rate", [promql(expression, "{{run}} {{metric}}")]).scale_distribution(logarithmic)


def _machine(title: str, metrics: str, unit: str) -> timeseries.Panel:
    expression = f'runwire_metric{{{CHOSEN_RUNS}, metric=~"{metrics}", reduce="max"}}'
    return chart(title, [promql(expression, "{{run}} {{metric}}")], unit).description(
        "The node that uses most; every node alone is on the dashboard of ranks."
    )


def _now() -> table.Panel:
    units = {"heard_ago": "s", "left": "s", "took": "s"}
    panel = rows("Now", Sql(_NOW_SQL, _NOW_COLUMNS), units).description(
        "`of` and `left` where a parameter such as max_steps or total_steps tells how many steps there will be."
    )
    return linked(linked(panel, "run", UID, "This run alone"), "run_id", "runwire-ranks", "Its ranks")


def _happened() -> table.Panel:
    target = Sql(_STORY_SQL, _STORY_COLUMNS)
    return rows("What happened", target).span(WIDTH)
