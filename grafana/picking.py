"""What stands above the panels: the pickers of project, run and metric, links to the other dashboards, annotations."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    VariableModel,
    VariableOption,
    VariableRefresh,
)

from grafana.queries import (
    ALL,
    CHOSEN_PROJECTS_SQL,
    CHOSEN_RUNS_SQL,
    SHOWN_TIME_SQL,
    SQL,
    Sql,
    columns,
    pickable_sql,
)
from grafana.story import STORY_SQL

TAG = "runwire"
OFFERED_MAX = 500


def board(title: str, uid: str, description: str) -> dashboard.Dashboard:
    """Return a dashboard without panels: fixed uid, linked with the others, not to be edited in the browser."""
    return (
        dashboard.Dashboard(f"Runwire: {title}")
        .uid(uid)
        .description(f"{description} Made by grafana/generate.py; changes in the browser don't last.")
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .links(
            [
                dashboard.DashboardLink("Runwire")
                .type(DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .include_vars(True)
                .keep_time(True)
            ]
        )
    )


def project() -> Builder[VariableModel]:
    """Pick projects among all that are stored."""
    offered = (
        f"SELECT DISTINCT project AS __value, project AS __text FROM runs WHERE {pickable_sql('project')}"  # noqa: S608
        f" ORDER BY project LIMIT {OFFERED_MAX}"
    )
    return asked("project", offered).multi(True).include_all(True).all_value(ALL).current(_all())


def run() -> Builder[VariableModel]:
    """Pick runs of the projects by id, since names may repeat and hold quotes; show the name."""
    return asked("run", _runs_offered()).multi(True).include_all(True).all_value(ALL).current(_all())


def one_run() -> Builder[VariableModel]:
    """Pick one run; the newest is shown first."""
    return asked("run", _runs_offered())


def metric(*, many: bool) -> Builder[VariableModel]:
    """Pick metrics of the runs; first comes a loss, last what the machine says."""
    offered = f"""SELECT metric AS __value, metric AS __text FROM latest
WHERE {CHOSEN_RUNS_SQL} AND {pickable_sql("metric")}
GROUP BY metric ORDER BY starts_with(metric, 'system/') OR starts_with(metric, 'time/'),
         NOT contains(lower(metric), 'loss'), metric
LIMIT {OFFERED_MAX}"""  # noqa: S608 - texts of our own
    return asked("metric", offered).multi(many)


def _all() -> VariableOption:
    return VariableOption(text="All", value="$__all", selected=True)


def _runs_offered() -> str:
    return (
        "SELECT run_id AS __value, coalesce(name, '(unnamed)') || '  ' || run_id AS __text FROM runs"  # noqa: S608
        f" WHERE {CHOSEN_PROJECTS_SQL} ORDER BY started_at DESC LIMIT {OFFERED_MAX}"
    )


def asked(name: str, query: str) -> dashboard.QueryVariable:
    """Return a picker of what SQL answers as `__value` and `__text`."""
    target = Sql(query, columns("__text, __value"), ref_id="variable")
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SQL)
        .query({"queryType": "infinity", "refId": "variable", "infinityQuery": target.to_json()})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


class Marks(Builder[AnnotationQuery]):
    """Annotations from SQL, of some kinds of the story; the SDK knows no target but its own."""

    def __init__(self, name: str, color: str, *kinds: str) -> None:
        """Mark the given kinds of `STORY_SQL`."""
        self._name, self._color, self._kinds = name, color, kinds

    def build(self) -> AnnotationQuery:
        """Return the annotation query."""
        listed = ", ".join(f"'{kind}'" for kind in self._kinds)
        query = f"""{STORY_SQL}
SELECT time, run || ': ' || kind AS title, text, kind AS tags FROM story
WHERE kind IN ({listed}) AND {SHOWN_TIME_SQL} ORDER BY time DESC LIMIT 200"""  # noqa: S608 - texts of our own
        target = Sql(query, columns("time timestamp, title, text, tags"), ref_id="Anno")
        return AnnotationQuery(
            name=self._name,
            datasource=SQL,
            enable=True,
            icon_color=self._color,
            target=target,  # type: ignore[arg-type]
        )


def marks() -> list[Builder[AnnotationQuery]]:
    """Return what happened to the chosen runs: alerts, resumes, preemptions, ends."""
    return [
        Marks("Alerts", "red", "alert"),
        Marks("Resumed", "blue", "resumed"),
        Marks("Preempted", "yellow", "preempted"),
        Marks("Ended", "green", "finished"),
        Marks("Failed or crashed", "orange", "failed", "crashed"),
    ]
