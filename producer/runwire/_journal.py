"""The journal an emitter writes: what `log()` returned from survives the death of the process.

`_segments.py` tells the files' layout and laws. This side adds:

1. One lock gives sequence numbers; lock order is sequence order. A call that interrupts another one of the same
   thread (a signal handler that logs) finds the journal busy and goes to a side queue, written when the first is done.
2. `published` moves when a record is whole; the sender reads only below it.
3. A segment that can't be made (disk full, folder gone) never raises into training: its rows are counted, and
   declared lost by a `RowsLost` record as soon as a segment can be made again.

Promised: records survive SIGKILL of the process. Not promised: power loss (nothing is fsynced).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runwire._errors import JournalError
from runwire._filesystem import is_mappable
from runwire._segments import (
    COMMIT,
    COMMIT_BYTES,
    COMMIT_WORD,
    EVENT,
    KEYS,
    OWNER,
    RECORD_BYTES,
    ROW,
    SegmentHeader,
    segment_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEGMENT_BYTES = 8 * 2**20
RETRY_SECONDS = 1.0
# Journals this process writes: their locks are ours already, and opening their files would drop them.
_OURS: set[str] = set()
_SPARE = "spare"
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_POPULATE_BYTES = 2**18
_CRC = struct.Struct("=I")


@dataclass(slots=True)
class KeySet:
    """A tuple of keys as one segment knows it."""

    kind: int
    pack: Callable[..., bytes]
    length: int


@dataclass(frozen=True, slots=True)
class Published:
    """How far the journal is whole: byte `offset` of segment `number`."""

    number: int
    offset: int
    next_seq: int


@dataclass(slots=True)
class _Segment:
    """The segment that is being written."""

    number: int
    fd: int
    size_bytes: int
    at: int
    map: mmap.mmap | None
    key_sets: dict[tuple[str, ...], KeySet] = field(default_factory=dict)

    def close(self) -> None:
        if self.map is not None:
            self.map.close()
        os.close(self.fd)


class Journal:
    """Append-only rows and lifecycle records of one emitter, in one folder.

    Every method may be called from any thread, `append_*` also from a signal handler.
    """

    def __init__(self, folder: Path, header: SegmentHeader, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Make the folder, take its lock, open the first segment.

        Args:
            folder: Must not exist; its name is the emitter's id.
            header: Written into each segment; number and first_seq are filled in.
            segment_bytes: Size of a segment; a record of up to half of it fits.

        Raises:
            JournalError: The folder can't be made or written.
        """
        self.folder = folder
        self.header = header
        self.ends: dict[int, int] = {}
        self.rows_lost = 0
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._busy = False
        self._side: deque[Callable[[], None]] = deque()
        self._next_seq = 0
        self._segment: _Segment | None = None
        self._number = -1
        self._spare: tuple[int, mmap.mmap | None] | None = None
        self._lost: list[tuple[int, int]] = []
        self._retry_at = 0.0
        self._make_lost_event: Callable[[int, int, int, str], bytes] | None = None
        self._loss_reason = ""
        try:
            # Locked before it gets the name that recovery looks at: nobody can take it for a dead one's.
            newborn = folder.with_name(f".{folder.name}")
            newborn.mkdir(parents=True, mode=0o700)
            self._owner = os.open(newborn / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _OURS.add(folder.name)
            newborn.rename(folder)
            self._mapped = is_mappable(folder)
            self._open_segment()
        except OSError as error:
            raise JournalError(f"Journal folder {folder} can't be written: {error.strerror}.") from error

    def on_loss(self, make_event: Callable[[int, int, int, str], bytes]) -> None:
        """Set who encodes the `RowsLost` record: (its seq, first_seq, count, reason) -> payload."""
        self._make_lost_event = make_event

    @property
    def next_seq(self) -> int:
        """Sequence numbers assigned so far."""
        return self._next_seq

    @property
    def published(self) -> Published:
        """How far the sender may read."""
        with self._lock:
            segment = self._segment
            if segment is None:
                return Published(self._number, self.ends.get(self._number, 0), self._next_seq)
            return Published(segment.number, segment.at, self._next_seq)

    def append_row(
        self, keys: tuple[str, ...], step: int, time_us: int, values: tuple[float, ...] | list[float]
    ) -> None:
        """Keep one row; its values must be floats, ints or bools.

        Raises:
            OverflowError: An int is beyond float64's range (nothing was written).
        """
        lock = self._lock
        lock.acquire()
        try:
            if self._busy:
                self._side.append(lambda: self.append_row(keys, step, time_us, values))
                return
            self._busy = True
            try:
                segment = self._segment
                key_set = None if segment is None else segment.key_sets.get(keys)
                if (
                    segment is None
                    or key_set is None
                    or segment.at + RECORD_BYTES + key_set.length > segment.size_bytes
                ):
                    segment, key_set = self._make_room(keys)
                    if segment is None or key_set is None:
                        return
                seq = self._next_seq
                body = key_set.pack(key_set.length, key_set.kind, seq, step, time_us, *values)
                at = segment.at
                record = _CRC.pack(zlib.crc32(body)) + body
                if segment.map is not None:
                    segment.map[at + 4 : at + 4 + len(record)] = record
                    COMMIT_WORD.pack_into(segment.map, at, COMMIT)
                else:
                    os.pwrite(segment.fd, COMMIT_BYTES + record, at)
                segment.at = at + 4 + len(record)
                self._next_seq = seq + 1
            except OSError as error:
                self._fail(error)
            finally:
                self._busy = False
        finally:
            lock.release()
        if self._side:
            self._drain_side()

    def append_event(self, make_payload: Callable[[int], bytes]) -> None:
        """Keep one lifecycle record; `make_payload` gets its sequence number."""
        with self._lock:
            if self._busy:
                self._side.append(lambda: self.append_event(make_payload))
                return
            self._busy = True
            try:
                self._append_event(make_payload)
            except OSError as error:
                self._fail(error)
            finally:
                self._busy = False
        if self._side:
            self._drain_side()

    def prepare(self) -> None:
        """Make the next segment ready before it is needed; the sender calls this now and then."""
        if self._spare is not None:
            return
        try:
            spare = self._allocate()
        except OSError:
            return  # the writer will meet it, and say so
        if spare[1] is not None:
            _populate(spare[1])
        with self._lock:
            self._spare = spare

    def trim(self, number: int) -> None:
        """Delete every full segment before segment `number`: all of its rows are acknowledged."""
        for old in [n for n in self.ends if n < number]:
            segment_path(self.folder, old).unlink(missing_ok=True)
            del self.ends[old]

    def close(self, *, delete: bool) -> None:
        """Give files and lock back; `delete` also removes the folder, when all is acknowledged."""
        with self._lock:
            if self._segment is not None:
                self.ends[self._segment.number] = self._segment.at
                self._segment.close()
                self._segment = None
                self._retry_at = float("inf")
            if self._spare is not None:
                fd, mapped = self._spare
                if mapped is not None:
                    mapped.close()
                os.close(fd)
                (self.folder / _SPARE).unlink(missing_ok=True)
                self._spare = None
        if delete:
            remove_journal(self.folder)
        os.close(self._owner)
        _OURS.discard(self.folder.name)

    def _append_event(self, make_payload: Callable[[int], bytes]) -> None:
        payload_bytes = len(make_payload(self._next_seq))
        segment, _ = self._make_room(None, payload_bytes + 16)
        if segment is None:
            return
        # Made again: declaring a loss in front of it may have taken its number.
        payload = make_payload(self._next_seq)
        self._write(segment, EVENT, self._next_seq, payload)
        self._next_seq += 1

    def _write(self, segment: _Segment, kind: int, seq: int, payload: bytes) -> None:
        body = struct.pack("<IIqqq", len(payload), kind, seq, 0, 0) + payload
        record = _CRC.pack(zlib.crc32(body)) + body + bytes(-len(payload) % 8)
        if segment.map is not None:
            segment.map[segment.at + 4 : segment.at + 4 + len(record)] = record
            COMMIT_WORD.pack_into(segment.map, segment.at, COMMIT)
        else:
            os.pwrite(segment.fd, COMMIT_BYTES + record, segment.at)
        segment.at += 4 + len(record)

    def _make_room(
        self, keys: tuple[str, ...] | None, payload_bytes: int = 0
    ) -> tuple[_Segment | None, KeySet | None]:
        """A segment with room for the next record, and its key set; (None, None) counts the row as lost."""
        definition = b"" if keys is None else json.dumps(keys).encode()
        need = 2 * RECORD_BYTES + len(definition) + 8 + payload_bytes + (8 * len(keys) if keys else 0)
        segment = self._segment
        if segment is None or segment.at + need > segment.size_bytes:
            if need > self._segment_bytes // 2:
                self._lose(f"a record of {need} bytes fits no segment of {self._segment_bytes} bytes")
                return None, None
            if segment is None and time.monotonic() < self._retry_at:
                self._lose(self._loss_reason)
                return None, None
            try:
                segment = self._open_segment()
            except OSError as error:
                self._lose(f"the journal couldn't be written: {error.strerror}")
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return None, None
        self._declare_loss(segment)
        if keys is None:
            return segment, None
        key_set = segment.key_sets.get(keys)
        if key_set is None:
            kind = ROW | len(segment.key_sets) << 8
            self._write(segment, KEYS | kind & ~0xFF, -1, definition)
            key_set = KeySet(kind, struct.Struct(f"<IIqqq{len(keys)}d").pack, 8 * len(keys))
            segment.key_sets[keys] = key_set
        return segment, key_set

    def _open_segment(self) -> _Segment:
        """Begin the next segment; the one before stays on disk until it is trimmed.

        Raises:
            OSError: No segment can be made; the journal is left without one.
        """
        if self._segment is not None:
            self.ends[self._segment.number] = self._segment.at
            self._segment.close()
            self._segment = None
        fd, mapped = self._spare or self._allocate()
        self._spare = None
        try:
            head = replace(self.header, number=self._number + 1, first_seq=self._next_seq).to_bytes()
            os.pwrite(fd, head, 0)
            (self.folder / _SPARE).rename(segment_path(self.folder, self._number + 1))
        except OSError:
            if mapped is not None:
                mapped.close()
            os.close(fd)
            raise
        self._number += 1
        self._segment = _Segment(self._number, fd, self._segment_bytes, len(head), mapped)
        return self._segment

    def _allocate(self) -> tuple[int, mmap.mmap | None]:
        """A file of zeros whose blocks are reserved, under the spare's name."""
        fd = os.open(self.folder / _SPARE, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if not self._mapped:
                return fd, None
            os.posix_fallocate(fd, 0, self._segment_bytes)
            return fd, mmap.mmap(fd, self._segment_bytes)
        except BaseException:
            os.close(fd)
            raise

    def _fail(self, error: OSError) -> None:
        """A write failed (`pwrite` only: a mapping has its blocks): go on in another segment."""
        if self._segment is not None:
            self.ends[self._segment.number] = self._segment.at
            self._segment.close()
            self._segment = None
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._lose(f"the journal couldn't be written: {error.strerror}")

    def _lose(self, reason: str) -> None:
        if self._lost and sum(self._lost[-1]) == self._next_seq:
            first, count = self._lost.pop()
            self._lost.append((first, count + 1))
        else:
            self._lost.append((self._next_seq, 1))
        self._loss_reason = reason
        self.rows_lost += 1
        self._next_seq += 1

    def _declare_loss(self, segment: _Segment) -> None:
        while self._lost and self._make_lost_event is not None:
            payload = self._make_lost_event(self._next_seq, *self._lost[0], self._loss_reason)
            if segment.at + RECORD_BYTES + len(payload) + 8 > segment.size_bytes:
                return
            self._write(segment, EVENT, self._next_seq, payload)
            self._next_seq += 1
            self._lost.pop(0)

    def _drain_side(self) -> None:
        while self._side:
            try:
                append = self._side.popleft()
            except IndexError:
                return  # another thread was faster
            append()


def is_ours(folder: Path) -> bool:
    """Whether this very process writes the journal in `folder`."""
    return folder.name in _OURS


def remove_journal(folder: Path) -> None:
    """Delete an emitter's folder whose rows are all acknowledged; the lock file goes last."""
    for path in sorted(folder.glob("*"), key=lambda path: path.name == OWNER):
        path.unlink(missing_ok=True)
    folder.rmdir()


def _populate(mapped: mmap.mmap) -> None:
    """Fault the pages in now, in small steps: the writer's calls don't pay for it, nor wait for the GIL."""
    try:
        for start in range(0, len(mapped), _POPULATE_BYTES):
            mapped.madvise(_POPULATE_WRITE, start, min(_POPULATE_BYTES, len(mapped) - start))
            time.sleep(0)
    except OSError:
        return  # an older kernel: the pages come one by one
