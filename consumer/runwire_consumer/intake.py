"""Admits a batch: gives keys, asks the ledger which rows are new, and sorts everything by table.

Works on copies of what the catalog holds: a batch that is not committed leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from runwire_consumer.attempts import EDIT, TRAIN
from runwire_consumer.catalog import Catalog, Emitter
from runwire_consumer.change import Change, Counts
from runwire_consumer.decode import DeadLetter, Decoded
from runwire_consumer.ledger import Disposition, Ledger
from runwire_consumer.letterbox import Range
from runwire_consumer.letters import describe_letter
from runwire_consumer.lifecycle import write_record, write_signal
from runwire_consumer.pieces import Ints, Piece
from runwire_consumer.sources import Message
from runwire_schemas import events
from runwire_schemas.envelope import Envelope

# No emitter packs more rows into a message: an undecodable one that claims to stand for more isn't believed.
ROWS_PER_MESSAGE_MAX = 1_000_000

_ALIEN = "Emitter {} already belongs to another run or rank."


def metrics_of(items: Iterable[Decoded | DeadLetter]) -> set[str]:
    """The metrics that these messages name."""
    key_sets: set[tuple[str, ...]] = set()
    for item in items:
        if isinstance(item, Decoded):
            if isinstance(item.event, events.MetricBatch):
                key_sets.update(block.keys for block in item.event.blocks)
            elif isinstance(item.event, events.MetricDefined):
                key_sets.add((item.event.metric,))
    return {name for keys in key_sets for name in keys}


class Intake:
    """Takes the messages of one batch in order."""

    def __init__(self, catalog: Catalog, now: int, *, at_tail: bool, waiting: Sequence[Range] = ()) -> None:
        """Begin a batch.

        Args:
            catalog: What is committed; it is not changed.
            now: The consumer's clock, microseconds.
            at_tail: What comes now was appended just now, so our own clock tells when its sender lived.
            waiting: Rows that dead letters of earlier batches stand for, of emitters that were unknown then.
        """
        self._catalog = catalog
        self._now = now
        self._at_tail = at_tail
        self._change = Change()
        self._kept_bytes = catalog.kept_bytes
        self._waiting: dict[str, list[Range]] = {}
        for named in waiting:
            self._waiting.setdefault(named.emitter_id, []).append(named)
        self._new_emitters = 0
        self._metric_keys: dict[tuple[str, ...], Ints] = {}
        self._messages = self._rows = self._points = self._duplicates = self._dead = 0

    def take_all(self, items: Iterable[Decoded | DeadLetter]) -> Change:
        """The change that these messages make."""
        for item in items:
            self._messages += 1
            message = item.message
            self._change.positions[message.source, message.partition] = (message.next_offset, message.anchor)
            if isinstance(item, Decoded):
                self._take(item)
            else:
                self._bury(item)
        if self._catalog.deleted_runs:
            self._points -= self._change.leave_out(self._catalog.deleted_runs)
        pieces = self._change.pieces
        times = np.concatenate([piece.times for piece in pieces]) if pieces else None
        self._change.counts = Counts(
            messages=self._messages,
            rows=self._rows,
            points=self._points,
            duplicates=self._duplicates,
            dead_letters=self._dead,
            oldest_row_time=None if times is None else int(times.min()),
        )
        return self._change

    def _take(self, item: Decoded) -> None:
        event, message = item.event, item.message
        emitter = self._emitter(item.envelope) or self._new_emitter(item)
        if not self._is_its_own(emitter, item.envelope):
            self._bury(DeadLetter(message, item.envelope, _ALIEN.format(item.envelope.emitter_id)))
            return
        emitter.seen_at = max(emitter.seen_at, self._seen_at(message))
        if isinstance(event, events.MetricBatch):
            self._take_batch(emitter, event)
        elif isinstance(event, events.Lifecycle):
            self._take_record(emitter, event)
        elif isinstance(event, events.Signal):
            write_signal(emitter, event)

    def _take_batch(self, emitter: Emitter, batch: events.MetricBatch) -> None:
        """Rows that are new become pieces, block by block."""
        _be_trainer(emitter)
        rows = batch.count
        fresh = self._ledger(emitter.emitter_key).admit(batch.first_seq, rows)
        self._duplicates += rows - sum(end - first for first, end in fresh)
        for first, end in fresh:
            at = batch.first_seq
            for block in batch.blocks:
                count = len(block.steps)
                begin, stop = max(first - at, 0), min(end - at, count)
                if begin < stop:
                    self._take_block(emitter, block, at, begin, stop)
                at += count

    def _take_block(self, emitter: Emitter, block: events.Block, at: int, begin: int, stop: int) -> None:
        """Rows begin .. stop - 1 of a block whose first row is `at`."""
        steps: Any = np.asarray(block.steps)
        times: Any = np.asarray(block.times)
        values: Any = np.asarray(block.values)
        if stop - begin < len(steps):
            values = values.reshape(len(block.keys), len(steps))[:, begin:stop].ravel()
            steps, times = steps[begin:stop], times[begin:stop]
        piece = Piece(
            emitter_key=emitter.emitter_key,
            metric_keys=self._keys_of(block.keys),
            first_seq=at + begin,
            steps=steps,
            times=times,
            values=values,
        )
        self._change.pieces.append(piece)
        self._rows += stop - begin
        self._points += len(values)
        emitter.row_time = max(emitter.row_time or 0, int(times[-1]))

    def _take_record(self, emitter: Emitter, event: events.Lifecycle) -> None:
        if not isinstance(event, (events.RunEdited, events.RunDeleted)):
            _be_trainer(emitter)
        ledger = self._ledger(emitter.emitter_key)
        if not ledger.admit(event.seq, 1):
            self._duplicates += 1
            return
        self._rows += 1
        emitter.row_time = max(emitter.row_time or 0, event.time)
        write_record(self._change, emitter, event)
        if isinstance(event, events.RowsLost):
            ledger.declare(event.first_seq, event.count, Disposition.LOST)
        elif isinstance(event, events.MetricDefined):
            (key,) = self._keys_of((event.metric,))
            self._change.add(
                "definitions",
                emitter_key=emitter.emitter_key,
                seq=event.seq,
                time=event.time,
                metric_key=int(key),
                unit=event.unit,
                best=event.best,
            )

    def _bury(self, letter: DeadLetter) -> None:
        """Keep what can't be stored, and account for the rows that its envelope names.

        Whoever sends garbage may name anybody: it makes no emitter and no run, and moves nobody to another run. Rows
        of an emitter that is not known yet count as dead once a good message has made it.
        """
        self._dead += 1
        message, envelope = letter.message, letter.envelope
        key = self._catalog.next_letter_key + len(self._change.letters)
        row = describe_letter(letter, key, self._seen_at(message), self._kept_bytes)
        self._kept_bytes += row["kept_bytes"]
        self._change.letters.setdefault(row["letter_id"], row)
        if envelope is not None and envelope.count > 0:
            named = Range(envelope.emitter_id, envelope.run_id, envelope.rank, envelope.first_seq, envelope.count)
            emitter = self._emitter(envelope)
            if emitter is not None:
                self._declare_dead(emitter, named)
            else:
                self._waiting.setdefault(named.emitter_id, []).append(named)

    def _declare_dead(self, emitter: Emitter, named: Range) -> None:
        """Account for rows that a dead letter stands for, where it names the emitter's own run and rank."""
        if named.rows <= ROWS_PER_MESSAGE_MAX and self._is_its_own(emitter, named):
            self._ledger(emitter.emitter_key).declare(named.first_seq, named.rows, Disposition.DEAD)

    def _seen_at(self, message: Message) -> int:
        return self._now if self._at_tail else min(max(message.appended_at, 0), self._now)

    def _emitter(self, envelope: Envelope) -> Emitter | None:
        """The transaction's own copy of the sender; None where it is new."""
        mine = self._change.emitters.get(envelope.emitter_id)
        if mine is None and (known := self._catalog.emitters.get(envelope.emitter_id)):
            mine = self._change.emitters[envelope.emitter_id] = known.copy()
        return mine

    def _is_its_own(self, emitter: Emitter, envelope: Envelope | Range) -> bool:
        """Whether an envelope names the run and the rank of its emitter."""
        mine = self._change.runs.get(envelope.run_id)
        run_key = mine[0] if mine is not None else self._catalog.run_keys.get(envelope.run_id)
        return emitter.run_key == run_key and emitter.rank == envelope.rank

    def _new_emitter(self, item: Decoded) -> Emitter:
        envelope, event = item.envelope, item.event
        seen_at = self._seen_at(item.message)
        role, started_at = TRAIN, seen_at
        if isinstance(event, events.MetricBatch):
            started_at = min((int(block.times[0]) for block in event.blocks if len(block.times)), default=seen_at)
        elif isinstance(event, (events.Lifecycle, events.Signal)):
            started_at = event.time
        if isinstance(event, (events.RunEdited, events.RunDeleted)):
            role = EDIT
        emitter = Emitter(
            emitter_key=self._catalog.next_emitter_key + self._new_emitters,
            emitter_id=envelope.emitter_id,
            run_key=self._run_key(envelope),
            rank=envelope.rank,
            attempt=envelope.attempt,
            role=role,
            started_at=started_at,
            seen_at=seen_at,
        )
        self._new_emitters += 1
        self._change.emitters[envelope.emitter_id] = emitter
        for named in self._waiting.pop(envelope.emitter_id, ()):
            self._declare_dead(emitter, named)
        return emitter

    def _run_key(self, envelope: Envelope) -> int:
        known = self._catalog.run_keys.get(envelope.run_id)
        if known is not None:
            return known
        key = self._catalog.next_run_key + len(self._change.runs)
        return self._change.runs.setdefault(envelope.run_id, (key, envelope.project))[0]

    def _ledger(self, emitter_key: int) -> Ledger:
        mine = self._change.ledgers.get(emitter_key)
        if mine is None:
            known = self._catalog.ledgers.get(emitter_key)
            mine = self._change.ledgers[emitter_key] = known.copy() if known else Ledger()
        return mine

    def _keys_of(self, names: tuple[str, ...]) -> Ints:
        keys = self._metric_keys.get(names)
        if keys is None:
            keys = self._metric_keys[names] = np.array([self._metric_key(name) for name in names], np.int32)
        return keys

    def _metric_key(self, name: str) -> int:
        known = self._catalog.metric_keys.get(name)
        if known is not None:
            return known
        key = self._catalog.next_metric_key + len(self._change.metrics)
        return self._change.metrics.setdefault(name, key)


def _be_trainer(emitter: Emitter) -> None:
    """Who logs rows is no mere editor."""
    if emitter.role == EDIT:
        emitter.role = TRAIN
