"""Which file system a folder lies on: mapping a file is safe on some only."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Local ones known to be safe: a reserved block can be written through a mapping without SIGBUS.
MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "apfs"})
UNKNOWN = "unknown"
_FIELDS_MIN = 5
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks and backslashes of a mount point


def kind_of(folder: Path, mounts: str | None = None) -> str:
    """The file system's name as in /proc/self/mountinfo, or "unknown" (also outside Linux).

    Args:
        folder: An existing folder.
        mounts: Text to read instead of /proc/self/mountinfo.
    """
    if mounts is None:
        if not sys.platform.startswith("linux"):
            return UNKNOWN
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - pathlib's import is not free
                mounts = file.read()
        except OSError:
            return UNKNOWN
    path = os.path.realpath(folder)
    best, kind = -1, UNKNOWN
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < _FIELDS_MIN or not right:
            continue
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # The last of equal mount points hides the earlier ones.
        if inside and len(point) >= best:
            best, kind = len(point), right.split()[0]
    return kind


def is_mappable(folder: Path) -> bool:
    """Whether segments in this folder may be mapped; elsewhere `pwrite` is used."""
    return kind_of(folder) in MAPPABLE
