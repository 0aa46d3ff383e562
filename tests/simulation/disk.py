"""The model of the disk below the journals: what a folder holds when its process, or the whole machine, dies.

A killed process leaves its files as they are, and of the record that it was writing a part: mapped, the payload's
words came in order, then the check sum, then the commit word; written by `pwrite`, a prefix.
Power loss leaves of each file what was synced, and of everything younger any words, or none: nobody orders them.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, bytes]


def read_folder(folder: Path) -> Files:
    """Every file's bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def write_folder(folder: Path, files: Files) -> None:
    """In the place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def torn_record(data: bytes, begin: int, end: int, rng: random.Random, *, mapped: bool) -> bytes:
    """A file whose record begin .. end was just being written."""
    if not mapped:
        return data[: rng.randrange(begin, end)]
    record = bytearray(end - begin)
    written = rng.randrange(8, end - begin + 1)
    record[8:written] = data[begin + 8 : begin + written]
    if written == end - begin and rng.random() < 0.5:
        record[4:8] = data[begin + 4 : begin + 8]
    return data[:begin] + bytes(record) + data[end:]


def flipped(data: bytes, begin: int, end: int, rng: random.Random) -> bytes:
    """One bit of what is there is another."""
    at = rng.randrange(begin, end)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


@dataclass
class Durable:
    """What would survive power loss: contents by inode as last synced, names by folder."""

    contents: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, dict[str, int]] = field(default_factory=dict)

    def sync_file(self, fd: int) -> None:
        """In the place of `to_disk`."""
        at = os.fstat(fd)
        self.contents[at.st_ino] = os.pread(fd, at.st_size, 0)

    def sync_folder(self, folder: Path) -> None:
        """In the place of `folder_to_disk`."""
        self.names[str(folder)] = {path.name: path.stat().st_ino for path in folder.iterdir()}

    def after_power_loss(self, folder: Path, rng: random.Random) -> Files:
        """The folder as the next start of the machine finds it."""
        found: Files = {}
        names = self.names.get(str(folder), {})
        for path in sorted(folder.iterdir()):
            inode, now = path.stat().st_ino, path.read_bytes()
            if names.get(path.name) != inode and rng.random() < 0.5:
                continue
            found[path.name] = self._mixed(self.contents.get(inode, b""), now, rng)
        return found

    def _mixed(self, synced: bytes, now: bytes, rng: random.Random) -> bytes:
        """Any words of what is younger."""
        how = rng.random()
        if how < 0.3:
            return synced
        old = synced.ljust(len(now), b"\0")
        if how < 0.5 or old == now:
            return now
        mixed = bytearray(old)
        for at in range(0, len(now), 8):
            if now[at : at + 8] != old[at : at + 8] and rng.random() < 0.5:
                mixed[at : at + 8] = now[at : at + 8]
        return bytes(mixed)
