-- Reads at scale: what a query would have to work out again each time is kept. Places of emitters and names of runs,
-- from which step on a series is hidden, finished rows of `runs`, points in sorted pieces, and their rollups.

-- Who sends: one row an emitter of a run that is not deleted, with its place in the run's order and the run's name.
-- Where two points meet on one rank and step, the higher standing wins. Other roles stand below all attempts.
-- Kept in the transaction that changes a run's emitters, starts or edits (placing.py).
CREATE TABLE store.placed AS
SELECT
    s.*, d.name AS run, count(*) OVER (PARTITION BY s.run_key, s."rank") = 1 AS alone
FROM store.senders s JOIN store.descriptions d ON d.run_id = s.run_id;

-- As before, and more. From hidden_from on, a later attempt supersedes the points (NULL: never). increasing: in the
-- order of sequence numbers each step is greater than the one before; false also where that is not known.
CREATE TABLE store.series_now (
    emitter_key INTEGER NOT NULL,
    metric_key  INTEGER NOT NULL,
    points      BIGINT  NOT NULL,
    nonfinite   BIGINT  NOT NULL,
    first_seq   BIGINT  NOT NULL,
    first_step  BIGINT  NOT NULL,
    last_seq    BIGINT  NOT NULL,
    last_step   BIGINT  NOT NULL,
    last_time   BIGINT  NOT NULL,
    last_value  DOUBLE  NOT NULL,
    min_step    BIGINT  NOT NULL,
    max_step    BIGINT  NOT NULL,
    increasing  BOOLEAN NOT NULL,
    hidden_from BIGINT,
    dropped     BIGINT  NOT NULL DEFAULT 0  -- of its points, how many are left as rollups alone
);
INSERT INTO store.series_now
SELECT
    s.*,
    coalesce(f.min_step, least(s.first_step, s.last_step)), coalesce(f.max_step, greatest(s.first_step, s.last_step)),
    o.emitter_key IS NOT NULL, l.hidden_from, 0
FROM store.series s
LEFT JOIN (
    SELECT p.emitter_key, p.metric_key, min(w.step) AS min_step, max(w.step) AS max_step
    FROM store.points p JOIN store.rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq
    GROUP BY p.emitter_key, p.metric_key
) AS f ON f.emitter_key = s.emitter_key AND f.metric_key = s.metric_key
LEFT JOIN (
    SELECT emitter_key
    FROM (
        SELECT emitter_key, step > lag(step) OVER (PARTITION BY emitter_key ORDER BY seq) AS rises FROM store.rows
    )
    GROUP BY emitter_key HAVING bool_and(coalesce(rises, true))
) AS o ON o.emitter_key = s.emitter_key
LEFT JOIN (FROM store.lines WHERE hidden_from IS NOT NULL) AS l
    ON l.emitter_key = s.emitter_key AND l.metric_key = s.metric_key;
DROP TABLE store.series;
ALTER TABLE store.series_now RENAME TO series;

DROP VIEW store.senders;
ALTER TABLE store.placed RENAME TO senders;

-- Points are written to store.points and store.rows in arrival order and moved from there, in slices, into pieces that
-- are sorted by run, metric, emitter and sequence number (compaction.py). A point is in one of the tables, its row too.
CREATE TABLE store.cold_points (
    emitter_key INTEGER NOT NULL,
    metric_key  INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    value       DOUBLE  NOT NULL,
    block       BIGINT  NOT NULL   -- first_seq of its block of level 1; -1 loose: moves once more; -2 short: no rollups
);

CREATE TABLE store.cold_rows (
    emitter_key INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    step        BIGINT  NOT NULL,
    time        BIGINT  NOT NULL,
    loose       BOOLEAN NOT NULL
);

-- Blocks of consecutive points of a series: of level 1 up to 256, of level 2 up to 4,096. Each point with block >= 0
-- is in exactly one block of each level; a block of level 2 is made of whole blocks of level 1.
CREATE TABLE store.rollups (
    level       TINYINT NOT NULL,
    emitter_key INTEGER NOT NULL,
    metric_key  INTEGER NOT NULL,
    first_seq   BIGINT  NOT NULL,
    points      BIGINT  NOT NULL,
    first_step  BIGINT  NOT NULL,  -- the least and the greatest step in it
    last_step   BIGINT  NOT NULL,
    outer_first BIGINT  NOT NULL,  -- the same of the block of level 2 that it is a part of
    outer_last  BIGINT  NOT NULL,
    first_time  BIGINT  NOT NULL,
    last_time   BIGINT  NOT NULL,
    min         DOUBLE,            -- of values that are no NaN, infinities included; NULL without any
    max         DOUBLE,
    sum         DOUBLE  NOT NULL,  -- of the finite values
    nan         BIGINT  NOT NULL,
    infinite    BIGINT  NOT NULL,
    kept        BOOLEAN NOT NULL   -- of level 1: its points are there; else it alone is left (thinning.py)
);

-- What compaction knows of a run; it has no row before a point of it was moved.
CREATE TABLE store.layout (
    run_key         INTEGER NOT NULL,
    loose_points    BIGINT  NOT NULL,
    loose_pieces    BIGINT  NOT NULL,
    full_resolution BOOLEAN NOT NULL   -- false: of rolled points only the rollups are kept
);

-- Runs whose row of `runs` is worked out when it is asked for; of all others it is in store.summaries.
CREATE TABLE store.unsettled (
    run_key INTEGER NOT NULL,
    chosen  BOOLEAN NOT NULL           -- true only inside of the transaction that settles it
);
INSERT INTO store.unsettled SELECT run_key, false FROM store.live_runs;

CREATE VIEW store.all_points AS
SELECT emitter_key, metric_key, seq, value FROM store.cold_points
UNION ALL
SELECT emitter_key, metric_key, seq, value FROM store.points;

CREATE VIEW store.all_rows AS
SELECT emitter_key, seq, step, time FROM store.cold_rows
UNION ALL
SELECT emitter_key, seq, step, time FROM store.rows;

-- One row an emitter and metric.
CREATE OR REPLACE VIEW store.lines AS
SELECT s.*, m.name AS metric, t.* EXCLUDE (emitter_key)
FROM store.series s
JOIN store.metrics m USING (metric_key)
JOIN store.senders t USING (emitter_key);

DROP VIEW store.run_rows;

-- As before, over all points.
CREATE OR REPLACE VIEW main.metrics AS
SELECT
    l.run_id, l.metric, l."rank", l.attempt, l.role, l.emitter_id, p.seq, w.step,
    make_timestamp(w.time) AS time, p.value,
    coalesce(w.step >= l.hidden_from, false) AS superseded
FROM store.all_points p
JOIN store.lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
JOIN store.all_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq;

CREATE OR REPLACE VIEW store.named_curves_by_rank AS
SELECT
    l.run_id, l.run, l.metric, l."rank", w.step,
    make_timestamp(arg_max(w.time, l.standing::HUGEINT * 4611686018427387904 + p.seq)) AS time,
    arg_max(p.value, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS value,
    arg_max(l.attempt, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS attempt
FROM store.all_points p
JOIN store.lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
JOIN store.all_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq
WHERE l.hidden_from IS NULL OR w.step < l.hidden_from
GROUP BY l.run_id, l.run, l.metric, l."rank", w.step;

CREATE OR REPLACE VIEW main.curves_by_rank AS SELECT * EXCLUDE (run) FROM store.named_curves_by_rank;

CREATE OR REPLACE VIEW main.curves AS
SELECT
    run_id, run, metric, step, max(time) AS time,
    avg(value) AS value,
    coalesce(min(value) FILTER (NOT isnan(value)), 'nan'::DOUBLE) AS min,
    coalesce(max(value) FILTER (NOT isnan(value)), 'nan'::DOUBLE) AS max,
    count(*) AS ranks,
    count(*) FILTER (NOT isfinite(value)) AS nonfinite
FROM store.named_curves_by_rank
GROUP BY run_id, run, metric, step;

DROP VIEW store.curves;

-- As before; an emitter that is alone on its rank needs no comparison.
CREATE OR REPLACE VIEW main.latest AS
SELECT
    l.run_id, l.run, l.metric, l."rank", l.attempt, l.last_step AS step, make_timestamp(l.last_time) AS time,
    l.last_value AS value, l.emitter_id
FROM store.lines l WHERE l.alone
UNION ALL
SELECT
    l.run_id, l.run, l.metric, l."rank",
    arg_max(l.attempt, l.standing) AS attempt,
    arg_max(l.last_step, l.standing) AS step,
    make_timestamp(arg_max(l.last_time, l.standing)) AS time,
    arg_max(l.last_value, l.standing) AS value,
    arg_max(l.emitter_id, l.standing) AS emitter_id
FROM store.lines l WHERE NOT l.alone
GROUP BY l.run_id, l.run, l.metric, l."rank";

DROP VIEW store.latest;

-- As before, over all points.
CREATE OR REPLACE VIEW store.best_values AS
WITH by_rank AS (
    SELECT
        l.run_key, l.run_id, l.metric, d.best, w.step, l."rank",
        arg_max(p.value, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS value
    FROM store.all_points p
    JOIN store.lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
    JOIN store.definitions_now d ON d.run_id = l.run_id AND d.metric_key = l.metric_key AND d.best IS NOT NULL
    JOIN store.all_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq
    WHERE l.hidden_from IS NULL OR w.step < l.hidden_from
    GROUP BY l.run_key, l.run_id, l.metric, d.best, l."rank", w.step
),
curve AS (
    SELECT run_key, run_id, metric, best, step, avg(value) AS value
    FROM by_rank GROUP BY run_key, run_id, metric, best, step
)
SELECT run_key, run_id, metric, CASE best WHEN 'min' THEN min(value) ELSE max(value) END AS value
FROM curve WHERE NOT isnan(value)
GROUP BY run_key, run_id, metric, best;

DROP VIEW store.best_values;

-- The best values of a run whose points are no longer kept in full.
CREATE TABLE store.extremes (
    run_key    INTEGER NOT NULL,
    metric_key INTEGER NOT NULL,
    best       VARCHAR NOT NULL,
    value      DOUBLE  NOT NULL
);

-- Rows of `runs`, worked out: of all unsettled runs, or of those that are being settled.
CREATE MACRO store.describe_runs(only_chosen) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT r.run_key, r.run_id, r.project
    FROM store.live_runs r SEMI JOIN (FROM store.unsettled u WHERE u.chosen OR NOT only_chosen) x ON x.run_key = r.run_key
),
members AS MATERIALIZED (
    SELECT t.* FROM store.senders t SEMI JOIN chosen c ON c.run_key = t.run_key
),
told AS (
    SELECT
        t.run_key, arg_max(st, (coalesce(t.attempt, 0), -t."rank", t.standing, st.seq)) AS told
    FROM store.starts st JOIN members t USING (emitter_key)
    GROUP BY t.run_key
),
edited AS (
    SELECT
        c.run_key,
        arg_max(d."group", (d.time, d.seq)) FILTER (d."group" IS NOT NULL) AS "group",
        arg_max(d.tags, (d.time, d.seq)) FILTER (d.tags IS NOT NULL) AS tags,
        arg_max(d.notes, (d.time, d.seq)) FILTER (d.notes IS NOT NULL) AS notes
    FROM store.edits d JOIN store.emitters e USING (emitter_key) JOIN chosen c USING (run_key)
    GROUP BY c.run_key
),
spans AS (
    SELECT
        t.run_key, any_value(t.run) AS name,
        min(e.started_at) AS started_at,
        max(coalesce(e.ended_at, e.row_time, e.started_at)) AS last_at,
        sum(c.log_seconds + c.sender_cpu_seconds) / nullif(sum(c.wall_seconds), 0) AS tracking_share
    FROM members t
    JOIN store.emitters e USING (emitter_key)
    LEFT JOIN store.costs c ON c.emitter_key = t.emitter_key
    GROUP BY t.run_key
),
newest AS (
    SELECT
        run_key, max(attempt) AS attempts, arg_max(world_size, attempt) AS world_size, arg_max(ranks, attempt) AS ranks
    FROM (
        SELECT t.run_key, t.attempt, max(e.world_size) AS world_size, count(DISTINCT t."rank") AS ranks
        FROM members t JOIN store.emitters e USING (emitter_key)
        WHERE t.attempt IS NOT NULL
        GROUP BY t.run_key, t.attempt
    )
    GROUP BY run_key
),
lines AS MATERIALIZED (
    SELECT s.*, t.* EXCLUDE (emitter_key) FROM store.series s JOIN members t USING (emitter_key)
),
counted AS (
    SELECT run_key, sum(points)::BIGINT AS points FROM lines GROUP BY run_key
),
param_maps AS (
    SELECT run_key, map(list(key ORDER BY key), list(value ORDER BY key)) AS params
    FROM (
        SELECT
            t.run_key, p.key,
            max_by({'value': p.value}, (coalesce(t.attempt, 0), -t."rank", t.standing, p.seq)).value AS value
        FROM store.params p JOIN members t USING (emitter_key)
        GROUP BY t.run_key, p.key
    )
    GROUP BY run_key
),
last_by_rank AS (
    SELECT run_key, metric_key, coalesce(attempt, 0) AS attempt, last_value AS value FROM lines WHERE alone
    UNION ALL
    SELECT
        run_key, metric_key, coalesce(arg_max(attempt, standing), 0) AS attempt,
        arg_max(last_value, standing) AS value
    FROM lines WHERE NOT alone
    GROUP BY run_key, metric_key, "rank"
),
last_maps AS (
    SELECT run_key, map(list(metric ORDER BY metric), list(value ORDER BY metric)) AS last
    FROM (
        SELECT run_key, m.name AS metric, value
        FROM (
            SELECT run_key, metric_key, arg_max(value, attempt) AS value
            FROM (
                SELECT run_key, metric_key, attempt, avg(value) AS value
                FROM last_by_rank GROUP BY run_key, metric_key, attempt
            )
            GROUP BY run_key, metric_key
        )
        JOIN store.metrics m USING (metric_key)
    )
    GROUP BY run_key
),
-- The best value of the reduced curve, of metrics that are defined with best = min or max. The definitions are
-- joined before the points are read: only defined metrics cost anything.
defined AS (
    SELECT
        t.run_key, d.metric_key,
        max_by({'best': d.best}, (coalesce(t.attempt, 0), -t."rank", t.standing, d.seq)).best AS best
    FROM store.definitions d JOIN members t USING (emitter_key)
    GROUP BY t.run_key, d.metric_key
),
wanted AS MATERIALIZED (
    SELECT
        l.emitter_key, l.metric_key, l.run_key, l."rank", l.standing, l.hidden_from, d.best,
        l.increasing AND count(*) OVER (PARTITION BY l.run_key, l.metric_key) = 1 AS sole
    FROM lines l JOIN defined d ON d.run_key = l.run_key AND d.metric_key = l.metric_key
    WHERE d.best IS NOT NULL
),
-- The curve of a metric that one process alone logged is what it logged: rollups tell, and points without any.
sole_values AS (
    SELECT w.run_key, w.metric_key, w.best, CASE w.best WHEN 'min' THEN r.min ELSE r.max END AS value
    FROM store.rollups r JOIN wanted w ON w.emitter_key = r.emitter_key AND w.metric_key = r.metric_key
    WHERE r.level = 2 AND w.sole
    UNION ALL
    SELECT w.run_key, w.metric_key, w.best, p.value
    FROM (
        SELECT emitter_key, metric_key, value FROM store.cold_points WHERE block < 0
        UNION ALL
        SELECT emitter_key, metric_key, value FROM store.points
    ) AS p
    JOIN wanted w ON w.emitter_key = p.emitter_key AND w.metric_key = p.metric_key
    WHERE w.sole
),
by_rank AS (
    SELECT
        l.run_key, l.metric_key, l.best, w.step, l."rank",
        arg_max(p.value, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS value
    FROM store.all_points p
    JOIN wanted l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
    JOIN store.all_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq
    WHERE NOT l.sole AND (l.hidden_from IS NULL OR w.step < l.hidden_from)
    GROUP BY l.run_key, l.metric_key, l.best, w.step, l."rank"
),
best_values AS (
    SELECT run_key, metric_key, best, value
    FROM (
        SELECT run_key, metric_key, best, avg(value) AS value FROM by_rank GROUP BY run_key, metric_key, best, step
    )
    WHERE NOT isnan(value)
    UNION ALL
    SELECT run_key, metric_key, best, value FROM sole_values WHERE NOT isnan(value)
    UNION ALL
    SELECT x.run_key, x.metric_key, x.best, x.value
    FROM store.extremes x JOIN defined d ON d.run_key = x.run_key AND d.metric_key = x.metric_key AND d.best = x.best
),
best_maps AS (
    SELECT run_key, map(list(metric ORDER BY metric), list(value ORDER BY metric)) AS best
    FROM (
        SELECT run_key, m.name AS metric, CASE best WHEN 'min' THEN min(value) ELSE max(value) END AS value
        FROM best_values JOIN store.metrics m USING (metric_key)
        GROUP BY run_key, m.name, best
    )
    GROUP BY run_key
)
SELECT
    c.run_key, c.run_id, c.project, sp.name, coalesce(ed."group", td.told."group") AS "group", td.told."user",
    coalesce(ed.tags, td.told.tags, []) AS tags, coalesce(ed.notes, td.told.notes) AS notes,
    coalesce(st.state, 'running') AS state,
    make_timestamp(sp.started_at) AS started_at,
    CASE WHEN st.state NOT IN ('running', 'stuck') THEN make_timestamp(sp.last_at) END AS ended_at,
    (sp.last_at - sp.started_at) / 1e6 AS duration_seconds,
    td.told."commit", td.told.dirty, td.told.branch, td.told.remote, td.told.host, td.told.command, td.told.packages,
    td.told.forked_from,
    coalesce(pm.params, map {}::MAP(VARCHAR, VARCHAR)) AS params,
    coalesce(lm.last, map {}::MAP(VARCHAR, DOUBLE)) AS last,
    coalesce(bm.best, map {}::MAP(VARCHAR, DOUBLE)) AS best,
    n.world_size,
    coalesce(n.ranks, 0) AS ranks,
    coalesce(n.attempts, 0) AS attempts,
    coalesce(ct.points, 0) AS points,
    sp.tracking_share,
    st.reason AS state_reason,
    make_timestamp(st.since) AS state_since,
    coalesce(la.full_resolution, true) AS full_resolution
FROM chosen c
JOIN spans sp ON sp.run_key = c.run_key
LEFT JOIN told td ON td.run_key = c.run_key
LEFT JOIN edited ed ON ed.run_key = c.run_key
LEFT JOIN newest n ON n.run_key = c.run_key
LEFT JOIN store.run_states st ON st.run_key = c.run_key
LEFT JOIN counted ct ON ct.run_key = c.run_key
LEFT JOIN param_maps pm ON pm.run_key = c.run_key
LEFT JOIN last_maps lm ON lm.run_key = c.run_key
LEFT JOIN best_maps bm ON bm.run_key = c.run_key
LEFT JOIN store.layout la ON la.run_key = c.run_key;

-- A cache: rows of settled runs. Who touches a run deletes its row in the same transaction.
CREATE TABLE store.summaries AS FROM store.describe_runs(true) LIMIT 0;

CREATE OR REPLACE VIEW main.runs AS
SELECT * EXCLUDE (run_key) FROM store.summaries
UNION ALL
SELECT * EXCLUDE (run_key) FROM store.describe_runs(false);

-- One metric of one run in at most so many buckets of steps (each step a bucket of its own where there are no more of
-- them). What no rollup can stand for is read at full resolution: blocks that reach over the asked steps or over the
-- step from which they are superseded, that share steps with another process of the rank, or whose steps don't increase.
-- What is worked out of steps may lie beyond a BIGINT, and is a HUGEINT.
CREATE MACRO main.curve(run, metric, buckets, first_step := NULL, last_step := NULL) AS TABLE
WITH meant AS (
    SELECT
        CASE
            WHEN run::VARCHAR IS NULL THEN NULL
            WHEN count(*) FILTER (t.run_id = run) > 0 THEN run::VARCHAR
            WHEN count(DISTINCT t.run_id) = 1 THEN any_value(t.run_id)
            WHEN count(*) > 0 THEN error(count(DISTINCT t.run_id) || ' runs are called ' || run || ': name one by its id.')
            ELSE error('There is no run ' || run || ': SELECT run_id, name FROM runs lists the runs.')
        END AS run_id
    FROM store.senders t WHERE t.run_id = run OR t.run = run
),
-- What is visible of each series, and what of it shares its steps with no other series of the rank.
visible AS (
    SELECT
        t."rank", t.standing, s.emitter_key, s.metric_key, s.increasing, s.dropped, s.points,
        s.min_step AS low, s.max_step,
        CASE WHEN s.hidden_from > s.min_step THEN least(s.max_step, s.hidden_from - 1) ELSE s.max_step END AS high
    FROM store.senders t
    JOIN meant x ON x.run_id = t.run_id
    JOIN store.series s ON s.emitter_key = t.emitter_key
    JOIN store.metrics m ON m.metric_key = s.metric_key
    WHERE m.name = metric AND (s.hidden_from IS NULL OR s.min_step < s.hidden_from)
),
apart AS (
    SELECT
        *,
        (max(high) OVER (behind ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))::HUGEINT + 1 AS behind_others,
        (lead(low) OVER behind)::HUGEINT - 1 AS before_others
    FROM visible
    WINDOW behind AS (PARTITION BY "rank" ORDER BY low, standing)
),
zoomed AS (
    SELECT
        l.*,
        coalesce(first_step::BIGINT, -9223372036854775807) AS zoom_from,
        coalesce(last_step::BIGINT, 9223372036854775807) AS zoom_to,
        greatest(l.low, first_step::BIGINT) AS asked_from, least(l.high, last_step::BIGINT) AS asked_to
    FROM apart l
),
lines AS MATERIALIZED (
    SELECT
        l."rank", l.standing, l.emitter_key, l.metric_key, l.zoom_from, l.zoom_to, l.asked_from, l.asked_to,
        greatest(l.low, l.behind_others) AS clear_from,
        CASE WHEN l.increasing THEN least(l.high, l.before_others) ELSE l.low::HUGEINT - 1 END AS clear_to,
        max(l.points * (l.asked_to::DOUBLE - l.asked_from + 1) / (l.max_step::DOUBLE - l.low + 1)) OVER ()
            / (512 * least(greatest(buckets, 1), 100000)) AS plenty,  -- fine blocks for half a bucket
        sum(l.dropped) OVER () > 0 AS thinned
    FROM zoomed l WHERE l.asked_from <= l.asked_to
),
blocks AS MATERIALIZED (
    SELECT
        r.*, l."rank", l.standing, l.asked_from, l.asked_to,
        l.plenty >= 16 AND r.outer_first >= l.clear_from AND r.outer_last <= l.clear_to
            AND r.outer_first >= l.zoom_from AND r.outer_last <= l.zoom_to AS outer_counts,
        (l.plenty >= 1 OR l.thinned) AND r.first_step >= l.clear_from AND r.last_step <= l.clear_to
            AND (NOT r.kept OR (r.first_step >= l.zoom_from AND r.last_step <= l.zoom_to)) AS counts
    FROM store.rollups r
    JOIN lines l ON l.emitter_key = r.emitter_key AND l.metric_key = r.metric_key
    WHERE r.first_step <= l.asked_to AND r.last_step >= l.asked_from AND (r.level = 1 OR l.plenty >= 16)
),
loose AS (
    SELECT
        p.emitter_key, p.seq, p.value, l."rank", l.standing, l.asked_from, l.asked_to
    FROM (
        SELECT emitter_key, metric_key, seq, value FROM store.cold_points WHERE block < 0
        UNION ALL
        SELECT emitter_key, metric_key, seq, value FROM store.points
    ) AS p
    JOIN lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
    UNION ALL
    SELECT
        p.emitter_key, p.seq, p.value, b."rank", b.standing, b.asked_from, b.asked_to
    FROM store.cold_points p
    JOIN blocks b ON b.emitter_key = p.emitter_key AND b.metric_key = p.metric_key AND b.first_seq = p.block
    WHERE b.level = 1 AND NOT b.counts
),
single AS MATERIALIZED (
    SELECT
        w.step,
        arg_max(w.time, o.standing::HUGEINT * 4611686018427387904 + o.seq) AS time,
        arg_max(o.value, o.standing::HUGEINT * 4611686018427387904 + o.seq) AS value
    FROM loose o JOIN store.all_rows w ON w.emitter_key = o.emitter_key AND w.seq = o.seq
    WHERE w.step BETWEEN o.asked_from AND o.asked_to
    GROUP BY o."rank", w.step
),
parts AS (
    SELECT
        b.first_step, b.last_step, b.first_time, b.last_time, b.min, b.max, b.sum, b.points, b.nan, b.infinite
    FROM blocks b
    WHERE (b.level = 2 AND b.outer_counts) OR (b.level = 1 AND b.counts AND NOT b.outer_counts)
    UNION ALL
    SELECT
        g.step, g.step, g.time, g.time, CASE WHEN isnan(g.value) THEN NULL ELSE g.value END,
        CASE WHEN isnan(g.value) THEN NULL ELSE g.value END, CASE WHEN isfinite(g.value) THEN g.value ELSE 0 END,
        1, isnan(g.value)::BIGINT, isinf(g.value)::BIGINT
    FROM single g
),
frame AS (
    SELECT
        min(l.asked_from)::DOUBLE AS low, max(l.asked_to)::DOUBLE - min(l.asked_from)::DOUBLE + 1 AS width,
        least(greatest(buckets, 1), 100000)::DOUBLE AS bucket_count,
        bool_and(l.plenty < 1) AND (SELECT count(DISTINCT g.step) FROM single g) <= least(greatest(buckets, 1), 100000)
            AND NOT bool_or(l.thinned) AS apiece  -- as many steps as buckets, or fewer: each is a bucket of its own
    FROM lines l
)
SELECT
    min(b.first_step) AS first_step, max(b.last_step) AS last_step,
    make_timestamp(min(b.first_time)) AS first_time, make_timestamp(max(b.last_time)) AS last_time,
    coalesce(sum(b.sum) / nullif(sum(b.points - b.nan - b.infinite), 0), 'nan'::DOUBLE) AS value,
    coalesce(min(b.min), 'nan'::DOUBLE) AS min,
    coalesce(max(b.max), 'nan'::DOUBLE) AS max,
    sum(b.points)::BIGINT AS points, sum(b.nan)::BIGINT AS nan, sum(b.infinite)::BIGINT AS infinite
FROM parts b CROSS JOIN frame f
GROUP BY
    CASE
        WHEN f.apiece THEN b.first_step
        ELSE greatest(least(floor((b.first_step - f.low) * f.bucket_count / f.width), f.bucket_count - 1), 0)::BIGINT
    END
ORDER BY 1;
