"""The dashboard of runs that are training now: curves, states, and how the pipeline keeps up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import common, dashboard, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataTransformerConfig,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.dashboard import Threshold as Step

from grafana.queries import (
    ALL,
    CHOSEN_RUNS,
    CHOSEN_RUNS_SQL,
    PROMETHEUS,
    SQL,
    Column,
    Sql,
    promql,
)
from runwire_consumer.gauges import STATE_CODES

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.cog.variants import Dataquery

UID = "runwire-live"
WIDTH = 24
CURVE_HEIGHT = 9

STATE_COLORS = {
    "running": "blue",
    "finished": "green",
    "preempted": "yellow",
    "lost": "purple",
    "stuck": "super-light-purple",
    "failed": "orange",
    "crashed": "red",
}

RUNS_COLUMNS = (
    Column("name"),
    Column("run_id"),
    Column("project"),
    Column("state"),
    Column("started_at", "timestamp"),
    Column("points", "number"),
    Column("ranks", "number"),
    Column("attempts", "number"),
    Column("commit"),
)


def build() -> dashboard.Dashboard:
    """Return the whole dashboard."""
    return (
        dashboard.Dashboard("Runwire: live")
        .uid(UID)
        .description("Runs while they train. Made by grafana/generate.py; changes in the browser don't last.")
        .tags(["runwire"])
        .readonly()
        .time("now-15m", "now")
        .refresh("5s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables([_project(), _run()])
        .with_panel(_number("Points a second", "sum(rate(runwire_points_stored_total[$__rate_interval]))", "cps"))
        .with_panel(_number("Waiting messages", "sum(runwire_consumer_lag_messages)", "short", worry=10_000))
        .with_panel(_number("Freshness, p99", _freshness(0.99), "s", worry=5))
        .with_panel(_number("Heartbeat age, oldest", f"max({_of_running('runwire_heartbeat_age_seconds')})", "s"))
        .with_panel(_number("Dead letters", "sum(increase(runwire_dead_letters_total[$__range]))", "short", worry=1))
        .with_panel(_number("Missing rows", "sum(runwire_missing_rows)", "short", worry=1))
        .with_panel(_states())
        .with_panel(_curve("Loss", ".*loss.*"))
        .with_panel(_curve("Accuracy", ".*acc.*").axis_soft_min(0).axis_soft_max(1))
        .with_panel(
            _curve("Learning rate", "(.*[/._])?(lr|learning_rate)([/._].*)?").scale_distribution(_logarithmic())
        )
        .with_panel(_step())
        .with_panel(_chart("Waiting messages", [promql("runwire_consumer_lag_messages", "{{source}} {{partition}}")]))
        .with_panel(
            _chart(
                "Freshness: from the broker to SQL",
                [promql(_freshness(0.5), "p50"), promql(_freshness(0.99), "p99", "B")],
            ).unit("s")
        )
        .with_panel(
            _chart(
                "Rows a second",
                [
                    promql("sum(rate(runwire_points_stored_total[$__rate_interval]))", "points stored"),
                    promql("sum(rate(runwire_duplicate_rows_total[$__rate_interval]))", "rows seen twice", "B"),
                    promql("sum(rate(runwire_dead_letters_total[$__rate_interval]))", "dead letters", "C"),
                ],
            ).unit("cps")
        )
        .with_panel(_runs())
    )


def _freshness(quantile: float) -> str:
    rate = "sum by (le) (rate(runwire_freshness_seconds_bucket[$__rate_interval]))"
    return f"histogram_quantile({quantile}, {rate})"


def _of_running(gauge: str) -> str:
    """Restrict a gauge to chosen runs that live: a stuck one does."""
    living = " or ".join(f"runwire_run_state == {STATE_CODES[state]}" for state in ("running", "stuck"))
    return f"{gauge}{{{CHOSEN_RUNS}}} and on (run_id) ({living})"


def _project() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("project")
        .label("project")
        .datasource(PROMETHEUS)
        .query({"qryType": 1, "query": "label_values(runwire_run_info, project)", "refId": "project"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(ALL)
        .current(VariableOption(text="All", value="$__all", selected=True))
    )


def _run() -> dashboard.QueryVariable:
    """Pick runs by id, since names may repeat and hold quotes; show the name."""
    names = Sql(
        "SELECT run_id AS __value, coalesce(name, '(unnamed)') || '  ' || run_id AS __text FROM runs"
        " WHERE regexp_full_match(project, '${project:regex}') ORDER BY started_at DESC LIMIT 500",
        columns=(Column("__text"), Column("__value")),
        ref_id="variable",
    )
    return (
        dashboard.QueryVariable("run")
        .label("run")
        .datasource(SQL)
        .query({"queryType": "infinity", "refId": "variable", "infinityQuery": names.to_json()})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(ALL)
        .current(VariableOption(text="All", value="$__all", selected=True))
    )


def _number(title: str, expression: str, unit: str, *, worry: float | None = None) -> stat.Panel:
    """Show one number, red from `worry` on."""
    steps = [Step(value=None, color="text")]
    if worry is not None:
        steps.append(Step(value=worry, color="red"))
    return (
        stat.Panel()
        .title(title)
        .datasource(PROMETHEUS)
        .with_target(promql(expression, title))
        .unit(unit)
        .decimals(1 if unit == "s" else 0)
        .no_value("none")
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
        .height(4)
        .span(WIDTH // 6)
    )


def _chart(title: str, targets: list[Builder[Dataquery]]) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title(title)
        .datasource(PROMETHEUS)
        .targets(targets)
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .height(CURVE_HEIGHT)
        .span(WIDTH // 3)
    )


def _curve(title: str, metric: str) -> timeseries.Panel:
    """Chart the metrics whose name fits a pattern, a line a run: its mean over ranks."""
    expression = f'runwire_metric{{{CHOSEN_RUNS}, metric=~"{metric}", reduce="mean"}}'
    return (
        _chart(title, [promql(expression, "{{run}} {{metric}}")])
        .description("The mean over ranks, by time. Curves by step are in SQL: `curves`.")
        .span(WIDTH // 2)
    )


def _logarithmic() -> common.ScaleDistributionConfig:
    return common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10)


def _step() -> timeseries.Panel:
    return _chart("Step", [promql(f"runwire_step{{{CHOSEN_RUNS}}}", "{{run}}")]).span(WIDTH // 2)


def _states() -> statetimeline.Panel:
    """A bar a run over time, coloured by state."""
    mapping = {
        str(code): ValueMappingResult(text=state, color=STATE_COLORS[state], index=code)
        for state, code in STATE_CODES.items()
    }
    return (
        statetimeline.Panel()
        .title("Run states")
        .datasource(PROMETHEUS)
        .with_target(promql(f"runwire_run_state{{{CHOSEN_RUNS}}}", "{{run}}"))
        .mappings([ValueMap(options=mapping)])
        .merge_values(True)
        .show_value(VisibilityMode.AUTO)
        .row_height(0.8)
        .height(7)
        .span(WIDTH)
    )


def _runs() -> table.Panel:
    """The runs table of SQL, which also holds runs that left the gauges."""
    names = ", ".join(column.name for column in RUNS_COLUMNS)
    query = f"SELECT {names} FROM runs WHERE {CHOSEN_RUNS_SQL} ORDER BY started_at DESC LIMIT 100"  # noqa: S608
    order = {column.name: index for index, column in enumerate(RUNS_COLUMNS)}
    return (
        table.Panel()
        .title("Runs")
        .datasource(SQL)
        .with_target(Sql(query, RUNS_COLUMNS))
        # Infinity returns columns in alphabetical order.
        .with_transformation(DataTransformerConfig(id_val="organize", options={"indexByName": order}))
        .height(CURVE_HEIGHT)
        .span(WIDTH)
    )
