"""Losses: ranges of rows that will never come, until they are declared; those that touch become one."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

REST_BYTES = 4_096
REASON_CHARACTERS_MAX = 160
_RANGES_MAX = 64
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows that will never come."""

    first_seq: int
    count: int
    reason: str


class Losses:
    """Losses that wait to be declared, oldest first."""

    def __init__(self) -> None:
        """None yet."""
        self._waiting: list[Loss] = []

    def __iter__(self) -> Iterator[Loss]:
        """Oldest first."""
        return iter(self._waiting)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __bool__(self) -> bool:
        """Whether one waits."""
        return bool(self._waiting)

    def add(self, loss: Loss) -> None:
        """Remember a loss; at the journal's cap the declarations alone would fill the disk if none became one."""
        first, end = loss.first_seq, loss.first_seq + loss.count
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.reason == loss.reason and first == last.first_seq + last.count:
            self._waiting[-1] = Loss(last.first_seq, last.count + loss.count, loss.reason)  # row by row on a full disk
            return
        apart = []
        for other in self._waiting:
            other_end = other.first_seq + other.count
            if other.reason == loss.reason and other.first_seq <= end and first <= other_end:
                first, end = min(first, other.first_seq), max(end, other_end)
            else:
                apart.append(other)
        self._waiting = [*apart, Loss(first, end - first, loss.reason)]

    def oldest(self) -> Loss:
        """The one to be declared next."""
        return self._waiting[0]

    def take(self) -> Loss:
        """The same, taken away: it is declared."""
        return self._waiting.pop(0)

    def clear(self) -> None:
        """Forget them all."""
        self._waiting.clear()


def pack_rest(next_seq: int, losses: list[Loss]) -> bytes:
    """What a journal couldn't write into its segments, in at most REST_BYTES: length, CRC-32, JSON.

    Args:
        next_seq: Rows 0 .. next_seq - 1 were given a number.
        losses: Those that were never declared. Where they don't fit, the last ones are named as one range: rows of it
            that arrived stay stored.
    """
    kept = sorted(losses, key=lambda loss: loss.first_seq)
    most = _RANGES_MAX
    while True:
        if len(kept) > most:
            first, last = kept[most - 1], kept[-1]
            kept[most - 1 :] = [Loss(first.first_seq, last.first_seq + last.count - first.first_seq, first.reason)]
        ranges = [[loss.first_seq, loss.count, loss.reason[:REASON_CHARACTERS_MAX]] for loss in kept]
        text = json.dumps([next_seq, ranges]).encode()
        if _HEAD.size + len(text) <= REST_BYTES:
            return _HEAD.pack(len(text), zlib.crc32(text)) + text
        most = len(kept) // 2


def unpack_rest(data: bytes) -> tuple[int, list[Loss]]:
    """(next_seq, losses) of `pack_rest`; (0, []) of anything else, such as the zeros of a journal that had no need."""
    try:
        length, crc = _HEAD.unpack_from(data)
        text = data[_HEAD.size : _HEAD.size + length]
        if not length or zlib.crc32(text) != crc:
            return 0, []
        next_seq, ranges = json.loads(text)
        return int(next_seq), [Loss(int(first), int(count), str(reason)) for first, count, reason in ranges]
    except (struct.error, ValueError, TypeError):
        return 0, []
