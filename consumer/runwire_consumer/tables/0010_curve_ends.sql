-- curve() for steps at the ends of what a step can be: what is worked out of steps and may lie beyond is a HUGEINT. One
-- run with such steps was enough to make curve() fail for all.
CREATE OR REPLACE MACRO main.curve(run, metric, buckets, first_step := NULL, last_step := NULL) AS TABLE
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
