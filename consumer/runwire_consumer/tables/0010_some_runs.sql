-- One row an emitter and metric, as before. The condition holds for every series: it is there for the engine's estimate.
-- Of `run_id IN (...)` the engine believes that it leaves a fifth of the runs, and where one run is long, two short ones
-- then seemed to have more points than there are rows: it made its hash table of all rows, 0.5 s instead of 0.03 s for
-- 20 curves (bench/queries.py --runs 100). An expression that it can't look into divides the estimate by five once more
-- (`nonfinite` never exceeds `points`).
CREATE OR REPLACE VIEW store.lines AS
SELECT s.*, m.name AS metric, t.* EXCLUDE (emitter_key)
FROM store.series s
JOIN store.metrics m USING (metric_key)
JOIN store.senders t USING (emitter_key)
WHERE greatest(s.points, s.nonfinite) > 0;

UPDATE store.described_columns SET meaning = 'RUN@STEP: the run that this one branched off from, and where, as `init` was told.'
WHERE relation = 'runs' AND name = 'forked_from';
