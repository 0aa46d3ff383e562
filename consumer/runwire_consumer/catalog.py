"""What the writer remembers of the store: keys, emitters, ledgers and offsets, always as last committed.

A transaction works on copies (`intake.py`) that replace what is here only after COMMIT. Emitters are read back when
a batch names them for the first time, so memory follows what is alive, not what there ever was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter

import duckdb
import pyarrow as pa

from runwire_consumer.ledger import Disposition, Ledger, Range
from runwire_consumer.letterbox import find_totals, select_where
from runwire_consumer.runstate import Signs
from runwire_consumer.sources import Position


@dataclass(slots=True)
class Emitter:
    """One row of `store.emitters`, field by field; times in microseconds.

    Only `written_at` is no column: the newest `seen_at` that the store has. Signs of life alone are not written
    each time.
    """

    emitter_key: int
    emitter_id: str
    run_key: int
    rank: int
    attempt: str
    role: str
    started_at: int
    seen_at: int
    restart_count: int = 0
    resumed_from_step: int | None = None
    world_size: int = 1
    next_seq: int | None = None
    how: str | None = None
    status: str | None = None
    ended_at: int | None = None
    error: str | None = None
    next_in_seconds: float = 0.0
    assigned_seq: int = 0
    journal_rows: int = 0
    row_time: int | None = None
    overdue_seconds: float = 0.0
    written_at: int = 0

    def copy(self) -> Emitter:
        """An independent one, for a transaction to change."""
        other = Emitter(*_columns_of(self))
        other.written_at = self.written_at
        return other

    def signs(self) -> Signs:
        """What its run's state is made of."""
        return Signs(
            emitter_id=self.emitter_id,
            rank=self.rank,
            attempt=self.attempt,
            role=self.role,
            restart_count=self.restart_count,
            started_at=self.started_at,
            seen_at=self.seen_at,
            next_in_seconds=self.next_in_seconds,
            overdue_seconds=self.overdue_seconds,
            status=self.status,
            how=self.how,
            ended_at=self.ended_at,
            error=self.error,
        )


EMITTER_COLUMNS = tuple(column.name for column in fields(Emitter) if column.name != "written_at")
_columns_of = attrgetter(*EMITTER_COLUMNS)
_NAMES = ", ".join(f'"{name}"' for name in EMITTER_COLUMNS)
_SELECT_EMITTERS = f"SELECT {_NAMES} FROM store.emitters "  # noqa: S608 - names of our own
_SELECT_LEDGERS = "SELECT emitter_key, first_seq, end_seq, disposition FROM store.ledger "


@dataclass(slots=True)
class Catalog:
    """Committed keys and states; `next_*_key` are the first ones never used, `kept_bytes` is kept of dead letters."""

    run_keys: dict[str, int] = field(default_factory=dict)
    emitters: dict[str, Emitter] = field(default_factory=dict)
    ledgers: dict[int, Ledger] = field(default_factory=dict)
    metric_keys: dict[str, int] = field(default_factory=dict)
    positions: dict[tuple[str, str], Position] = field(default_factory=dict)
    next_run_key: int = 0
    next_emitter_key: int = 0
    next_metric_key: int = 0
    next_letter_key: int = 0
    kept_bytes: int = 0

    @classmethod
    def load(cls, cursor: duckdb.DuckDBPyConnection) -> Catalog:
        """Read what every batch needs; emitters come when they are named."""
        catalog = cls()
        offsets = cursor.execute('SELECT source, "partition", next_offset, anchor FROM store.offsets').fetchall()
        catalog.positions = {(source, part): (offset, anchor) for source, part, offset, anchor in offsets}
        metrics = cursor.execute("SELECT name, metric_key FROM store.metrics").fetchall()
        catalog.metric_keys = dict(metrics)
        catalog.run_keys = dict(cursor.execute("SELECT run_id, run_key FROM store.runs").fetchall())
        newest = cursor.execute("SELECT coalesce(max(emitter_key), -1) FROM store.emitters").fetchall()
        catalog.next_emitter_key = newest[0][0] + 1
        catalog.next_run_key = max(catalog.run_keys.values(), default=-1) + 1
        catalog.next_metric_key = max(catalog.metric_keys.values(), default=-1) + 1
        catalog.kept_bytes, catalog.next_letter_key = find_totals(cursor)
        return catalog

    def fetch(self, cursor: duckdb.DuckDBPyConnection, emitter_ids: Collection[str]) -> None:
        """Make sure that those of these emitters that the store knows are here, with their ledgers."""
        unknown = [emitter_id for emitter_id in emitter_ids if emitter_id not in self.emitters]
        if unknown:
            rows = select_where(cursor, _SELECT_EMITTERS, "emitter_id", pa.array(unknown, pa.string()))
            self._remember(cursor, [Emitter(*row) for row in rows])

    def fetch_runs(self, cursor: duckdb.DuckDBPyConnection, run_keys: Collection[int]) -> dict[int, set[str]]:
        """Make sure that all emitters of these runs are here; hands out their ids by run."""
        rows = select_where(cursor, _SELECT_EMITTERS, "run_key", pa.array(run_keys, pa.int32()))
        found = [Emitter(*row) for row in rows]
        self._remember(cursor, [one for one in found if one.emitter_id not in self.emitters])
        members: dict[int, set[str]] = {key: set() for key in run_keys}
        for one in found:
            members[one.run_key].add(one.emitter_id)
        return members

    def _remember(self, cursor: duckdb.DuckDBPyConnection, found: Iterable[Emitter]) -> None:
        ranges: dict[int, list[Range]] = {emitter.emitter_key: [] for emitter in found}
        rows = select_where(cursor, _SELECT_LEDGERS, "emitter_key", pa.array(ranges, pa.int32()))
        for key, first, end, what in rows:
            ranges[key].append(Range(first, end, Disposition(what)))
        self.ledgers.update({key: Ledger(found) for key, found in ranges.items()})
        self.emitters.update({emitter.emitter_id: emitter for emitter in found})
