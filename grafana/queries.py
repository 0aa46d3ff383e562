"""The two kinds of query a panel makes, PromQL and SQL, and how dashboard variables go into them.

SQL goes through the Infinity datasource, for which grafana-foundation-sdk has no builder: `Sql` is our own
model of its target. Users choose runs by id (letters and digits), so no quote breaks a query; they see names.
Projects and metrics have no id: those whose name holds a quote or a backslash, or is so long that a gauge's label
cuts it, are left out of the pickers. What is shown without picking shows them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models.dashboard import DataSourceRef

LABEL_BYTES_MAX = 128
"""Names up to here are whole in the gauges' labels."""

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="runwire-prometheus")
SQL = DataSourceRef(type_val="yesoreyeram-infinity-datasource", uid="runwire-sql")

ALL = ".*"
"""What the pickers' All stands for, in PromQL and in SQL alike."""

CHOSEN_RUNS = 'project=~"$project", run_id=~"$run"'
"""PromQL matchers of what the pickers show."""

CHOSEN_METRIC = 'metric=~"$metric"'

CHOSEN_RUNS_SQL = "regexp_full_match(run_id, '${run:regex}')"
"""The same in SQL; it holds for one, for many and for All."""

CHOSEN_PROJECTS_SQL = "regexp_full_match(project, '${project:regex}')"
CHOSEN_METRIC_SQL = "regexp_full_match(metric, '${metric:regex}')"

SHOWN_TIME_SQL = "epoch_ms(time) BETWEEN ${__from} AND ${__to}"
"""The dashboard's time range, whatever zone the consumer lives in."""


def pickable_sql(name: str) -> str:
    """Return the condition under which a column's value can be picked: no quote breaks a query, no label cuts it."""
    return rf"strlen({name}) <= {LABEL_BYTES_MAX} AND NOT regexp_matches({name}, '[\x22\x27\\]')"


def promql(expression: str, legend: str, ref_id: str = "A") -> prometheus.Dataquery:
    """Return a target over the dashboard's time range.

    Args:
        expression: PromQL.
        legend: each series' name, with labels in double braces.
        ref_id: tells a panel's targets apart.
    """
    return prometheus.Dataquery().datasource(PROMETHEUS).expr(expression).range().legend_format(legend).ref_id(ref_id)


def digits(value: str, count: int) -> str:
    """Return SQL of a number as text with so many digits. What it is added to tells the consumer that it is one."""
    return f"printf('%.{count}g', {value} + 0)"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer and what it holds: string, number or timestamp."""

    name: str
    type: str = "string"


def columns(text: str) -> tuple[Column, ...]:
    """Return columns in order, from `run, step number, started timestamp`; what says no type holds strings."""
    return tuple(Column(*one.split()) for one in text.split(","))


@dataclass(frozen=True, slots=True)
class Sql(variants.Dataquery, builder.Builder[variants.Dataquery]):
    """A target that posts SQL to the consumer and reads JSON rows.

    Attributes:
        query: One SELECT.
        columns: What it answers, in the order in which a table shows it.
        ref_id: Tells a panel's targets apart.
        format: `table`, or `timeseries`: a timestamp, a string and a number column, one series a string.
    """

    query: str
    columns: tuple[Column, ...] = ()
    ref_id: str = "A"
    format: str = "table"

    def build(self) -> Self:
        """Return itself: it needs no building."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return the target as Grafana stores it."""
        return {
            "refId": self.ref_id,
            "datasource": SQL,
            "type": "json",
            "source": "url",
            "format": self.format,
            "parser": "backend",
            "root_selector": "",
            "filters": [],
            "columns": [{"selector": column.name, "text": column.name, "type": column.type} for column in self.columns],
            "url": "/api/sql?format=json",
            "url_options": {
                "method": "POST",
                "body_type": "raw",
                "body_content_type": "text/plain",
                "data": self.query,
                "params": [],
                "headers": [],
            },
        }
