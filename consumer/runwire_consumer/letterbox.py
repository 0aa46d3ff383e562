"""The tables of dead letters: new ones in, a change of status, what is to be tried again out.

A letter that is there already is the same letter (its id says so): what comes again only says anew why it is dead.
A payload stands in a table beside, by the letter's key, and leaves it with the change of status.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runwire_consumer.letters import DEAD, DISCARDED
from runwire_consumer.wanted import want

# A hostile sender may have named an emitter in any number of letters before its first good message.
WAITING_RANGES_MAX = 10_000

_NEW_PAYLOADS = """
INSERT INTO store.letter_payloads
SELECT n.letter_key, n.kept_bytes, n.payload FROM incoming AS n
WHERE n.whole AND NOT EXISTS (FROM store.dead_letters AS t WHERE t.letter_id = n.letter_id)
"""
_NEW_LETTERS = """
MERGE INTO store.dead_letters AS t USING (SELECT * EXCLUDE (payload, kept_bytes) FROM incoming) AS n
ON t.letter_id = n.letter_id
WHEN MATCHED AND t.status = 'dead' AND t.reason <> n.reason THEN UPDATE SET reason = n.reason
WHEN NOT MATCHED THEN INSERT BY NAME
"""
_DROP_PAYLOADS = "DELETE FROM store.letter_payloads AS t USING incoming AS n WHERE t.letter_key = n.letter_key"
_SETTLE = """
UPDATE store.dead_letters AS t SET status = n.status, settled_at = n.settled_at, whole = false FROM incoming AS n
WHERE t.letter_key = n.letter_key
"""
_BLANK = """
UPDATE store.dead_letters AS t SET head = ''::BLOB, headers = NULL FROM incoming AS n
WHERE t.letter_key = n.letter_key AND n.status = 'discarded'
"""
_WAITING = """
SELECT emitter_id, run_id, "rank", first_seq, count
FROM (FROM store.dead_letters WHERE status <> 'replayed' AND count > 0 AND "rank" IS NOT NULL)
"""
_ORDERED = f" ORDER BY letter_key LIMIT {WAITING_RANGES_MAX}"
_FETCH = """
SELECT l.letter_key, l.letter_id, l.source, l."partition", l."offset", l.appended_at, l.headers, p.payload
FROM store.dead_letters AS l JOIN store.letter_payloads AS p ON p.letter_key = l.letter_key
WHERE l.letter_key BETWEEN ? AND ? AND p.letter_key BETWEEN ? AND ? AND l.status = 'dead' AND l.whole
ORDER BY l.letter_key
"""


class Settled(NamedTuple):
    """What became of a letter."""

    letter_key: int
    status: str
    settled_at: int


class Place(NamedTuple):
    """A letter that somebody asked for."""

    letter_key: int
    letter_id: str
    status: str
    whole: bool
    bytes: int


class Found(NamedTuple):
    """Letters, a column each: there may be millions."""

    keys: NDArray[np.int64]
    bytes: NDArray[np.int64]
    whole: NDArray[np.bool_]


class Range(NamedTuple):
    """Rows that a letter stands for, by its envelope."""

    emitter_id: str
    run_id: str
    rank: int
    first_seq: int
    rows: int


def insert_letters(cursor: duckdb.DuckDBPyConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Letters of `letters.describe_letter`, each id at most once; inside the caller's transaction."""
    if rows:
        cursor.register("incoming", pa.Table.from_pylist(list(rows), _LETTERS))
        if any(row["whole"] for row in rows):
            cursor.execute(_NEW_PAYLOADS)
        cursor.execute(_NEW_LETTERS)


def settle_letters(cursor: duckdb.DuckDBPyConnection, settled: Sequence[Settled]) -> None:
    """Change their status and let go of their payloads; inside the caller's transaction."""
    if settled:
        cursor.register("incoming", pa.Table.from_pylist([one._asdict() for one in settled]))
        cursor.execute(_DROP_PAYLOADS)
        cursor.execute(_SETTLE)
        if any(one.status == DISCARDED for one in settled):
            cursor.execute(_BLANK)


def find_totals(cursor: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """(bytes kept of all letters, the first key never used)."""
    (row,) = cursor.execute(
        "SELECT (SELECT coalesce(sum(bytes), 0)::BIGINT FROM store.letter_payloads), "
        "(SELECT coalesce(max(letter_key), -1) + 1 FROM store.dead_letters)"
    ).fetchall()
    return int(row[0]), int(row[1])


def find_waiting(cursor: duckdb.DuckDBPyConnection, emitter_ids: Collection[str]) -> list[Range]:
    """The rows of these emitters that letters stand for which were not replayed."""
    if not emitter_ids:
        return []
    want(cursor, emitter_ids)
    rows = cursor.execute(f"{_WAITING}WHERE emitter_id IN (FROM wanted){_ORDERED}").fetchall()
    return [Range(*row) for row in rows]


def find_dead(cursor: duckdb.DuckDBPyConnection) -> Found:
    """All letters that are neither replayed nor discarded, in order."""
    columns = cursor.execute(
        "SELECT letter_key, bytes, whole FROM store.dead_letters WHERE status = ? ORDER BY letter_key", [DEAD]
    ).fetchnumpy()
    return Found(columns["letter_key"], columns["bytes"], columns["whole"])


def find_named(cursor: duckdb.DuckDBPyConnection, beginnings: Collection[str]) -> dict[str, list[Place]]:
    """The letters whose ids begin like these, two each at most; a look at the table for each length that occurs."""
    found: dict[str, list[Place]] = {}
    for length in sorted({len(one) for one in beginnings}):
        want(cursor, [one for one in beginnings if len(one) == length])
        begins = f"left(letter_id, {length})"
        select = "SELECT letter_key, letter_id, status, whole, bytes FROM (FROM store.dead_letters) "
        two = f"QUALIFY row_number() OVER (PARTITION BY {begins} ORDER BY letter_key) <= 2"
        rows = cursor.execute(f"{select}WHERE {begins} IN (FROM wanted) {two}").fetchall()
        for row in rows:
            found.setdefault(row[1][:length], []).append(Place(*row))
    return found


def fetch_messages(cursor: duckdb.DuckDBPyConnection, keys: Collection[int]) -> list[dict[str, Any]]:
    """What `letters.rebuild_message` needs of those of these letters that are dead and whole, in order."""
    if not keys:
        return []
    first, last = min(keys), max(keys)
    found = cursor.execute(_FETCH, [first, last, first, last]).fetchall()
    names = ("letter_key", "letter_id", "source", "partition", "offset", "appended_at", "headers", "payload")
    wanted = set(keys)
    return [dict(zip(names, row, strict=True)) for row in found if row[0] in wanted]


def find_reasons(
    cursor: duckdb.DuckDBPyConnection, keys: Collection[int], count_max: int
) -> list[tuple[str, str, bool]]:
    """(id, reason, whole) of the first of these letters that are still dead."""
    if not keys:
        return []
    select = "SELECT letter_id, reason, whole FROM (FROM store.dead_letters WHERE status = 'dead') "
    order = f" ORDER BY letter_key LIMIT {count_max}"
    want(cursor, keys, pa.int64())
    return cursor.execute(f"{select}WHERE letter_key IN (FROM wanted){order}").fetchall()


def still_dead(cursor: duckdb.DuckDBPyConnection, keys: Collection[int]) -> list[int]:
    """Those of these letters that are neither replayed nor discarded."""
    select = "SELECT letter_key FROM (FROM store.dead_letters WHERE status = 'dead') "
    want(cursor, keys, pa.int64())
    rows = cursor.execute(f"{select}WHERE letter_key IN (FROM wanted)").fetchall()
    return [key for (key,) in rows]


_LETTERS = pa.schema(
    [
        ("letter_key", pa.int64()),
        ("letter_id", pa.string()),
        ("source", pa.string()),
        ("partition", pa.string()),
        ("offset", pa.int64()),
        ("appended_at", pa.int64()),
        ("reason", pa.string()),
        ("type", pa.string()),
        ("run_id", pa.string()),
        ("emitter_id", pa.string()),
        ("rank", pa.int32()),
        ("first_seq", pa.int64()),
        ("count", pa.int64()),
        ("bytes", pa.int64()),
        ("head", pa.binary()),
        ("headers", pa.string()),
        ("status", pa.string()),
        ("whole", pa.bool_()),
        ("settled_at", pa.int64()),
        ("kept_bytes", pa.int64()),
        ("payload", pa.binary()),
    ]
)
