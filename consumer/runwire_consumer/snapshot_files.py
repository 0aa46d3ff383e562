"""The files of snapshots: their names and moments, which there are, and which of them stay; needs no engine."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runwire_consumer.errors import SnapshotFailed

NEWEST_KEPT = 3
DAYS_KEPT = 7

_NAME = re.compile(r"runwire-(\d{8}T\d{6}Z)\.duckdb")
_STAMP = "%Y%m%dT%H%M%SZ"
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that counts.

    Attributes:
        path: The file.
        taken_at: The moment whose state it holds, microseconds since the epoch.
        bytes: Size of the file.
    """

    path: Path
    taken_at: int
    bytes: int

    @property
    def moment(self) -> str:
        """When it was taken, for a person."""
        return spoken(self.taken_at)


def listed(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder, newest first; [] where there is no folder.

    Raises:
        SnapshotFailed: It is a file.
    """
    found = []
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise SnapshotFailed(f"{folder} is a file where the folder of snapshots belongs: move it away.") from None
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(ValueError, FileNotFoundError):
                found.append(Snapshot(Path(entry.path), micros_of(match[1]), entry.stat().st_size))
    return sorted(found, key=lambda one: one.taken_at, reverse=True)


def kept(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Which of them stay: the newest 3, and the last of each of the newest 7 days (UTC) that have one."""
    newest_first = sorted(snapshots, key=lambda one: one.taken_at, reverse=True)
    days: dict[int, Snapshot] = {}
    for one in newest_first:
        days.setdefault(one.taken_at // (86_400 * _SECOND), one)
    stay = {*newest_first[:NEWEST_KEPT], *list(days.values())[:DAYS_KEPT]}
    return [one for one in newest_first if one in stay]


def rotate(folder: Path, taken: Snapshot) -> list[Snapshot]:
    """Remove what `kept` leaves out; returns what went. The one just taken stays, even where the clock went back.

    Raises:
        SnapshotFailed: One of them can't be removed.
    """
    found = listed(folder)
    gone = [one for one in found if one not in {taken, *kept(found)}]
    for one in gone:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            raise SnapshotFailed(
                f"{taken.path.name} was taken, but the older {one.path} can't be removed: {error.strerror or error}."
            ) from error
    return gone


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as a JSON object."""
    return {"path": str(snapshot.path), "taken_at": snapshot.moment, "bytes": snapshot.bytes}


def spoken(micros: int) -> str:
    """A moment for a person: 2026-01-31 18:00:00 UTC."""
    return datetime.fromtimestamp(micros // _SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def stamp_of(micros: int) -> str:
    """A moment as part of a file's name: 20260131T180000Z."""
    return datetime.fromtimestamp(micros // _SECOND, UTC).strftime(_STAMP)


def micros_of(stamp: str) -> int:
    """The moment of a stamp.

    Raises:
        ValueError: It is none.
    """
    return int(datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()) * _SECOND
