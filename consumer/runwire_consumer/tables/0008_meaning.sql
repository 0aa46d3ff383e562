-- What users ask beside the relations: axes, smoothing, the spread over ranks, stragglers, comparisons; and what there
-- is to ask, as the relations `relations` and `columns` (0007 keeps points, rows and senders that this file reads).
--
-- A macro is text: a caller's argument is put where the parameter stands. So that it means there what it meant to the
-- caller, three laws hold in this file:
-- 1. A parameter stands where no column, table or WITH is in sight but such whose name begins with _.
-- 2. Relations are named with their schema: a caller's WITH never takes their place.
--    Columns of views that they read are qualified too: the engine takes a bare one for the parameter of that name.
-- 3. NULL for a run gives no rows. A run that there is not, and a number that can't be, are an error of one sentence.

-- Per run its start, its last sign, and the spans in which training was alive: an attempt lives from its first
-- process's start to the last one's end or newest row, attempts that overlap count once. Without any attempt (a run
-- that others than trainers make) the whole run is one span.
CREATE VIEW store.lifetimes AS
WITH lives AS (
    SELECT
        t.run_id, t.attempt, min(e.started_at) AS since,
        max(greatest(e.started_at, coalesce(e.ended_at, e.started_at), coalesce(e.row_time, e.started_at))) AS until,
        max(coalesce(e.ended_at, e.row_time, e.started_at)) AS last_at
    FROM store.senders t JOIN store.emitters e USING (emitter_key)
    GROUP BY t.run_id, t.attempt
),
counted AS (
    SELECT *, attempt IS NOT NULL OR max(attempt) OVER (PARTITION BY run_id) IS NULL AS alive FROM lives
),
reached AS (
    SELECT
        run_id, alive, since, until, last_at,
        max(until) FILTER (alive) OVER (
            PARTITION BY run_id ORDER BY since, until, attempt ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS until_before
    FROM counted
)
SELECT
    run_id AS _run_id, min(since) AS _started_at, max(last_at) AS _last_at,
    list({'since': greatest(since, coalesce(until_before, since)), 'until': until} ORDER BY since)
        FILTER (alive AND until > coalesce(until_before, until - 1)) AS _spans
FROM reached
GROUP BY run_id;

-- Seconds of the spans before a moment in microseconds.
CREATE MACRO store.lived(moment, spans) AS list_sum(list_transform(
    spans, lambda _span: least(greatest(moment - _span.since, 0), _span.until - _span.since)
)) / 1e6;

CREATE MACRO main.relative_seconds(run, "time") AS
    (epoch_us("time"::TIMESTAMP) - (SELECT _started_at FROM store.lifetimes WHERE _run_id = run)) / 1e6;

CREATE MACRO main.active_seconds(run, "time") AS
    store.lived(epoch_us("time"::TIMESTAMP), (SELECT _spans FROM store.lifetimes WHERE _run_id = run));

-- The ids of runs that a caller names by id, or by a name that one run alone bears.
CREATE MACRO store.asked_runs(asked) AS TABLE
WITH _given AS (SELECT DISTINCT _word FROM (SELECT unnest(asked::VARCHAR[]) AS _word) AS g WHERE _word IS NOT NULL),
_named AS (
    SELECT g._word, count(DISTINCT t.run_id) AS count, min(t.run_id) AS run_id
    FROM _given AS g JOIN store.senders t ON t.run = g._word
    GROUP BY g._word
)
SELECT DISTINCT
    CASE
        WHEN r.run_id IS NOT NULL THEN r.run_id
        WHEN n.count = 1 THEN n.run_id
        WHEN n.count > 1 THEN error(format(
            '{} runs are called ''{}'': ask for one by its id; SELECT run_id, name FROM runs lists them.',
            n.count, g._word[:100]
        ))
        ELSE error(format(
            'There is no run with the id or the name ''{}'': SELECT run_id, name FROM runs lists them.', g._word[:100]
        ))
    END AS _run_id
FROM _given AS g
LEFT JOIN store.live_runs r ON r.run_id = g._word
LEFT JOIN _named AS n ON n._word = g._word;

CREATE VIEW store.named_lines AS
SELECT
    l.run_id AS _run_id, l.metric AS _metric, l."rank" AS _rank, l.attempt AS _attempt,
    l.standing::HUGEINT AS _standing, l.hidden_from AS _hidden_from,
    l.emitter_key AS _emitter_key, l.metric_key AS _metric_key
FROM store.lines l;

-- One metric of runs by id, one point a rank and step, as in curves_by_rank; ids that come from a query cut what is
-- read here, which they don't where they are compared with the column of a view.
CREATE MACRO store.points_of(ids, wanted) AS TABLE
WITH _asked AS (SELECT unnest(ids) AS _run_id),
_lines AS (SELECT _l.* FROM _asked JOIN store.named_lines AS _l ON _l._run_id = _asked._run_id WHERE _l._metric = wanted)
SELECT
    l._run_id AS run_id, l._rank AS "rank", w.step,
    make_timestamp(arg_max(w.time, l._standing * 4611686018427387904 + p.seq)) AS "time",
    arg_max(p.value, l._standing * 4611686018427387904 + p.seq) AS value,
    arg_max(l._attempt, l._standing * 4611686018427387904 + p.seq) AS attempt
FROM store.all_points p
JOIN _lines AS l ON l._emitter_key = p.emitter_key AND l._metric_key = p.metric_key
JOIN store.all_rows w ON w.emitter_key = p.emitter_key AND w.seq = p.seq
WHERE l._hidden_from IS NULL OR w.step < l._hidden_from
GROUP BY l._run_id, l._rank, w.step;

-- Exponential smoothing, the weights divided by their sum (debiased): a value that lies d behind counts weight ^ d.
-- Without recursion: the axis is cut into blocks of 40 units of -ln(weight). Inside of one the sums run on with the
-- factors exp(0) to exp(40), which double precision holds; what 18 earlier blocks (exp(-720)) leave comes on top.
CREATE MACRO main.smoothed(run, metric, weight := 0.6, axis := 'points') AS TABLE
WITH _given AS (SELECT weight::DOUBLE AS _weight, axis::VARCHAR AS _axis),
_checked AS (
    SELECT
        _axis,
        CASE
            WHEN _weight = 0 THEN 0
            WHEN _weight > 0 AND _weight < 1 THEN -ln(_weight)
            ELSE error(format('weight is {}: it must be at least 0 and below 1.', _weight))
        END AS decay
    FROM _given WHERE _weight IS NOT NULL
),
_asked AS (SELECT list(a._run_id) AS _ids FROM store.asked_runs([run]) AS a),
_curve AS (
    SELECT p.run_id, p.step, max(p.time) AS "time", avg(p.value) AS value
    FROM store.points_of((SELECT _ids FROM _asked), metric) AS p
    GROUP BY p.run_id, p.step
),
_timed AS (
    SELECT
        c.*, (epoch_us(c.time) - l._started_at) / 1e6 AS relative_seconds,
        store.lived(epoch_us(c.time), l._spans) AS active_seconds
    FROM _curve AS c JOIN store.lifetimes l ON l._run_id = c.run_id
),
_placed AS (
    SELECT
        t.*, k.decay,
        CASE k._axis
            WHEN 'points' THEN row_number() OVER (PARTITION BY t.run_id, isfinite(t.value) ORDER BY t.step)
            WHEN 'step' THEN (t.step::HUGEINT - min(t.step) OVER (PARTITION BY t.run_id))::DOUBLE
            WHEN 'relative_seconds' THEN t.relative_seconds
            WHEN 'active_seconds' THEN t.active_seconds
            ELSE error(format(
                'axis is {}: it must be ''points'', ''step'', ''relative_seconds'' or ''active_seconds''.',
                coalesce('''' || k._axis[:100] || '''', 'NULL')
            ))
        END AS place
    FROM _timed AS t, _checked AS k
),
_scaled AS (
    SELECT
        p.run_id, p.step, (p.place - min(p.place) OVER r) * p.decay AS far,
        p.value / greatest(max(abs(p.value)) OVER r, 1e-300) AS value
    FROM _placed AS p WHERE isfinite(p.value) AND p.decay > 0
    WINDOW r AS (PARTITION BY p.run_id)
),
_cut AS (
    SELECT s.*, floor(s.far / 40) AS block, exp(least(greatest(s.far - 40 * floor(s.far / 40), 0), 40)) AS factor
    FROM _scaled AS s
),
_inside AS (
    SELECT
        c.run_id, c.step, c.block,
        sum(c.factor * c.value) OVER w AS total,
        sum(c.factor) OVER w AS weights
    FROM _cut AS c
    WINDOW w AS (PARTITION BY c.run_id, c.block ORDER BY c.far, c.step ROWS UNBOUNDED PRECEDING)
),
_carried AS (
    SELECT
        b.run_id, b.block + k.behind AS block,
        sum(b.total * exp(-40 * k.behind)) AS total,
        sum(b.weights * exp(-40 * k.behind)) AS weights
    FROM (
        SELECT c.run_id, c.block, sum(c.factor * c.value) AS total, sum(c.factor) AS weights
        FROM _cut AS c GROUP BY c.run_id, c.block
    ) AS b, range(1, 19) AS k(behind)
    GROUP BY b.run_id, b.block + k.behind
),
_averaged AS (
    SELECT
        i.run_id, i.step, (i.total + coalesce(c.total, 0)) / (i.weights + coalesce(c.weights, 0)) AS value
    FROM _inside AS i LEFT JOIN _carried AS c ON c.run_id = i.run_id AND c.block = i.block
)
SELECT
    p.run_id, p.step, p.time, p.relative_seconds, p.active_seconds, p.value,
    coalesce(a.value * greatest(max(abs(p.value)) FILTER (isfinite(p.value)) OVER (PARTITION BY p.run_id), 1e-300), p.value)
        AS smoothed
FROM _placed AS p LEFT JOIN _averaged AS a ON a.run_id = p.run_id AND a.step = p.step
ORDER BY p.run_id, p.step;

-- Per step how far the ranks lie apart. As in curves: NaN goes through mean and deviation, the others leave it out.
CREATE MACRO main.rank_spread(run, metric) AS TABLE
WITH _asked AS (SELECT list(a._run_id) AS _ids FROM store.asked_runs([run]) AS a),
_points AS (SELECT p.* FROM store.points_of((SELECT _ids FROM _asked), metric) AS p),
_reduced AS (
    SELECT
        p.run_id, p.step, max(p.time) AS "time", count(*) AS ranks, avg(p.value) AS mean,
        min(p.value) FILTER (NOT isnan(p.value)) AS least,
        max(p.value) FILTER (NOT isnan(p.value)) AS most,
        quantile_cont(p.value, 0.5) FILTER (NOT isnan(p.value)) AS middle,
        count(*) FILTER (NOT isfinite(p.value)) AS nonfinite
    FROM _points AS p GROUP BY p.run_id, p.step
)
SELECT
    r.run_id, r.step, r.time, r.ranks,
    coalesce(r.least, 'nan'::DOUBLE) AS min,
    min(p.rank) FILTER (p.value = r.least) AS min_rank,
    coalesce(r.middle, 'nan'::DOUBLE) AS median,
    r.mean,
    coalesce(r.most, 'nan'::DOUBLE) AS max,
    min(p.rank) FILTER (p.value = r.most) AS max_rank,
    CASE WHEN r.nonfinite > 0 THEN 'nan'::DOUBLE ELSE sqrt(avg((p.value - r.mean) * (p.value - r.mean))) END AS stddev,
    r.nonfinite
FROM _reduced AS r JOIN _points AS p ON p.run_id = r.run_id AND p.step = r.step
GROUP BY r.run_id, r.step, r.time, r.ranks, r.least, r.middle, r.mean, r.most, r.nonfinite
ORDER BY r.run_id, r.step;

-- Which ranks are slower than the others, by the median of a duration over the newest attempt that has it. A rank is
-- compared with the median of all other ranks. It is a straggler when it takes slowdown_min times as long and, from
-- three ranks on, lies farther from there than 3.5 normal deviations, estimated by the ranks' median distance from
-- there (times 1.4826). The medians that others can have are few, so this costs no comparison of all with all.
CREATE MACRO main.stragglers(run, metric := 'time/step', slowdown_min := 1.1) AS TABLE
WITH _given AS (SELECT slowdown_min::DOUBLE AS _slowdown_min),
_checked AS (
    SELECT
        CASE
            WHEN _slowdown_min >= 1 AND isfinite(_slowdown_min) THEN _slowdown_min
            ELSE error(format('slowdown_min is {}: it must be a number from 1 on.', coalesce(_slowdown_min::VARCHAR, 'NULL')))
        END AS least
    FROM _given
),
_asked AS (SELECT list(a._run_id) AS _ids FROM store.asked_runs([run]) AS a),
_points AS (
    SELECT p.* FROM store.points_of((SELECT _ids FROM _asked), metric) AS p WHERE p.attempt IS NOT NULL
),
_senders AS (
    SELECT t.* FROM store.senders t JOIN (SELECT unnest(_ids) AS run_id FROM _asked) AS a ON a.run_id = t.run_id
    WHERE t.attempt IS NOT NULL
),
_chosen AS (
    SELECT t.run_id, coalesce(max(p.attempt), max(t.attempt)) AS attempt
    FROM (SELECT DISTINCT s.run_id, s.attempt FROM _senders AS s) AS t
    LEFT JOIN (SELECT DISTINCT q.run_id, q.attempt FROM _points AS q) AS p ON p.run_id = t.run_id
    GROUP BY t.run_id
),
_members AS (
    SELECT
        t.run_id, t.attempt, t.rank, arg_max(s.host, t.standing::HUGEINT * 4611686018427387904 + s.seq) AS host
    FROM _senders AS t
    JOIN _chosen AS c ON c.run_id = t.run_id AND c.attempt = t.attempt
    LEFT JOIN store.starts s ON s.emitter_key = t.emitter_key
    GROUP BY t.run_id, t.attempt, t.rank
),
_expected AS (
    SELECT c.run_id, c.attempt, unnest(range(least(max(e.world_size), 100000)))::INTEGER AS "rank"
    FROM _chosen AS c
    JOIN _senders AS t ON t.run_id = c.run_id AND t.attempt = c.attempt
    JOIN store.emitters e ON e.emitter_key = t.emitter_key
    GROUP BY c.run_id, c.attempt
),
_of_attempt AS (
    SELECT p.* FROM _points AS p JOIN _chosen AS c ON c.run_id = p.run_id AND c.attempt = p.attempt
),
_measured AS (
    SELECT
        p.run_id, p.rank, count(*) AS points, count(*) FILTER (NOT isfinite(p.value)) AS nonfinite,
        quantile_cont(p.value, 0.5) FILTER (isfinite(p.value)) AS median
    FROM _of_attempt AS p GROUP BY p.run_id, p.rank
),
_ordered AS (
    SELECT
        m.*, row_number() OVER (PARTITION BY m.run_id ORDER BY m.median, m.rank) AS place,
        count(*) OVER (PARTITION BY m.run_id) - 1 AS others
    FROM _measured AS m WHERE m.median IS NOT NULL
),
_typical AS (
    SELECT o.run_id, o.rank, o.others, (a.median + b.median) / 2 AS others_median
    FROM _ordered AS o
    JOIN _ordered AS a ON a.run_id = o.run_id
        AND a.place = (o.others + 1) // 2 + ((o.others + 1) // 2 >= o.place)::BIGINT
    JOIN _ordered AS b ON b.run_id = o.run_id
        AND b.place = (o.others + 2) // 2 + ((o.others + 2) // 2 >= o.place)::BIGINT
),
_deviation AS (
    SELECT m.run_id, m.others_median, quantile_cont(abs(o.median - m.others_median), 0.5) * 1.4826 AS normal
    FROM (SELECT DISTINCT t.run_id, t.others_median FROM _typical AS t) AS m
    JOIN _ordered AS o ON o.run_id = m.run_id
    GROUP BY m.run_id, m.others_median
),
_shared AS (
    SELECT p.run_id, p.step, max(p.value) AS most
    FROM _of_attempt AS p WHERE isfinite(p.value)
    GROUP BY p.run_id, p.step HAVING count(*) > 1
),
_slowest AS (
    SELECT p.run_id, p.rank, avg((p.value = s.most)::INTEGER) AS share
    FROM _of_attempt AS p JOIN _shared AS s ON s.run_id = p.run_id AND s.step = p.step
    WHERE isfinite(p.value)
    GROUP BY p.run_id, p.rank
)
SELECT
    r.run_id, r.attempt, r.rank, m.host,
    coalesce(d.points, 0) AS points, coalesce(d.nonfinite, 0) AS nonfinite,
    d.median, t.others_median,
    CASE WHEN t.others_median > 0 THEN d.median / t.others_median END AS slowdown,
    w.share AS slowest_share,
    CASE WHEN t.others_median > 0 THEN
        d.median >= k.least * t.others_median AND (t.others < 2 OR d.median - t.others_median > 3.5 * v.normal)
    END AS straggler
FROM (
    SELECT e.run_id, e.attempt, e.rank FROM _expected AS e
    UNION
    SELECT q.run_id, q.attempt, q.rank FROM _members AS q
) AS r
CROSS JOIN _checked AS k
LEFT JOIN _members AS m ON m.run_id = r.run_id AND m.rank = r.rank
LEFT JOIN _measured AS d ON d.run_id = r.run_id AND d.rank = r.rank
LEFT JOIN _typical AS t ON t.run_id = r.run_id AND t.rank = r.rank
LEFT JOIN _deviation AS v ON v.run_id = t.run_id AND v.others_median = t.others_median
LEFT JOIN _slowest AS w ON w.run_id = r.run_id AND w.rank = r.rank
ORDER BY slowdown DESC NULLS LAST, r.rank;

-- Which way is better, where a run has said so of a metric; as in store.definitions_now.
CREATE VIEW store.directions AS
SELECT
    t.run_id AS _run_id, m.name AS _metric,
    max_by({'best': d.best}, (coalesce(t.attempt, 0), -t."rank", t.standing, d.seq)).best AS _best
FROM store.definitions d
JOIN store.senders t ON t.emitter_key = d.emitter_key
JOIN store.metrics m ON m.metric_key = d.metric_key
GROUP BY t.run_id, m.name;

-- Runs beside each other by one metric (its mean over ranks), with the parameters in which they differ.
CREATE MACRO main.compare(runs, metric, best := NULL, until_step := NULL) AS TABLE
WITH _given AS (SELECT metric::VARCHAR AS _metric, best::VARCHAR AS _best, until_step::BIGINT AS _until_step),
_checked AS (
    SELECT
        _metric, _until_step,
        CASE
            WHEN _best IS NULL OR _best IN ('min', 'max') THEN _best
            ELSE error(format('best is ''{}'': it must be ''min'' or ''max''.', _best[:100]))
        END AS asked_best
    FROM _given
),
_asked AS (SELECT list(a._run_id) AS _ids, count(*) AS count FROM store.asked_runs(runs) AS a),
_ids AS (SELECT unnest(a._ids) AS run_id, a.count FROM _asked AS a),
_curve AS (
    SELECT p.run_id, p.step, avg(p.value) AS value
    FROM store.points_of((SELECT _ids FROM _asked), metric) AS p, _checked AS k
    WHERE k._until_step IS NULL OR p.step <= k._until_step
    GROUP BY p.run_id, p.step
),
_summary AS (
    SELECT
        c.run_id, count(*) AS steps, max(c.step) AS last_step, arg_max(c.value, c.step) AS last,
        min(c.value) FILTER (NOT isnan(c.value)) AS least,
        arg_min(c.step, (c.value, c.step)) FILTER (NOT isnan(c.value)) AS least_step,
        max(c.value) FILTER (NOT isnan(c.value)) AS most,
        arg_max(c.step, (c.value, -c.step::HUGEINT)) FILTER (NOT isnan(c.value)) AS most_step,
        count(*) FILTER (NOT isfinite(c.value)) AS nonfinite
    FROM _curve AS c GROUP BY c.run_id
),
_directions AS (
    SELECT d._run_id AS run_id, d._best AS direction
    FROM store.directions d JOIN _checked AS k ON k._metric = d._metric
),
_known AS (SELECT p.run_id, p.key, p.value, i.count FROM main.params p JOIN _ids AS i ON i.run_id = p.run_id),
_differing AS (
    SELECT k.key FROM _known AS k GROUP BY k.key
    HAVING count(*) < any_value(k.count) OR count(DISTINCT coalesce('=' || k.value, '')) > 1
),
_maps AS (
    SELECT k.run_id, map(list(k.key ORDER BY k.key), list(k.value ORDER BY k.key)) AS params
    FROM _known AS k JOIN _differing AS d ON d.key = k.key
    GROUP BY k.run_id
),
_names AS (SELECT t.run_id, t.run_key, any_value(t.run) AS run FROM store.senders t GROUP BY t.run_id, t.run_key)
SELECT
    i.run_id, n.run, coalesce(st.state, 'running') AS state,
    coalesce(s.steps, 0) AS steps, s.last_step, s.last,
    s.least AS min, s.least_step AS min_step, s.most AS max, s.most_step AS max_step,
    CASE coalesce(k.asked_best, d.direction) WHEN 'min' THEN s.least WHEN 'max' THEN s.most END AS best,
    CASE coalesce(k.asked_best, d.direction) WHEN 'min' THEN s.least_step WHEN 'max' THEN s.most_step END AS best_step,
    coalesce(s.nonfinite, 0) AS nonfinite,
    (l._last_at - l._started_at) / 1e6 AS duration_seconds,
    store.lived(l._last_at, l._spans) AS active_seconds,
    coalesce(m.params, map {}::MAP(VARCHAR, VARCHAR)) AS params
FROM _ids AS i
CROSS JOIN _checked AS k
JOIN _names AS n ON n.run_id = i.run_id
JOIN store.lifetimes l ON l._run_id = i.run_id
LEFT JOIN store.run_states st ON st.run_key = n.run_key
LEFT JOIN _summary AS s ON s.run_id = i.run_id
LEFT JOIN _directions AS d ON d.run_id = i.run_id
LEFT JOIN _maps AS m ON m.run_id = i.run_id
ORDER BY i.run_id;

-- What there is to ask. A new relation, macro or column gets its line here, by the migration that makes it: a test finds
-- what has none. A column's line for the relation '*' stands for every relation that has no own line of that name.
CREATE TABLE store.described (
    name    VARCHAR NOT NULL,
    kind    VARCHAR NOT NULL,  -- relation | macro (stands in FROM) | function
    call    VARCHAR NOT NULL,  -- how it stands in a query
    meaning VARCHAR NOT NULL
);

CREATE TABLE store.described_columns (
    relation VARCHAR NOT NULL,
    name     VARCHAR NOT NULL,
    type     VARCHAR,          -- of a macro's column, in the order of its columns; a relation's are in the catalogue
    unit     VARCHAR,
    meaning  VARCHAR NOT NULL
);

INSERT INTO store.described VALUES
('runs', 'relation', 'runs', 'One row a run: what it is called, how it stands, its parameters, last and best values.'),
('params', 'relation', 'params', 'One row a parameter of a run: the newest word on it, rank 0 before the others.'),
('curves', 'relation', 'curves', 'One point a step, reduced over ranks; what a later attempt supersedes is left out.'),
('curves_by_rank', 'relation', 'curves_by_rank', 'One point a rank and step; what a later attempt supersedes is left out.'),
('metrics', 'relation', 'metrics', 'Every point that ever came, those that a later attempt supersedes too.'),
('latest', 'relation', 'latest', 'The last value of each metric on each rank: the last that was logged, not that of the highest step.'),
('attempts', 'relation', 'attempts', 'One row an attempt: a start of a run, or a restart of it.'),
('emitters', 'relation', 'emitters', 'One row a process that logged, with what became of its rows: the receipt.'),
('events', 'relation', 'events', 'What runs said beside metrics: starts, parameters, texts, artifacts, alerts, edits, ends.'),
('alerts', 'relation', 'alerts', 'Alerts that were raised.'),
('artifacts', 'relation', 'artifacts', 'Files that were logged: where they lie, not their content.'),
('gaps', 'relation', 'gaps', 'Rows that are not there, range by range of sequence numbers.'),
('dead_letters', 'relation', 'dead_letters', 'Messages that could not be stored.'),
('relations', 'relation', 'relations', 'What there is to ask: relations, macros and functions of Runwire.'),
('columns', 'relation', 'columns', 'Every column of every relation and macro.'),
('relative_seconds', 'function', 'relative_seconds(run, time)', 'Seconds from the start of the run with this id to a moment. NULL for a run that there is not.'),
('active_seconds', 'function', 'active_seconds(run, time)', 'As relative_seconds, but only time in which some attempt was alive counts: waiting between attempts is left out.'),
('curve', 'macro', 'curve(run, metric, buckets, first_step := NULL, last_step := NULL)', 'A curve of any length in at most so many buckets of steps, with what is least and greatest in each; for charts.'),
('smoothed', 'macro', 'smoothed(run, metric, weight := 0.6, axis := ''points'')', 'A curve beside its debiased exponential moving average.'),
('rank_spread', 'macro', 'rank_spread(run, metric)', 'Per step how far the ranks lie apart, and which are the outermost.'),
('stragglers', 'macro', 'stragglers(run, metric := ''time/step'', slowdown_min := 1.1)', 'Which ranks are slower than the others. One row a rank of the newest attempt that has the metric.'),
('compare', 'macro', 'compare(runs, metric, best := NULL, until_step := NULL)', 'Runs beside each other: one row a run, and the parameters in which they differ.');

INSERT INTO store.described_columns (relation, name, unit, meaning) VALUES
('*', 'run_id', NULL, 'The run: 16 letters and digits, the same for ever.'),
('*', 'run', NULL, 'Name of the run; several runs may have one name.'),
('*', 'metric', NULL, 'Name of the metric, verbatim.'),
('*', 'step', NULL, 'Step it was logged for.'),
('*', 'time', 'UTC', 'When it was logged, by the clock of the machine that did.'),
('*', 'value', NULL, 'Value as it was logged; NaN and infinities stay what they are.'),
('*', 'rank', NULL, 'Rank of the process.'),
('*', 'attempt', NULL, 'Number of the attempt, from 1 on in the order in which they started. NULL for processes of another role.'),
('*', 'emitter_id', NULL, 'The process, one id a start.'),
('*', 'seq', NULL, 'Number of the row among those of its process, from 0 on.'),
('*', 'started_at', 'UTC', 'When it started.'),
('*', 'world_size', NULL, 'Ranks that the launch was said to have.'),
('*', 'nonfinite', NULL, 'How many of the values are NaN or infinite.'),
('*', 'state', NULL, 'running, finished, failed, crashed, preempted, lost or stuck.'),
('*', 'duration_seconds', 's', 'From the start to the end, or to the newest sign of life.'),
('*', 'token', NULL, 'What processes of one attempt have in common: the launcher''s job and restart, or a process''s own id.'),
('*', 'host', NULL, 'Machine it ran on.'),
('runs', 'project', NULL, 'Project: the repository''s or folder''s name unless one was given.'),
('runs', 'name', NULL, 'Name, which need not be unique; the id where none has been said yet.'),
('runs', 'group', NULL, 'Group, such as a sweep. Write it "group": the word is SQL''s own.'),
('runs', 'user', NULL, 'Who started it. Write it "user".'),
('runs', 'tags', NULL, 'Tags.'),
('runs', 'notes', NULL, 'Notes.'),
('runs', 'started_at', 'UTC', 'When its first process started.'),
('runs', 'ended_at', 'UTC', 'When it ended; NULL while it is running or stuck.'),
('runs', 'commit', NULL, 'Commit of the code. Write it "commit".'),
('runs', 'dirty', NULL, 'Whether files differed from the commit.'),
('runs', 'branch', NULL, 'Branch of the code.'),
('runs', 'remote', NULL, 'Address of the repository, without credentials.'),
('runs', 'host', NULL, 'Machine of rank 0.'),
('runs', 'command', NULL, 'Command line, secrets blotted out.'),
('runs', 'packages', NULL, 'Installed distributions and their versions.'),
('runs', 'forked_from', NULL, 'Id of the run that this one continues as another.'),
('runs', 'params', NULL, 'Parameters as text: params[''lr'']. As numbers they are in params.'),
('runs', 'last', NULL, 'Last value of each metric: last[''train/loss''], the mean over ranks of the newest attempt that has it.'),
('runs', 'best', NULL, 'Best value of each metric that was defined with best = min or max, of the curve''s mean over ranks.'),
('runs', 'world_size', NULL, 'Ranks that the newest attempt was said to have.'),
('runs', 'ranks', NULL, 'Ranks of the newest attempt that have been heard of.'),
('runs', 'attempts', NULL, 'Attempts so far.'),
('runs', 'points', NULL, 'Points so far, superseded ones too.'),
('runs', 'tracking_share', NULL, 'Share of the run''s time that tracking took, once processes have ended: 0.01 is one percent.'),
('runs', 'state_reason', NULL, 'Why it is in this state.'),
('runs', 'state_since', 'UTC', 'Since when it is in this state.'),
('runs', 'full_resolution', NULL, 'Whether all of its points are still kept, not only what curve shows.'),
('params', 'key', NULL, 'Name of the parameter; nested ones are joined by slashes.'),
('params', 'value', NULL, 'Value as text; NULL for a null.'),
('params', 'number', NULL, 'Value as a number, where it is one.'),
('params', 'type', NULL, 'null, bool, int, float or str.'),
('params', 'time', 'UTC', 'When it was said last.'),
('curves', 'time', 'UTC', 'When the last of the ranks logged it.'),
('curves', 'value', NULL, 'Mean over ranks; NaN if one is NaN.'),
('curves', 'min', NULL, 'Least value over ranks that is no NaN; NaN if all are.'),
('curves', 'max', NULL, 'Greatest value over ranks that is no NaN; NaN if all are.'),
('curves', 'ranks', NULL, 'How many ranks have a value at this step.'),
('metrics', 'role', NULL, 'train, or what the process said it is, such as eval.'),
('metrics', 'superseded', NULL, 'A later attempt went over this step again: curves leave this point out.'),
('attempts', 'restart_count', NULL, 'The launcher''s own count of restarts.'),
('attempts', 'started_at', 'UTC', 'When its first process started.'),
('attempts', 'resumed_from_step', NULL, 'Step of the checkpoint that it said it went on from.'),
('attempts', 'ranks', NULL, 'Ranks that have been heard of.'),
('attempts', 'emitters', NULL, 'Processes that have been heard of.'),
('emitters', 'role', NULL, 'train, or what the process said it is, such as eval.'),
('emitters', 'ended', NULL, 'finished, failed, preempted or crashed; NULL while nobody has said an end.'),
('emitters', 'how', NULL, 'How its sender ended: finished or crashed.'),
('emitters', 'status', NULL, 'What it said of its own end: finished, failed or preempted.'),
('emitters', 'error', NULL, 'Exception that ended it.'),
('emitters', 'next_seq', NULL, 'How many rows it numbered; NULL while it has not ended.'),
('emitters', 'stored', NULL, 'Rows that are in the store.'),
('emitters', 'dead', NULL, 'Rows that came and could not be stored.'),
('emitters', 'lost', NULL, 'Rows whose loss was declared.'),
('emitters', 'missing', NULL, 'Rows that nothing explains; of a living process they may be on their way.'),
('emitters', 'complete', NULL, 'The end is known and no row is missing.'),
('emitters', 'seen_at', 'UTC', 'Newest sign of life, by the broker''s clock.'),
('emitters', 'next_in_seconds', 's', 'When it promised the next sign of life.'),
('emitters', 'journal_rows', NULL, 'Rows that waited in its journal then.'),
('emitters', 'overdue_seconds', 's', 'How long its loop was past its promise of progress then.'),
('events', 'type', NULL, 'RunStarted, ParamsLogged, MetricDefined, TextLogged, ArtifactLogged, AlertRaised, RunEdited, RowsLost or RunEnded.'),
('events', 'body', NULL, 'The record; take a field by body->>''name''. NaN and infinities are text.'),
('events', 'time', 'UTC', 'When it was said, by the clock of the machine that did.'),
('alerts', 'level', NULL, 'info, warning or error.'),
('alerts', 'title', NULL, 'What it says, short.'),
('alerts', 'text', NULL, 'What it says, long.'),
('alerts', 'step', NULL, 'Step at which it was raised.'),
('artifacts', 'name', NULL, 'Name.'),
('artifacts', 'uri', NULL, 'Where it lies.'),
('artifacts', 'kind', NULL, 'model, dataset or what was said.'),
('artifacts', 'size_bytes', 'bytes', 'Size.'),
('artifacts', 'sha256', NULL, 'Hash of the content, where it was taken.'),
('artifacts', 'metadata', NULL, 'What was said about it.'),
('gaps', 'kind', NULL, 'lost (declared), dead (came and could not be stored) or missing (unexplained).'),
('gaps', 'first_seq', NULL, 'First row that is not there.'),
('gaps', 'end_seq', NULL, 'First row behind the gap.'),
('gaps', 'rows', NULL, 'How many rows.'),
('gaps', 'reason', NULL, 'Why, where it was declared.'),
('gaps', 'open', NULL, 'Its process has not ended: a missing row may be on its way.'),
('dead_letters', 'source', NULL, 'Log it came from.'),
('dead_letters', 'partition', NULL, 'Partition or file in it. Write it "partition".'),
('dead_letters', 'offset', NULL, 'Place in the partition. Write it "offset".'),
('dead_letters', 'appended_at', 'UTC', 'When the log took it.'),
('dead_letters', 'reason', NULL, 'Why it could not be stored when that was last tried.'),
('dead_letters', 'type', NULL, 'Kind of message; this and the next four as far as its envelope is readable.'),
('dead_letters', 'first_seq', NULL, 'Number of its first row.'),
('dead_letters', 'count', NULL, 'Rows in it.'),
('dead_letters', 'bytes', 'bytes', 'Size of its payload.'),
('dead_letters', 'head', NULL, 'First bytes of its payload.'),
('dead_letters', 'letter_id', NULL, 'Name for runwire dead-letters, the same when the log is read again.'),
('dead_letters', 'status', NULL, 'dead, replayed or discarded.'),
('dead_letters', 'whole', NULL, 'Its whole payload is kept: it can be replayed.'),
('dead_letters', 'settled_at', 'UTC', 'When it was replayed or discarded.'),
('dead_letters', 'headers', NULL, 'Its headers as JSON.'),
('relations', 'name', NULL, 'Name.'),
('relations', 'kind', NULL, 'relation and macro stand in FROM, a function among the values.'),
('relations', 'call', NULL, 'How it stands in a query; what has := may be left out, and is named when it is given.'),
('relations', 'meaning', NULL, 'What it says.'),
('columns', 'relation', NULL, 'Relation or macro.'),
('columns', 'name', NULL, 'Name of the column.'),
('columns', 'type', NULL, 'DuckDB''s type.'),
('columns', 'unit', NULL, 'Unit; UTC for times, which have no zone of their own.'),
('columns', 'meaning', NULL, 'What it says.');

INSERT INTO store.described_columns VALUES
('curve', 'first_step', 'BIGINT', NULL, 'First step in the bucket.'),
('curve', 'last_step', 'BIGINT', NULL, 'Last step in the bucket.'),
('curve', 'first_time', 'TIMESTAMP', 'UTC', 'When the first of its points was logged.'),
('curve', 'last_time', 'TIMESTAMP', 'UTC', 'When the last of its points was logged.'),
('curve', 'value', 'DOUBLE', NULL, 'Mean of its finite values, over steps and ranks; NaN if there is none.'),
('curve', 'min', 'DOUBLE', NULL, 'Least value that is no NaN; NaN if all are.'),
('curve', 'max', 'DOUBLE', NULL, 'Greatest value that is no NaN; NaN if all are.'),
('curve', 'points', 'BIGINT', NULL, 'Points in the bucket, of all ranks.'),
('curve', 'nan', 'BIGINT', NULL, 'How many of them are NaN.'),
('curve', 'infinite', 'BIGINT', NULL, 'How many of them are infinite.'),
('smoothed', 'run_id', 'VARCHAR', NULL, 'The run.'),
('smoothed', 'step', 'BIGINT', NULL, 'Step.'),
('smoothed', 'time', 'TIMESTAMP', 'UTC', 'When the last of the ranks logged it.'),
('smoothed', 'relative_seconds', 'DOUBLE', 's', 'From the start of the run to that time.'),
('smoothed', 'active_seconds', 'DOUBLE', 's', 'As relative_seconds, without waiting between attempts.'),
('smoothed', 'value', 'DOUBLE', NULL, 'Mean over ranks.'),
('smoothed', 'smoothed', 'DOUBLE', NULL, 'The average; where value is NaN or infinite, value.'),
('rank_spread', 'run_id', 'VARCHAR', NULL, 'The run.'),
('rank_spread', 'step', 'BIGINT', NULL, 'Step.'),
('rank_spread', 'time', 'TIMESTAMP', 'UTC', 'When the last of the ranks logged it.'),
('rank_spread', 'ranks', 'BIGINT', NULL, 'How many ranks have a value.'),
('rank_spread', 'min', 'DOUBLE', NULL, 'Least value that is no NaN; NaN if all are.'),
('rank_spread', 'min_rank', 'INTEGER', NULL, 'Rank that has it, the lowest of several.'),
('rank_spread', 'median', 'DOUBLE', NULL, 'Median of the values that are no NaN; NaN if all are.'),
('rank_spread', 'mean', 'DOUBLE', NULL, 'Mean; NaN if one is NaN.'),
('rank_spread', 'max', 'DOUBLE', NULL, 'Greatest value that is no NaN; NaN if all are.'),
('rank_spread', 'max_rank', 'INTEGER', NULL, 'Rank that has it, the lowest of several.'),
('rank_spread', 'stddev', 'DOUBLE', NULL, 'Standard deviation over the ranks (divided by their number); NaN if a value is NaN or infinite.'),
('rank_spread', 'nonfinite', 'BIGINT', NULL, 'How many of the values are NaN or infinite.'),
('stragglers', 'run_id', 'VARCHAR', NULL, 'The run.'),
('stragglers', 'attempt', 'BIGINT', NULL, 'The attempt that is looked at: the newest that has the metric.'),
('stragglers', 'rank', 'INTEGER', NULL, 'Rank; those that were expected and never heard of too.'),
('stragglers', 'host', 'VARCHAR', NULL, 'Machine of the rank; NULL while it has not said so.'),
('stragglers', 'points', 'BIGINT', NULL, 'Values there are of it.'),
('stragglers', 'nonfinite', 'BIGINT', NULL, 'How many of them are NaN or infinite: the columns behind leave them out.'),
('stragglers', 'median', 'DOUBLE', NULL, 'Median of its values, in the unit of the metric.'),
('stragglers', 'others_median', 'DOUBLE', NULL, 'Median of the medians of all other ranks.'),
('stragglers', 'slowdown', 'DOUBLE', NULL, 'median / others_median: 1.5 takes half as long again. NULL where others_median is not positive.'),
('stragglers', 'slowest_share', 'DOUBLE', NULL, 'Share of its steps, of those that other ranks logged too, at which nobody was slower.'),
('stragglers', 'straggler', 'BOOLEAN', NULL, 'Slower than the others by more than chance; NULL where that is not known.'),
('compare', 'run_id', 'VARCHAR', NULL, 'The run.'),
('compare', 'run', 'VARCHAR', NULL, 'Its name.'),
('compare', 'state', 'VARCHAR', NULL, 'Its state, as in runs.'),
('compare', 'steps', 'BIGINT', NULL, 'How many steps have a value; 0 where the run does not have the metric.'),
('compare', 'last_step', 'BIGINT', NULL, 'Highest step that has a value.'),
('compare', 'last', 'DOUBLE', NULL, 'Value at that step, the mean over ranks as everywhere here.'),
('compare', 'min', 'DOUBLE', NULL, 'Least value that is no NaN.'),
('compare', 'min_step', 'BIGINT', NULL, 'First step that has it.'),
('compare', 'max', 'DOUBLE', NULL, 'Greatest value that is no NaN.'),
('compare', 'max_step', 'BIGINT', NULL, 'First step that has it.'),
('compare', 'best', 'DOUBLE', NULL, 'min or max, as best says, else as the metric was defined; else NULL.'),
('compare', 'best_step', 'BIGINT', NULL, 'First step that has it.'),
('compare', 'nonfinite', 'BIGINT', NULL, 'How many of the values are NaN or infinite.'),
('compare', 'duration_seconds', 'DOUBLE', 's', 'From the start of the run to its end, or to the newest sign of life.'),
('compare', 'active_seconds', 'DOUBLE', 's', 'As duration_seconds, without waiting between attempts.'),
('compare', 'params', 'MAP(VARCHAR, VARCHAR)', NULL, 'Only parameters in which these runs differ; a run that lacks one lacks its key.');

CREATE VIEW main.columns AS
WITH found AS (
    SELECT table_name AS relation, column_name AS name, data_type AS type, column_index AS place
    FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
    UNION ALL
    SELECT relation, name, type, rowid FROM store.described_columns WHERE type IS NOT NULL
)
SELECT f.relation, f.name, f.type, coalesce(o.unit, a.unit) AS unit, coalesce(o.meaning, a.meaning) AS meaning
FROM found AS f
LEFT JOIN store.described_columns o ON o.relation = f.relation AND o.name = f.name
LEFT JOIN store.described_columns a ON a.relation = '*' AND a.name = f.name
ORDER BY f.relation, f.place;

CREATE VIEW main.relations AS SELECT name, kind, call, meaning FROM store.described ORDER BY kind DESC, name;
