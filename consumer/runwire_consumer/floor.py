"""The free-space floor: the writer stops while it still can, so that the disk's end is never met inside a write.

A full disk is the one fault that a database meets while it repairs the last one. So before each batch free bytes are
compared with a floor; below it nothing is begun, reads go on, and writing resumes by itself when there is room.

The floor is the larger of: a reserve of 64 MiB, on a small disk a twentieth of it, for what others write between
two looks; and twice the WAL with four times the batch, because a checkpoint writes beside the WAL at most what
it holds, and a point takes 9 to 19 bytes in a message, at most 28 in the store before it is compressed.
"""

from __future__ import annotations

import os
from pathlib import Path

from runwire_consumer.errors import StoreFull

RESERVE_BYTES = 64 * 2**20
RESERVE_SHARE = 20  # of the disk, at most one part in so many


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the disk of a folder."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def reserve_bytes(folder: Path) -> int:
    """What stays free of the disk of a folder in any case."""
    disk = os.statvfs(folder)
    return min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)


def floor_bytes(reserve: int, wal: int, batch: int) -> int:
    """Free bytes without which a batch isn't begun."""
    return max(reserve, 2 * wal + 4 * batch)


def too_full(folder: Path | str, free: int, floor: int) -> str:
    """What is said when less is free than the floor, a sentence."""
    return (
        f"The disk of {folder} is almost full: {free // 2**20:,} MiB are free, and below "
        f"{floor // 2**20 + 1:,} MiB nothing is written."
    )


def check_floor(folder: Path, wal: int, batch: int) -> None:
    """Look at the disk before a batch; one system call.

    Raises:
        StoreFull: Less is free than the floor.
    """
    free, floor = free_bytes(folder), floor_bytes(reserve_bytes(folder), wal, batch)
    if free < floor:
        raise StoreFull(too_full(folder, free, floor))
