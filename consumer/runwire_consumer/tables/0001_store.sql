-- What the consumer keeps. Integer keys, no indexes on the big tables, times in microseconds since the epoch, UTC.
-- Users read the relations of 0002_relations.sql; these tables may change with every version.

CREATE TABLE store.offsets (
    source      VARCHAR NOT NULL,
    "partition" VARCHAR NOT NULL,
    next_offset BIGINT  NOT NULL,  -- where the source reads on; compared and set in every transaction
    anchor      VARCHAR NOT NULL   -- fingerprint of the last consumed record: a recreated topic fails it
);

CREATE TABLE store.runs (
    run_key INTEGER NOT NULL,
    run_id  VARCHAR NOT NULL,
    project VARCHAR NOT NULL,
    deleted_at BIGINT              -- a tombstone: the run is in no relation of the user's
);

-- One row a process start. RunStarted fills role, restart count and start; before it comes, the envelope's are here.
CREATE TABLE store.emitters (
    emitter_key       INTEGER NOT NULL,
    emitter_id        VARCHAR NOT NULL,
    run_key           INTEGER NOT NULL,
    "rank"            INTEGER NOT NULL,
    attempt           VARCHAR NOT NULL,
    restart_count     BIGINT  NOT NULL,
    role              VARCHAR NOT NULL,  -- train | eval | ... | edit (only edits or deletes the run)
    started_at        BIGINT  NOT NULL,
    resumed_from_step BIGINT,
    world_size        INTEGER NOT NULL,
    next_seq          BIGINT,            -- of EmitterEnded: rows 0 .. next_seq - 1 exist
    how               VARCHAR,           -- of EmitterEnded: finished | crashed
    status            VARCHAR,           -- of RunEnded: finished | failed | preempted
    ended_at          BIGINT,
    error             VARCHAR,
    seen_at           BIGINT  NOT NULL,  -- newest sign of life, by the broker's clock
    next_in_seconds   DOUBLE  NOT NULL,  -- the heartbeat's promise
    assigned_seq      BIGINT  NOT NULL,  -- of Heartbeat: sequence numbers assigned so far
    journal_rows      BIGINT  NOT NULL,
    row_time          BIGINT             -- newest event time
);

-- What each RunStarted of an emitter says about the run: one at once, another when more is known; the last one counts.
CREATE TABLE store.starts (
    emitter_key   INTEGER NOT NULL,
    seq           BIGINT  NOT NULL,
    name          VARCHAR NOT NULL,
    "group"       VARCHAR,
    "user"        VARCHAR,
    tags          VARCHAR[] NOT NULL,
    notes         VARCHAR,
    forked_from   VARCHAR,
    launched_by   VARCHAR NOT NULL,
    launch_id     VARCHAR,
    local_rank    INTEGER NOT NULL,
    pid           BIGINT  NOT NULL,
    host          VARCHAR NOT NULL,
    os            VARCHAR NOT NULL,
    python        VARCHAR NOT NULL,
    cpus          INTEGER NOT NULL,
    memory_bytes  BIGINT  NOT NULL,
    gpus          VARCHAR[] NOT NULL,
    "commit"      VARCHAR,
    branch        VARCHAR,
    remote        VARCHAR,
    dirty         BOOLEAN,
    command       VARCHAR[] NOT NULL,
    packages      MAP(VARCHAR, VARCHAR) NOT NULL,
    sdk_version   VARCHAR NOT NULL
);

-- What tracking cost a process, of RunEnded.
CREATE TABLE store.costs (
    emitter_key        INTEGER NOT NULL,
    wall_seconds       DOUBLE  NOT NULL,
    log_seconds        DOUBLE  NOT NULL,
    sender_cpu_seconds DOUBLE  NOT NULL,
    rows_dropped       BIGINT  NOT NULL
);

CREATE TABLE store.metrics (
    metric_key INTEGER NOT NULL,
    name       VARCHAR NOT NULL
);

-- One log() call a row, one value a point: a point's step and time are those of its row.
CREATE TABLE store.rows (
    emitter_key INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    step        BIGINT  NOT NULL,
    time        BIGINT  NOT NULL
);

CREATE TABLE store.points (
    emitter_key INTEGER NOT NULL,
    metric_key  INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    value       DOUBLE  NOT NULL
);

-- One row an emitter and metric, kept in the same transaction as the points: latest values and start steps
-- come from here without a look at the points.
CREATE TABLE store.series (
    emitter_key INTEGER NOT NULL,
    metric_key  INTEGER NOT NULL,
    points      BIGINT  NOT NULL,
    nonfinite   BIGINT  NOT NULL,
    first_seq   BIGINT  NOT NULL,
    first_step  BIGINT  NOT NULL,
    last_seq    BIGINT  NOT NULL,
    last_step   BIGINT  NOT NULL,
    last_time   BIGINT  NOT NULL,
    last_value  DOUBLE  NOT NULL
);

-- Ranges [first_seq, end_seq) that never overlap; what no range names is missing.
CREATE TABLE store.ledger (
    emitter_key INTEGER NOT NULL,
    first_seq   BIGINT  NOT NULL,
    end_seq     BIGINT  NOT NULL,
    disposition VARCHAR NOT NULL   -- stored | dead | lost
);

CREATE TABLE store.lifecycle (
    emitter_key INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    type        VARCHAR NOT NULL,
    time        BIGINT  NOT NULL,
    body        VARCHAR NOT NULL   -- the record as JSON; NaN and infinities as strings
);

CREATE TABLE store.params (
    emitter_key INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    time        BIGINT  NOT NULL,
    key         VARCHAR NOT NULL,
    value       VARCHAR,
    number      DOUBLE,
    type        VARCHAR NOT NULL   -- null | bool | int | float | str
);

CREATE TABLE store.definitions (
    emitter_key INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    time        BIGINT  NOT NULL,
    metric_key  INTEGER NOT NULL,
    unit        VARCHAR,
    best        VARCHAR
);

CREATE TABLE store.edits (
    emitter_key INTEGER NOT NULL,
    seq         BIGINT  NOT NULL,
    time        BIGINT  NOT NULL,
    name        VARCHAR,
    "group"     VARCHAR,
    tags        VARCHAR[],
    notes       VARCHAR
);

CREATE TABLE store.losses (
    emitter_key INTEGER NOT NULL,
    first_seq   BIGINT  NOT NULL,
    end_seq     BIGINT  NOT NULL,
    time        BIGINT  NOT NULL,
    reason      VARCHAR NOT NULL
);

CREATE TABLE store.dead_letters (
    source       VARCHAR NOT NULL,
    "partition"  VARCHAR NOT NULL,
    "offset"     BIGINT  NOT NULL,
    appended_at  BIGINT  NOT NULL,
    reason       VARCHAR NOT NULL,
    type         VARCHAR,          -- these five where the envelope is readable
    run_id       VARCHAR,
    emitter_id   VARCHAR,
    first_seq    BIGINT,
    count        BIGINT,
    bytes        BIGINT  NOT NULL,
    head         BLOB    NOT NULL
);

CREATE TABLE store.run_states (
    run_key INTEGER NOT NULL,
    state   VARCHAR NOT NULL,      -- running | finished | lost | preempted | crashed | failed
    since   BIGINT  NOT NULL,
    reason  VARCHAR NOT NULL
);
