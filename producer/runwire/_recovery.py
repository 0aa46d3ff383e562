"""Recovery: sends what dead emitters left in their journals; reads them, never appends.

1. A journal whose lock can be taken belongs to nobody alive; the lock is held while it is sent.
2. Where a signal that ends jobs killed a process without a thread to say so, recovery says that it was preempted.
3. Rows that a damaged record held, and no record of the journal declares lost, are declared lost by records numbered
   behind the last row: a second recovery of the same journal makes the same ones.
4. `EmitterEnded` goes last; then the folder goes at once, by a rename. Interrupted anywhere before, the next recovery
   sends all of it again, and the ledger drops what is there already.
5. A journal that can't be read is kept, said, and doesn't keep the others.
6. What a relay has delivered to the same URL already isn't sent again; what was refused there is declared lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runwire import _signals
from runwire._batch import Message, event_message, messages
from runwire._clock import wall_time_us
from runwire._delivery import Delivery
from runwire._errors import JournalError, TransportError
from runwire._journal_files import REST_AT, SENT, claim, last_signal, release, remove_journal
from runwire._losses import REST_BYTES, unpack_rest
from runwire._mark import Mark, read_mark
from runwire._segments import (
    OWNER,
    SegmentHeader,
    SegmentReader,
    StoredEvent,
    parse_header,
    segment_numbers,
    segment_path,
)
from runwire._sender import BATCH_BYTES_MAX, BATCH_ROWS_MAX
from runwire._transport import make_transport
from runwire_schemas.catalog import entry_by_fingerprint
from runwire_schemas.codec import decode
from runwire_schemas.errors import SchemaError
from runwire_schemas.events import RowsLost, RunEnded
from runwire_schemas.topics import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runwire._segments import Rows
    from runwire._transport import Transport
    from runwire_schemas.topics import Destination

ATTEMPTS = 3
RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one journal.

    Attributes:
        emitter_id: Whose journal it is.
        run_id: The run it belongs to; empty where no segment is readable.
        url: Where its emitter wanted to send.
        rows: Rows and records sent.
        lost: Rows declared lost.
        state: sent; alive (its process still runs); elsewhere (another URL); waiting (see `error`).
        error: Why it waits.
    """

    emitter_id: str
    run_id: str
    url: str
    rows: int = 0
    lost: int = 0
    state: str = "waiting"
    error: str = ""


def sync(journals: Path, to: str | None = None, on_outcome: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Send every dead emitter's journal under the folder `journals`.

    Args:
        journals: HOME/journal.
        to: URL to send to; by default each journal goes where its emitter wanted it.
        on_outcome: Called after each journal.

    Raises:
        DestinationError: `to` is no URL that Runwire can send to.
    """
    if to is not None:
        to = str(parse_url(to))
    return asyncio.run(recover(journals, to=to, on_outcome=on_outcome))


async def recover(
    journals: Path,
    *,
    to: str | None = None,
    only: Destination | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    is_durable: bool = True,
) -> list[Outcome]:
    """`sync` inside a running loop; with `only`, journals for any other one are left alone, as state elsewhere.

    Unless told otherwise, what a folder (`dir:`) got is on its disk before the journal is deleted.
    """
    outcomes = []
    for folder in _folders(journals):
        if folder.name.startswith("."):
            if folder.name.endswith(SENT):
                remove_journal(folder)
            continue
        if folder.is_symlink() or not folder.is_dir():  # a link's target is nobody's to delete
            continue
        try:
            outcome = await _recover_one(folder, to, only, is_durable=is_durable)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are sent
            outcome = Outcome(folder.name, "", "", error=repr(error))
        if outcome is not None:
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
    return outcomes


def _folders(journals: Path) -> list[Path]:
    return sorted(journals.iterdir()) if journals.is_dir() else []


async def _recover_one(folder: Path, to: str | None, only: Destination | None, *, is_durable: bool) -> Outcome | None:
    if not claim(folder):
        return Outcome(folder.name, "", "", state="alive")
    owner = _lock(folder)
    try:
        header = any_header(folder, owner)
        if owner is None:
            return None if header is None else replace(_outcome(header), state="alive")
        if header is None:
            return without_header(folder)
        if only is not None and header.url != str(only):
            return replace(_outcome(header), state="elsewhere")
        url = to or header.url
        dead = DeadJournal(folder, header, os.pread(owner, REST_BYTES, REST_AT), read_mark(folder, url))
        error = await _deliver(dead, url, only, is_durable=is_durable)
        if error:
            return replace(_outcome(header), error=error)
        remove_journal(folder)
        return replace(_outcome(header), rows=dead.rows, lost=dead.lost, state="sent")
    finally:
        if owner is not None:
            os.close(owner)
        release(folder)


_UNMARKED = Mark()


class DeadJournal:
    """The messages that a dead emitter's journal still holds, in order, each call of `found` from the start."""

    def __init__(self, folder: Path, header: SegmentHeader, rest: bytes = b"", mark: Mark = _UNMARKED) -> None:
        """`rest` is what the lock file holds of rows that found no room (`_losses.pack_rest`), `mark` a relay's."""
        self._folder = folder
        self._rest = rest
        self._mark = mark
        self.header = header
        self._losses: list[tuple[int, int, str]] = []
        self._declared: list[tuple[int, int]] = []
        self._has_ended = False
        self._next_seq = 0
        self.rows = 0

    @property
    def lost(self) -> int:
        """Rows that had to be declared lost."""
        return sum(count for _, count, _ in self._losses)

    def acknowledge(self, message: Message) -> None:
        """Nothing to remember: interrupted, all of it goes again."""

    def declare_loss(self, first_seq: int, count: int, reason: str) -> None:
        """Remember rows that will never come, unless the journal itself declares them."""
        end = first_seq + count
        for first_declared, end_declared in [*sorted(self._declared), (end, end)]:
            if first_declared > first_seq:
                until = min(first_declared, end)
                self._losses.append((first_seq, until - first_seq, reason))
            first_seq = max(first_seq, end_declared)
            if first_seq >= end:
                return

    def found(self) -> Iterator[Message]:
        """Every row and record that can be read."""
        return messages(self._read(), self.header, BATCH_ROWS_MAX, BATCH_BYTES_MAX)

    def closing(self) -> Iterator[Message]:
        """What recovery adds behind the rows: the declared losses, then the end."""
        now, header, seq = wall_time_us(), self.header, self._next_seq
        # In the order of the rows, not of their discovery: the same again in a second recovery.
        for first_seq, count, reason in sorted(self._losses):
            payload = _signals.rows_lost(header, now, seq, first_seq, count, reason)
            yield event_message(StoredEvent(seq, payload), header)
            seq += 1
        signum = None if self._has_ended else last_signal(self._folder)
        if signum is not None:
            yield event_message(StoredEvent(seq, _signals.preempted(header, now, seq, signum)), header)
            seq += 1
        yield _signals.ended(header, now, seq, "finished" if self._has_ended else "crashed")

    def _read(self) -> Iterator[Rows | StoredEvent]:
        next_seq: int | None = None
        jumps: list[tuple[int, int]] = []
        pending: list[int] = []
        for number in segment_numbers(self._folder):
            reader = SegmentReader(segment_path(self._folder, number), otherwise=self.header)
            try:
                if next_seq is None:
                    next_seq = reader.header.first_seq if reader.has_header else 0
                if reader.has_header:
                    jumps.append((next_seq, reader.header.first_seq))
                    next_seq = max(next_seq, reader.header.first_seq)
                for item in reader.recover(next_seq, BATCH_ROWS_MAX):
                    jumps.append((next_seq, item.first_seq))
                    next_seq = item.first_seq + item.count
                    if isinstance(item, StoredEvent):
                        self._note(item)
                    if next_seq > self._mark.acknowledged_seq:
                        self.rows += item.count
                        yield item
                jumps.append((next_seq, reader.next_seq))
                next_seq = max(next_seq, reader.next_seq)
                pending += reader.pending
                self._has_ended |= reader.has_ended
            finally:
                reader.close()
        self._account(next_seq or 0, jumps, pending)

    def _account(self, next_seq: int, jumps: list[tuple[int, int]], pending: list[int]) -> None:
        """What didn't come, of all numbers below the end; what the journal itself declares is left out."""
        known_seq, losses = unpack_rest(self._rest)
        self._next_seq = max(next_seq, known_seq, self._mark.acknowledged_seq)
        for loss in (*losses, *self._mark.losses):
            self.declare_loss(loss.first_seq, loss.count, loss.reason)
            self._declared.append((loss.first_seq, loss.first_seq + loss.count))
        acknowledged_seq = self._mark.acknowledged_seq
        for seq in pending:
            if seq >= acknowledged_seq:
                self.declare_loss(seq, 1, "its values hadn't come from the device")
                self._declared.append((seq, seq + 1))
        for begin, end in jumps:
            first = max(begin, acknowledged_seq)
            if end > first:
                self.declare_loss(first, end - first, "the journal is damaged there")

    def _note(self, event: StoredEvent) -> None:
        """What a record says of the journal itself."""
        cls = entry_by_fingerprint(event.payload[2:10]).cls
        self._has_ended |= cls is RunEnded
        if cls is RowsLost:
            lost = decode(event.payload)
            if isinstance(lost, RowsLost):
                self._declared.append((lost.first_seq, lost.first_seq + lost.count))


async def _deliver(dead: DeadJournal, url: str, own: Destination | None, *, is_durable: bool) -> str:
    """Send it all: "" or why that wasn't possible now."""
    delivery = Delivery(dead.header, dead.declare_loss)
    found: Iterator[Message] = dead.found()
    rows_sent = False
    error = ""
    failures = 0
    while failures < ATTEMPTS:
        transport: Transport | None = None
        try:
            transport = make_transport(own or parse_url(url), is_durable=is_durable)
            await transport.open()
            await delivery.send(transport, found)
            if not rows_sent:
                rows_sent, found = True, dead.closing()
                await delivery.send(transport, found)
        except TransportError as raised:
            error = str(raised)
            failures += not raised.refused  # a refused message gets smaller each time: that ends by itself
            if not raised.refused:
                await asyncio.sleep(RETRY_SECONDS)
        except SchemaError as raised:
            return str(raised)
        else:
            return ""
        finally:
            if transport is not None:
                await transport.close()
    return error


def _lock(folder: Path) -> int | None:
    """The open lock file of a dead emitter's journal, or None while somebody alive holds it."""
    try:
        fd = os.open(folder / OWNER, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if try_lock(fd) and is_there(folder, fd):
        return fd
    os.close(fd)
    return None


def is_there(folder: Path, owner: int) -> bool:
    """Whether the open lock file still is this folder's: who recovered it since it was opened has taken it away."""
    try:
        return os.path.samestat((folder / OWNER).stat(), os.fstat(owner))
    except OSError:
        return False


def try_lock(fd: int) -> bool:
    """Whether nobody else held the lock of this open file; then it is ours."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def any_header(folder: Path, owner: int | None) -> SegmentHeader | None:
    """Whose journal it is, from a segment, else from the open lock file."""
    for number in segment_numbers(folder):
        with contextlib.suppress(JournalError, OSError):
            reader = SegmentReader(segment_path(folder, number))
            reader.close()
            return reader.header
    if owner is not None:
        with contextlib.suppress(ValueError, OSError):
            return parse_header(os.pread(owner, 2**16, 0))[0]
    return None


def without_header(folder: Path) -> Outcome | None:
    """Delete a folder that its emitter left before its first row; keep one whose segments are all unreadable."""
    if segment_numbers(folder):
        return Outcome(folder.name, "", "", error=f"No segment in {folder} has a readable header.")
    remove_journal(folder)
    return None


def _outcome(header: SegmentHeader) -> Outcome:
    return Outcome(header.emitter_id, header.run_id, header.url)
