"""Small disks that can be filled: a tmpfs each, in a mount namespace of our own, so that nothing is left behind.

A disk is full when its size limit is what it holds; that takes no memory, and it is undone at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from pathlib import Path

CLONE_NEWNS = 0x20000
MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20, 0x4000, 0x40000
SQUEEZE_INTERVAL_SECONDS = 0.05

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> bool:
    """Give this process mounts of its own; False where it may not. To be called before any thread is started."""
    if not hasattr(_libc, "unshare"):  # no Linux
        return False
    return not _libc.unshare(CLONE_NEWNS) and not _mount("none", "/", "", MS_REC | MS_PRIVATE, "")


class Disk:
    """A tmpfs of `size_bytes` at `folder`, which is made."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        """Mount it.

        Raises:
            OSError: It can't be.
        """
        self.folder = folder
        self._size_bytes = size_bytes
        self._squeezing: threading.Thread | None = None
        self._free = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        _check(_mount("tmpfs", str(folder), "tmpfs", 0, f"size={size_bytes}"), folder)

    def fill(self) -> None:
        """No byte more goes in, whatever is deleted, until `free`."""
        self._free.clear()
        while not self._squeeze():
            pass
        self._squeezing = threading.Thread(target=self._keep_full, name="full-disk", daemon=True)
        self._squeezing.start()

    def free(self) -> None:
        """There is room again."""
        self._free.set()
        if self._squeezing is not None:
            self._squeezing.join()
            self._squeezing = None
        _check(_mount("none", str(self.folder), "", MS_REMOUNT, f"size={self._size_bytes}"), self.folder)

    def close(self) -> None:
        """Take it away, with all that it holds."""
        with contextlib.suppress(OSError):
            _check(_libc.umount2(os.fsencode(self.folder), 2), self.folder)

    def _keep_full(self) -> None:
        while not self._free.wait(SQUEEZE_INTERVAL_SECONDS):
            self._squeeze()

    def _squeeze(self) -> bool:
        """False where it has grown between look and call."""
        now = os.statvfs(self.folder)
        used = max(now.f_blocks - now.f_bfree, 1) * now.f_frsize
        return not _mount("none", str(self.folder), "", MS_REMOUNT, f"size={used}")


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> int:
    return int(_libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, data.encode() or None))


def _check(result: int, folder: Path) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
