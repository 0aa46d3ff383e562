"""Everything that one transaction writes: new keys, rows by table, and the copies that replace the catalog's."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from runwire_consumer.catalog import Catalog, Emitter
from runwire_consumer.ledger import Ledger
from runwire_consumer.letterbox import Settled
from runwire_consumer.pieces import Piece
from runwire_consumer.sources import Position


@dataclass(frozen=True, slots=True)
class Counts:
    """What a transaction did, for statistics; times of rows in microseconds, None without rows."""

    messages: int = 0
    rows: int = 0
    points: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    oldest_row_time: int | None = None


@dataclass(slots=True)
class Change:
    """Filled by `intake.py`, written by `store.py`, applied to the catalog after COMMIT.

    Attributes:
        positions: Where each touched partition goes on.
        runs: New runs: id to (key, project).
        deleted: Run keys to the time of their deletion.
        emitters: Copies of all touched emitters.
        ledgers: Copies of all touched ledgers.
        metrics: New metrics: name to key.
        pieces: Metric rows.
        tables: Rows of the small tables.
        letters: Dead letters by id, as `letters.describe_letter` makes them.
        settled: Dead letters that are replayed or discarded.
        kept_bytes: What is kept of dead letters after it; None while that is not known to change.
    """

    positions: dict[tuple[str, str], Position] = field(default_factory=dict)
    runs: dict[str, tuple[int, str]] = field(default_factory=dict)
    deleted: dict[int, int] = field(default_factory=dict)
    emitters: dict[str, Emitter] = field(default_factory=dict)
    ledgers: dict[int, Ledger] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    letters: dict[str, dict[str, Any]] = field(default_factory=dict)
    settled: list[Settled] = field(default_factory=list)
    kept_bytes: int | None = None
    counts: Counts = field(default_factory=Counts)

    @property
    def is_empty(self) -> bool:
        """Nothing to be written."""
        return not (self.positions or self.emitters or self.letters or self.settled)

    def add(self, table: str, **columns: Any) -> None:
        """One more row of a small table."""
        self.tables.setdefault(table, []).append(columns)

    def leave_out(self, run_keys: AbstractSet[int]) -> int:
        """Drop rows and records of these runs, which were deleted before; returns how many points that were.

        Emitters and ledgers stay: what is dropped counts as stored, so it is not met again.
        """
        gone = {emitter.emitter_key for emitter in self.emitters.values() if emitter.run_key in run_keys}
        if not gone:
            return 0
        dropped = sum(len(piece.values) for piece in self.pieces if piece.emitter_key in gone)
        self.pieces = [piece for piece in self.pieces if piece.emitter_key not in gone]
        self.tables = {
            table: [row for row in rows if row["emitter_key"] not in gone] for table, rows in self.tables.items()
        }
        return dropped

    def apply(self, catalog: Catalog) -> None:
        """Remember what is committed."""
        catalog.positions.update(self.positions)
        catalog.run_keys.learn({run_id: key for run_id, (key, _) in self.runs.items()})
        catalog.emitters.update(self.emitters)
        catalog.ledgers.update(self.ledgers)
        catalog.metric_keys.learn(self.metrics)
        catalog.deleted_runs.update(self.deleted)
        catalog.next_letter_key += len(self.letters)
        if self.kept_bytes is not None:
            catalog.kept_bytes = self.kept_bytes
        catalog.next_run_key += len(self.runs)
        catalog.next_metric_key += len(self.metrics)
        newest = max((emitter.emitter_key for emitter in self.emitters.values()), default=-1)
        catalog.next_emitter_key = max(catalog.next_emitter_key, newest + 1)
