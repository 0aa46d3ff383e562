"""The two kinds of query a panel makes, PromQL and SQL, and how dashboard variables go into them.

SQL goes through the Infinity datasource, for which grafana-foundation-sdk has no builder: `Sql` is our own
model of its target. Users choose runs by id (letters and digits), so no quote breaks a query; they see names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models.dashboard import DataSourceRef

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="runwire-prometheus")
SQL = DataSourceRef(type_val="yesoreyeram-infinity-datasource", uid="runwire-sql")

CHOSEN_RUNS = 'project=~"$project", run_id=~"$run"'
"""PromQL matchers of what the pickers show."""

CHOSEN_RUNS_SQL = "regexp_full_match(run_id, '${run:regex}')"
"""The same in SQL; it holds for one, for many and for All."""

ALL = ".*"
"""What the pickers' All stands for, in PromQL and in SQL alike."""


def promql(expression: str, legend: str, ref_id: str = "A") -> prometheus.Dataquery:
    """Return a target over the dashboard's time range.

    Args:
        expression: PromQL.
        legend: each series' name, with labels in double braces.
        ref_id: tells a panel's targets apart.
    """
    return prometheus.Dataquery().datasource(PROMETHEUS).expr(expression).range().legend_format(legend).ref_id(ref_id)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer and what it holds: string, number or timestamp."""

    name: str
    type: str = "string"


@dataclass(frozen=True, slots=True)
class Sql(variants.Dataquery, builder.Builder[variants.Dataquery]):
    """A target that posts SQL to the consumer and reads JSON rows."""

    query: str
    columns: tuple[Column, ...] = ()
    ref_id: str = "A"

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
            "format": "table",
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
