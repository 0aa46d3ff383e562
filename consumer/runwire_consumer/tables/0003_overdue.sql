-- Stuck runs: an emitter's loop is past its promise of progress (Heartbeat.overdue_seconds), a run lives on meanwhile.
-- States are from now on running | finished | lost | preempted | crashed | failed | stuck.

ALTER TABLE store.emitters ADD COLUMN overdue_seconds DOUBLE DEFAULT 0;
ALTER TABLE store.emitters ALTER COLUMN overdue_seconds SET NOT NULL;

-- As before, but a stuck run has not ended either.
CREATE OR REPLACE VIEW main.runs AS
WITH newest AS (
    SELECT run_id, max(number) AS attempts, arg_max(world_size, number) AS world_size
    FROM store.numbered_attempts GROUP BY run_id
),
spans AS (
    SELECT
        t.run_id,
        min(e.started_at) AS started_at,
        max(coalesce(e.ended_at, e.row_time, e.started_at)) AS last_at,
        count(DISTINCT t."rank") FILTER (t.attempt = n.attempts) AS ranks,
        sum(c.log_seconds + c.sender_cpu_seconds) / nullif(sum(c.wall_seconds), 0) AS tracking_share
    FROM store.senders t
    JOIN store.emitters e USING (emitter_key)
    LEFT JOIN newest n ON n.run_id = t.run_id
    LEFT JOIN store.costs c ON c.emitter_key = t.emitter_key
    GROUP BY t.run_id
),
counted AS (
    SELECT t.run_id, sum(s.points)::BIGINT AS points
    FROM store.series s JOIN store.senders t USING (emitter_key) GROUP BY t.run_id
),
param_maps AS (
    SELECT run_id, map(list(key ORDER BY key), list(value ORDER BY key)) AS params FROM main.params GROUP BY run_id
),
last_maps AS (
    SELECT run_id, map(list(metric ORDER BY metric), list(value ORDER BY metric)) AS last
    FROM (
        SELECT run_id, metric, avg(value) AS value
        FROM (
            SELECT *, max(coalesce(attempt, 0)) OVER (PARTITION BY run_id, metric) AS newest FROM store.latest
        )
        WHERE coalesce(attempt, 0) = newest
        GROUP BY run_id, metric
    )
    GROUP BY run_id
),
best_maps AS (
    SELECT run_id, map(list(metric ORDER BY metric), list(value ORDER BY metric)) AS best
    FROM store.best_values GROUP BY run_id
)
SELECT
    d.run_id, d.project, d.name, d."group", d."user", d.tags, d.notes,
    coalesce(st.state, 'running') AS state,
    make_timestamp(sp.started_at) AS started_at,
    CASE WHEN st.state NOT IN ('running', 'stuck') THEN make_timestamp(sp.last_at) END AS ended_at,
    (sp.last_at - sp.started_at) / 1e6 AS duration_seconds,
    d."commit", d.dirty, d.branch, d.remote, d.host, d.command, d.packages, d.forked_from,
    coalesce(pm.params, map {}::MAP(VARCHAR, VARCHAR)) AS params,
    coalesce(lm.last, map {}::MAP(VARCHAR, DOUBLE)) AS last,
    coalesce(bm.best, map {}::MAP(VARCHAR, DOUBLE)) AS best,
    n.world_size,
    coalesce(sp.ranks, 0) AS ranks,
    coalesce(n.attempts, 0) AS attempts,
    coalesce(ct.points, 0) AS points,
    sp.tracking_share,
    st.reason AS state_reason,
    make_timestamp(st.since) AS state_since
FROM store.descriptions d
JOIN spans sp ON sp.run_id = d.run_id
LEFT JOIN newest n ON n.run_id = d.run_id
LEFT JOIN store.run_states st ON st.run_key = d.run_key
LEFT JOIN counted ct ON ct.run_id = d.run_id
LEFT JOIN param_maps pm ON pm.run_id = d.run_id
LEFT JOIN last_maps lm ON lm.run_id = d.run_id
LEFT JOIN best_maps bm ON bm.run_id = d.run_id;

-- As before, with overdue_seconds.
CREATE OR REPLACE VIEW main.emitters AS
WITH accounted AS (
    SELECT
        emitter_key,
        sum(end_seq - first_seq) FILTER (disposition = 'stored') AS stored,
        sum(end_seq - first_seq) FILTER (disposition = 'dead') AS dead,
        sum(end_seq - first_seq) FILTER (disposition = 'lost') AS lost,
        sum(end_seq - first_seq) AS named,
        max(end_seq) AS seen_end
    FROM store.ledger GROUP BY emitter_key
)
SELECT
    t.run_id, t.emitter_id, t."rank", t.attempt, t.role, t.token,
    make_timestamp(e.started_at) AS started_at,
    coalesce(e.status, e.how) AS ended,
    e.how, e.status, e.error, e.next_seq,
    coalesce(a.stored, 0)::BIGINT AS stored,
    coalesce(a.dead, 0)::BIGINT AS dead,
    coalesce(a.lost, 0)::BIGINT AS lost,
    (greatest(coalesce(e.next_seq, 0), coalesce(a.seen_end, 0)) - coalesce(a.named, 0))::BIGINT AS missing,
    e.next_seq IS NOT NULL AND coalesce(a.named, 0) >= e.next_seq AS complete,
    make_timestamp(e.seen_at) AS seen_at, e.next_in_seconds, e.journal_rows, e.overdue_seconds
FROM store.emitters e
JOIN store.senders t USING (emitter_key)
LEFT JOIN accounted a ON a.emitter_key = e.emitter_key;
