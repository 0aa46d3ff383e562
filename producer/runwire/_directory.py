"""The `dir:` transport: appends blocks to a file of its own in a folder, also on a shared file system."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runwire._disk import folder_to_disk, to_disk
from runwire._errors import TransportError
from runwire_schemas.folder import FILE_BYTES_MAX, SYNC_BYTES, encode_block, file_header, file_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runwire._batch import Message
    from runwire_schemas.topics import Destination


class DirectoryTransport:
    """One sender incarnation's files `<sender>-<n>.avro`, rolled at FILE_BYTES_MAX."""

    def __init__(self, destination: Destination, *, is_durable: bool = False) -> None:
        self._folder = Path(destination.path)
        self._is_durable = is_durable
        # Time first: the files of a folder list in the order in which their senders began.
        self._sender = f"{time.time_ns() // 1_000:014x}{secrets.token_hex(8)}"
        self._path = self._folder
        self._number = 0
        self._blocks = 0
        self._size_bytes = 0
        self._fd: int | None = None
        self._sync = b""

    async def open(self) -> None:
        """Make the folder; the file comes with the first message."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TransportError(f"Folder {self._folder} can't be made: {error.strerror}.") from error

    async def send(self, messages: Sequence[Message]) -> None:
        """Append the messages as one block by one write."""
        try:
            if self._fd is None or self._size_bytes > FILE_BYTES_MAX:
                self._roll()
            block = encode_block(
                ((message.envelope, message.payload) for message in messages),
                time.time_ns() // 1000,
                self._sync,
            )
            self._write(block)
            if self._is_durable and self._fd is not None:
                to_disk(self._fd)
                if not self._blocks:
                    folder_to_disk(self._folder)
            self._blocks += 1
            self._check_place()
        except OSError as error:
            if self._fd is not None and not self._blocks:  # a full disk leaves no heap of empty files
                with contextlib.suppress(OSError):
                    self._path.unlink()
            await self.close()  # a torn block is the file's end: the next one goes into another
            raise TransportError(f"Folder {self._folder} can't be written: {error.strerror}.") from error

    async def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _roll(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._path = self._folder / file_name(self._sender, self._number)
        self._fd = os.open(self._path, flags, 0o644)
        self._blocks = 0
        self._number += 1
        self._size_bytes = 0
        self._sync = secrets.token_bytes(SYNC_BYTES)
        self._write(file_header(self._sync))

    def _check_place(self) -> None:
        """What is written into a deleted or replaced file reaches nobody: it isn't acknowledged, and goes again."""
        if self._fd is None or not os.path.samestat(os.fstat(self._fd), self._path.stat()):
            raise OSError(errno.ESTALE, "the file was replaced")

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            raise OSError(9, os.strerror(9))
        written = os.write(self._fd, data)
        if written < len(data):
            raise OSError(28, os.strerror(28))
        self._size_bytes += written
