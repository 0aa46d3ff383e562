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
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb

from runwire_consumer.errors import StoreDamaged, StoreError, StoreFull, StoreInvalidated, StoreLocked, StoreNewer
from runwire_consumer.lock import LockFile
from runwire_consumer.migrations import migrate, migrations

MEMORY = Path(":memory:")

# A COMMIT that finds no room fails as a TransactionException with the text of the write that failed.
_NEWER_ENGINE = "newer version of DuckDB"
_FULL = ("No space left", "Disk quota", "Could not write")


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
    def open(cls, path: Path, options: EngineOptions | None = None) -> Self:
        """Lock, open and migrate; `MEMORY` opens a database that lives with the object.

        Raises:
            StoreLocked: Another process holds it.
            StoreNewer: A newer version wrote it.
            StoreForeign: It is somebody else's.
            StoreDamaged: It won't open.
        """
        options = options or EngineOptions()
        lock = None
        if path != MEMORY:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = LockFile.acquire(path.with_name(path.name + ".lock"), options.lock_wait_seconds)
        try:
            connection = _connect(path, options)
            try:
                migrate(connection, migrations())
                _lock_down(connection, options)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return cls(path, connection, lock)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same database, beside the writer; the caller closes it."""
        return self._connection.cursor()

    def checkpoint(self) -> bool:
        """Move the WAL into the file; False when a transaction or a full disk stands in the way (try again later)."""
        # A checkpoint that runs out of room may cost the engine its life: it isn't begun.
        if self.path != MEMORY and shutil.disk_usage(self.path.parent).free < self.wal_bytes:
            return False
        with translated(), contextlib.closing(self.cursor()) as cursor:
            try:
                cursor.execute("CHECKPOINT")
            except duckdb.TransactionException:
                return False
        return True

    @property
    def wal_bytes(self) -> int:
        """Bytes that a restart would have to replay."""
        with contextlib.suppress(OSError):
            return self.path.with_name(self.path.name + ".wal").stat().st_size
        return 0

    def close(self) -> None:
        """Checkpoint, close the file, give the lock back."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """The one place where the engine's errors become ours."""
    try:
        yield
    except duckdb.FatalException as error:
        raise StoreInvalidated(f"The database engine gave up: {_sentence(error)}") from error
    except duckdb.Error as error:
        text = _sentence(error)
        if "database has been invalidated" in str(error):
            raise StoreInvalidated(f"The database engine gave up: {text}") from error
        cramped = isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException))
        if (cramped or isinstance(error, duckdb.TransactionException)) and any(words in text for words in _FULL):
            raise StoreFull(f"The disk of the database is full: {text}") from error
        if cramped:
            raise StoreError(f"The database can't be used: {text}") from error
        raise


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
    try:
        return duckdb.connect(str(path), config=config)
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise StoreLocked(f"Another program has {path} open: {_sentence(error)}") from error
        if _NEWER_ENGINE in str(error):
            raise StoreNewer(
                f"A newer version of DuckDB wrote the database {path}: upgrade runwire, or let a newer consumer own it."
            ) from error
        raise StoreDamaged(f"The database {path} won't open: {_sentence(error)}") from error
    except duckdb.Error as error:
        raise StoreDamaged(f"The database {path} won't open: {_sentence(error)}") from error


def _lock_down(connection: duckdb.DuckDBPyConnection, options: EngineOptions) -> None:
    if options.snapshots_folder is not None:
        folder = str(options.snapshots_folder).replace("'", "''")
        connection.execute(f"SET allowed_directories = ['{folder}']")
    # Our times have no zone and are UTC: compared with now() they must not be read in this machine's own zone.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _sentence(error: Exception) -> str:
    return str(error).splitlines()[0]
