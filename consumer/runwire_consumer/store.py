"""The store: takes each batch wholly or not at all, rows and source offsets together, and answers SQL.

The order of effects, never another:

1. BEGIN. 2. Offsets are compared with what this writer committed last, and set; a difference means that somebody
else writes: `Fenced`. 3. Keys, rows, points, ledger, lifecycle, dead letters,
states, and what follows from all of it (placing.py). 4. COMMIT: durable.
5. Only now what is in memory changes (`Change.apply`). Any error before 5 leaves file and memory as they were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from runwire_consumer.catalog import EMITTER_COLUMNS, Catalog, Emitter
from runwire_consumer.change import Change
from runwire_consumer.compaction import Compaction
from runwire_consumer.database import Database, EngineOptions, translated
from runwire_consumer.decode import DeadLetter, Decoded
from runwire_consumer.errors import Fenced
from runwire_consumer.intake import Intake, metrics_of
from runwire_consumer.letterbox import count_dead, find_totals, find_waiting, insert_letters, settle_letters
from runwire_consumer.lock import LockFile
from runwire_consumer.pieces import lay_out
from runwire_consumer.placing import Places
from runwire_consumer.runstate import RunState
from runwire_consumer.sources import Position

SEEN_INTERVAL_MICROS = 1_000_000

_columns_of = attrgetter(*EMITTER_COLUMNS)
_news_of = attrgetter(
    *(name for name in EMITTER_COLUMNS if name not in {"seen_at", "row_time", "assigned_seq", "journal_rows"})
)
_MOVE_OFFSETS = """
UPDATE store.offsets AS o SET next_offset = n.next_offset, anchor = n.anchor FROM incoming AS n
WHERE o.source = n.source AND o."partition" = n."partition" AND o.next_offset = n.expected
"""
_ADD_OFFSETS = """
INSERT INTO store.offsets BY NAME SELECT source, "partition", next_offset, anchor FROM incoming AS n
WHERE expected IS NULL AND NOT EXISTS (
    FROM store.offsets AS o WHERE o.source = n.source AND o."partition" = n."partition"
)
"""
_MERGE_SERIES = """
MERGE INTO store.series AS t USING incoming AS n ON t.emitter_key = n.emitter_key AND t.metric_key = n.metric_key
WHEN MATCHED THEN UPDATE SET
    points = t.points + n.points,
    nonfinite = t.nonfinite + n.nonfinite,
    first_step = CASE WHEN n.first_seq < t.first_seq THEN n.first_step ELSE t.first_step END,
    first_seq = least(t.first_seq, n.first_seq),
    last_step = CASE WHEN n.last_seq > t.last_seq THEN n.last_step ELSE t.last_step END,
    last_time = CASE WHEN n.last_seq > t.last_seq THEN n.last_time ELSE t.last_time END,
    last_value = CASE WHEN n.last_seq > t.last_seq THEN n.last_value ELSE t.last_value END,
    last_seq = greatest(t.last_seq, n.last_seq),
    min_step = least(t.min_step, n.min_step),
    max_step = greatest(t.max_step, n.max_step),
    increasing = t.increasing AND n.increasing AND (
        (n.first_seq > t.last_seq AND n.min_step > t.max_step) OR (n.last_seq < t.first_seq AND n.max_step < t.min_step)
    )
WHEN NOT MATCHED THEN INSERT BY NAME
"""
# As `emitters.missing` and `emitters.lost` of all emitters that have ended, without their places in their runs.
_GAPS = """
WITH accounted AS (
    SELECT emitter_key, sum(end_seq - first_seq) AS named, max(end_seq) AS seen_end,
           sum(end_seq - first_seq) FILTER (disposition = 'lost') AS lost
    FROM store.ledger GROUP BY emitter_key
)
SELECT
    coalesce(sum(greatest(e.next_seq, coalesce(a.seen_end, 0)) - coalesce(a.named, 0))
        FILTER (e.next_seq IS NOT NULL), 0)::BIGINT,
    coalesce(sum(a.lost), 0)::BIGINT
FROM store.emitters e JOIN store.live_runs USING (run_key) LEFT JOIN accounted a ON a.emitter_key = e.emitter_key
WHERE e.role <> 'edit'
"""
_DELETE_RANGES = """
DELETE FROM store.ledger AS t USING incoming AS n WHERE t.emitter_key = n.emitter_key AND t.first_seq = n.first_seq
"""
_DELETE_RUNS = """
UPDATE store.runs AS t SET deleted_at = n.deleted_at FROM incoming AS n
WHERE t.run_key = n.run_key AND t.deleted_at IS NULL
"""
_SMALL_TABLES = (
    "runs", "emitters", "metrics", "ledger", "starts", "costs", "lifecycle", "params", "definitions", "edits",
    "losses", "run_states",
)  # fmt: skip


class Store:
    """One writer of one file. Everything but `cursor` belongs to one thread at a time.

    What is durable when: a batch whose `write` returned is in the file, whatever kills the process afterwards.
    """

    def __init__(self, database: Database) -> None:
        """Take over an open database; use `open`."""
        self.database = database
        self._writer = database.cursor()
        self.catalog = Catalog.load(self._writer)
        self.places = Places(self._writer)
        self.compaction = Compaction(self._writer, self.places)
        self._schemas = {name: _schema_of(self._writer, name) for name in _SMALL_TABLES}

    @classmethod
    def open(cls, path: Path, options: EngineOptions | None = None, lock: LockFile | None = None) -> Self:
        """Open the database file; `database.MEMORY` is one without a file. `lock` as in `Database.open`.

        Raises:
            StoreLocked: Another process holds it.
            StoreNewer: A newer version wrote it.
            StoreDamaged: It won't open.
        """
        database = Database.open(path, options, lock)
        try:
            with translated():
                return cls(database)
        except BaseException:
            database.close(keep_lock=lock is not None)
            raise

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for reading beside the writer; one a thread, the caller closes it."""
        return self.database.cursor()

    @property
    def writer(self) -> duckdb.DuckDBPyConnection:
        """The connection that writes; for the thread that does."""
        return self._writer

    def positions(self, source: str) -> dict[str, Position]:
        """Where a source goes on, by partition."""
        # The writer's thread adds to them meanwhile: a list of them is made at once, a loop would meet the change.
        return {part: at for (name, part), at in list(self.catalog.positions.items()) if name == source}

    def admit(self, items: Sequence[Decoded | DeadLetter], now: int, *, at_tail: bool) -> Change:
        """What these messages change: keys given, duplicates left out; nothing is written yet.

        Args:
            items: In the order of their partitions.
            now: The consumer's clock, microseconds.
            at_tail: Nothing waited before these messages, so they were appended just now.
        """
        with translated():
            envelopes = [item.envelope for item in items if item.envelope is not None]
            self.catalog.fetch(self._writer, {envelope.emitter_id for envelope in envelopes})
            self.catalog.fetch_names(self._writer, {envelope.run_id for envelope in envelopes}, metrics_of(items))
            speaking = {item.envelope.emitter_id for item in items if isinstance(item, Decoded)}
            waiting = find_waiting(self._writer, speaking - self.catalog.emitters.keys())
        return Intake(self.catalog, now, at_tail=at_tail, waiting=waiting).take_all(items)

    def write(self, change: Change, states: dict[int, RunState] | None = None) -> None:
        """Commit a change of `admit`, with new run states by run key.

        Raises:
            Fenced: Somebody else moved the offsets; nothing was written.
            StoreFull: No room; nothing was written.
            StoreInvalidated: The process must exit at once.
        """
        with translated():
            self._writer.execute("BEGIN")
            try:
                self._move_offsets(change)
                self._insert_keys(change)
                self._insert_rows(change)
                self._merge_ledgers(change)
                for table, rows in change.tables.items():
                    self._insert(table, rows)
                self._write_letters(change)
                self._merge_states(states or {})
                self.places.write(self._writer, change, self.catalog, (states or {}).keys())
                self._writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    self._writer.execute("ROLLBACK")
                raise
        change.apply(self.catalog)
        self.places.commit()
        self.compaction.arrived(change)

    def gaps(self) -> tuple[int, int]:
        """(missing, lost) rows of all runs; missing only of emitters that have ended. For any thread."""
        with translated(), contextlib.closing(self.cursor()) as cursor:
            ((missing, lost),) = cursor.execute(_GAPS).fetchall()
        return missing, lost

    def letters_waiting(self) -> int:
        """Dead letters that are neither replayed nor discarded. For any thread."""
        with translated(), contextlib.closing(self.cursor()) as cursor:
            return count_dead(cursor)

    def close(self) -> None:
        """Checkpoint, close the file, give the lock back."""
        self._writer.close()
        self.database.close()

    def _move_offsets(self, change: Change) -> None:
        moves = [
            {
                "source": source,
                "partition": part,
                "next_offset": offset,
                "anchor": anchor,
                "expected": self.catalog.positions.get((source, part), (None, ""))[0],
            }
            for (source, part), (offset, anchor) in change.positions.items()
        ]
        if not moves:
            return
        self._register(pa.Table.from_pylist(moves, _MOVES))
        moved = 0
        if any(move["expected"] is not None for move in moves):
            moved += self._count(_MOVE_OFFSETS)
        if any(move["expected"] is None for move in moves):
            moved += self._count(_ADD_OFFSETS)
        if moved != len(moves):
            raise Fenced(
                f"{len(moves) - moved} of {len(moves)} offsets are not where this consumer left them: "
                "another one writes to the same database. This one stops."
            )

    def _insert_keys(self, change: Change) -> None:
        self._insert(
            "runs",
            [{"run_key": key, "run_id": run_id, "project": text} for run_id, (key, text) in change.runs.items()],
        )
        self._insert("metrics", [{"metric_key": key, "name": name} for name, key in change.metrics.items()])
        emitters = [_columns_of(emitter) for emitter in change.emitters.values() if self._is_news(emitter)]
        self._merge("emitters", ("emitter_key",), EMITTER_COLUMNS, emitters)
        if change.deleted:
            gone = [{"run_key": key, "deleted_at": time} for key, time in change.deleted.items()]
            self._register(pa.Table.from_pylist(gone))
            self._writer.execute(_DELETE_RUNS)

    def _insert_rows(self, change: Change) -> None:
        columns = lay_out(change.pieces)
        for table, data in (("rows", columns.rows), ("points", columns.points)):
            if data is not None:
                self._register(data)
                self._writer.execute(f"INSERT INTO store.{table} SELECT * FROM incoming")  # noqa: S608 - two names
        if columns.series is not None:
            self._register(columns.series)
            self.places.look(self._writer, change)
            self._writer.execute(_MERGE_SERIES)

    def _is_news(self, emitter: Emitter) -> bool:
        """Whether more is known than that the emitter lived and logged within the last second."""
        known = self.catalog.emitters.get(emitter.emitter_id)
        if known is None or emitter.seen_at - known.written_at >= SEEN_INTERVAL_MICROS:
            news = True
        else:
            news = _news_of(emitter) != _news_of(known)
        emitter.unwritten = not news
        if news:
            emitter.written_at = emitter.seen_at
        return news

    def _merge_ledgers(self, change: Change) -> None:
        fresh: list[tuple[Any, ...]] = []
        gone: list[dict[str, Any]] = []
        for key, ledger in change.ledgers.items():
            ranges, firsts = ledger.changes_since(self.catalog.ledgers.get(key))
            fresh += [(key, first, end, what) for first, end, what in ranges]
            gone += [{"emitter_key": key, "first_seq": first} for first in firsts]
        if gone:
            self._register(pa.Table.from_pylist(gone))
            self._writer.execute(_DELETE_RANGES)
        columns = ("emitter_key", "first_seq", "end_seq", "disposition")
        self._merge("ledger", columns[:2], columns, fresh)

    def _write_letters(self, change: Change) -> None:
        if change.letters or change.settled:
            insert_letters(self._writer, [*change.letters.values()])
            settle_letters(self._writer, change.settled)
            change.kept_bytes, _ = find_totals(self._writer)

    def _merge_states(self, states: dict[int, RunState]) -> None:
        rows = [(key, one.state, one.since, one.reason) for key, one in states.items()]
        self._merge("run_states", ("run_key",), ("run_key", "state", "since", "reason"), rows)

    def _merge(
        self, table: str, keys: tuple[str, ...], names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert rows, or update those whose keys are there; `names` are the table's columns in the rows' order."""
        if rows:
            schema = self._schemas[table]
            same = " AND ".join(f't."{key}" = n."{key}"' for key in keys)
            sets = ", ".join(f'"{name}" = n."{name}"' for name in names if name not in keys)
            columns = zip(names, zip(*rows, strict=True), strict=True)
            arrays = [pa.array(column, schema.field(name).type) for name, column in columns]
            self._register(pa.table(arrays, list(names)))
            self._writer.execute(
                f"MERGE INTO store.{table} AS t USING incoming AS n ON {same} "
                f"WHEN MATCHED THEN UPDATE SET {sets} WHEN NOT MATCHED THEN INSERT BY NAME"
            )

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._register(pa.Table.from_pylist(rows, self._schemas[table]))
            self._writer.execute(f"INSERT INTO store.{table} BY NAME SELECT * FROM incoming")  # noqa: S608 - as above

    def _count(self, statement: str) -> int:
        row = self._writer.execute(statement).fetchone()
        return int(row[0]) if row else 0

    def _register(self, data: pa.Table) -> None:
        self._writer.register("incoming", data)


_MOVES = pa.schema(
    [
        ("source", pa.string()),
        ("partition", pa.string()),
        ("next_offset", pa.int64()),
        ("anchor", pa.string()),
        ("expected", pa.int64()),
    ]
)


def _schema_of(cursor: duckdb.DuckDBPyConnection, table: str) -> pa.Schema:
    found = cursor.execute(f"SELECT * FROM store.{table} LIMIT 0").to_arrow_table()  # noqa: S608 - names of our own
    return found.schema
