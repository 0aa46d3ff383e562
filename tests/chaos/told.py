"""What each writer was told, and what its points look like: both sides of the audit agree on this.

A writer is one process that logs: a trainer, or a child that it forked. Row n of writer w holds KEYS values, and each
value says whose it is: `value(w, n, k)`, an integer that a double holds exactly. How many of a writer's `log()` calls
have returned stands in a mapped file, which SIGKILL leaves as it is: one little-endian int64 a writer of the trainer.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

KEYS = 10
KEY_BITS = 4
ROW_BITS = 22
WRITERS = 16
"""Of one trainer: itself and the children that it forks."""

METRICS = tuple(f"chaos/{key}" for key in range(KEYS))
_COUNT = struct.Struct("<q")


def value(writer: int, row: int, key: int) -> float:
    """The value of one key in one row of one writer."""
    return float(((writer << ROW_BITS) + row << KEY_BITS) + key)


def writer_of(trainer: int, place: int) -> int:
    """The number of a trainer's writer among all."""
    return trainer * WRITERS + place


class Counters:
    """The counters of one trainer's writers."""

    def __init__(self, path: Path) -> None:
        """Map them; the file is made where it is missing."""
        if not path.exists():
            path.write_bytes(bytes(WRITERS * _COUNT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), WRITERS * _COUNT.size)

    def returned(self, place: int, rows: int) -> None:
        """So many calls of a writer have returned."""
        _COUNT.pack_into(self._map, place * _COUNT.size, rows)

    def rows(self) -> list[int]:
        """How many calls have returned, a writer."""
        return list(struct.unpack(f"<{WRITERS}q", self._map))
