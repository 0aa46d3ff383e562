"""Bringing files to the disk itself, behind the page cache: what survives power loss."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# macOS: fsync stops at the drive's own cache.
_FULL_FSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_COPY_BYTES = 2**20


def write_all(fd: int, data: bytes, at: int) -> None:
    """`pwrite`; after a short one, which doesn't say why, the rest is tried: that does.

    Raises:
        OSError: The disk didn't take all of it.
    """
    while (written := os.pwrite(fd, data, at)) < len(data):
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, at = data[written:], at + written


def to_disk(fd: int) -> None:
    """Return when a file's bytes, also those written through a mapping, and its size are on the disk.

    Raises:
        OSError: They are not; asking the same file again proves nothing, for the kernel calls its pages clean now.
    """
    if _FULL_FSYNC is not None:
        fcntl.fcntl(fd, _FULL_FSYNC)
    else:
        os.fdatasync(fd)


def folder_to_disk(folder: Path) -> None:
    """Return when the names in a folder are on the disk.

    Raises:
        OSError: They are not.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing to do for a folder
            raise
    finally:
        os.close(fd)


def copy_to_disk(path: Path, into: Path, used_bytes: int) -> None:
    """Put another file with the same content, of which `used_bytes` are not zeros, in a file's place.

    Args:
        path: The file, whose pages the disk didn't take: they are read from memory while it still has them.
        into: A free name in the same folder.
        used_bytes: How much of it is copied.

    Raises:
        OSError: The disk doesn't take the copy either; `path` is what it was.
    """
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for at in range(0, used_bytes, _COPY_BYTES):
                write_all(target, os.pread(source, min(_COPY_BYTES, used_bytes - at), at), at)
            os.ftruncate(target, os.fstat(source).st_size)
            to_disk(target)
            into.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                into.unlink()
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)
    folder_to_disk(path.parent)
