"""Rows that take their place in the journal before their values are there.

`reserve_row` writes a PENDING record: committed, numbered, of the size that its row will have. `fill_row` makes it a
row in place, body first and check sum last, so that half of it is a damaged record and never a wrong value. Until then
`published` stops before it. `abandon_row` declares it lost, as `seal`, the cap and a recovery do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from zlib import crc32

from runwire._disk import write_all
from runwire._journal import Journal, NoRoomError
from runwire._journal_files import Reservation
from runwire._segment_writer import CRC
from runwire._segments import COMMIT_WORD, CRC_AT, PENDING, segment_path

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReservingJournal(Journal):
    """A journal that also takes rows whose values come later."""

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
            except NoRoomError:
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

    def _overwrite(self, place: Reservation, body: bytes) -> None:
        """Make a reserved place a row; half done, its CRC is wrong."""
        segment, start, end = self._segment, place.at + CRC_AT, place.at + CRC_AT + len(body)
        if segment is not None and segment.number == place.number and segment.map is not None:
            segment.map[start:end] = body
            segment.words[(place.at >> 2) + 1] = crc32(body)
            return
        fd = os.open(segment_path(self.folder, place.number), os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(fd, CRC.pack(crc32(body)) + body, place.at + COMMIT_WORD.size)
        finally:
            os.close(fd)
