"""Losses: ranges of rows that will never come, until they are declared; those that touch become one."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
        self._waiting: list[list[Any]] = []  # first_seq, count, reason of each

    def __iter__(self) -> Iterator[Loss]:
        """Oldest first."""
        return (Loss(*one) for one in self._waiting)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __bool__(self) -> bool:
        """Whether one waits."""
        return bool(self._waiting)

    def add(self, loss: Loss) -> None:
        """Remember a loss; at the journal's cap the declarations alone would fill the disk if none became one."""
        first, end = loss.first_seq, loss.first_seq + loss.count
        apart = []
        for other in self._waiting:
            other_first, other_count, reason = other
            if reason == loss.reason and other_first <= end and first <= other_first + other_count:
                first, end = min(first, other_first), max(end, other_first + other_count)
            else:
                apart.append(other)
        self._waiting = [*apart, [first, end - first, loss.reason]]

    def add_row(self, seq: int, reason: str) -> None:
        """The same of one row: with a full disk they come one after the other, each inside of a `log()`."""
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last[2] is reason and last[0] + last[1] == seq:
            last[1] += 1
        else:
            self.add(Loss(seq, 1, reason))

    def oldest(self) -> Loss:
        """The one to be declared next."""
        return Loss(*self._waiting[0])

    def take(self) -> Loss:
        """The same, taken away: it is declared."""
        return Loss(*self._waiting.pop(0))

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
