"""The journal's files: what a segment looks like, and how one is read, by its writer's sender or after its death.

    JOURNAL/<emitter id>/owner          lock file: whoever holds its lockf is the emitter, or recovers a dead one;
                                        holds a segment's header too, for the day when theirs are damaged
    JOURNAL/<emitter id>/000000.seg ..  segments, preallocated, never recycled, never appended to by another process

A segment is `SegmentHeader` (magic, length, CRC-32, JSON) padded to 8 bytes, then records, then zeros. A record:

    commit u32 | crc u32 | length u32 | kind u32 | seq i64 | step i64 | time i64 | payload, padded to 8 bytes

    time          of the clock that no one sets, nanoseconds, to be added to the header's anchor; microseconds since the
                  epoch where there is none
    kind & 0xFF   ROW: float64 values of key set (kind >> 8); KEYS: JSON list that defines key set (kind >> 8);
                  EVENT: a lifecycle record, Avro single-object; END: empty, the emitter ended by itself;
                  PENDING: as ROW, but its values are still to come: then it becomes one in place
    length        bytes of payload without padding; seq is -1 for KEYS and END, which take no sequence number
    crc           CRC-32 of everything behind it, padding left out

Laws:

1. Payload and CRC are written first, the commit word last: a record counts only when both are right. (One write of
   the whole record is not atomic for another process.)
2. A segment is self-contained: it defines each key set before a row uses it.
3. Sequence numbers rise by one from record to record, across segments too. Where a reader meets a damaged record, it
   goes on at the next good one; the numbers between are a loss that has to be declared. So is one record behind the
   last good one where anything but zeros stands for its commit word: it was whole once.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runwire._errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

ROW, KEYS, EVENT, END, PENDING = 1, 2, 3, 4, 5
SUFFIX = ".seg"
OWNER = "owner"

COMMIT = 0x57525543
COMMIT_BYTES = struct.pack("<I", COMMIT)
COMMIT_WORD = struct.Struct("=I")
RECORD = struct.Struct("<IIIIqqq")
_RECORD_HEAD = struct.Struct("<IIIIq")  # up to the number
RECORD_BYTES = RECORD.size
CRC_AT = 8  # the CRC covers what follows itself

_MAGIC = b"RWSEG\0\0\1"
_HEAD = struct.Struct("<8sII")
_CHUNK_BYTES = 2**20
_FOLLOW_BYTES = 2**18  # of each of many journals that one process follows
_HEADER_BYTES_MAX = 2**16


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment knows about its emitter, so that it can be sent by whoever finds it."""

    project: str
    run_id: str
    emitter_id: str
    attempt: str
    rank: int
    url: str
    number: int
    first_seq: int
    size_bytes: int = 0  # of a preallocated file; 0 where it grows with each record
    anchor_ns: int | None = None  # see `_clock.py`: what makes a row's time nanoseconds since the epoch
    sender: str = "thread"  # who delivers while the emitter lives: thread (its own), relay, or none (mode offline)

    def to_bytes(self) -> bytes:
        """The segment's first bytes, a multiple of 8."""
        text = json.dumps(asdict(self)).encode()
        return padded(_HEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text)


@dataclass(frozen=True, slots=True)
class Rows:
    """R consecutive rows with the same K keys.

    Attributes:
        first_seq: Sequence number of the first.
        steps: R steps.
        times: R times, microseconds.
        values: R x K values.
    """

    keys: tuple[str, ...]
    first_seq: int
    steps: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def count(self) -> int:
        """R."""
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A lifecycle record as the journal holds it."""

    seq: int
    payload: bytes
    count: int = 1

    @property
    def first_seq(self) -> int:
        """Its one sequence number."""
        return self.seq


def padded(data: bytes) -> bytes:
    """Filled up with zeros to a multiple of 8 bytes."""
    return data + bytes(-len(data) % 8)


def segment_path(folder: Path, number: int) -> Path:
    """Where an emitter's n-th segment lies."""
    return folder / f"{number:06d}{SUFFIX}"


def segment_numbers(folder: Path) -> list[int]:
    """The segments in a journal folder, oldest first."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdecimal())


class SegmentReader:
    """Reads one segment's records in order, by `pread`: the page cache shows what the writer's mapping holds.

    Attributes:
        header: The segment's own, or `otherwise` where that is damaged.
        has_header: Whether the segment's own could be read.
        next_seq: Number behind the last record that `recover` or `follow` passed over or handed out.
        pending: Numbers of rows whose values never came, as far as read.
        has_ended: Whether `recover` met the record that ends a journal.

    Raises:
        JournalError: On construction, when the header is unreadable and there is none to use instead.
    """

    def __init__(self, path: Path, otherwise: SegmentHeader | None = None) -> None:
        # Neither a link to elsewhere nor a pipe that nobody writes to may stand for a segment.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            header, self._at = _read_header(self._fd, path, or_none=otherwise is not None)
        except BaseException:
            os.close(self._fd)
            raise
        self._path = path
        self.has_header = header is not None
        self.header: SegmentHeader = header or otherwise  # type: ignore[assignment]
        self._size = os.fstat(self._fd).st_size
        self._keys: dict[int, tuple[str, ...]] = {}
        self.next_seq = 0
        self.pending: list[int] = []
        self.has_ended = False

    @property
    def offset(self) -> int:
        """Where the next record begins."""
        return self._at

    def reopen(self) -> None:
        """The writer has put another file with the same content in this one's place: read on there.

        Raises:
            OSError: It can't be opened.
        """
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)

    def read(self, end: int, rows_max: int) -> Iterator[Rows | StoredEvent]:
        """Records up to byte `end`, which the writer of this very process has published: they are whole."""
        while self._at < end:
            chunk = os.pread(self._fd, min(_CHUNK_BYTES, end - self._at), self._at)
            if len(chunk) >= RECORD_BYTES and _record_bytes(chunk, 0) > len(chunk):
                chunk = os.pread(self._fd, _record_bytes(chunk, 0), self._at)
            base, at = self._at, 0
            while at + RECORD_BYTES <= len(chunk) and at + _record_bytes(chunk, at) <= len(chunk):
                found, at = self._take(chunk, at, rows_max)
                self._at = base + at
                if found is not None:
                    yield found
            if at == 0:
                return

    def follow(self, next_seq: int, rows_max: int) -> Iterator[Rows | StoredEvent]:
        """Whole records behind those handed out, of a writer that lives in another process; each is checked.

        Ends in front of a record that isn't whole yet or whose kind isn't final (or known): ask again later.
        """
        while os.pread(self._fd, COMMIT_WORD.size, self._at) == COMMIT_BYTES:  # a quiet journal costs one call
            data = os.pread(self._fd, _FOLLOW_BYTES, self._at)
            if len(data) >= RECORD_BYTES and len(data) < _record_bytes(data, 0) <= os.fstat(self._fd).st_size:
                data = os.pread(self._fd, _record_bytes(data, 0), self._at)
            end, next_seq = _whole(data, next_seq)
            if end == 0:
                return
            self.next_seq = next_seq
            stretch, base, inside = data[:end], self._at, 0
            while inside < end:
                found, inside = self._take(stretch, inside, rows_max)
                self._at = base + inside
                if found is not None:
                    yield found

    @property
    def is_at_end(self) -> bool:
        """Whether no record begins where `follow` stopped."""
        return not any(os.pread(self._fd, COMMIT_WORD.size, self._at))

    def recover(self, next_seq: int, rows_max: int) -> Iterator[Rows | StoredEvent]:
        """Every good record from `next_seq` on, of a writer that is dead; each is checked.

        Damaged records are passed over: the caller sees a jump in the sequence, at the end by `self.next_seq`.
        """
        self.next_seq = next_seq
        yield from self.follow(next_seq, rows_max)  # nearly always all, and cheaper
        data = os.pread(self._fd, self._size, 0)
        end = self._at
        at = _next_good(data, end, self.next_seq)
        while at is not None:
            # Collect an unbroken good stretch first, so that rows can be taken in bulk.
            start, taken, seq = at, 0, max(_seq(data, at), self.next_seq)
            while taken < rows_max and _is_good(data, at) and (taken == 0 or _seq(data, at) in (-1, seq)):
                seq = max(_seq(data, at) + 1, seq)
                at += _record_bytes(data, at)
                taken += 1
            stretch, inside = data[start:at], 0
            while inside < len(stretch):
                found, inside = self._take(stretch, inside, rows_max)
                if found is not None:
                    yield found
            self.next_seq = max(self.next_seq, seq)
            end, at = at, _next_good(data, at, self.next_seq)
        if end and any(data[end : end + COMMIT_WORD.size]) and self._was_whole(data, end):
            self.next_seq += 1

    def _was_whole(self, data: bytes, at: int) -> bool:
        """Whether the damaged record behind the last good one took a number, and isn't cut by the end of the file."""
        if at + RECORD_BYTES > len(data):
            return False
        is_cut = at + _record_bytes(data, at) > len(data) != self.header.size_bytes
        has_seq = _seq(data, at) != -1 and data[at + 12] not in (KEYS, END)
        return not is_cut and (has_seq or _seq(data, at) == self.next_seq)

    def _take(self, data: bytes, at: int, rows_max: int) -> tuple[Rows | StoredEvent | None, int]:
        """The record at `at`, with all rows of the same key set that follow it: (what it is, where the next begins)."""
        _, _, length, kind, seq, _, _ = RECORD.unpack_from(data, at)
        end = at + _record_bytes(data, at)
        payload_at = at + RECORD_BYTES
        if kind & 0xFF == KEYS:
            self._keys[kind >> 8] = tuple(json.loads(data[payload_at : payload_at + length]))
        elif kind & 0xFF == EVENT:
            return StoredEvent(seq, data[payload_at : payload_at + length]), end
        elif kind & 0xFF == END:
            self.has_ended = True
        elif kind & 0xFF == PENDING:
            self.pending.append(seq)
        elif kind & 0xFF == ROW:
            keys = self._keys.get(kind >> 8)
            rows = _same_rows(data, at, length, kind, rows_max)
            end = at + rows.nbytes
            if keys is not None:  # else its definition was damaged: a loss, like the numbers of a damaged record
                times, anchor_ns = rows["time"], self.header.anchor_ns
                times = times if anchor_ns is None else (times + anchor_ns) // 1000
                return Rows(keys, seq, rows["step"], times, rows["values"]), end
        return None, end


def parse_header(data: bytes) -> tuple[SegmentHeader, int]:
    """The header that `data` begins with, and its length.

    Raises:
        ValueError: There is none.
    """
    try:
        magic, length, crc = _HEAD.unpack_from(data)
        text = data[_HEAD.size : _HEAD.size + length]
        if magic != _MAGIC or zlib.crc32(text) != crc:
            raise ValueError("marker or check sum are wrong")
        return SegmentHeader(**json.loads(text)), len(padded(data[: _HEAD.size + length]))
    except (struct.error, TypeError) as error:
        raise ValueError(str(error)) from error


def _read_header(fd: int, path: Path, *, or_none: bool) -> tuple[SegmentHeader | None, int]:
    try:
        return parse_header(os.pread(fd, _HEADER_BYTES_MAX, 0))
    except ValueError as error:
        if or_none:
            return None, 0
        raise JournalError(f"Journal segment {path} has no readable header: {error}.") from error


@lru_cache(maxsize=256)
def _row_type(keys: int) -> Any:
    import numpy as np  # noqa: PLC0415 - not before the sender needs it: `import runwire` stays light

    fields = [("commit", "<u4"), ("crc", "<u4"), ("length", "<u4"), ("kind", "<u4"), ("seq", "<i8")]
    return np.dtype([*fields, ("step", "<i8"), ("time", "<i8"), ("values", "<f8", (keys,))])


def _same_rows(data: bytes, at: int, length: int, kind: int, rows_max: int) -> Any:
    """The rows from `at` on that have the first one's key set and follow it without a jump, at least one.

    A number between can be missing: that of a record which was larger than a segment takes, and is declared lost.
    """
    import numpy as np  # noqa: PLC0415 - see above

    row_type = _row_type(length // 8)
    count = min((len(data) - at) // row_type.itemsize, rows_max)
    following = at + row_type.itemsize
    if data[following + 8 : following + 16] != data[at + 8 : at + 16]:  # length and kind: a run of one needs no search
        count = 1
    rows = np.frombuffer(data, row_type, count, at)
    if count > 1:
        same = (rows["kind"] == kind) & (rows["length"] == length) & (rows["commit"] == COMMIT)
        same &= rows["seq"] == np.arange(count) + rows["seq"][0]
        if not same.all():
            rows = rows[: int(same.argmin())]
    return rows


def _record_bytes(data: bytes, at: int) -> int:
    length: int = struct.unpack_from("<I", data, at + 8)[0]
    return RECORD_BYTES + length + (-length % 8)


def _seq(data: bytes, at: int) -> int:
    seq: int = struct.unpack_from("<q", data, at + 16)[0]
    return seq


def _is_good(data: bytes, at: int) -> bool:
    if at + RECORD_BYTES > len(data) or data[at : at + 4] != COMMIT_BYTES:
        return False
    crc, length = struct.unpack_from("<II", data, at + 4)
    end = at + RECORD_BYTES + length
    return bool(end <= len(data) and zlib.crc32(memoryview(data)[at + CRC_AT : end]) == crc)


def _whole(data: bytes, seq: int) -> tuple[int, int]:
    """How far records are whole, final, and numbered from `seq` on without a jump: (their end, the next number).

    Only the first may jump ahead: what was lost there, the writer declares.
    """
    view, at, crc32, unpack = memoryview(data), 0, zlib.crc32, _RECORD_HEAD.unpack_from
    while at + RECORD_BYTES <= len(data):
        commit, crc, length, kind, number = unpack(data, at)
        end = at + RECORD_BYTES + length
        if commit != COMMIT or end > len(data) or crc32(view[at + CRC_AT : end]) != crc:
            break
        if kind & 0xFF in (ROW, EVENT) and (number == seq or (at == 0 and number > seq)):
            seq = number + 1
        elif kind & 0xFF not in (KEYS, END):
            break
        at = end + (-length % 8)
    return at, seq


def _next_good(data: bytes, at: int, next_seq: int) -> int | None:
    """Where the next good record of `next_seq` or later begins (KEYS and END count whatever they hold)."""
    while at >= 0:
        if at % 8 == 0 and _is_good(data, at):
            if _seq(data, at) == -1 or _seq(data, at) >= next_seq:
                return at
            at += _record_bytes(data, at)
        else:
            at = data.find(COMMIT_BYTES, at + 1)
    return None
