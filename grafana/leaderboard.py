"""Which code and which parameters made the best model: all runs of a project, ordered by a metric."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, stat, table
from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueGraphMode, BigValueTextMode
from grafana_foundation_sdk.models.dashboard import VariableOption

from grafana.live import UID as LIVE
from grafana.panels import WIDTH, linked, rows
from grafana.picking import asked, board, project
from grafana.queries import CHOSEN_PROJECTS_SQL, SQL, Sql, columns, pickable_sql

UID = "runwire-leaderboard"
RUNS_MAX = 1_000

LOWER_IS_BETTER = "loss|err|perplexity|ppl|mse|mae|nll|time|seconds"
"""What names say where nobody chose an order."""

# `best` holds metrics that were defined with best="min" or "max"; of the others the last value counts. What is not
# finite stands last, and is seen in `last`.
_RANKED_SQL = f"""WITH valued AS (
    SELECT * EXCLUDE (last, "commit"), last['${{metric:raw}}'] AS newest, newest::VARCHAR AS last,
           coalesce(best['${{metric:raw}}'], newest) AS value,
           coalesce(left("commit", 10), '(none)') || CASE WHEN dirty THEN ' and changes' ELSE '' END AS "commit"
    FROM runs WHERE {CHOSEN_PROJECTS_SQL}
),
of_project AS (SELECT *, CASE WHEN isfinite(value) THEN value END AS score FROM valued),
told AS (
    SELECT key, count(DISTINCT coalesce(value, '')) > 1 OR count(*) < (SELECT count(*) FROM of_project) AS differs
    FROM params SEMI JOIN of_project USING (run_id) GROUP BY key
),
settings AS (
    SELECT p.run_id, string_agg(p.key || '=' || coalesce(p.value, ''), '  ' ORDER BY p.key) AS params
    FROM params p JOIN told t ON t.key = p.key
    WHERE t.differs GROUP BY p.run_id
),
ranked AS (
    SELECT o.run_id, o.name, o.project, o.score, o.last, o."commit", o.branch, o.state, o.duration_seconds,
           o."user", o.started_at, o.points, coalesce(s.params, '') AS params,
           row_number() OVER (ORDER BY o.score IS NULL, CASE
               WHEN '${{order:raw}}' = 'lowest' THEN o.score
               WHEN '${{order:raw}}' = 'highest' THEN -o.score
               WHEN regexp_matches(lower('${{metric:raw}}'), '{LOWER_IS_BETTER}') THEN o.score
               ELSE -o.score END, o.started_at) AS place
    FROM of_project o LEFT JOIN settings s ON s.run_id = o.run_id
)"""  # noqa: S608 - texts of our own

_TABLE_SQL = f"""{_RANKED_SQL}
SELECT place, name AS run, score AS best, last, params, "commit", branch, state,
       duration_seconds AS took, "user", started_at AS started, project, points, run_id
FROM ranked ORDER BY place LIMIT {RUNS_MAX}"""  # noqa: S608 - texts of our own
_TABLE_COLUMNS = columns(
    "place number, run, best number, last, params, commit, branch, state, took number, user, "
    "started timestamp, project, points number, run_id"
)

_WINNER_SQL = f"""{_RANKED_SQL}
SELECT name AS run, score AS best, "commit",
       CASE WHEN params = '' THEN '(no parameter differs)' ELSE params END AS params
FROM ranked ORDER BY place LIMIT 1"""  # noqa: S608 - texts of our own
_WINNER_COLUMNS = columns("run, best number, commit, params")

_BY_COMMIT_SQL = f"""{_RANKED_SQL}
SELECT min(place) AS place, "commit", any_value(branch) AS branch,
       count(*) AS runs, arg_min(score, place) AS best, median(score) AS median, arg_min(name, place) AS run,
       arg_min(run_id, place) AS run_id
FROM ranked GROUP BY "commit" ORDER BY 1 LIMIT 100"""  # noqa: S608 - texts of our own
_BY_COMMIT_COLUMNS = columns("place number, commit, branch, runs number, best number, median number, run, run_id")

_BY_PARAM_SQL = f"""{_RANKED_SQL}
SELECT min(r.place) AS place, p.key AS param, coalesce(p.value, '') AS value, count(*) AS runs,
       arg_min(r.score, r.place) AS best, median(r.score) AS median, arg_min(r.name, r.place) AS run,
       arg_min(r.run_id, r.place) AS run_id
FROM ranked r JOIN params p ON p.run_id = r.run_id JOIN told t ON t.key = p.key AND t.differs
GROUP BY p.key, p.value ORDER BY p.key, 1 LIMIT 500"""  # noqa: S608 - texts of our own
_BY_PARAM_COLUMNS = columns("param, value, place number, runs number, best number, median number, run, run_id")


def build() -> dashboard.Dashboard:
    """Return the whole dashboard."""
    return (
        board("leaderboard", UID, "Which code and which parameters made the best model.")
        .time("now-90d", "now")
        .refresh("30s")
        .variables([project(), _metric(), _order()])
        .with_panel(_winner())
        .with_panel(_table())
        .with_panel(_by_commit())
        .with_panel(_by_param())
    )


def _metric() -> dashboard.QueryVariable:
    """Pick one metric of the project; those with a best value come first."""
    offered = f"""SELECT metric AS __value, metric AS __text FROM (
    SELECT unnest(map_keys(last)) AS metric, map_keys(best) AS defined FROM runs WHERE {CHOSEN_PROJECTS_SQL}
) WHERE {pickable_sql("metric")}
GROUP BY metric ORDER BY NOT bool_or(list_contains(defined, metric)),
         starts_with(metric, 'system/') OR starts_with(metric, 'time/'), metric
LIMIT 500"""  # noqa: S608 - texts of our own
    return asked("metric", offered)


def _order() -> dashboard.CustomVariable:
    words = {"by the metric's name": "name", "highest first": "highest", "lowest first": "lowest"}
    options = [VariableOption(text=text, value=value, selected=value == "name") for text, value in words.items()]
    return (
        dashboard.CustomVariable("order")
        .label("order")
        .values(", ".join(f"{text} : {value}" for text, value in words.items()))
        .options(options)
        .current(options[0])
    )


def _winner() -> stat.Panel:
    target = Sql(_WINNER_SQL, _WINNER_COLUMNS)
    return (
        stat.Panel()
        .title("The best run")
        .datasource(SQL)
        .with_target(target)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("/.*/"))
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .height(5)
        .span(WIDTH)
    )


def _table() -> table.Panel:
    target = Sql(_TABLE_SQL, _TABLE_COLUMNS)
    panel = rows("Runs by $metric", target, {"took": "s"}).height(12)
    panel = panel.description(
        "`best` where the metric was defined with one, else its last value; `params` that differ."
    )
    return linked(linked(panel, "run", LIVE, "Its curves"), "run_id", "runwire-compare", "Compare it")


def _by_commit() -> table.Panel:
    target = Sql(_BY_COMMIT_SQL, _BY_COMMIT_COLUMNS)
    return linked(rows("Which code", target).span(WIDTH // 2), "run", LIVE, "Its best run")


def _by_param() -> table.Panel:
    target = Sql(_BY_PARAM_SQL, _BY_PARAM_COLUMNS)
    return linked(rows("Which parameters", target).span(WIDTH // 2), "run", LIVE, "Its best run")
