-- The relations that users query. Times are TIMESTAMP, UTC. Every view below starts from store.live_runs, so a
-- deleted run is in none of them; filters by run_id and metric reach the points through store.lines.

CREATE VIEW store.live_runs AS
SELECT run_key, run_id, project FROM store.runs WHERE deleted_at IS NULL;

-- Attempts belong to the run; emitters of another role join it and never make one.
CREATE VIEW store.numbered_attempts AS
WITH grouped AS (
    SELECT
        run_id, run_key, attempt AS token,
        max(restart_count) AS restart_count,
        min(started_at) AS started_at,
        min(resumed_from_step) + 1 AS declared_start,
        max(world_size) AS world_size
    FROM store.emitters JOIN store.live_runs USING (run_key)
    WHERE role = 'train'
    GROUP BY run_id, run_key, attempt
)
SELECT
    *,
    row_number() OVER story AS number,
    min(declared_start) OVER (story ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS declared_later
FROM grouped
WINDOW story AS (PARTITION BY run_id ORDER BY restart_count, started_at, token);

-- Every emitter with its run and its place in the run's order: where two points meet on one rank and step, the
-- higher standing wins. Other roles stand below all attempts.
CREATE VIEW store.senders AS
SELECT
    e.emitter_key, e.emitter_id, r.run_id, r.run_key, r.project, e."rank", e.role, e.attempt AS token,
    a.number AS attempt, a.declared_start, a.declared_later,
    row_number() OVER (
        PARTITION BY r.run_id ORDER BY coalesce(a.number, 0), e.started_at, e.emitter_id
    ) AS standing
FROM store.emitters e
JOIN store.live_runs r USING (run_key)
LEFT JOIN store.numbered_attempts a ON a.run_id = r.run_id AND a.token = e.attempt AND e.role = 'train'
WHERE e.role <> 'edit';

-- One row an emitter and metric. From hidden_from on, a later attempt supersedes the points.
CREATE VIEW store.lines AS
WITH named AS (
    SELECT s.*, m.name AS metric, t.* EXCLUDE (emitter_key)
    FROM store.series s
    JOIN store.metrics m USING (metric_key)
    JOIN store.senders t USING (emitter_key)
),
own_starts AS (
    SELECT run_id, metric, attempt, coalesce(min(declared_start), min(first_step)) AS start_step
    FROM named WHERE attempt IS NOT NULL
    GROUP BY run_id, metric, attempt
),
hiding AS (
    SELECT
        run_id, metric, attempt,
        min(start_step) OVER (
            PARTITION BY run_id, metric ORDER BY attempt ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ) AS start_later
    FROM own_starts
)
SELECT named.*, least(hiding.start_later, named.declared_later) AS hidden_from
FROM named
LEFT JOIN hiding
    ON hiding.run_id = named.run_id AND hiding.metric = named.metric AND hiding.attempt = named.attempt;

-- What a run is called: rank 0 of the newest attempt says it, edits have the last word.
CREATE VIEW store.descriptions AS
WITH told AS (
    SELECT
        t.run_id, arg_max(st, (coalesce(t.attempt, 0), -t."rank", t.standing, st.seq)) AS told,
        arg_max(t."rank", (coalesce(t.attempt, 0), -t."rank", t.standing)) AS told_by_rank
    FROM store.starts st JOIN store.senders t USING (emitter_key)
    GROUP BY t.run_id
),
edited AS (
    SELECT
        r.run_id,
        arg_max(d.name, (d.time, d.seq)) FILTER (d.name IS NOT NULL) AS name,
        arg_max(d."group", (d.time, d.seq)) FILTER (d."group" IS NOT NULL) AS "group",
        arg_max(d.tags, (d.time, d.seq)) FILTER (d.tags IS NOT NULL) AS tags,
        arg_max(d.notes, (d.time, d.seq)) FILTER (d.notes IS NOT NULL) AS notes
    FROM store.edits d JOIN store.emitters e USING (emitter_key) JOIN store.live_runs r USING (run_key)
    GROUP BY r.run_id
)
SELECT
    r.run_id, r.run_key, r.project,
    coalesce(edited.name, told.name, r.run_id) AS name,
    coalesce(edited."group", told."group") AS "group",
    told."user",
    coalesce(edited.tags, told.tags, []) AS tags,
    coalesce(edited.notes, told.notes) AS notes,
    told.host, told."commit", told.branch, told.remote, told.dirty, told.command, told.packages, told.forked_from
FROM store.live_runs r
LEFT JOIN (SELECT run_id, unnest(told) FROM told) AS told USING (run_id)
LEFT JOIN edited USING (run_id);

-- Rows with their run's id: a filter by run cuts this side of the join too, not only the points.
CREATE VIEW store.run_rows AS
SELECT w.emitter_key, w.seq, w.step, w.time, r.run_id
FROM store.rows w JOIN store.emitters e USING (emitter_key) JOIN store.live_runs r USING (run_key);

-- Every point there ever was, with its attempt; superseded says that a later attempt hides it.
CREATE VIEW main.metrics AS
SELECT
    l.run_id, l.metric, l."rank", l.attempt, l.role, l.emitter_id, p.seq, w.step,
    make_timestamp(w.time) AS time, p.value,
    coalesce(w.step >= l.hidden_from, false) AS superseded
FROM store.points p
JOIN store.lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
JOIN store.run_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq AND w.run_id = l.run_id;

-- One point a rank and step: what no later attempt supersedes; where several are left, the highest standing's last.
-- Its place is one number (sequence numbers stay below 2^62): arg_max by a pair would lose the sign of -0.0.
CREATE VIEW main.curves_by_rank AS
SELECT
    l.run_id, l.metric, l."rank", w.step,
    make_timestamp(arg_max(w.time, l.standing::HUGEINT * 4611686018427387904 + p.seq)) AS time,
    arg_max(p.value, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS value,
    arg_max(l.attempt, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS attempt
FROM store.points p
JOIN store.lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
JOIN store.run_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq AND w.run_id = l.run_id
WHERE l.hidden_from IS NULL OR w.step < l.hidden_from
GROUP BY l.run_id, l.metric, l."rank", w.step;

-- Reduced over ranks. DuckDB ranks NaN greatest, so min and max say what they take: all but NaN.
CREATE VIEW store.curves AS
SELECT
    run_id, metric, step, max(time) AS time,
    avg(value) AS value,
    coalesce(min(value) FILTER (NOT isnan(value)), 'nan'::DOUBLE) AS min,
    coalesce(max(value) FILTER (NOT isnan(value)), 'nan'::DOUBLE) AS max,
    count(*) AS ranks,
    count(*) FILTER (NOT isfinite(value)) AS nonfinite
FROM main.curves_by_rank
GROUP BY run_id, metric, step;

CREATE VIEW main.curves AS
SELECT c.run_id, d.name AS run, c.* EXCLUDE (run_id)
FROM store.curves c JOIN store.descriptions d ON d.run_id = c.run_id;

-- Per run, metric and rank the value of the highest attempt, then emitter start, then sequence; not the highest step.
CREATE VIEW store.latest AS
SELECT
    run_id, metric, "rank",
    arg_max(attempt, standing) AS attempt,
    arg_max(last_step, standing) AS step,
    make_timestamp(arg_max(last_time, standing)) AS time,
    arg_max(last_value, standing) AS value,
    arg_max(emitter_id, standing) AS emitter_id
FROM store.lines
GROUP BY run_id, metric, "rank";

CREATE VIEW main.latest AS
SELECT l.run_id, d.name AS run, l.* EXCLUDE (run_id)
FROM store.latest l JOIN store.descriptions d ON d.run_id = l.run_id;

-- The newest word on each parameter: newest attempt, rank 0 before the others, then the later one.
CREATE VIEW main.params AS
WITH ordered AS (
    SELECT p.*, t.run_id, (coalesce(t.attempt, 0), -t."rank", t.standing, p.seq) AS place
    FROM store.params p JOIN store.senders t USING (emitter_key)
)
SELECT
    run_id, key,
    max_by({'value': value}, place).value AS value,
    max_by({'number': number}, place).number AS number,
    max_by(type, place) AS type,
    make_timestamp(max_by(time, place)) AS time
FROM ordered
GROUP BY run_id, key;

CREATE VIEW store.definitions_now AS
WITH ordered AS (
    SELECT d.*, t.run_id, (coalesce(t.attempt, 0), -t."rank", t.standing, d.seq) AS place
    FROM store.definitions d JOIN store.senders t USING (emitter_key)
)
SELECT
    run_id, metric_key,
    max_by({'unit': unit}, place).unit AS unit,
    max_by({'best': best}, place).best AS best
FROM ordered
GROUP BY run_id, metric_key;

-- The best value of the reduced curve, of metrics that are defined with best = min or max. The definitions are
-- joined before the points are read: only defined metrics cost anything.
CREATE VIEW store.best_values AS
WITH by_rank AS (
    SELECT
        l.run_id, l.metric, d.best, w.step, l."rank", arg_max(p.value, l.standing::HUGEINT * 4611686018427387904 + p.seq) AS value
    FROM store.points p
    JOIN store.lines l ON l.emitter_key = p.emitter_key AND l.metric_key = p.metric_key
    JOIN store.definitions_now d ON d.run_id = l.run_id AND d.metric_key = l.metric_key AND d.best IS NOT NULL
    JOIN store.run_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq AND w.run_id = l.run_id
    WHERE l.hidden_from IS NULL OR w.step < l.hidden_from
    GROUP BY l.run_id, l.metric, d.best, l."rank", w.step
),
curve AS (
    SELECT run_id, metric, best, step, avg(value) AS value FROM by_rank GROUP BY run_id, metric, best, step
)
SELECT run_id, metric, CASE best WHEN 'min' THEN min(value) ELSE max(value) END AS value
FROM curve WHERE NOT isnan(value)
GROUP BY run_id, metric, best;

CREATE VIEW main.attempts AS
SELECT
    a.run_id, a.number AS attempt, a.token, a.restart_count,
    make_timestamp(a.started_at) AS started_at,
    a.declared_start - 1 AS resumed_from_step,
    a.world_size,
    count(DISTINCT t."rank") AS ranks,
    count(*) AS emitters
FROM store.numbered_attempts a JOIN store.senders t ON t.run_id = a.run_id AND t.attempt = a.number
GROUP BY ALL;

CREATE VIEW main.runs AS
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
    CASE WHEN st.state <> 'running' THEN make_timestamp(sp.last_at) END AS ended_at,
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

CREATE VIEW main.events AS
SELECT
    r.run_id, make_timestamp(l.time) AS time, e."rank", t.attempt, e.emitter_id, l.seq, l.type, l.body::JSON AS body
FROM store.lifecycle l
JOIN store.emitters e USING (emitter_key)
JOIN store.live_runs r USING (run_key)
LEFT JOIN store.senders t ON t.emitter_key = l.emitter_key;

CREATE VIEW main.alerts AS
SELECT
    run_id, time, "rank", attempt, body->>'level' AS level, body->>'title' AS title, body->>'text' AS text,
    (body->>'step')::BIGINT AS step, emitter_id
FROM main.events WHERE type = 'AlertRaised';

CREATE VIEW main.artifacts AS
SELECT
    run_id, time, "rank", attempt, body->>'name' AS name, body->>'uri' AS uri, body->>'kind' AS kind,
    (body->>'size_bytes')::BIGINT AS size_bytes, body->>'sha256' AS sha256, body->'metadata' AS metadata, emitter_id
FROM main.events WHERE type = 'ArtifactLogged';

-- What is not stored, range by range: lost and dead are declared, missing is unexplained. A missing range of an
-- emitter that still lives (open) may be on its way.
CREATE VIEW main.gaps AS
WITH ranges AS (
    SELECT emitter_key, first_seq, end_seq, disposition FROM store.ledger
    UNION ALL
    SELECT emitter_key, next_seq, next_seq, 'end' FROM store.emitters WHERE next_seq IS NOT NULL
),
holes AS (
    SELECT
        emitter_key,
        coalesce(lag(end_seq) OVER (PARTITION BY emitter_key ORDER BY first_seq, end_seq), 0) AS first_seq,
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

CREATE VIEW main.dead_letters AS
SELECT
    source, "partition", "offset", make_timestamp(appended_at) AS appended_at, reason, type, run_id, emitter_id,
    first_seq, count, bytes, head
FROM store.dead_letters;

-- The receipt: complete when the end is known and every row up to it is accounted for.
CREATE VIEW main.emitters AS
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
    make_timestamp(e.seen_at) AS seen_at, e.next_in_seconds, e.journal_rows
FROM store.emitters e
JOIN store.senders t USING (emitter_key)
LEFT JOIN accounted a ON a.emitter_key = e.emitter_key;
