-- What was let go of on purpose, run by run: the rows and points of deleted runs, and the full resolution of runs whose
-- project keeps it for some days only. Ledger, emitters and tombstone stay: a receipt stays whole, and nothing that
-- comes late or again is stored a second time.

CREATE TABLE store.removals (
    run_key INTEGER NOT NULL,
    kind    VARCHAR NOT NULL,     -- deleted | reduced
    time    BIGINT  NOT NULL,     -- when the last of it had gone
    points  BIGINT  NOT NULL,     -- how many went
    reason  VARCHAR               -- the order's, or the rule's
);

-- One row a deletion or a reduction; time is NULL while the rows and points of a deleted run have not all gone.
CREATE VIEW main.removals AS
SELECT
    r.run_id, r.project, 'deleted' AS kind, make_timestamp(r.deleted_at) AS ordered_at, make_timestamp(m.time) AS time,
    m.points,
    (SELECT arg_max(l.body::JSON->>'reason', l.time) FROM store.lifecycle l JOIN store.emitters e USING (emitter_key)
     WHERE e.run_key = r.run_key AND l.type = 'RunDeleted') AS reason
FROM store.runs r LEFT JOIN store.removals m ON m.run_key = r.run_key AND m.kind = 'deleted'
WHERE r.deleted_at IS NOT NULL
UNION ALL
SELECT r.run_id, r.project, m.kind, make_timestamp(m.time), make_timestamp(m.time), m.points, m.reason
FROM store.removals m JOIN store.live_runs r USING (run_key)
WHERE m.kind = 'reduced';

INSERT INTO store.described VALUES
('removals', 'relation', 'removals', 'What was let go of on purpose: deleted runs, and runs of which only rollups are kept.');
INSERT INTO store.described_columns (relation, name, unit, meaning) VALUES
('removals', 'project', NULL, 'Project of the run.'),
('removals', 'kind', NULL, 'deleted: the whole run; reduced: its full resolution, by the rule of its project.'),
('removals', 'ordered_at', 'UTC', 'When it was ordered.'),
('removals', 'time', 'UTC', 'When the last of it had gone. NULL while some of it is still there.'),
('removals', 'points', NULL, 'How many points went.'),
('removals', 'reason', NULL, 'What the order, or the rule, says.');
