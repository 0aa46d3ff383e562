"""Files and locks of a journal's folder: made, reserved, claimed and removed so that no two processes mix them up.

1. A folder is locked before it gets the name that recovery looks at: nobody can take a newborn for a dead one.
2. A process's POSIX lock on a file is gone as soon as the process closes any descriptor of that file: a folder that
   this process holds is never opened a second time (`claim`).
3. A folder whose rows are all acknowledged goes at once for whoever looks, by a rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runwire._disk import write_all
from runwire._segments import OWNER, RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runwire._losses import Loss

SENT = ".sent"
_LAST_WORD = "killed-by-"
# The lock file holds the header's copy and, behind it, room that is there also when the disk is full.
REST_AT = 4_096
OWNER_BYTES = 8_192
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_POPULATE_BYTES = 2**18
# Folders that this process writes or recovers, by name, with their holders.
_OURS: dict[str, object] = {}


@dataclass(slots=True)
class SegmentFile:
    """A segment's file before it is one."""

    path: Path
    fd: int
    map: mmap.mmap | None
    words: memoryview = field(default=memoryview(b""))  # the map as 32-bit words: writing one of them is one store

    def __post_init__(self) -> None:
        """Look at the map."""
        if self.map is not None:
            self.words = memoryview(self.map).cast("I")

    def close(self) -> None:
        """Give map and file back; never raises."""
        self.words.release()
        mapped, self.map = self.map, None
        fd, self.fd = self.fd, -1
        # A failed close says that data didn't reach the disk: no more than what power loss does.
        with contextlib.suppress(OSError, BufferError):
            if mapped is not None:
                mapped.close()
        with contextlib.suppress(OSError):
            os.close(fd)


@dataclass(slots=True)
class KeySet:
    """A tuple of keys as one segment knows it."""

    kind: int
    pack: Callable[..., bytes]
    length: int
    record_bytes: int

    @classmethod
    def of(cls, kind: int, keys: int) -> KeySet:
        """The key set `kind` of so many keys."""
        # As with "<" there is no padding, but native floats are packed in a third of the time.
        return cls(kind, struct.Struct(f"@IIqqq{keys}d").pack, 8 * keys, RECORD_BYTES + 8 * keys)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A row's place in the journal, numbered, whose values are still to come: byte `at` of segment `number`."""

    number: int
    at: int
    seq: int
    step: int
    time: int
    key_set: KeySet

    def body(self, values: Sequence[float]) -> bytes:
        """What the CRC covers, with these values."""
        key_set = self.key_set
        return key_set.pack(key_set.length, key_set.kind, self.seq, self.step, self.time, *values)


@dataclass(slots=True)
class OpenSegment(SegmentFile):
    """The segment that is being written."""

    number: int = 0
    size_bytes: int = 0
    begin: int = 0
    at: int = 0
    key_sets: dict[tuple[str, ...], KeySet] = field(default_factory=dict)
    last_keys: tuple[str, ...] | None = None
    last_key_set: KeySet | None = None
    events: list[tuple[int, int]] = field(default_factory=list)
    losses: list[tuple[int, Loss]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FullSegment:
    """A segment that waits for its acknowledgements: its end, its first row, where its lifecycle records lie.

    Attributes:
        events: Offset and length of each payload.
        losses: What is declared lost in it, with the number of the record that does.
    """

    end: int
    first_seq: int
    events: list[tuple[int, int]]
    losses: list[tuple[int, Loss]]


@dataclass(frozen=True, slots=True)
class Published:
    """How far the journal is whole: byte `offset` of segment `number`."""

    number: int
    offset: int
    next_seq: int


def make_folder(folder: Path, head: bytes, holder: object) -> int:
    """Make a journal's folder and take its lock, held by the returned descriptor; `head` is kept beside the segments.

    Raises:
        OSError: It can't be made; nothing is left of it.
    """
    newborn = folder.with_name(f".{folder.name}")
    newborn.mkdir(parents=True, mode=0o700)
    owner = os.open(newborn / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(owner, head.ljust(OWNER_BYTES, b"\0"), 0)
        newborn.rename(folder)
    except BaseException:
        os.close(owner)
        remove_journal(newborn)
        raise
    _OURS[folder.name] = holder
    return owner


def allocate(path: Path, size_bytes: int, *, mapped: bool) -> SegmentFile:
    """A file of zeros; `mapped` reserves its blocks and maps it.

    Raises:
        OSError: The folder is gone, or has no room for it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if not mapped:
            return SegmentFile(path, fd, None)
        os.posix_fallocate(fd, 0, size_bytes)
        return SegmentFile(path, fd, mmap.mmap(fd, size_bytes))
    except BaseException:
        os.close(fd)
        raise


def last_word_path(folder: Path, signum: int) -> Path:
    """What is written when this signal kills the emitter; empty for as long as it doesn't."""
    return folder / f"{_LAST_WORD}{signum}"


def last_signal(folder: Path) -> int | None:
    """The signal that killed the emitter, if it left a word."""
    for path in folder.glob(f"{_LAST_WORD}*"):
        with contextlib.suppress(OSError, ValueError):
            if path.lstat().st_size:
                return int(path.name.removeprefix(_LAST_WORD))
    return None


def claim(folder: Path) -> bool:
    """Take a folder for this process, before its lock file is touched; False when this process has it already."""
    token = object()
    return _OURS.setdefault(folder.name, token) is token


def release(folder: Path) -> None:
    """Undo `claim`."""
    _OURS.pop(folder.name, None)


def remove_journal(folder: Path) -> None:
    """Delete an emitter's folder whose rows are all acknowledged: at once for whoever looks; never raises."""
    with contextlib.suppress(OSError):
        gone = folder.with_name(f".{folder.name.lstrip('.').removesuffix(SENT)}{SENT}")
        if gone != folder:
            folder.rename(gone)
        for path in gone.iterdir():
            path.unlink(missing_ok=True)
        gone.rmdir()


def populate(mapped: mmap.mmap) -> None:
    """Fault the pages in now, in small steps: the writer's calls don't pay for it, nor wait for the GIL."""
    try:
        for start in range(0, len(mapped), _POPULATE_BYTES):
            mapped.madvise(_POPULATE_WRITE, start, min(_POPULATE_BYTES, len(mapped) - start))
            time.sleep(0)
    except (OSError, AttributeError):
        return  # an older kernel, or no Linux: the pages come one by one


def _forget_all() -> None:
    """A forked child holds none of its parent's folders: journals forget them before it runs a line of its own."""
    found = list(_OURS.values())
    _OURS.clear()
    for holder in found:
        forget = getattr(holder, "forget", None)
        if forget is not None:
            forget()


os.register_at_fork(after_in_child=_forget_all)
