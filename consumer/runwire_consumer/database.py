"""Opens the DuckDB file: its lock, its engine settings, its migrations; and hands out cursors.

Laws of this engine that the rest relies on:

1. One process, one file: our own lock (`<db>.lock`) is taken before DuckDB sees the file, and held until it
   is closed. Nothing in this process opens or copies the file beside DuckDB: closing any descriptor of it
   drops DuckDB's locks.
2. A checkpoint is not crash-atomic. It happens when *we* say so (`checkpoint`), seldom: the automatic
   threshold is out of reach.
3. After `FatalException` the process must leave without closing: `StoreInvalidated`.
4. Once open, the engine can't be talked into files, extensions or settings: external access is off, but for
   the snapshot folder, and the configuration is locked.
"""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb

from runwire_consumer.damage import is_conflict, is_damage, is_newer, is_sqlite
from runwire_consumer.errors import (
    StoreCramped,
    StoreDamaged,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreInvalidated,
    StoreLocked,
    StoreNewer,
    first_line,
)
from runwire_consumer.floor import free_bytes
from runwire_consumer.lock import LockFile
from runwire_consumer.migrations import migrate, migrations
from runwire_consumer.priority import stepped_back

MEMORY = Path(":memory:")

# A COMMIT that finds no room fails as a TransactionException with the text of the write that failed.
_FULL = ("No space left", "Disk quota", "Could not write")
_CONFLICT_PAUSE_SECONDS = 0.1
_CONFLICT_PAUSE_SECONDS_MAX = 2.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        memory_mib_max: Memory of buffers and queries together.
        threads: 0 lets the engine take one a core.
        snapshots_folder: The only folder the engine may touch beside its own file.
        lock_wait_seconds: How long `open` waits for another holder to let go.
    """

    memory_mib_max: int = 2048
    threads: int = 0
    snapshots_folder: Path | None = None
    lock_wait_seconds: float = 0.0


class Database:
    """An open file. Connections are not shared between threads: each takes a cursor of its own."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, lock: LockFile | None) -> None:
        """Keep an open connection; use `open`."""
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path, options: EngineOptions | None = None, lock: LockFile | None = None) -> Self:
        """Lock, open and migrate; `MEMORY` opens a database that lives with the object.

        Args:
            path: The file.
            options: Limits of the engine.
            lock: Held by the caller, who hands it over when the file opens and keeps it when it doesn't.

        Raises:
            StoreLocked: Another process holds it.
            StoreNewer: A newer version wrote it.
            StoreForeign: It is somebody else's.
            StoreDamaged: It won't open, and never will: `repair.py`.
            StoreError: It can't be opened now.
        """
        options = options or EngineOptions()
        held = lock
        if path != MEMORY and held is None:
            held = lock_beside(path, options.lock_wait_seconds)
        try:
            connection = _connect_in_time(path, options)
            try:
                with translated():
                    migrate(connection, migrations())
                    _lock_down(connection, options)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            if held is not None and lock is None:
                held.release()
            raise
        return cls(path, connection, held)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same database, beside the writer; the caller closes it."""
        return self._connection.cursor()

    def checkpoint(self) -> bool:
        """Move the WAL into the file; False when a transaction or a full disk stands in the way (try again later)."""
        # A checkpoint that runs out of room may cost the engine its life: it isn't begun.
        if self.path != MEMORY and free_bytes(self.path.parent) < self.wal_bytes:
            return False
        with translated(), contextlib.closing(self.cursor()) as cursor:
            try:
                cursor.execute("CHECKPOINT")
            except duckdb.TransactionException:
                return False
        return True

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        with contextlib.suppress(OSError):
            return self.path.stat().st_size
        return 0

    @property
    def wal_bytes(self) -> int:
        """Bytes that a restart would have to replay."""
        with contextlib.suppress(OSError):
            return wal_path(self.path).stat().st_size
        return 0

    def close(self, *, keep_lock: bool = False) -> None:
        """Checkpoint, close the file, give the lock back."""
        self._connection.close()
        if self._lock is not None and not keep_lock:
            self._lock.release()


def lock_beside(path: Path, wait_seconds: float = 0.0) -> LockFile:
    """The lock of a database file, whose folder is made where it is missing.

    Raises:
        StoreLocked: Somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return LockFile.acquire(path.with_name(path.name + ".lock"), wait_seconds)


def need_regular(path: Path) -> None:
    """Look at what is to be opened: a pipe or a device would keep us for ever. A folder is told by who opens it.

    Raises:
        StoreError: It is neither file nor folder.
    """
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise StoreError(f"{path} is no regular file: move it away.")


def wal_path(path: Path) -> Path:
    """The engine's WAL of a database file."""
    return path.with_name(path.name + ".wal")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """The one place where the engine's errors become ours."""
    try:
        yield
    except duckdb.FatalException as error:
        raise StoreInvalidated(f"The database engine gave up: {first_line(error)}") from error
    except duckdb.DataError:
        raise  # it quotes values, and a sender may write anything into them: its text proves nothing
    except duckdb.Error as error:
        text = first_line(error)
        if "database has been invalidated" in str(error):
            raise StoreInvalidated(f"The database engine gave up: {text}") from error
        cramped = isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException))
        if (cramped or isinstance(error, duckdb.TransactionException)) and any(words in text for words in _FULL):
            raise StoreFull(f"The disk of the database is full: {text}") from error
        if is_damage(str(error)):
            raise StoreDamaged(f"The database file is damaged: {text}") from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise StoreCramped(f"The database has no memory left beside the queries that run: {text}") from error
        if cramped:
            raise StoreError(f"The database can't be used: {text}") from error
        raise


def _connect_in_time(path: Path, options: EngineOptions) -> duckdb.DuckDBPyConnection:
    """Another program, DuckDB's own shell say, may have the file open: try again, ever more slowly, and give up."""
    deadline = time.monotonic() + options.lock_wait_seconds
    pause_seconds = _CONFLICT_PAUSE_SECONDS
    while True:
        try:
            return _connect(path, options)
        except StoreLocked:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause_seconds, left))
        pause_seconds = min(2 * pause_seconds, _CONFLICT_PAUSE_SECONDS_MAX)


def _connect(path: Path, options: EngineOptions) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "checkpoint_threshold": "1TB",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
        "memory_limit": f"{options.memory_mib_max}MiB",
        "preserve_insertion_order": False,
    }
    if options.threads:
        config["threads"] = options.threads
    if path != MEMORY:
        need_regular(path)
        need_regular(wal_path(path))
    try:
        # The engine's own threads are for large scans, which are the readers': they must not crowd out the writer's.
        return stepped_back(lambda: duckdb.connect(str(path), config=config))
    except duckdb.Error as error:
        text, sentence = str(error), first_line(error)
        if is_conflict(text):
            raise StoreLocked(f"Another program has {path} open: {sentence}") from error
        if is_newer(text):
            raise StoreNewer(
                f"A newer version of DuckDB wrote the database {path}: upgrade runwire, or let a newer consumer own it."
            ) from error
        if is_sqlite(text):
            raise StoreForeign(f"{path} is a SQLite database, none of ours. It is left alone.") from error
        if is_damage(text):
            raise StoreDamaged(f"The database {path} won't open: {sentence}") from error
        raise StoreError(f"The database {path} can't be opened now: {sentence}") from error


def _lock_down(connection: duckdb.DuckDBPyConnection, options: EngineOptions) -> None:
    if options.snapshots_folder is not None:
        folder = str(options.snapshots_folder).replace("'", "''")
        connection.execute(f"SET allowed_directories = ['{folder}']")
    # Our times have no zone and are UTC: compared with now() they must not be read in this machine's own zone.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
