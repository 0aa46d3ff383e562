"""One batch on the writer's thread: decode, admit, evaluate states, write; poison is set aside, never met twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from runwire_consumer.change import Change, Counts
from runwire_consumer.decode import DeadLetter, Decoded, decode
from runwire_consumer.errors import StoreFull
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.watch import Watch

CHECKPOINT_WAL_BYTES = 256 * 2**20
CHECKPOINT_RETRY_SECONDS = 30.0

# What a hostile message may still provoke behind decode, in Arrow's and the engine's conversions.
_POISON = (ValueError, TypeError, OverflowError, duckdb.DataError)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a batch is written, and what is known about the log then; microseconds.

    Attributes:
        now: The consumer's clock.
        at_tail: Nothing waited before the batch: its senders lived just now.
        judged_at: The clock by which silence is judged; None while the log is unreachable.
        reachable_since: When the last outage ended; 0 without one.
    """

    now: int
    at_tail: bool
    judged_at: int | None
    reachable_since: int = 0


class Writer:
    """The store with its watch; one thread at a time."""

    def __init__(self, store: Store) -> None:
        """Take up what the store knows."""
        self.store = store
        self._cursor = store.cursor()
        self._watch = Watch(self._cursor, store.catalog)
        self._next_checkpoint = 0.0

    def write(self, messages: Sequence[Message], moment: Moment) -> list[Counts]:
        """Store a batch; the counts of each transaction, one unless poison was met.

        Raises:
            StoreError: Nothing of the last transaction was kept.
        """
        done = self._commit([decode(message) for message in messages], moment)
        self._checkpoint()
        return done

    def tick(self, moment: Moment) -> None:
        """Judge silent runs though nothing came."""
        self._write(Change(), moment)

    def close(self) -> None:
        """Close file and lock."""
        self._cursor.close()
        self.store.close()

    def _commit(self, items: list[Decoded | DeadLetter], moment: Moment) -> list[Counts]:
        try:
            change = self.store.admit(items, moment.now, at_tail=moment.at_tail)
            self._write(change, moment)
        except _POISON as error:
            if len(items) > 1:
                half = len(items) // 2
                return self._commit(items[:half], moment) + self._commit(items[half:], moment)
            (item,) = items
            if isinstance(item, DeadLetter):
                raise
            reason = f"The store can't take it: {type(error).__name__}: {error}"
            return self._commit([DeadLetter(item.message, item.envelope, reason[:500])], moment)
        return [change.counts]

    def _write(self, change: Change, moment: Moment) -> None:
        states = self._watch.due(change, moment.judged_at, moment.reachable_since)
        if change.positions or states:
            self.store.write(change, states)
            self._watch.commit(change, states)
            self._watch.forget()

    def _checkpoint(self) -> None:
        """Keep the WAL, which a restart has to replay, within bounds."""
        database = self.store.database
        now = time.monotonic()
        if database.wal_bytes > CHECKPOINT_WAL_BYTES and now >= self._next_checkpoint:
            self._next_checkpoint = now + CHECKPOINT_RETRY_SECONDS
            # The batch is durable already: a full disk is met, and said, by the next one.
            with contextlib.suppress(StoreFull):
                if database.checkpoint():
                    self._next_checkpoint = now
