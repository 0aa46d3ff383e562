"""The segments that an emitter writes: begun, closed, trimmed, dropped at the cap; what follows when a disk refuses.

`_journal.py` has the laws. Nothing here knows what is in a record, but for the key sets that each segment repeats.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
import time
import zlib
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from runwire._cap import JOURNAL_BYTES_MAX, SEGMENT_BYTES_MAX, Cap, lifecycle_of
from runwire._disk import write_all
from runwire._errors import JournalError
from runwire._filesystem import file_system_of
from runwire._journal_files import (
    FullSegment,
    OpenSegment,
    Published,
    Reservation,
    SegmentFile,
    allocate,
    make_folder,
    populate,
    release,
    remove_journal,
)
from runwire._losses import Loss
from runwire._mark import read_mark
from runwire._notices import NOTICES
from runwire._segments import (
    COMMIT,
    COMMIT_BYTES,
    COMMIT_WORD,
    SegmentHeader,
    segment_path,
)
from runwire._waiting import Waiting
from runwire_schemas.errors import SchemaError
from runwire_schemas.topics import mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RETRY_SECONDS = 1.0
_DELETED = "somebody deleted the journal's folder"
_SPARE, _FRESH = "spare", "fresh"
CRC = struct.Struct("=I")


class SegmentWriter:
    """The segments of one emitter, in one folder; `Journal` writes into them."""

    def __init__(
        self,
        folder: Path,
        header: SegmentHeader,
        *,
        segment_bytes: int = SEGMENT_BYTES_MAX,
        journal_bytes_max: int = JOURNAL_BYTES_MAX,
    ) -> None:
        """Make the folder, take its lock, open the first segment.

        Args:
            folder: Must not exist; its name is the emitter's id.
            header: Written into each segment; number and first_seq are filled in.
            segment_bytes: Size of a segment; a record of up to half of it fits.
            journal_bytes_max: Size that all segments together keep to, but never fewer than four: see `_cap.py`.

        Raises:
            JournalError: The folder can't be made or written.
        """
        self.folder = folder
        self.header = header
        self.rows_lost = 0
        self.acknowledged_seq = 0
        self.moved: set[int] = set()  # numbers of records that were copied forward: nothing need arrive under these
        self.replaced: set[int] = set()  # segments whose file is another one now
        self._segment_bytes = segment_bytes
        self._cap = Cap(journal_bytes_max, segment_bytes)
        self._lock = threading.RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._busy = False
        self._sealed = False
        self._is_closed = False
        self._is_draining = False
        self._side: deque[Callable[[], None]] = deque()
        self._next_seq = 0
        self._first_seq = 0
        self._segment: OpenSegment | None = None
        self._number = self._owner = -1
        self._full: dict[int, FullSegment] = {}
        self._spare: SegmentFile | None = None
        self._spares = itertools.count()
        self._reserved: dict[int, Reservation] = {}
        self._waiting = Waiting()
        self._retry_at = 0.0
        self._reason = ""
        self._renumber: Callable[[bytes, int], bytes] | None = None
        try:
            self._make_folder()
            self.place = file_system_of(self._owner)
            self._mapped = self.place.is_mappable
            self._open_segment()
        except OSError as error:
            self._give_back(delete=self._owner >= 0)
            raise JournalError(
                f"Journal folder {folder} can't be written: {error.strerror}. "
                "Set RUNWIRE_HOME to a folder on a local disk that has room."
            ) from error

    def on_loss(
        self, make_event: Callable[[int, int, int, str], bytes], renumber: Callable[[bytes, int], bytes]
    ) -> None:
        """Set who encodes: `RowsLost` from (its seq, first_seq, count, reason), a lifecycle record's payload anew."""
        self._waiting.make_loss = make_event
        self._renumber = renumber

    @property
    def next_seq(self) -> int:
        """Sequence numbers assigned so far."""
        return self._next_seq

    @property
    def published(self) -> Published:
        """How far the sender may read."""
        if self._reserved:
            with self._lock:
                for place in self._reserved.values():
                    return Published(place.number, place.at, self._next_seq)
        segment = self._segment
        if segment is None:
            full = self._full.get(self._number)
            return Published(self._number, full.end if full else 0, self._next_seq)
        return Published(segment.number, segment.at, self._next_seq)

    def prepare(self) -> None:
        """Make the next segment ready before it is needed; the sender calls this now and then."""
        if self._spare is not None or self._sealed:
            return
        try:
            # A name of its own each time: the one before may just be becoming a segment.
            spare = allocate(self.folder / f"{_SPARE}-{next(self._spares)}", self._segment_bytes, mapped=self._mapped)
        except OSError:
            return  # the writer will meet it, and say so
        if spare.map is not None:
            populate(spare.map)
        with self._lock:
            if not self._is_closed:
                self._spare = spare
                return
        spare.close()

    def following(self, number: int) -> int | None:
        """The next segment behind segment `number` that is there to be read."""
        return min((other for other in (*self._full, self._number) if other > number), default=None)

    def end_of(self, number: int) -> int | None:
        """Where a full segment ends; None when it was dropped."""
        full = self._full.get(number)
        return None if full is None else full.end

    def trim(self, number: int, acknowledged_seq: int) -> None:
        """Rows 0 .. acknowledged_seq - 1 are in the log: delete every full segment before segment `number`."""
        self.acknowledged_seq = acknowledged_seq
        for old in [old for old in tuple(self._full) if old < number]:
            self._full.pop(old, None)
            with contextlib.suppress(OSError):
                segment_path(self.folder, old).unlink()

    def _give_back(self, *, delete: bool) -> None:
        """Files and lock; `delete` also removes the folder. Never raises."""
        with self._lock:
            spare, self._spare = self._spare, None
            if spare is not None:
                spare.close()
                with contextlib.suppress(OSError):
                    spare.path.unlink()
            owner, self._owner = self._owner, -1
            self._is_closed = True
        if owner >= 0:  # else it is a forked child's, and the folder its parent's
            if delete:
                remove_journal(self.folder)
            os.close(owner)
            release(self.folder)

    def _write(self, segment: OpenSegment, kind: int, seq: int, payload: bytes) -> None:
        body = struct.pack("<IIqqq", len(payload), kind, seq, 0, 0) + payload
        record = CRC.pack(zlib.crc32(body)) + body + bytes(-len(payload) % 8)
        at, end = segment.at, segment.at + COMMIT_WORD.size + len(record)
        mapped = segment.map
        if mapped is not None:
            mapped[at + COMMIT_WORD.size : end] = record
            COMMIT_WORD.pack_into(mapped, at, COMMIT)
        else:
            write_all(segment.fd, COMMIT_BYTES + record, at)
        segment.at = end
        if seq >= 0:
            self._next_seq = seq + 1

    def _segment_for(self, need: int) -> OpenSegment | None:
        """A segment with so much room, or None when none can be made now."""
        segment = self._segment
        if segment is not None and segment.at + need <= segment.size_bytes:
            return segment
        if segment is None and time.monotonic() < self._retry_at:
            return None
        try:
            return self._open_segment()
        except OSError as error:
            self._fail(error)
            return None

    def _open_segment(self) -> OpenSegment:
        """Begin the next segment; the one before stays on disk until it is trimmed.

        Raises:
            OSError: No segment can be made; the journal is left without one.
        """
        self._close_segment()
        if self.header.sender != "thread" and self._cap.victim(self._full) is not None:
            self._forget_relayed()
        while (victim := self._cap.victim(self._full)) is not None:
            self._drop(victim, self._cap.reason)
            self._notice(
                self._cap.reason,
                f"Its oldest rows are lost, and counted, until {mask(self.header.url)} takes what waits.",
            )
        spare, self._spare = self._spare, None
        if spare is not None and not spare.path.exists():  # somebody deleted the folder
            spare.close()
            spare = None
        file = spare or self._allocate()
        number = self._number + 1
        path = segment_path(self.folder, number)
        try:
            size_bytes = 0 if file.map is None else self._segment_bytes
            head = replace(self.header, number=number, first_seq=self._next_seq, size_bytes=size_bytes).to_bytes()
            write_all(file.fd, head, 0)
            file.path.rename(path)
        except BaseException:
            file.close()
            raise
        self._number, self._first_seq = number, self._next_seq
        begin = len(head)
        self._segment = OpenSegment(
            path, file.fd, file.map, number=number, size_bytes=self._segment_bytes, begin=begin, at=begin
        )
        return self._segment

    def _close_segment(self) -> None:
        segment = self._segment
        if segment is not None:
            self._full[segment.number] = FullSegment(segment.at, self._first_seq, segment.events, segment.losses)
            self._segment = None
            segment.close()

    def _forget_relayed(self) -> None:
        """Law 6: the rows of these segments are acknowledged, whether their files are gone yet or not."""
        acknowledged_seq = read_mark(self.folder).acknowledged_seq
        begins = {number: full.first_seq for number, full in self._full.items()} | {self._number + 1: self._next_seq}
        before = max((number for number, first_seq in begins.items() if first_seq <= acknowledged_seq), default=0)
        self.trim(before, max(self.acknowledged_seq, acknowledged_seq))

    def _drop(self, number: int, reason: str) -> None:
        """Delete a full segment whose rows were not all acknowledged: law 4.

        Raises:
            OSError: Its lifecycle records can't be read now; it stays.
        """
        path = segment_path(self.folder, number)
        full = self._full.get(number)
        if full is None:
            return
        first_seq = max(full.first_seq, self.acknowledged_seq)
        records = lifecycle_of(path, full, first_seq)
        if self._full.pop(number, None) is None:
            return  # acknowledged just now
        for seq, payload in records:
            self._hold(seq, payload)
        later = [other.first_seq for other in self._full.values() if other.first_seq > full.first_seq]
        if self._segment is not None:
            later.append(self._first_seq)
        for place in [place for place in self._reserved.values() if place.number == number]:
            del self._reserved[place.seq]
        with contextlib.suppress(OSError):
            path.unlink()
        count = min(later, default=self._next_seq) - first_seq
        if count > 0:
            declared = [loss for seq, loss in full.losses if seq >= first_seq]
            self.rows_lost += count - len(records) - len(declared)
            for loss in (*declared, Loss(first_seq, count, reason)):
                self._waiting.add_loss(loss)

    def _hold(self, seq: int, payload: bytes) -> None:
        renumber = self._renumber
        if renumber is not None:
            with contextlib.suppress(ValueError, SchemaError):  # damaged on the disk: lost with the rows
                renumber(payload, 0)
                self._waiting.add_record(partial(renumber, payload), len(payload))
                self.moved.add(seq)

    def _make_folder(self) -> None:
        before, self._owner = self._owner, make_folder(self.folder, self.header.to_bytes(), self)
        if before >= 0:
            os.close(before)

    def _allocate(self) -> SegmentFile:
        """The writer's own next file; the sender's has another name."""
        path = self.folder / _FRESH
        try:
            return allocate(path, self._segment_bytes, mapped=self._mapped)
        except FileNotFoundError:
            self._make_folder()  # somebody deleted it, and what the full segments held
            self._notice(_DELETED, "What was not sent yet is lost, and counted; it goes on in a new one.")
            for number in sorted(self._full):
                self._drop(number, _DELETED)
            return allocate(path, self._segment_bytes, mapped=self._mapped)

    def _fail(self, error: OSError | ValueError) -> None:
        """The disk didn't take something: go on in another segment, after a while."""
        if self._sealed:
            return
        segment = self._segment
        self._close_segment()
        if segment is not None and segment.at == segment.begin:  # leave no heap of empty files
            self._full.pop(segment.number, None)
            with contextlib.suppress(OSError):
                segment.path.unlink()
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._reason = f"the journal couldn't be written: {getattr(error, 'strerror', error)}"
        self._notice(self._reason, "Training goes on; rows are lost, and counted, until it can be.")

    def _notice(self, cause: str, consequence: str) -> None:
        """Say what lasts: not now, for the lock is held, but when the call that holds it is done."""
        self._side.append(partial(NOTICES.say, cause, f"{self.folder}: {cause}. {consequence}"))

    def _drain_side(self) -> None:
        if self._is_draining:  # each append below ends here: a loop, or a thousand rows would be a thousand calls deep
            return
        self._is_draining = True
        try:
            while self._side and not self._busy:
                self._side.popleft()()
        finally:
            self._is_draining = False

    def forget(self) -> None:
        """In a forked child: let go of everything that is the parent's, without a lock and without writing."""
        self._sealed = self._is_closed = True
        self._lock = threading.RLock()  # a thread that isn't here may hold the old one
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._side.clear()
        self._waiting.clear()
        self._reserved.clear()
        segment, self._segment = self._segment, None
        spare, self._spare = self._spare, None
        for file in (segment, spare):
            if file is not None:
                file.close()
        if self._owner >= 0:
            os.close(self._owner)  # drops no lock: a child has none of its parent's
            self._owner = -1
