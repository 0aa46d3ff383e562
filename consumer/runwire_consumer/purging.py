"""Purging: rows, points and records of deleted runs leave the store, slice by slice; what keeps them away stays.

A deleted run is in no relation from the transaction on that stores its `RunDeleted`, and from the next one on nothing
of it is stored (`Change.leave_out`). What it had takes room until it is purged here, on the writer's thread:

1. Points, then rows, at most SLICE_POINTS_MAX points a transaction, so that ingest takes its turn between two.
2. Its records, parameters and running totals, with the line in `store.removals` that says it is done.

Killed in between, all of it is begun again: what has gone is not there to go. Run, emitters and ledger stay for ever:
they tell a replay, and what comes late, that all this was stored already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from runwire_consumer.database import translated
from runwire_consumer.store import Store
from runwire_consumer.wanted import want

SLICE_POINTS_MAX = 200_000
EMITTER_SLICES_MAX = 1_000  # also where sequence numbers are nonsense

_WAITING = """
SELECT run_key FROM store.runs WHERE deleted_at IS NOT NULL
    AND run_key NOT IN (SELECT run_key FROM store.removals WHERE kind = 'deleted')
ORDER BY deleted_at, run_key
"""
_SIZES = """
SELECT emitter_key, coalesce(s.points, 0)::BIGINT, coalesce(l.below, 0)::BIGINT
FROM store.emitters
LEFT JOIN (SELECT emitter_key, sum(points) AS points FROM store.series GROUP BY emitter_key) s USING (emitter_key)
LEFT JOIN (SELECT emitter_key, max(end_seq) AS below FROM store.ledger GROUP BY emitter_key) l USING (emitter_key)
WHERE run_key = $run_key ORDER BY emitter_key
"""
_DROP = """
DELETE FROM store.{table} WHERE emitter_key BETWEEN $low AND $high AND emitter_key IN (FROM wanted)
    AND seq BETWEEN $first_seq AND $last_seq
"""
_SLICED = ("points", "rows", "cold_points", "cold_rows")
_LAST = ("series", "rollups", "starts", "costs", "params", "definitions", "edits", "losses")
_LAST_BY_RUN = ("layout", "extremes", "summaries", "unsettled")
_DONE = """
INSERT INTO store.removals BY NAME SELECT
    $run_key AS run_key, 'deleted' AS kind, $now AS time, $points AS points, NULL AS reason
"""
_EVERY_SEQ = 2**62


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `first_seq` .. `last_seq` of some emitters of one run."""

    emitter_keys: tuple[int, ...]
    first_seq: int = 0
    last_seq: int = _EVERY_SEQ


@dataclass(frozen=True, slots=True)
class Purge:
    """What is to be done about one deleted run; `points` is how many it had."""

    run_key: int
    points: int
    slices: tuple[Slice, ...]


def waiting(store: Store) -> list[int]:
    """Keys of deleted runs that were not purged yet, first deleted first."""
    with translated(), contextlib.closing(store.cursor()) as cursor:
        return [key for (key,) in cursor.execute(_WAITING).fetchall()]


def plan(store: Store, run_key: int) -> Purge:
    """Cut a run into slices."""
    with translated(), contextlib.closing(store.cursor()) as cursor:
        sizes = cursor.execute(_SIZES, {"run_key": run_key}).fetchall()
    return Purge(run_key, sum(points for _, points, _ in sizes), tuple(cut(sizes)))


def cut(sizes: Sequence[tuple[int, int, int]]) -> Iterator[Slice]:
    """Slices of about SLICE_POINTS_MAX points: small emitters together, large ones by ranges of their rows.

    Args:
        sizes: (emitter key, points, the sequence number behind its last row), ascending.
    """
    together: list[int] = []
    gathered = 0
    for emitter, points, below in sizes:
        if points > SLICE_POINTS_MAX:
            step = max(below * SLICE_POINTS_MAX // points, below // EMITTER_SLICES_MAX, 1)
            for first in range(0, below, step):
                yield Slice((emitter,), first, _EVERY_SEQ if first + step >= below else first + step - 1)
            continue
        if together and gathered + points > SLICE_POINTS_MAX:
            yield Slice(tuple(together))
            together, gathered = [], 0
        together.append(emitter)
        gathered += points
    if together:
        yield Slice(tuple(together))


def drop(store: Store, part: Slice) -> None:
    """One transaction: the points and rows of a slice."""
    low, high = min(part.emitter_keys), max(part.emitter_keys)
    where = {"low": low, "high": high, "first_seq": part.first_seq, "last_seq": part.last_seq}
    with translated(), contextlib.closing(store.cursor()) as cursor, _transaction(cursor):
        want(cursor, part.emitter_keys)
        for table in _SLICED:
            cursor.execute(_DROP.format(table=table), where)


def finish(store: Store, purge: Purge, now: int) -> None:
    """One transaction: everything else of the run, and that it is done. The order to delete it is kept."""
    with translated(), contextlib.closing(store.cursor()) as cursor, _transaction(cursor):
        want(cursor, sorted({key for part in purge.slices for key in part.emitter_keys}))
        for table in _LAST:
            cursor.execute(f"DELETE FROM store.{table} WHERE emitter_key IN (FROM wanted)")  # noqa: S608 - names of ours
        for table in _LAST_BY_RUN:
            cursor.execute(f"DELETE FROM store.{table} WHERE run_key = ?", [purge.run_key])  # noqa: S608 - as above
        cursor.execute("DELETE FROM store.lifecycle WHERE emitter_key IN (FROM wanted) AND type <> 'RunDeleted'")
        cursor.execute(_DONE, {"run_key": purge.run_key, "now": now, "points": purge.points})


@contextlib.contextmanager
def _transaction(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    cursor.execute("BEGIN")
    try:
        yield
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")
