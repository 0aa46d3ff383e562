"""Panels as every dashboard makes them: one look, one way to show a series, a number, a table, a curve by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import common, dashboard, heatmap, stat, statetimeline, table, timeseries, trend
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.dashboard import Threshold as Step
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale

from grafana.queries import CHOSEN_RUNS, PROMETHEUS, SQL, Column, Sql, promql
from runwire_consumer.gauges import STATE_CODES

WIDTH = 24
HEIGHT = 9

STATE_COLORS = {
    "running": "blue",
    "finished": "green",
    "preempted": "yellow",
    "lost": "purple",
    "stuck": "super-light-purple",
    "failed": "orange",
    "crashed": "red",
}


def number(title: str, expression: str, unit: str, *, worry: float | None = None, below: bool = False) -> stat.Panel:
    """Show one number, red from `worry` on, or `below` it."""
    calm, bad = ("text", "red") if not below else ("red", "text")
    steps = [Step(value=None, color="text" if worry is None else calm)]
    if worry is not None:
        steps.append(Step(value=worry, color=bad))
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


def chart(title: str, targets: Sequence[Builder[Dataquery]], unit: str = "short") -> timeseries.Panel:
    """Show series over time."""
    return (
        timeseries.Panel()
        .title(title)
        .datasource(PROMETHEUS)
        .targets(list(targets))
        .unit(unit)
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(_tooltip())
        .height(HEIGHT)
        .span(WIDTH // 2)
    )


def states(title: str, expression: str, legend: str) -> statetimeline.Panel:
    """Show a bar a run over time, coloured by its state."""
    mapping = {
        str(code): ValueMappingResult(text=state, color=STATE_COLORS[state], index=code)
        for state, code in STATE_CODES.items()
    }
    return timeline(title, [promql(expression, legend)], [ValueMap(options=mapping)])


def timeline(
    title: str, targets: Sequence[Builder[Dataquery]], mappings: Sequence[ValueMapping]
) -> statetimeline.Panel:
    """Show a bar a series over time, coloured by what its values mean."""
    return (
        statetimeline.Panel()
        .title(title)
        .datasource(PROMETHEUS)
        .targets(list(targets))
        .mappings(list(mappings))
        .merge_values(True)
        .show_value(VisibilityMode.AUTO)
        .row_height(0.8)
        .height(7)
        .span(WIDTH)
    )


def rows(title: str, target: Sql, units: Mapping[str, str] | None = None) -> table.Panel:
    """Show the rows of a SELECT, its columns in the order in which the target names them.

    Args:
        title: Of the panel.
        target: Its columns become the table's.
        units: Columns to Grafana's units.
    """
    # Infinity returns columns in alphabetical order.
    order = {column.name: index for index, column in enumerate(target.columns)}
    panel = (
        table.Panel()
        .title(title)
        .datasource(SQL)
        .with_target(target)
        .with_transformation(DataTransformerConfig(id_val="organize", options={"indexByName": order}))
        .filterable(True)
        .height(HEIGHT)
        .span(WIDTH)
    )
    for name, unit in (units or {}).items():
        panel = panel.override_by_name(name, [DynamicConfigValue(id_val="unit", value=unit)])
    if "state" in order:
        panel = panel.override_by_name("state", [_colored_states()])
    return panel


def linked(panel: table.Panel, column: str, uid: str, title: str) -> table.Panel:
    """Let a column of a table with `run_id` open another dashboard with that run, in the same time range."""
    url = f"/d/{uid}?var-run=${{__data.fields.run_id}}&${{__url_time_range}}"
    return panel.override_by_name(column, [DynamicConfigValue(id_val="links", value=[{"title": title, "url": url}])])


def matrix(title: str, query: str, row: str, column: str) -> table.Panel:
    """Show a SELECT of (row, column, value) rows with a line a row and a column a column; values are texts."""
    target = Sql(query, (Column(row), Column(column), Column("value")))
    return (
        table.Panel()
        .title(title)
        .datasource(SQL)
        .with_target(target)
        .with_transformation(_grouping(row, column))
        .filterable(True)
        .height(HEIGHT)
        .span(WIDTH)
    )


def curves(title: str, query: str, x: str, line: str) -> trend.Panel:
    """Show a SELECT of (x, line, value) rows, ordered by x, as a curve a line."""
    grouped = f"{x}\\{line}"
    target = Sql(query, (Column(x, "number"), Column(line), Column("value", "number")))
    conversion = {"targetField": grouped, "destinationType": "number"}
    return (
        _trend(title, target)
        .with_transformation(_grouping(x, line))
        .with_transformation(DataTransformerConfig(id_val="convertFieldType", options={"conversions": [conversion]}))
        .x_field(grouped)
        .span_nulls(True)  # each line has points at steps of its own
    )


def wide_curves(title: str, target: Sql) -> trend.Panel:
    """Show a SELECT whose first column is x, ordered by it, and each other one a curve."""
    return _trend(title, target).x_field(target.columns[0].name)


def heat(title: str, target: Builder[Dataquery], unit: str) -> heatmap.Panel:
    """Show a row a series over time, coloured by value."""
    return (
        heatmap.Panel()
        .title(title)
        .datasource(PROMETHEUS)
        .with_target(target)
        .calculate(False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.UNKNOWN))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Turbo")
            .scale(HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .cell_values(heatmap.CellValues().unit(unit))
        .show_legend()
        .height(HEIGHT)
        .span(WIDTH)
    )


def of_living(gauge: str) -> str:
    """Restrict a gauge to chosen runs that live: a stuck one does."""
    living = " or ".join(f"runwire_run_state == {STATE_CODES[state]}" for state in ("running", "stuck"))
    return f"{gauge}{{{CHOSEN_RUNS}}} and on (run_id) ({living})"


def _trend(title: str, target: Sql) -> trend.Panel:
    return (
        trend.Panel()
        .title(title)
        .datasource(SQL)
        .with_target(target)
        .line_width(1)
        .show_points(VisibilityMode.AUTO)
        .legend(_legend())
        .tooltip(_tooltip())
        .height(HEIGHT)
        .span(WIDTH // 2)
    )


def _grouping(row: str, column: str) -> DataTransformerConfig:
    options = {"columnField": column, "rowField": row, "valueField": "value", "emptyValue": "null"}
    return DataTransformerConfig(id_val="groupingToMatrix", options=options)


def _colored_states() -> DynamicConfigValue:
    results = {
        state: {"text": state, "color": color, "index": index}
        for index, (state, color) in enumerate(STATE_COLORS.items())
    }
    return DynamicConfigValue(id_val="mappings", value=[{"type": "value", "options": results}])


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
