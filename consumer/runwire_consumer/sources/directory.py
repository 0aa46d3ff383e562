"""The `dir:` source: takes complete blocks from the files of a topic folder, which may lie on a shared file system.

A partition is a file, its offset the byte where the next block starts; what doesn't stand complete yet is left for
later, so a torn tail of a dead writer is simply never read, and told of once it stands still. Files that grew lately
are looked at on every poll, all others at the slower pace of a scan.

A position has a mark, the check sum of the bytes before it: a file that was replaced, cut or put back from a copy is
found out by it and read again from its start (the ledger leaves out what is stored), whatever its name and size. What
may be gone with it, or with a file that was removed before it was read, becomes a dead letter that names the bytes.

Only regular files with names in UTF-8 are read, and no link is followed: whoever may write into the folder shall not
have foreign files read out. An entry that can't be read is told of once and tried again; it keeps nothing waiting.
"""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
import stat
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runwire_consumer.sources import Message, Position, SourceStatus
from runwire_schemas.folder import (
    BLOCK_BYTES_MAX,
    HEADER_BYTES_MAX,
    SUFFIX,
    Damage,
    FolderError,
    RawBlock,
    decode_block,
    parse_header,
    split_blocks,
)

LOOK_INTERVAL_SECONDS = 0.03
SCAN_INTERVAL_SECONDS = 0.25
SCAN_SHARE_MAX = 0.05  # of the time, on slow or very full folders
ACTIVE_SECONDS = 10.0
READ_BYTES_MAX = 4 * 2**20
POLL_BYTES_MAX = 16 * 2**20
HEAD_BYTES_MAX = 1024
TORN_TAIL_SECONDS = 60.0
MARK_BYTES = 512  # of the block before: the sync marker, its last values, of a small one also its time
RETRY_SECONDS = 1.0

_PROCESS_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # they say nothing about the file
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """One file and how far it is read."""

    path: Path
    offset: int
    sync: bytes = b""
    size: int = 0
    looked_at_size: int = -1  # a look at this size found nothing more to take
    grown_at: float = 0.0
    alien: bool = False
    retry_at: float = 0.0  # while it can't be read
    torn_told: bool = False
    inode: int = 0
    mark: str = ""  # of the bytes before the offset; "" where they aren't known
    doubted: bool = False  # it is smaller than it was, or another file: the mark is to be compared

    @property
    def waiting_bytes(self) -> int:
        """Bytes that a look may find blocks in; neither a torn tail nor a file that can't be read counts."""
        if self.doubted and not self.retry_at:
            return max(self.size, 1)
        if self.alien or self.retry_at or self.size == self.looked_at_size:
            return 0
        return max(self.size - self.offset, 0)

    @property
    def torn_bytes(self) -> int:
        """Bytes at the end that are no block yet."""
        return max(self.size - self.offset, 0) if not self.alien and self.size == self.looked_at_size else 0


class DirectorySource:
    """Reads every file of one folder; reading happens in a thread, for the folder may be far away."""

    def __init__(self, folder: Path, name: str) -> None:
        """`name` is the URL under which the store keeps the offsets."""
        self._folder = folder
        self._name = name
        self._files: dict[str, _File] = {}
        self._positions: dict[str, Position] = {}
        self._next_scan = 0.0
        self._scan_seconds = 0.0
        self._trouble = ""
        self._surveyed = False
        self._told: set[str] = set()
        self._lost: list[Message] = []
        self._anomalies: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Its URL."""
        return self._name

    async def start(self, positions: Mapping[str, Position]) -> None:
        """Begin behind these positions."""
        self._positions = dict(positions)

    async def poll(self, max_wait_seconds: float) -> list[Message]:
        """The next messages, as whole blocks; at most about POLL_BYTES_MAX of them."""
        deadline = time.monotonic() + max_wait_seconds
        while True:
            found = await asyncio.to_thread(self._look)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            await asyncio.sleep(min(LOOK_INTERVAL_SECONDS, left))

    async def commit(self, positions: Mapping[str, Position]) -> None:
        """A folder has no lag tools."""

    def status(self) -> SourceStatus:
        """How many bytes wait in which file."""
        lag = {name: file.waiting_bytes for name, file in list(self._files.items()) if file.waiting_bytes}
        return SourceStatus(not self._trouble, lag, self._trouble, dict(self._anomalies), self._surveyed)

    async def close(self) -> None:
        """No file stays open between two looks."""

    def _look(self) -> list[Message]:
        """Take what stands complete, the files in the order of their names."""
        now = time.monotonic()
        try:
            if now >= self._next_scan:
                self._scan(now)
            else:
                self._refresh(now)
            self._trouble = ""
        except OSError as error:
            self._trouble = f"Folder {self._folder} can't be read: {error.strerror}."
            self._next_scan = now + 1.0
            return []
        found, self._lost = self._lost, []
        budget = POLL_BYTES_MAX
        for name in sorted(self._files):
            file = self._files[name]
            if file.retry_at and now >= file.retry_at:
                file.retry_at = 0.0
            stands_still = now - file.grown_at >= TORN_TAIL_SECONDS and not file.torn_told
            if stands_still and file.torn_bytes:
                file.looked_at_size = -1  # a network file system may have shown the size before the bytes
            while file.waiting_bytes and budget > 0:
                before = file.offset
                try:
                    found += self._read(name, file)
                except OSError as error:
                    self._unreadable(name, file, error, now)
                    break
                budget -= max(file.offset - before, 0)
                if file.offset == before:
                    break
            if stands_still and file.torn_bytes:
                self._tell_torn(file)
        self._surveyed = True
        return found

    def _scan(self, now: float) -> None:
        """Find new files and the size of each."""
        sizes: dict[str, tuple[int, int]] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and (size := self._size_of(entry)) is not None:
                        sizes[entry.name] = size
        except FileNotFoundError:
            if self._files:
                raise
            # It comes with the first sender; a reader makes no folders.
        for name in self._files.keys() - sizes.keys():
            self._remove(name, self._files.pop(name))
        for name, (bytes_there, inode) in sizes.items():
            if name not in self._files:
                offset, mark = self._positions.get(name, (0, ""))
                self._files[name] = _File(self._folder / name, offset, inode=inode, mark=mark)
            self._grow(self._files[name], bytes_there, inode, now)
        took_seconds = time.monotonic() - now
        # One look alone that took long is no slow folder: this machine stood still.
        cost_seconds, self._scan_seconds = min(took_seconds, self._scan_seconds), took_seconds
        self._next_scan = now + max(SCAN_INTERVAL_SECONDS, cost_seconds / SCAN_SHARE_MAX)

    def _size_of(self, entry: os.DirEntry[str]) -> tuple[int, int] | None:
        """Bytes and inode of an entry, or None where it is none that we read."""
        if not _is_utf8(entry.name):
            self._pass_over(entry.name, "its name is not UTF-8")
            return None
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._pass_over(entry.name, f"it can't be looked at: {error.strerror}")
            known = self._files.get(entry.name)
            return (known.size, known.inode) if known else None
        if not stat.S_ISREG(status.st_mode):
            self._pass_over(entry.name, "it is no regular file")
            return None
        return status.st_size, status.st_ino

    def _refresh(self, now: float) -> None:
        """The size of those files that grew lately."""
        for file in self._files.values():
            if now - file.grown_at < ACTIVE_SECONDS:
                try:
                    status = os.lstat(file.path)
                except OSError:
                    self._next_scan = now  # it says whether the file or the folder is gone
                else:
                    self._grow(file, status.st_size, status.st_ino, now)

    def _remove(self, name: str, file: _File) -> None:
        """A file is gone; what of it was known and not read is lost."""
        self._positions[name] = (file.offset, file.mark)  # should it come back
        if file.waiting_bytes and not file.doubted:
            self._anomalies["file_removed"] += 1
            reason = f"The file was removed before its bytes {file.offset} to {file.size - 1} were read."
            self._lose(name, file, (file.offset, file.mark), reason)

    def _read_again(self, name: str, file: _File) -> list[Message]:
        """The file isn't the one that was read, or not all of it: begin at its start."""
        self._anomalies["file_replaced"] += 1
        self._lose(
            name,
            file,
            (0, ""),
            "The file was replaced, cut or put back from an older copy: it is read again from its start, and what is "
            f"stored already is left out. Whatever followed byte {file.offset} before may be gone unread.",
        )
        file.offset, file.sync, file.mark, file.doubted, file.alien = 0, b"", "", False, False
        file.looked_at_size, file.torn_told = -1, False
        found, self._lost = self._lost, []
        return found

    def _lose(self, name: str, file: _File, go_on: Position, reason: str) -> None:
        _log.warning("%a: %s", str(file.path), reason)
        offset, mark = go_on
        self._lost.append(Message(self._name, name, file.offset, offset, _now_us(), {}, b"", mark, reason))

    def _pass_over(self, name: str, reason: str) -> None:
        """Tell once per name that an entry isn't read."""
        if name not in self._told:
            self._told.add(name)
            self._anomalies["entry_passed_over"] += 1
            _log.warning("Entry %a of %s is passed over: %s.", name, self._folder, reason)

    def _unreadable(self, name: str, file: _File, error: OSError, now: float) -> None:
        """Try a file again later; the others go on."""
        if error.errno in _PROCESS_ERRORS:
            self._trouble = f"File {file.path} can't be read: {error.strerror}."
            return
        file.retry_at = now + RETRY_SECONDS
        if not isinstance(error, FileNotFoundError):  # else the next scan leaves it out
            self._pass_over(name, f"it can't be read: {error.strerror}")

    def _tell_torn(self, file: _File) -> None:
        """Tell once per file that its end is no block; it is read on when it grows."""
        file.torn_told = True
        self._anomalies["torn_tail"] += 1
        _log.warning(
            "The last %d bytes of %a are no complete block, and the file hasn't grown for %d s: "
            "its writer died or the file is damaged. They are left alone unless it grows.",
            file.torn_bytes,
            str(file.path),
            TORN_TAIL_SECONDS,
        )

    def _grow(self, file: _File, size: int, inode: int, now: float) -> None:
        file.doubted = file.doubted or ((size < file.offset or inode != file.inode) and file.offset > 0)
        if inode != file.inode:
            file.looked_at_size = -1
            file.inode = inode
        if size != file.size:
            file.grown_at = now
        file.size = size

    def _read(self, name: str, file: _File) -> list[Message]:
        """The complete blocks behind the file's offset, as far as one read reaches."""
        with _open(file.path) as stream:
            if file.mark and file.mark != _mark_of(_bytes_before(stream, file.offset)):
                return self._read_again(name, file)
            if file.doubted and os.fstat(stream.fileno()).st_size < file.offset:
                return self._read_again(name, file)
            if file.doubted:
                file.doubted, file.sync = False, b""
            stream.seek(0)
            if not file.sync:
                head = _read_all(stream.fileno(), HEADER_BYTES_MAX)
                if not self._read_header(file, head):
                    return self._alien_message(name, file, head[:HEAD_BYTES_MAX])
            size = file.size
            before = _bytes_before(stream, file.offset)
            data, parts = b"", list[RawBlock | Damage]()
            want = READ_BYTES_MAX
            while not parts:
                stream.seek(file.offset)
                data = _read_all(stream.fileno(), min(want, size - file.offset))
                parts = split_blocks(data, file.sync)
                if want > BLOCK_BYTES_MAX or file.offset + want >= size:
                    break
                want *= 4
        if not parts:
            file.looked_at_size = size
            return []
        found = [message for part in parts for message in self._messages(name, file.offset, before, data, part)]
        file.mark = _mark_of((before + data[: parts[-1].end])[-MARK_BYTES:])
        file.offset += parts[-1].end
        return found

    def _read_header(self, file: _File, data: bytes) -> bool:
        """True when the file is ours or may still become so."""
        try:
            header = parse_header(data)
        except FolderError:
            file.alien = True
            return False
        if header is None:
            file.looked_at_size = file.size
            return False
        file.sync = header[0]
        file.offset = max(file.offset, header[1])
        return True

    def _alien_message(self, name: str, file: _File, head: bytes) -> list[Message]:
        """One dead letter for a file that is none of ours; none while its header is being written."""
        if not file.alien:
            return []
        if file.offset > 0:
            self._pass_over(name, "it is no topic file, or its header was damaged after a part of it was read")
            return []
        self._anomalies["alien_file"] += 1
        file.offset = max(file.size, 1)
        reason = "The file is no topic file of Runwire; it is left alone."
        return [Message(self._name, name, 0, file.offset, 0, {}, head, damage=reason)]

    def _messages(self, name: str, base: int, before: bytes, data: bytes, part: RawBlock | Damage) -> list[Message]:
        start, end = base + part.start, base + part.end
        begin_mark, end_mark = (
            _mark_of((before + data[max(at - MARK_BYTES, 0) : at])[-MARK_BYTES:]) for at in (part.start, part.end)
        )
        head = data[part.start : part.end][:HEAD_BYTES_MAX]
        if isinstance(part, Damage):
            self._anomalies["damaged_block"] += 1
            reason = f"Bytes {start} to {end} of the file are no block."
            return [Message(self._name, name, start, end, _now_us(), {}, head, end_mark, reason)]
        try:
            records = decode_block(part)
        except FolderError as error:
            self._anomalies["damaged_block"] += 1
            return [Message(self._name, name, start, end, _now_us(), {}, head, end_mark, str(error))]
        last = len(records) - 1
        # A cut in the middle of a block goes on at the block's start: the ledger leaves out what is stored.
        return [
            Message(
                source=self._name,
                partition=name,
                offset=start + number,
                next_offset=end if number == last else start,
                appended_at=record.appended,
                headers=record.fields,
                payload=record.payload,
                anchor=end_mark if number == last else begin_mark,
            )
            for number, record in enumerate(records)
        ]


def _open(path: Path) -> io.FileIO:
    """A regular file, to be read; neither a link is followed nor a pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return io.FileIO(descriptor)


def _bytes_before(stream: io.FileIO, offset: int) -> bytes:
    """Up to MARK_BYTES before an offset; fewer where the file doesn't reach so far."""
    stream.seek(max(offset - MARK_BYTES, 0))
    return _read_all(stream.fileno(), min(MARK_BYTES, offset))


def _mark_of(data: bytes) -> str:
    return f"{zlib.crc32(data):08x} {len(data)}" if data else ""


def _is_utf8(name: str) -> bool:
    """Python reads other bytes in a name as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_all(descriptor: int, count: int) -> bytes:
    """Up to `count` bytes from where the file stands; less only at its end."""
    parts = []
    while count > 0 and (part := os.read(descriptor, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _now_us() -> int:
    return time.time_ns() // 1_000
