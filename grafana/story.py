"""What happened to the chosen runs, as one relation `story` of a SELECT: run_id, run, time, kind, text.

kind = started | resumed | alert | finished | preempted | failed | crashed
"""

from __future__ import annotations

from grafana.queries import CHOSEN_RUNS_SQL

NAMES_SQL = f"names AS (SELECT DISTINCT run_id, run FROM latest WHERE {CHOSEN_RUNS_SQL})"  # noqa: S608
"""Names without `runs`, which knows much more, and takes longer for it."""

STORY_SQL = f"""WITH {NAMES_SQL},
told AS (
    SELECT run_id, started_at AS time, CASE WHEN attempt > 1 THEN 'resumed' ELSE 'started' END AS kind,
           'attempt ' || attempt || ' on ' || ranks || ' ranks'
               || coalesce(', from step ' || resumed_from_step, '') AS text
    FROM attempts WHERE {CHOSEN_RUNS_SQL}
    UNION ALL
    SELECT run_id, max(time), body->>'status', max(coalesce(body->>'error', 'attempt ' || attempt))
    FROM events WHERE {CHOSEN_RUNS_SQL} AND type = 'RunEnded' GROUP BY run_id, attempt, body->>'status'
    UNION ALL
    SELECT run_id, seen_at, 'crashed', 'rank ' || "rank" || ' died without a word'
    FROM emitters WHERE {CHOSEN_RUNS_SQL} AND ended = 'crashed'
    UNION ALL
    SELECT run_id, time, 'alert', level || ': ' || title || coalesce(': ' || text, '')
    FROM alerts WHERE {CHOSEN_RUNS_SQL}
),
story AS (
    SELECT t.run_id, coalesce(n.run, t.run_id) AS run, t.time, t.kind, t.text
    FROM told t LEFT JOIN names n ON n.run_id = t.run_id
)"""  # noqa: S608 - texts of our own
