"""Compaction: moves points from where they arrived into sorted pieces with rollups, a slice at a time; settles runs.

What holds, after every transaction and whatever kills the process in between:

1. A point is in exactly one of `store.points` (hot) and `store.cold_points` (cold), the row of its sequence number in
   exactly one of `store.rows` and `store.cold_rows`. A slice is one transaction that inserts what it deletes: it
   counts both and takes everything back when they differ.
2. A slice has at most SLICE_POINTS_MAX points, so nobody waits long for it. It is one piece: sorted by run, metric,
   emitter and sequence number.
3. A point moves once or twice. Where a run brings PIECE_POINTS_MIN points, or has ended, its part of the slice is
   rolled up at once and never rewritten. Where hot is too full, runs that bring fewer points move too, loose; loose
   points are gathered, once, when their run has LOOSE_PIECES_MAX pieces of them or has ended.
4. A run whose state is settled and whose points are all rolled up gets its row in `store.summaries`; whatever touches
   it again takes that row away (placing.py).
5. What is left to do follows from the tables alone: `store.points`, `store.layout`, `store.run_states`,
   `store.unsettled`. Memory only repeats it.

The order of preference: what can be rolled up at once, loose points that are due, hot above HOT_POINTS_MAX, and then
summaries. Those are worked out beside the writer, since some read millions of points; a run that was touched meanwhile
is left for the next time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from runwire_consumer.change import Change
from runwire_consumer.database import translated
from runwire_consumer.errors import StoreError
from runwire_consumer.placing import Places
from runwire_consumer.rollups import LOOSE, Sorted, roll
from runwire_consumer.runstate import SETTLED
from runwire_consumer.wanted import want

SLICE_POINTS_MAX = 245_760  # two row groups of the engine: some 0.15 s of CPU
PIECE_POINTS_MIN = 122_880
LOOSE_PIECES_MAX = 32
HOT_POINTS_MAX = 4_000_000
SUMMARIES_MAX = 250
_EVERY_SEQ = 2**62
_CUTS_MAX = 20

_log = logging.getLogger("runwire")

_ENDED = """
SELECT run_key, state FROM store.run_states WHERE run_key IN (FROM wanted)
UNION ALL SELECT run_key, 'deleted' FROM store.runs WHERE deleted_at IS NOT NULL AND run_key IN (FROM wanted)
"""
_HOT = """
SELECT e.run_key, coalesce(sum(p.points), 0)::BIGINT
FROM (SELECT DISTINCT emitter_key FROM store.rows) w
JOIN store.emitters e USING (emitter_key)
LEFT JOIN (SELECT emitter_key, count(*) AS points FROM store.points GROUP BY emitter_key) p USING (emitter_key)
GROUP BY e.run_key
"""
_LOOSE = "SELECT run_key, loose_points, loose_pieces FROM store.layout WHERE loose_pieces > 0"
_MEMBERS = "SELECT emitter_key, run_key FROM store.emitters WHERE run_key IN (FROM wanted)"
_NOTE = """
MERGE INTO store.layout AS t USING incoming AS n ON t.run_key = n.run_key
WHEN MATCHED THEN UPDATE SET
    loose_points = t.loose_points + n.points,
    loose_pieces = CASE WHEN t.loose_points + n.points = 0 THEN 0 ELSE t.loose_pieces + n.pieces END
WHEN NOT MATCHED THEN INSERT (run_key, loose_points, loose_pieces, full_resolution)
    VALUES (n.run_key, n.points, n.pieces, true)
"""
_CHOOSE = "UPDATE store.unsettled SET chosen = true WHERE run_key IN (FROM wanted)"
_SETTLE = (
    "INSERT INTO store.summaries BY NAME SELECT * FROM incoming WHERE run_key IN (FROM wanted)",
    "DELETE FROM store.unsettled WHERE run_key IN (FROM wanted)",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """When what is moved; in points, pieces and runs."""

    slice_points_max: int = SLICE_POINTS_MAX
    piece_points_min: int = PIECE_POINTS_MIN
    loose_pieces_max: int = LOOSE_PIECES_MAX
    hot_points_max: int = HOT_POINTS_MAX
    summaries_max: int = SUMMARIES_MAX


@dataclass(frozen=True, slots=True)
class Slice:
    """What one transaction moved."""

    points: int


@dataclass(slots=True)
class _Loose:
    points: int = 0
    pieces: int = 0


@dataclass(frozen=True, slots=True)
class _Source:
    """Where points are taken from: two tables, and which of their rows."""

    points: str
    rows: str
    those_points: str = "true"
    those_rows: str = "true"


_FROM_HOT = _Source("store.points", "store.rows")
_FROM_LOOSE = _Source("store.cold_points", "store.cold_rows", f"p.block = {LOOSE}", "w.loose")


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a slice takes: of each emitter the rows below end_seq; `whole` are runs of which nothing is left."""

    emitters: pa.Table
    runs: tuple[int, ...]
    whole: frozenset[int]


class Compaction:
    """Belongs to the thread that writes; knows how many points of which run are where."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, places: Places, limits: Limits | None = None) -> None:
        """Nothing is read before the first look: a store opens without reading its points."""
        self._cursor = cursor
        self._places = places
        self.limits = limits or Limits()
        self._is_loaded = False
        self._hot: dict[int, int] = {}
        self._loose: dict[int, _Loose] = {}
        self._refused: set[int] = set()

    @property
    def hot_points(self) -> int:
        """Points in arrival order."""
        self._load()
        return sum(self._hot.values())

    def arrived(self, change: Change) -> None:
        """These rows are committed."""
        if not self._is_loaded:
            return
        runs = {emitter.emitter_key: emitter.run_key for emitter in change.emitters.values()}
        for piece in change.pieces:
            key = runs[piece.emitter_key]
            self._hot[key] = self._hot.get(key, 0) + len(piece.values)

    def step(self) -> Slice | None:
        """Do one slice; None when nothing is left to do.

        Raises:
            StoreError: Nothing of it was kept.
        """
        self._load()
        limits, hot, loose = self.limits, self._hot, self._loose
        with translated():
            ended = self._ended()
            ready = [key for key, points in hot.items() if points >= limits.piece_points_min or key in ended]
            if ready := self._trusted(ready):
                return self._move(_FROM_HOT, ready, hot, rolled=True)
            due = [key for key, one in loose.items() if one.pieces >= limits.loose_pieces_max or key in ended]
            if due := self._trusted(due):
                return self._move(_FROM_LOOSE, due, {key: loose[key].points for key in due}, rolled=True)
            if self.hot_points > limits.hot_points_max and (many := self._trusted(hot)):
                return self._move(_FROM_HOT, sorted(many, key=hot.__getitem__, reverse=True), hot, rolled=False)
        return None

    def unsettled(self) -> list[int]:
        """Runs that need nothing but their summary, some of them; from now on it is noted whether they are touched."""
        self._load()
        with translated():
            ended = self._ended()
        open_ones = {*self._hot, *self._loose}
        done = sorted(key for key in self._places.unsettled if key in ended and key not in open_ones)
        self._places.describing(done[: self.limits.summaries_max])
        return done[: self.limits.summaries_max]

    def settle(self, described: pa.Table) -> int:
        """Keep the summaries of those that were not touched meanwhile; returns how many."""
        keys = self._places.untouched
        if not keys:
            return 0

        def work() -> None:
            want(self._cursor, keys)
            self._cursor.register("incoming", described)
            for statement in _SETTLE:
                self._cursor.execute(statement)

        with translated():
            self._transaction(work)
        self._places.settled(keys)
        return len(keys)

    def finish(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Do all that is left to do at once, with this connection for reading."""
        while self.step() is not None:
            pass
        while keys := self.unsettled():
            self.settle(describe(cursor, keys))

    def _ended(self) -> set[int]:
        """Of the runs that something is left to do for, those that have ended or are deleted."""
        keys = {*self._hot, *self._loose, *self._places.unsettled}
        if not keys:
            return set()
        want(self._cursor, keys)
        states = self._cursor.execute(_ENDED).fetchall()
        return {key for key, state in states if state == "deleted" or state in SETTLED}

    def _load(self) -> None:
        """Read what is left to do."""
        if not self._is_loaded:
            with translated():
                self._hot = dict(self._cursor.execute(_HOT).fetchall())
                found = self._cursor.execute(_LOOSE).fetchall()
            self._loose = {key: _Loose(points, pieces) for key, points, pieces in found}
            self._is_loaded = True

    def _trusted(self, run_keys: Iterable[int]) -> list[int]:
        return [key for key in run_keys if key not in self._refused]

    def _move(self, source: _Source, run_keys: list[int], points: Mapping[int, int], *, rolled: bool) -> Slice:
        """The first of these runs that fit into a slice, as one piece."""
        taken = self._take(source, run_keys, points)
        moved: dict[int, int] = {}

        def work() -> None:
            moved.update(self._copy(source, taken, rolled=rolled))
            self._note(source, taken, moved, rolled=rolled)

        try:
            self._transaction(work)
        except _Differs as error:
            self._refused |= {*taken.runs}
            _log.warning("%s They stay where they are; `runwire doctor --deep` looks further.", error)
            return Slice(0)
        self._remember(source, taken, moved, rolled=rolled)
        return Slice(points=sum(moved.values()))

    def _remember(self, source: _Source, taken: _Taken, moved: Mapping[int, int], *, rolled: bool) -> None:
        for key in taken.runs:
            if source is _FROM_HOT:
                self._hot[key] -= moved.get(key, 0)
                if key in taken.whole:
                    del self._hot[key]
            else:
                self._loose[key].points -= moved.get(key, 0)
                if key in taken.whole:
                    del self._loose[key]
            if not rolled:
                one = self._loose.setdefault(key, _Loose())
                one.points += moved.get(key, 0)
                one.pieces += 1

    def _take(self, source: _Source, run_keys: list[int], points: Mapping[int, int]) -> _Taken:
        """Whole runs as long as they fit; where the first alone doesn't, emitters of it, or the begin of one."""
        room = self.limits.slice_points_max
        chosen: list[int] = []
        for key in run_keys:
            if points[key] <= room:
                chosen.append(key)
                room -= points[key]
            elif not chosen:
                return self._cut(source, key)
            else:
                break
        want(self._cursor, chosen)
        members = self._cursor.execute(_MEMBERS).fetchall()
        return _Taken(_table_of(members), tuple(chosen), frozenset(chosen))

    def _cut(self, source: _Source, run_key: int) -> _Taken:
        room = self.limits.slice_points_max
        want(self._cursor, [run_key])
        sizes = self._cursor.execute(
            "SELECT p.emitter_key, count(*), min(p.seq), max(p.seq) + 1 "  # noqa: S608 - names of our own
            f"FROM {source.points} p WHERE {source.those_points} AND p.emitter_key IN "
            "(SELECT emitter_key FROM store.emitters WHERE run_key IN (FROM wanted)) GROUP BY p.emitter_key ORDER BY 1"
        ).fetchall()
        chosen: list[tuple[int, int, int]] = []
        for emitter, count, first, end in sizes:
            if count <= room:
                chosen.append((emitter, run_key, _EVERY_SEQ))
                room -= count
            elif not chosen:
                below = self._bound(source, emitter, first, end)
                return _Taken(_table_of([(emitter, run_key, below)]), (run_key,), frozenset())
            else:
                break
        return _Taken(_table_of(chosen), (run_key,), frozenset())

    def _bound(self, source: _Source, emitter: int, first: int, end: int) -> int:
        """A sequence number below which there is about a slice of this emitter's points, and at least one."""
        counting = (
            f"SELECT count(*), min(p.seq) FROM {source.points} p "  # noqa: S608 - names of our own
            f"WHERE {source.those_points} AND p.emitter_key = {emitter} AND p.seq < "
        )
        high, low = end, first
        for _ in range(_CUTS_MAX):
            middle = low + max(1, (high - low) // 2)
            ((count, _),) = self._cursor.execute(counting + str(middle)).fetchall()
            if count > self.limits.slice_points_max:
                high = middle
            elif count >= self.limits.slice_points_max // 2 or high - low <= 1:
                return middle
            else:
                low = middle
        return max(low, first + 1)

    def _copy(self, source: _Source, taken: _Taken, *, rolled: bool) -> dict[int, int]:
        """Points and rows into their cold tables, and away from where they were; returns points by run."""
        cursor = self._cursor
        cursor.register("taken", taken.emitters)
        found = cursor.execute(
            "SELECT p.emitter_key, p.metric_key, p.seq, p.value, w.step, w.time, t.run_key "  # noqa: S608 - as above
            f"FROM {source.points} p JOIN taken t ON t.emitter_key = p.emitter_key "
            f"JOIN {source.rows} w ON w.emitter_key = p.emitter_key AND w.seq = p.seq "
            f"WHERE p.seq < t.end_seq AND {source.those_points} AND {source.those_rows} "
            "ORDER BY t.run_key, p.metric_key, p.emitter_key, p.seq"
        ).to_arrow_table()
        columns = [column.to_numpy() for column in found.columns]
        piece = Sorted(*columns[:6])
        blocks, rollups = roll(piece) if rolled else (np.full(len(piece.seqs), LOOSE, np.int64), None)
        gone = self._count(
            f"DELETE FROM {source.points} AS p USING taken AS t "  # noqa: S608 - as above
            f"WHERE p.emitter_key = t.emitter_key AND p.seq < t.end_seq AND {source.those_points}"
        )
        if gone != len(blocks):
            raise _Differs(f"Of {gone} points of runs {list(taken.runs)[:5]} {len(blocks)} have a row.")
        names = ("emitter_key", "metric_key", "seq", "value", "block")
        cursor.register("incoming", pa.table([*columns[:4], blocks], names))
        cursor.execute("INSERT INTO store.cold_points SELECT * FROM incoming")
        if rollups is not None and rollups.num_rows:
            cursor.register("incoming", rollups)
            cursor.execute("INSERT INTO store.rollups BY NAME SELECT * FROM incoming")
        self._copy_rows(source, rolled=rolled)
        keys, counts = np.unique(columns[6], return_counts=True)
        return dict(zip(keys.tolist(), counts.tolist(), strict=True))

    def _copy_rows(self, source: _Source, *, rolled: bool) -> None:
        those = f"w.emitter_key = t.emitter_key AND w.seq < t.end_seq AND {source.those_rows}"
        columns = f"w.emitter_key, w.seq, w.step, w.time, {str(not rolled).lower()} AS loose, t.run_key"
        found = self._cursor.execute(
            f"SELECT {columns} FROM {source.rows} w JOIN taken t ON {those} ORDER BY t.run_key, w.emitter_key, w.seq"  # noqa: S608 - as above
        ).to_arrow_table()
        gone = self._count(f"DELETE FROM {source.rows} AS w USING taken AS t WHERE {those}")  # noqa: S608 - as above
        if gone != found.num_rows:
            raise _Differs(f"Of {gone} rows {found.num_rows} were found.")
        self._cursor.register("incoming", found.drop_columns("run_key").combine_chunks())
        self._cursor.execute("INSERT INTO store.cold_rows SELECT * FROM incoming")

    def _note(self, source: _Source, taken: _Taken, moved: Mapping[int, int], *, rolled: bool) -> None:
        sign = -1 if source is _FROM_LOOSE else 0 if rolled else 1
        news = {
            "run_key": pa.array(taken.runs, pa.int32()),
            "points": [sign * moved.get(key, 0) for key in taken.runs],
            "pieces": [max(sign, 0)] * len(taken.runs),
        }
        self._cursor.register("incoming", pa.table(news))
        self._cursor.execute(_NOTE)

    def _transaction(self, work: Callable[[], None]) -> None:
        self._cursor.execute("BEGIN")
        try:
            work()
            self._cursor.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._cursor.execute("ROLLBACK")
            raise

    def _count(self, statement: str) -> int:
        row = self._cursor.execute(statement).fetchone()
        return int(row[0]) if row else 0


def describe(cursor: duckdb.DuckDBPyConnection, run_keys: Collection[int]) -> pa.Table:
    """Rows of `runs` of unsettled runs, with their keys; on any thread, with a connection of its own.

    Raises:
        StoreError: They can't be read.
    """
    with translated():
        want(cursor, run_keys)
        cursor.execute("BEGIN")
        try:
            cursor.execute(_CHOOSE)
            return cursor.execute("FROM store.describe_runs(true)").to_arrow_table()
        finally:
            with contextlib.suppress(duckdb.Error):
                cursor.execute("ROLLBACK")  # the choice is nobody else's


class _Differs(StoreError):
    """What is there isn't what was there a moment ago."""


def _table_of(members: Iterable[tuple[int, ...]]) -> pa.Table:
    rows = [(*one, _EVERY_SEQ)[:3] for one in members]
    emitters, runs, ends = zip(*rows, strict=True)
    return pa.table(
        {
            "emitter_key": pa.array(emitters, pa.int32()),
            "run_key": pa.array(runs, pa.int32()),
            "end_seq": pa.array(ends, pa.int64()),
        }
    )
