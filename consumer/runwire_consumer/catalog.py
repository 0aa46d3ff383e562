"""What the writer remembers of the store: keys, emitters, ledgers and offsets, always as last committed.

A transaction works on copies (`intake.py`) that replace what is here only after COMMIT. Runs, emitters and metrics are
read back when a batch names them and they aren't here, so memory follows what is alive, not what there ever was.

Laws:

1. What is here is what the store has, but for the signs of life of an emitter that is `unwritten`.
2. An emitter is here with its ledger, or neither is.
3. Forgetting changes nothing but the next query: before a batch is admitted, `fetch` and `fetch_names` bring back what
   the store knows of everything that the batch names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import duckdb

from runwire_consumer.ledger import Disposition, Ledger, Range
from runwire_consumer.letterbox import find_totals
from runwire_consumer.remembered import Keys
from runwire_consumer.runstate import Signs
from runwire_consumer.sources import Position
from runwire_consumer.wanted import want

RUN_IDS_MAX = 50_000
METRIC_NAMES_MAX = 200_000
NAME_CHARACTERS_MAX = 16_000_000


@dataclass(slots=True)
class Emitter:
    """One row of `store.emitters`, field by field; times in microseconds.

    Two are no columns, for signs of life alone are not written each time: `written_at`, the newest `seen_at` that the
    store has, and `unwritten`, whether more is known here than there.
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
    unwritten: bool = False

    def copy(self) -> Emitter:
        """An independent one, for a transaction to change."""
        other = Emitter(*_columns_of(self))
        other.written_at, other.unwritten = self.written_at, self.unwritten
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
            world_size=self.world_size,
        )


EMITTER_COLUMNS = tuple(column.name for column in fields(Emitter) if column.name not in {"written_at", "unwritten"})
_columns_of = attrgetter(*EMITTER_COLUMNS)
_NAMES = ", ".join(f'"{name}"' for name in EMITTER_COLUMNS)
_SELECT_EMITTERS = f"SELECT {_NAMES} FROM store.emitters "  # noqa: S608 - names of our own


@dataclass(slots=True)
class Catalog:
    """Committed keys and states.

    `next_*_key` are the first ones never used, `deleted_runs` keys of runs whose rows are stored no more, `kept_bytes`
    is kept of dead letters.
    """

    run_keys: Keys = field(default_factory=lambda: Keys(RUN_IDS_MAX, NAME_CHARACTERS_MAX))
    emitters: dict[str, Emitter] = field(default_factory=dict)
    ledgers: dict[int, Ledger] = field(default_factory=dict)
    metric_keys: Keys = field(default_factory=lambda: Keys(METRIC_NAMES_MAX, NAME_CHARACTERS_MAX))
    positions: dict[tuple[str, str], Position] = field(default_factory=dict)
    deleted_runs: set[int] = field(default_factory=set)
    next_run_key: int = 0
    next_emitter_key: int = 0
    next_metric_key: int = 0
    next_letter_key: int = 0
    kept_bytes: int = 0

    @classmethod
    def load(cls, cursor: duckdb.DuckDBPyConnection) -> Catalog:
        """Read what every batch needs; runs, emitters and metrics come when they are named."""
        catalog = cls()
        offsets = cursor.execute('SELECT source, "partition", next_offset, anchor FROM store.offsets').fetchall()
        catalog.positions = {(source, part): (offset, anchor) for source, part, offset, anchor in offsets}
        ((catalog.next_run_key, catalog.next_emitter_key, catalog.next_metric_key),) = cursor.execute(
            "SELECT (SELECT coalesce(max(run_key) + 1, 0) FROM store.runs), "
            "(SELECT coalesce(max(emitter_key) + 1, 0) FROM store.emitters), "
            "(SELECT coalesce(max(metric_key) + 1, 0) FROM store.metrics)"
        ).fetchall()
        deleted = cursor.execute("SELECT run_key FROM store.runs WHERE deleted_at IS NOT NULL").fetchall()
        catalog.deleted_runs = {key for (key,) in deleted}
        catalog.kept_bytes, catalog.next_letter_key = find_totals(cursor)
        return catalog

    def fetch_names(
        self, cursor: duckdb.DuckDBPyConnection, run_ids: Collection[str], metrics: Collection[str]
    ) -> None:
        """Make sure that those of these runs and metrics that the store knows are here."""
        for keys, names, query in (
            (self.run_keys, run_ids, "SELECT run_id, run_key FROM store.runs WHERE run_id IN "),
            (self.metric_keys, metrics, "SELECT name, metric_key FROM store.metrics WHERE name IN "),
        ):
            unknown = [name for name in names if name not in keys]
            if unknown:
                want(cursor, unknown)
                keys.learn(dict(cursor.execute(query + "(FROM wanted)").fetchall()))

    def forget_names(self) -> None:
        """Keep the names of runs and metrics within their bounds; not between `admit` and `write`."""
        self.run_keys.forget()
        self.metric_keys.forget()

    def fetch(self, cursor: duckdb.DuckDBPyConnection, emitter_ids: Collection[str]) -> None:
        """Make sure that those of these emitters that the store knows are here, with their ledgers."""
        unknown = [emitter_id for emitter_id in emitter_ids if emitter_id not in self.emitters]
        if unknown:
            want(cursor, unknown)
            rows = cursor.execute(_SELECT_EMITTERS + "WHERE emitter_id IN (FROM wanted)").fetchall()
            self._remember(cursor, [_read(row) for row in rows])

    def fetch_runs(self, cursor: duckdb.DuckDBPyConnection, run_keys: Collection[int]) -> dict[int, set[str]]:
        """Make sure that all emitters of these runs are here; hands out their ids by run."""
        want(cursor, run_keys)
        rows = cursor.execute(_SELECT_EMITTERS + "WHERE run_key IN (FROM wanted)").fetchall()
        found = [_read(row) for row in rows]
        self._remember(cursor, [one for one in found if one.emitter_id not in self.emitters])
        members: dict[int, set[str]] = {key: set() for key in run_keys}
        for one in found:
            members[one.run_key].add(one.emitter_id)
        return members

    def forget(self, emitter_id: str) -> None:
        """Let go of an emitter and its ledger."""
        emitter = self.emitters.pop(emitter_id)
        self.ledgers.pop(emitter.emitter_key, None)

    def _remember(self, cursor: duckdb.DuckDBPyConnection, found: Iterable[Emitter]) -> None:
        ranges: dict[int, list[Range]] = {emitter.emitter_key: [] for emitter in found}
        if not ranges:
            return
        want(cursor, ranges)
        rows = cursor.execute(
            "SELECT emitter_key, first_seq, end_seq, disposition FROM store.ledger WHERE emitter_key IN (FROM wanted)"
        ).fetchall()
        for key, first, end, what in rows:
            ranges[key].append(Range(first, end, Disposition(what)))
        self.ledgers.update({key: Ledger(found) for key, found in ranges.items()})
        self.emitters.update({emitter.emitter_id: emitter for emitter in found})


def _read(row: tuple[Any, ...]) -> Emitter:
    emitter = Emitter(*row)
    emitter.written_at = emitter.seen_at
    return emitter
