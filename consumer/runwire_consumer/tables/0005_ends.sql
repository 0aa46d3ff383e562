-- A row that has come proves all rows below it, also where it stands above the end that was declared (a recovery that
-- read a shorter journal, an end that was said too early). So the end is the greater of both, everywhere alike: what
-- is not accounted for below it is missing, and an emitter is complete when its end is known and nothing is missing.

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
),
ends AS (
    SELECT
        e.emitter_key, coalesce(a.stored, 0)::BIGINT AS stored, coalesce(a.dead, 0)::BIGINT AS dead,
        coalesce(a.lost, 0)::BIGINT AS lost,
        CASE WHEN e.next_seq IS NOT NULL THEN greatest(e.next_seq, coalesce(a.seen_end, 0)) END AS next_seq,
        (greatest(coalesce(e.next_seq, 0), coalesce(a.seen_end, 0)) - coalesce(a.named, 0))::BIGINT AS missing
    FROM store.emitters e
    LEFT JOIN accounted a ON a.emitter_key = e.emitter_key
)
SELECT
    t.run_id, t.emitter_id, t."rank", t.attempt, t.role, t.token,
    make_timestamp(e.started_at) AS started_at,
    coalesce(e.status, e.how) AS ended,
    e.how, e.status, e.error, a.next_seq,
    a.stored, a.dead, a.lost, a.missing,
    a.next_seq IS NOT NULL AND a.missing = 0 AS complete,
    make_timestamp(e.seen_at) AS seen_at, e.next_in_seconds, e.journal_rows, e.overdue_seconds
FROM store.emitters e
JOIN store.senders t USING (emitter_key)
JOIN ends a ON a.emitter_key = e.emitter_key;

-- As before; a declared end inside a range no longer hides where that range goes on to.
CREATE OR REPLACE VIEW main.gaps AS
WITH ranges AS (
    SELECT emitter_key, first_seq, end_seq FROM store.ledger
    UNION ALL
    SELECT emitter_key, next_seq, next_seq FROM store.emitters WHERE next_seq IS NOT NULL
),
holes AS (
    SELECT
        emitter_key,
        coalesce(
            max(end_seq) OVER (
                PARTITION BY emitter_key ORDER BY first_seq, end_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0
        ) AS first_seq,
        first_seq AS end_seq, 'missing' AS kind
    FROM ranges
),
found AS (
    SELECT * FROM holes WHERE first_seq < end_seq
    UNION ALL
    SELECT emitter_key, first_seq, end_seq, disposition FROM store.ledger WHERE disposition <> 'stored'
)
SELECT
    t.run_id, t.emitter_id, t."rank", t.attempt, f.kind, f.first_seq, f.end_seq, f.end_seq - f.first_seq AS rows,
    (SELECT any_value(x.reason) FROM store.losses x
     WHERE x.emitter_key = f.emitter_key AND x.first_seq < f.end_seq AND f.first_seq < x.end_seq
       AND f.kind = 'lost') AS reason,
    e.next_seq IS NULL AS open
FROM found f
JOIN store.senders t USING (emitter_key)
JOIN store.emitters e USING (emitter_key);
