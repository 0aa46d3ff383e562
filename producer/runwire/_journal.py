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
import json
import struct
import time
import zlib
from functools import partial
from typing import TYPE_CHECKING

from runwire._disk import write_all
from runwire._journal_files import (
    REST_AT,
    KeySet,
    OpenSegment,
    Reservation,
)
from runwire._losses import Loss
from runwire._segment_writer import CRC, SegmentWriter
from runwire._segments import (
    COMMIT,
    COMMIT_BYTES,
    CRC_AT,
    END,
    EVENT,
    KEYS,
    RECORD_BYTES,
    ROW,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Looked up once: `append_row` runs millions of times.
_crc32 = zlib.crc32
_monotonic = time.monotonic


class NoRoomError(Exception):
    """A row was counted as lost."""


class Journal(SegmentWriter):
    """Append-only rows and lifecycle records of one emitter, in one folder.

    Every method may be called from any thread, `append_*` also from a signal handler.
    """

    @property
    def has_rest(self) -> bool:
        """Whether `take_rest` has something."""
        return bool(self._waiting)

    def append_row(  # noqa: C901, PLR0915 - one piece: calls cost
        self, keys: tuple[str, ...], step: int, time: int, values: tuple[float, ...] | list[float]
    ) -> None:
        """Keep one row; its values must be floats, ints or bools.

        Args:
            keys: K names.
            step: Any int64.
            time: A reading of `CLOCK` in nanoseconds (microseconds since the epoch where the header has no anchor).
            values: K values.

        Raises:
            OverflowError: An int is beyond float64's range, or the step beyond 64 bits (nothing was written).
        """
        # Twice as fast as `with`, and as safe: where KeyboardInterrupt comes right behind taking the lock, it is given
        # back too.
        try:
            self._acquire()
            if self._busy:
                # Refused here if at all, and not in the call that is interrupted.
                _check_range(step, values)
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
                    if segment is None and _monotonic() < self._retry_at:  # at once: a full disk may last
                        self._lose()
                        return
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
                    write_all(segment.fd, COMMIT_BYTES + CRC.pack(_crc32(body)) + body, at)
                segment.at = end
                self._next_seq = seq + 1
                segment.last_keys, segment.last_key_set = keys, key_set
            except NoRoomError:
                pass
            except struct.error as error:
                raise OverflowError("a value is beyond float64") from error
            except (OSError, ValueError) as error:  # ValueError: a handler that interrupted us has closed the map
                self._fail(error)
                self._lose()
            finally:
                self._busy = False
        finally:
            try:  # noqa: SIM105 - a context manager again
                self._release()
            except RuntimeError:  # interrupted while it waited: another thread has it
                pass
        if self._side:
            self._drain_side()

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
            if self._sealed:  # the sender trims these rows now, and may not live to declare them
                self._keep_rest()

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
                count = len(self._waiting.records) + 1
                while segment is not None:
                    self._settle(segment, 0)
                    if not 0 < len(self._waiting.records) < count:  # losses alone aren't worth a segment and its rows
                        break
                    count, segment = len(self._waiting.records), self._open_segment()
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
        self._give_back(delete=delete)

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

    def _abandon(self, place: Reservation, reason: str) -> None:
        self._waiting.add_loss(Loss(place.seq, 1, reason))
        self.rows_lost += 1

    def _make_room(self, keys: tuple[str, ...], *, or_lose: bool = True) -> tuple[OpenSegment, KeySet]:
        """A segment with room for the next row, and its key set.

        Raises:
            NoRoomError: There is none: the row is counted as lost, unless that isn't wanted, or behind the seal.
            OSError: The disk didn't take the key set.
        """
        if self._sealed:
            raise NoRoomError
        definition = json.dumps(keys).encode()
        need = 2 * RECORD_BYTES + len(definition) + 8 + 8 * len(keys)
        segment = None if self._oversize(need) else self._segment_for(need)
        if segment is None:
            if or_lose:
                self._lose()
            raise NoRoomError
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

    def _lose(self) -> None:
        """Count one row, or record, as lost."""
        if self._sealed:
            return
        self._waiting.add_lost_row(self._next_seq, self._reason)
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
            seq, at, is_record = self._next_seq, segment.at + RECORD_BYTES, bool(self._waiting.records)
            self._write(segment, EVENT, seq, payload)
            if is_record:
                self._waiting.records.popleft()  # at once: KeyboardInterrupt in between would write it twice
                segment.events.append((at, len(payload)))
            else:
                segment.losses.append((seq, self._waiting.take_loss()))


def _check_range(step: int, values: Sequence[float]) -> None:
    try:
        struct.pack(f"<q{len(values)}d", step, *values)
    except struct.error as error:
        raise OverflowError("a value is beyond float64") from error
