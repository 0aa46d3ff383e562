"""The lock file beside the database: one writer, and a refusal that names the holder.

POSIX record locks (`lockf`) end with the process that took them, whatever kills it, and an orphaned child
doesn't keep them. They drop as soon as *any* descriptor of the file is closed in the holding process, so the
file is opened once and this module remembers what it holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Self

from runwire_consumer.errors import StoreLocked

RETRY_INTERVAL_SECONDS = 0.1
_HOLDER_BYTES_MAX = 4096

_held: set[str] = set()


class LockFile:
    """A held lock; `release` gives it back."""

    def __init__(self, path: str, descriptor: int) -> None:
        """Keep an already locked descriptor; use `acquire`."""
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, wait_seconds: float = 0.0) -> Self:
        """Lock `path`, which is made where it is missing; try again for `wait_seconds`.

        Raises:
            StoreLocked: Somebody else holds it; the sentence says who, where and since when.
        """
        name = os.path.realpath(path)
        if name in _held:
            raise StoreLocked(f"The database {_database(name)} is already open in this process.")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = _read_holder(descriptor)
                os.close(descriptor)
                raise StoreLocked(f"The database {_database(name)} is in use by {holder}.")
            time.sleep(RETRY_INTERVAL_SECONDS)
        _held.add(name)
        _write_holder(descriptor)
        return cls(name, descriptor)

    def release(self) -> None:
        """Let go; the file stays, empty."""
        if self._path in _held:
            _held.discard(self._path)
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)


def _database(name: str) -> str:
    return name.removesuffix(".lock")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            return False
        raise
    return True


def _write_holder(descriptor: int) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": f"{started} UTC"}
    # Who holds the lock is a courtesy: a full disk must not keep the database shut.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def process_state(pid: int) -> str:
    """What a process is: running | stopped | zombie | gone | unknown."""
    try:
        # The name in brackets may hold anything, so the state is looked for behind the last of them.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        sign = text.rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "gone"
        except OSError:
            return "unknown"
        return "running"
    return {"T": "stopped", "t": "stopped", "Z": "zombie", "X": "gone"}.get(sign, "running")


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _HOLDER_BYTES_MAX, 0))
        pid, host = int(holder["pid"]), holder["host"]
        is_stopped = host == socket.gethostname() and process_state(pid) == "stopped"
        stopped = " (it is stopped by a signal: `kill -CONT` lets it go on)" if is_stopped else ""
        return f"pid {pid} on {host}, since {holder['started']}{stopped}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
