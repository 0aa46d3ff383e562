"""One batch on the writer's thread: decode, admit, evaluate states, write; poison is set aside, never met twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from runwire_consumer.change import Change, Counts
from runwire_consumer.compaction import Slice
from runwire_consumer.database import MEMORY, translated
from runwire_consumer.decode import DeadLetter, Decoded, decode
from runwire_consumer.errors import StoreFull
from runwire_consumer.floor import check_floor
from runwire_consumer.letterbox import Settled
from runwire_consumer.letters import REPLAYED, letter_id
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.watch import Watch

CHECKPOINT_WAL_BYTES = 256 * 2**20
CHECKPOINT_RETRY_SECONDS = 30.0
# At a quiet moment a small WAL goes too, but seldom: a restart replays 1 MiB of it in some 20 ms.
CHECKPOINT_QUIET_WAL_BYTES = 4 * 2**20
CHECKPOINT_QUIET_SECONDS = 600.0

# What a hostile message may still provoke behind decode, in Arrow's and the engine's conversions.
_POISON = (ValueError, TypeError, OverflowError, duckdb.DataError)
# So many refusals of one batch are sorted out one by one: each costs a handful of transactions that fail.
REFUSALS_MAX = 64


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
        self._checkpointed_at = time.monotonic()
        self._moment: Moment | None = None

    def write(self, messages: Sequence[Message], moment: Moment) -> list[Counts]:
        """Store a batch; the counts of each transaction, one unless poison was met.

        Raises:
            StoreError: Nothing of the last transaction was kept.
        """
        self._moment = moment
        self._need_room(sum(len(message.payload) for message in messages))
        done = self._commit([decode(message) for message in messages], moment)
        self._checkpoint(CHECKPOINT_WAL_BYTES)
        return done

    def replay(self, letters: Mapping[int, Message], now: int) -> list[Counts]:
        """Store the messages of whole dead letters; each letter's status goes with its rows, no offset moves.

        Args:
            letters: Messages by their letters' keys, in the order in which they came.
            now: The consumer's clock, microseconds.

        Raises:
            StoreError: Nothing of the last transaction was kept.
        """
        self._need_room(sum(len(message.payload) for message in letters.values()))
        moment = self._moment or self._newest_moment()
        keys = {letter_id(message): key for key, message in letters.items()}
        done = self._commit(
            [decode(message) for message in letters.values()], replace(moment, now=now, at_tail=False), keys
        )
        self._checkpoint(CHECKPOINT_WAL_BYTES)
        return done

    def tick(self, moment: Moment) -> None:
        """Judge silent runs though nothing came."""
        self._moment = moment
        self._need_room(0)
        self._write(Change(), moment)
        quiet_seconds = time.monotonic() - self._checkpointed_at
        self._checkpoint(
            CHECKPOINT_QUIET_WAL_BYTES if quiet_seconds >= CHECKPOINT_QUIET_SECONDS else CHECKPOINT_WAL_BYTES
        )

    def compact(self) -> Slice | None:
        """One slice of compaction; None when nothing is left to do.

        Raises:
            StoreError: Nothing of it was kept.
        """
        self._need_room(0)
        done = self.store.compaction.step()
        self._checkpoint(CHECKPOINT_WAL_BYTES)
        return done

    def settle(self, settled: Sequence[Settled]) -> None:
        """Change the status of dead letters, and nothing else."""
        self._write(Change(settled=list(settled)), Moment(0, at_tail=False, judged_at=None))

    def close(self) -> None:
        """Close file and lock."""
        self._cursor.close()
        self.store.close()

    def _commit(
        self, items: Sequence[Decoded | DeadLetter], moment: Moment, keys: Mapping[str, int] | None = None
    ) -> list[Counts]:
        """`keys`: of the dead letters, by id, whose messages these are; they move no offset."""
        try:
            return [self._take(items, moment, keys, apart=keys is not None)]
        except _POISON:
            # No offset moves before everything is in: whoever dies in between reads it again, and the ledger and the
            # letters' ids leave out what is stored. So a sender's messages can be tried apart from all others'.
            done = self._bisect(sorted(items, key=_sender_of), moment, keys, [REFUSALS_MAX])
            if keys is None:
                ends = {(m.source, m.partition): (m.next_offset, m.anchor) for m in (item.message for item in items)}
                self._write(Change(positions=ends), moment)
            return done

    def _bisect(
        self, items: Sequence[Decoded | DeadLetter], moment: Moment, keys: Mapping[str, int] | None, left: list[int]
    ) -> list[Counts]:
        """Halve what the store refuses until the poison is alone, and set it aside.

        After REFUSALS_MAX (`left[0]`) all that is left of a sender whose messages are refused is set aside together:
        it can be replayed, and nobody else waits longer for it.
        """
        try:
            return [self._take(items, moment, keys, apart=True)]
        except _POISON as error:
            if len(items) > 1 and (left[0] > 0 or _sender_of(items[0]) != _sender_of(items[-1])):
                half = len(items) // 2
                return self._bisect(items[:half], moment, keys, left) + self._bisect(items[half:], moment, keys, left)
            if all(isinstance(item, DeadLetter) for item in items):
                raise
            left[0] -= 1
            reason = f"The store can't take it: {type(error).__name__}: {error}"
            if len(items) > 1:
                reason = f"The store can't take it or one of {len(items) - 1} beside it from the same sender: {error}"
            letters = [DeadLetter(item.message, item.envelope, reason[:500]) for item in items]
            return [self._take(letters, moment, keys, apart=True)]

    def _take(
        self,
        items: Sequence[Decoded | DeadLetter],
        moment: Moment,
        keys: Mapping[str, int] | None,
        *,
        apart: bool,
    ) -> Counts:
        """One transaction; `apart` moves no offset, but still compares them: another writer is found out."""
        change = self.store.admit(items, moment.now, at_tail=moment.at_tail)
        if apart:
            known = self.store.catalog.positions
            change.positions = {where: known[where] for where in change.positions if where in known}
        if keys is not None:
            ids = [one for item in items if (one := letter_id(item.message)) not in change.letters]
            change.settled += [Settled(keys[one], REPLAYED, moment.now) for one in ids]
        self._write(change, moment)
        return change.counts

    def _write(self, change: Change, moment: Moment) -> None:
        with translated():
            states = self._watch.due(change, moment.judged_at, moment.reachable_since)
        if not change.is_empty or states:
            self.store.write(change, states)
            self._watch.commit(change, states)
            self._watch.forget()

    def _newest_moment(self) -> Moment:
        """Before anything was read: as far as the log is known, its time is that of the newest sign of life."""
        (row,) = self._cursor.execute("SELECT max(seen_at) FROM store.emitters").fetchall()
        return Moment(0, at_tail=False, judged_at=row[0])

    def _need_room(self, batch_bytes: int) -> None:
        """Look at the disk; where the WAL alone is in the way, a checkpoint makes it go."""
        database = self.store.database
        if database.path == MEMORY:
            return
        folder = database.path.parent
        try:
            check_floor(folder, database.wal_bytes, batch_bytes)
        except StoreFull:
            if not self._checkpoint(CHECKPOINT_QUIET_WAL_BYTES):
                raise
            check_floor(folder, database.wal_bytes, batch_bytes)

    def _checkpoint(self, wal_bytes_max: int) -> bool:
        """Keep the WAL, which a restart has to replay, within bounds; returns whether it is in the file now."""
        database = self.store.database
        now = time.monotonic()
        if database.wal_bytes <= wal_bytes_max or now < self._next_checkpoint:
            return False
        self._next_checkpoint = now + CHECKPOINT_RETRY_SECONDS
        # The batch is durable already: a full disk is met, and said, by the next one.
        with contextlib.suppress(StoreFull):
            if database.checkpoint():
                self._next_checkpoint = self._checkpointed_at = now
                return True
        return False


def _sender_of(item: Decoded | DeadLetter) -> str:
    return item.envelope.emitter_id if item.envelope is not None else ""
