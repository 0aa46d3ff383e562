"""The journal an emitter writes: what `log()` returned from survives the death of the process.

`_segments.py` tells the files' layout and laws. This side adds:

1. One lock gives sequence numbers; lock order is sequence order. A call that interrupts another one of the same
   thread (a signal handler that logs) finds the journal busy and goes to a side queue, written when the first is done.
2. `published` moves when a record is whole; the sender reads only below it.
3. Where no segment can be made (disk full, folder gone), nothing raises into training. A row that finds no room is
   counted, and declared lost by a `RowsLost` record as soon as there is room; a lifecycle record waits for that room,
   in bounded memory (`_waiting.py`). What is wrong is said once a minute, by whoever has just let go of the lock.
4. At `journal_bytes_max` the oldest full segment goes: its rows are declared lost, its lifecycle records are written
   again with new numbers. What the sender has already read of it may still arrive, and is stored then. Segments that
   hold lifecycle records before all stay: of these alone a journal grows beyond its cap.
5. `seal` ends it: what is appended later is not kept, so the number of rows is final before the sender says it. What
   found no room until then is named in the lock file, whose blocks are there from the start: recovery declares it.
6. `reserve_row` gives a row its place and number before its values are there; `published` stops at the first such
   place until `fill_row` or `abandon_row`, which declares it lost, as `seal` and a recovery do.
7. Where a relay delivers, it deletes the segments whose rows are acknowledged, and says so (`_mark.py`): those are not
   lost at `journal_bytes_max`.
8. A forked child forgets its parent's journals before it runs a line of its own: neither map, file nor lock is used.

Promised: records survive SIGKILL of the process. Not promised: power loss (see `_fsync.py`); a count of the rows
that a full disk cost a process which then died without `seal`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
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
    REST_AT,
    FullSegment,
    KeySet,
    OpenSegment,
    Published,
    Reservation,
    SegmentFile,
    allocate,
    holders,
    make_folder,
    populate,
    release,
    remove_journal,
)
from runwire._losses import Loss
from runwire._mark import read_mark
from runwire._notices import Notices
from runwire._segments import (
    COMMIT,
    COMMIT_BYTES,
    COMMIT_WORD,
    CRC_AT,
    END,
    EVENT,
    KEYS,
    PENDING,
    RECORD_BYTES,
    ROW,
    SegmentHeader,
    StoredEvent,
    padded,
    segment_path,
)
from runwire._waiting import Waiting
from runwire_schemas.errors import SchemaError
from runwire_schemas.topics import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

RETRY_SECONDS = 1.0
_DELETED = "somebody deleted the journal's folder"
_SPARE, _FRESH = "spare", "fresh"
_CRC = struct.Struct("=I")
_crc32 = zlib.crc32  # looked up once: `append_row` runs millions of times


class _NoRoomError(Exception):
    """A row was counted as lost."""


class Journal:
    """Append-only rows and lifecycle records of one emitter, in one folder.

    Every method may be called from any thread, `append_*` also from a signal handler.
    """

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
        self._busy = False
        self._sealed = False
        self._is_closed = False
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
        self._notices = Notices(folder)
        self._renumber: Callable[[bytes, int], bytes] | None = None
        try:
            self._make_folder()
            self.place = file_system_of(self._owner)
            self._mapped = self.place.is_mappable
            self._open_segment()
        except OSError as error:
            self.close(delete=self._owner >= 0)
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

    @property
    def has_rest(self) -> bool:
        """Whether `take_rest` has something."""
        return bool(self._waiting)

    def append_row(self, keys: tuple[str, ...], step: int, time: int, values: tuple[float, ...] | list[float]) -> None:
        """Keep one row; its values must be floats, ints or bools.

        Args:
            keys: K names.
            step: Any int64.
            time: A reading of `CLOCK` in nanoseconds (microseconds since the epoch where the header has no anchor).
            values: K values.

        Raises:
            OverflowError: An int is beyond float64's range, or the step beyond 64 bits (nothing was written).
        """
        # `with`, because nothing can come between taking the lock and giving it back, not even KeyboardInterrupt.
        with self._lock:
            if self._busy:
                # No closure: its variables would be slow ones in every call.
                self._side.append(partial(self.append_row, keys, step, time, values))
                return
            self._busy = True
            try:
                segment = self._segment
                if segment is not None and keys is segment.last_keys:  # hashing them costs more than writing the row
                    key_set = segment.last_key_set
                else:
                    key_set = None if segment is None else segment.key_sets.get(keys)
                if key_set is None or segment is None or segment.at + key_set.record_bytes > segment.size_bytes:
                    segment, key_set = self._make_room(keys)
                seq = self._next_seq
                body = key_set.pack(key_set.length, key_set.kind, seq, step, time, *values)
                at = segment.at
                end = at + CRC_AT + len(body)
                mapped = segment.map
                if mapped is not None:
                    mapped[at + CRC_AT : end] = body
                    words = segment.words
                    word = at >> 2
                    words[word + 1] = _crc32(body)
                    words[word] = COMMIT
                else:
                    write_all(segment.fd, COMMIT_BYTES + _CRC.pack(_crc32(body)) + body, at)
                segment.at = end
                self._next_seq = seq + 1
                segment.last_keys, segment.last_key_set = keys, key_set
            except _NoRoomError:
                pass
            except struct.error as error:
                raise OverflowError("a value is beyond float64") from error
            except (OSError, ValueError) as error:  # ValueError: a handler that interrupted us has closed the map
                self._fail(error)
                self._lose()
            finally:
                self._busy = False
        if self._side:
            self._drain_side()

    def reserve_row(self, keys: tuple[str, ...], step: int, time: int) -> Reservation | None:
        """Number a row whose values come later; None where that can't be now: append it when they are there."""
        with self._lock:
            if self._busy or self._sealed:
                return None
            self._busy = True
            try:
                segment, key_set = self._make_room(keys, or_lose=False)
                kind = PENDING | key_set.kind & ~0xFF
                at, seq = segment.at, self._next_seq
                self._write(segment, kind, seq, bytes(key_set.length))
                place = Reservation(segment.number, at, seq, step, time, key_set)
                self._reserved[seq] = place
            except _NoRoomError:
                return None
            except OSError as error:
                self._fail(error)
                return None
            finally:
                self._busy = False
        if self._side:
            self._drain_side()
        return place

    def fill_row(self, place: Reservation, values: Sequence[float]) -> None:
        """The values of a reserved row; from now on it is one like any other."""
        body = place.body(values)
        with self._lock:
            if place.seq not in self._reserved:
                return  # dropped or sealed, and declared
            try:
                self._overwrite(place, body)
            except (OSError, ValueError) as error:
                self._fail(error)
                self._abandon(place, self._reason)
            self._reserved.pop(place.seq, None)

    def abandon_row(self, place: Reservation, reason: str) -> None:
        """The values of a reserved row will never come: it is declared lost."""
        with self._lock:
            if self._reserved.pop(place.seq, None) is not None:
                self._abandon(place, reason)
                self._settle_now()

    def append_event(self, make_payload: Callable[[int], bytes]) -> None:
        """Keep one lifecycle record; `make_payload` gets its sequence number, perhaps more than once."""
        with self._lock:
            if self._busy:
                self._side.append(lambda: self.append_event(make_payload))
                return
            self._busy = True
            try:
                self._append_event(make_payload)
            finally:
                self._busy = False
        if self._side:
            self._drain_side()

    def declare_loss(self, first_seq: int, count: int, reason: str) -> None:
        """Journal that rows will never come; the sender calls this, also after `seal`."""
        with self._lock:
            self._waiting.add_loss(Loss(first_seq, count, reason))
            self._settle_now()

    def lose(self, count: int, reason: str) -> None:
        """Number rows that were logged before there was a journal, and declare them lost."""
        with self._lock:
            self._waiting.add_loss(Loss(self._next_seq, count, reason))
            self.rows_lost += count
            self._next_seq += count
            self._settle_now()

    def give_up(self, number: int, reason: str) -> None:
        """Declare the rows of a full segment lost; the sender can't read it."""
        with self._lock:
            self._drop(number, reason)
            self._settle_now()

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

    def seal(self) -> None:
        """Accept nothing more; what waited for room is written if there is some now."""
        if self._side:
            self._drain_side()
        with self._lock:
            if self._sealed:
                return
            self._busy = True
            try:
                for place in self._reserved.values():
                    self._abandon(place, "its values hadn't come from the device")
                self._reserved.clear()
                segment = self._segment
                if segment is None and self._waiting:
                    segment = self._open_segment()
                count = self._waiting.records + 1
                while segment is not None:
                    self._settle(segment, 0)
                    if not 0 < self._waiting.records < count:  # losses alone aren't worth a segment and its rows
                        break
                    count, segment = self._waiting.records, self._open_segment()
                if segment is not None and segment.at + RECORD_BYTES <= segment.size_bytes:
                    self._write(segment, END, -1, b"")
            except OSError:
                pass  # `take_rest` has it still
            finally:
                self._keep_rest()
                self._sealed = True
                self._close_segment()
                self._busy = False

    def _keep_rest(self) -> None:
        """Name what found no room where there is always some, in case nobody takes it before the process ends."""
        if self._waiting and self._owner >= 0 and len(self.header.to_bytes()) <= REST_AT:
            with contextlib.suppress(OSError):
                write_all(self._owner, self._waiting.pack(self._next_seq), REST_AT)

    def take_rest(self) -> list[StoredEvent]:
        """After `seal`: the records for which there was no room, numbered, to be sent as they are."""
        with self._lock:
            rest = self._waiting.take(self._next_seq)
            self._next_seq += len(rest)
        return rest

    def close(self, *, delete: bool) -> None:
        """Give files and lock back; `delete` also removes the folder, when all is acknowledged. Never raises."""
        self.seal()
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

    def _append_event(self, make_payload: Callable[[int], bytes]) -> None:
        if self._sealed:
            return
        payload_bytes = len(make_payload(self._next_seq)) + 16
        if self._oversize(payload_bytes + RECORD_BYTES) or not self._waiting.has_room_for(payload_bytes):
            self._lose()
            return
        # Held first, written from there: a failure on the way leaves it where it is.
        self._waiting.add_record(make_payload, payload_bytes)
        try:
            segment = self._segment_for(2 * RECORD_BYTES + payload_bytes)
            if segment is not None:
                self._settle(segment, 0)
        except (OSError, ValueError) as error:
            self._fail(error)

    def _write(self, segment: OpenSegment, kind: int, seq: int, payload: bytes) -> None:
        body = struct.pack("<IIqqq", len(payload), kind, seq, 0, 0) + payload
        record = _CRC.pack(_crc32(body)) + body + bytes(-len(payload) % 8)
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

    def _overwrite(self, place: Reservation, body: bytes) -> None:
        """Make a reserved place a row; half done, its CRC is wrong."""
        segment, start, end = self._segment, place.at + CRC_AT, place.at + CRC_AT + len(body)
        if segment is not None and segment.number == place.number and segment.map is not None:
            segment.map[start:end] = body
            segment.words[(place.at >> 2) + 1] = _crc32(body)
            return
        fd = os.open(segment_path(self.folder, place.number), os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(fd, _CRC.pack(_crc32(body)) + body, place.at + COMMIT_WORD.size)
        finally:
            os.close(fd)

    def _abandon(self, place: Reservation, reason: str) -> None:
        self._waiting.add_loss(Loss(place.seq, 1, reason))
        self.rows_lost += 1

    def _make_room(self, keys: tuple[str, ...], *, or_lose: bool = True) -> tuple[OpenSegment, KeySet]:
        """A segment with room for the next row, and its key set.

        Raises:
            _NoRoomError: There is none: the row is counted as lost, unless that isn't wanted, or behind the seal.
            OSError: The disk didn't take the key set.
        """
        if self._sealed:
            raise _NoRoomError
        definition = json.dumps(keys).encode()
        need = 2 * RECORD_BYTES + len(definition) + 8 + 8 * len(keys)
        segment = None if self._oversize(need) else self._segment_for(need)
        if segment is None:
            if or_lose:
                self._lose()
            raise _NoRoomError
        self._settle(segment, need)
        key_set = segment.key_sets.get(keys)
        if key_set is None:
            kind = ROW | len(segment.key_sets) << 8
            self._write(segment, KEYS | kind & ~0xFF, -1, definition)
            key_set = KeySet.of(kind, len(keys))
            segment.key_sets[keys] = key_set
        return segment, key_set

    def _oversize(self, need: int) -> bool:
        if need <= self._segment_bytes // 2:
            return False
        self._reason = f"a record of {need} bytes fits no segment of {self._segment_bytes} bytes"
        return True

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
        if self._notices.is_due(cause):
            self._side.append(partial(self._notices.say, cause, consequence))

    def _lose(self) -> None:
        """Count one row, or record, as lost."""
        if self._sealed:
            return
        self._waiting.add_loss(Loss(self._next_seq, 1, self._reason))
        self.rows_lost += 1
        self._next_seq += 1

    def _settle_now(self) -> None:
        if self._segment is not None and not self._busy:
            try:
                self._settle(self._segment, 0)
            except OSError as error:
                self._fail(error)

    def _settle(self, segment: OpenSegment, need: int) -> None:
        """Write what waits for room, as far as so much room is left.

        Raises:
            OSError: The disk didn't take it; it waits on.
        """
        while (payload := self._waiting.payload(self._next_seq)) is not None:
            if segment.at + RECORD_BYTES + len(payload) + 8 + need > segment.size_bytes:
                return
            seq = self._next_seq
            self._write(segment, EVENT, seq, payload)
            loss = self._waiting.pop()
            if loss is None:
                segment.events.append((segment.at - len(padded(payload)), len(payload)))
            else:
                segment.losses.append((seq, loss))

    def _drain_side(self) -> None:
        while self._side and not self._busy:
            try:
                append = self._side.popleft()
            except IndexError:
                return  # another thread was faster
            append()

    def forget(self) -> None:
        """In a forked child: let go of everything that is the parent's, without a lock and without writing."""
        self._sealed = self._is_closed = True
        self._lock = threading.RLock()  # a thread that isn't here may hold the old one
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


def _forget_all() -> None:
    for holder in holders():
        if isinstance(holder, Journal):
            holder.forget()


os.register_at_fork(after_in_child=_forget_all)
