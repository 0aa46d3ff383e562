-- As before, but joined on columns alone: a condition on one side beside them made the engine compare every emitter
-- with every attempt, which took minutes at 100,000 runs.
CREATE OR REPLACE VIEW store.senders AS
SELECT
    e.emitter_key, e.emitter_id, r.run_id, r.run_key, r.project, e."rank", e.role, e.attempt AS token,
    a.number AS attempt, a.declared_start, a.declared_later,
    row_number() OVER (
        PARTITION BY r.run_id ORDER BY coalesce(a.number, 0), e.started_at, e.emitter_id
    ) AS standing
FROM store.emitters e
JOIN store.live_runs r USING (run_key)
LEFT JOIN store.numbered_attempts a
    ON a.run_id = r.run_id AND a.token = CASE WHEN e.role = 'train' THEN e.attempt END
WHERE e.role <> 'edit';
