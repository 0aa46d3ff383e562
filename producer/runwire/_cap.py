"""The journal's size cap: how large segments are under it, which one goes when it is reached, and what is kept of it.

The policy: metric rows go, the oldest first and a whole segment at a time; each range of them is declared lost. A
lifecycle record never goes: it is copied forward before its segment is deleted. A segment that lifecycle records fill
by half or more is passed over, for copying it forward would free next to nothing: where such records alone are more
than the cap, the journal is larger than it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from runwire._segments import RECORD, RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runwire._journal_files import FullSegment

SEGMENT_BYTES_MAX = 8 * 2**20
SEGMENT_BYTES_MIN = 2 * 2**20  # half of it takes the longest record there is: a row's 256 KiB of names as JSON
SEGMENTS_MIN = 4
JOURNAL_BYTES_MAX = 8 * 2**30
JOURNAL_BYTES_MIN = 8 * SEGMENT_BYTES_MIN
# What is wrong with a file for good; anything else, such as too many open files, is worth another try.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO})


def segment_bytes_for(journal_bytes_max: int) -> int:
    """Size of a segment: small under a small cap, so that what goes at once is at most an eighth of it."""
    return max(SEGMENT_BYTES_MIN, min(SEGMENT_BYTES_MAX, journal_bytes_max // 8))


class Cap:
    """How many segments a journal may have."""

    def __init__(self, journal_bytes_max: int, segment_bytes: int) -> None:
        """All segments together keep to `journal_bytes_max`, but never to fewer than four."""
        self._segment_bytes = segment_bytes
        self._segments_max = max(SEGMENTS_MIN, journal_bytes_max // segment_bytes)
        self.reason = f"the journal reached {self._segments_max * segment_bytes:,} bytes"

    def victim(self, full: Mapping[int, FullSegment]) -> int | None:
        """The full segment that has to go before another one begins; None where none has to, or none may."""
        if len(full) + 2 <= self._segments_max:  # the next one and its spare count too
            return None
        return min((number for number, segment in full.items() if not self._is_kept(segment)), default=None)

    def _is_kept(self, segment: FullSegment) -> bool:
        return 2 * sum(length for _, length in segment.events) >= self._segment_bytes


def lifecycle_of(path: Path, full: FullSegment, from_seq: int) -> list[tuple[int, bytes]]:
    """Number and payload of a full segment's lifecycle records from number `from_seq` on.

    Those that can't be read any more are left out.

    Raises:
        OSError: The file can't be opened now, but perhaps later; the segment must not go yet.
    """
    if not full.events:
        return []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            records = [os.pread(fd, RECORD_BYTES + length, at - RECORD_BYTES) for at, length in full.events]
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise
    numbered = [
        (RECORD.unpack_from(record)[4], record[RECORD_BYTES:]) for record in records if len(record) > RECORD_BYTES
    ]
    return [(seq, payload) for seq, payload in numbered if seq >= from_seq]
