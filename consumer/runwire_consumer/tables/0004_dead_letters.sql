-- Dead letters that can be replayed: each has an id that a second reading of the log gives it again, a status, its
-- headers, and, within a budget (letters.py), its whole payload in a table beside, which nobody's query touches.

CREATE TABLE store.letters (
    letter_key   BIGINT  NOT NULL,  -- in the order in which they came
    letter_id    VARCHAR NOT NULL,  -- of source, partition, offset and the payload's length and head
    source       VARCHAR NOT NULL,
    "partition"  VARCHAR NOT NULL,
    "offset"     BIGINT  NOT NULL,
    appended_at  BIGINT  NOT NULL,
    reason       VARCHAR NOT NULL,  -- why it could not be stored when that was last tried
    type         VARCHAR,           -- these six where the envelope is readable
    run_id       VARCHAR,
    emitter_id   VARCHAR,
    "rank"       INTEGER,
    first_seq    BIGINT,
    count        BIGINT,
    bytes        BIGINT  NOT NULL,
    head         BLOB    NOT NULL,
    headers      VARCHAR,           -- as JSON (letters.py); NULL where they were not kept
    status       VARCHAR NOT NULL,  -- dead | replayed | discarded
    whole        BOOLEAN NOT NULL,  -- its payload is in store.letter_payloads
    settled_at   BIGINT             -- when it was replayed or discarded
);

CREATE TABLE store.letter_payloads (
    letter_key BIGINT NOT NULL,
    bytes      BIGINT NOT NULL,     -- of payload and headers: what counts against the budget
    payload    BLOB   NOT NULL
);

-- What an earlier version kept is a head without headers. It wrote a letter again when the log was read again.
INSERT INTO store.letters
SELECT
    row_number() OVER () - 1, letter_id, source, "partition", "offset", appended_at, reason, type, run_id, emitter_id,
    NULL, first_seq, count, bytes, head, NULL, 'dead', false, NULL
FROM (
    SELECT
        *, sha256(concat_ws(chr(10), source, "partition", "offset", bytes, sha256(head)))[:16] AS letter_id
    FROM store.dead_letters
)
QUALIFY row_number() OVER (PARTITION BY letter_id ORDER BY appended_at) = 1;

DROP TABLE store.dead_letters;
ALTER TABLE store.letters RENAME TO dead_letters;

-- As before, with letter_id, status, whole, settled_at and headers.
CREATE OR REPLACE VIEW main.dead_letters AS
SELECT
    source, "partition", "offset", make_timestamp(appended_at) AS appended_at, reason, type, run_id, emitter_id,
    first_seq, count, bytes, head, letter_id, status, whole, make_timestamp(settled_at) AS settled_at, headers
FROM store.dead_letters;
