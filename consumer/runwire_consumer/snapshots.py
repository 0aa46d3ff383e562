"""Snapshots: the backup of the store, whole files that open by themselves, taken beside the writer.

A snapshot is `runwire-YYYYMMDDTHHMMSSZ.duckdb` in the folder of snapshots, named by the moment (UTC) whose committed
state it holds. Source offsets lie inside: restored, the log is replayed from there and the ledger leaves out nothing
and doubles nothing.

The order of effects, never another: 1. leftovers of earlier drafts go; 2. room is looked for; 3. the engine copies
into a hidden draft (`.runwire-....duckdb`), in one transaction of its own beside the writer; 4. the draft is
detached, so that no WAL is left; 5. it is opened again read-only and compared with what it was made of; 6. fsync of
the draft; 7. rename; 8. fsync of the folder: only now it counts; 9. older ones go (`snapshot_files.py`). A crash
before 7 leaves a draft, which is no snapshot. Only the holder of the database's lock does any of this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb

from runwire_consumer.database import Database, EngineOptions, translated
from runwire_consumer.errors import SnapshotFailed, StoreDamaged, StoreError, StoreFull, StoreInvalidated, first_line
from runwire_consumer.floor import free_bytes, reserve_bytes
from runwire_consumer.migrations import migrations
from runwire_consumer.snapshot_files import Snapshot, listed, micros_of, stamp_of

_COPY_INVALIDATED = 'Checkpoint failed for database "runwire_snapshot"'
_DRAFTS = ".runwire-*"
_SECOND = 1_000_000


def take(database: Database, folder: Path, now: int, cursor: duckdb.DuckDBPyConnection | None = None) -> Snapshot:
    """Take one snapshot; the writer goes on meanwhile. From any thread, one at a time.

    Args:
        database: Open, with `folder` as its `snapshots_folder`.
        folder: Made where it is missing.
        now: Microseconds since the epoch.
        cursor: A connection of its own, which the caller may interrupt.

    Raises:
        StoreFull: There is no room; nothing was left behind.
        StoreDamaged: The database can't be read through.
        SnapshotFailed: It was interrupted, or didn't come out as it should.
        StoreInvalidated: The process must exit at once.
    """
    listed(folder)  # a file in its place is said in its own words
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_drafts(folder)
        _need_room(database, folder)
        final = _free_name(folder, now)
        draft = folder / f".{final.name}"
        try:
            with contextlib.closing(cursor or database.cursor()) as connection, _failures():
                _copy(connection, draft)
                _check(connection, draft)
            settle(draft, final)
        finally:
            remove_drafts(folder)
    except OSError as error:
        raise SnapshotFailed(f"No snapshot could be taken in {folder}: {error.strerror or error}.") from error
    return Snapshot(final, micros_of(final.name[8:-7]), final.stat().st_size)


def settle(draft: Path, final: Path) -> None:
    """Bring a closed draft to the disk and under its name."""
    descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(final)
    folder_to_disk(final.parent)


def folder_to_disk(folder: Path) -> None:
    """What was renamed in it survives power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def offsets_in(database: Database, snapshot: Snapshot, source: str) -> dict[str, int]:
    """Where a source would go on after this snapshot was restored, by partition.

    Raises:
        SnapshotFailed: It doesn't open.
    """
    with contextlib.closing(database.cursor()) as cursor, attached(cursor, snapshot.path):
        rows = cursor.execute(
            'SELECT "partition", next_offset FROM runwire_snapshot.store.offsets WHERE source = ?', [source]
        ).fetchall()
    return dict(rows)


@contextlib.contextmanager
def attached(cursor: duckdb.DuckDBPyConnection, path: Path) -> Iterator[None]:
    """A snapshot as read-only catalog `runwire_snapshot` of an open database.

    Raises:
        SnapshotFailed: It doesn't open or can't be read.
    """
    try:
        cursor.execute(f"ATTACH {quoted(path)} AS runwire_snapshot (READ_ONLY)")
    except duckdb.Error as error:
        raise SnapshotFailed(f"The snapshot {path} doesn't open: {first_line(error)}") from error
    try:
        yield
    except duckdb.Error as error:
        raise SnapshotFailed(f"The snapshot {path} can't be read: {first_line(error)}") from error
    finally:
        cursor.execute("DETACH runwire_snapshot")


def open_and_read(path: Path) -> int:
    """Open a copy that nobody else has open, read all of it; returns its version.

    Raises:
        SnapshotFailed: It doesn't open, is none of ours, or a block of it is damaged.
    """
    try:
        with contextlib.closing(duckdb.connect(str(path), read_only=True)) as connection:
            row = connection.execute("SELECT value FROM store.meta WHERE key = 'version'").fetchone()
            version = int(row[0]) if row else 0
            for table in tables_of(connection):
                connection.execute(f"SELECT bit_xor(hash(t)) FROM store.{table} AS t").fetchall()  # noqa: S608 - ours
    except (duckdb.Error, ValueError) as error:
        raise SnapshotFailed(f"It can't be read: {first_line(error)}") from error
    if not 0 < version <= migrations()[-1].version:
        raise SnapshotFailed(f"It has version {version}, which this program doesn't know.")
    return version


def take_in_wal(path: Path) -> None:
    """Move the WAL of a copy that nobody else has open into it.

    Raises:
        SnapshotFailed: They don't open.
    """
    try:
        with contextlib.closing(duckdb.connect(str(path))) as connection:
            connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        raise SnapshotFailed(f"It can't be opened with its WAL: {first_line(error)}") from error


def tables_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the store's tables, quoted."""
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = 'store' "
        "ORDER BY table_name"
    ).fetchall()
    return [f'"{name}"' for (name,) in rows]


def remove_drafts(folder: Path) -> None:
    """What a crash left of snapshots that were never finished."""
    for draft in folder.glob(_DRAFTS):
        draft.unlink(missing_ok=True)


def quoted(path: Path) -> str:
    """A path as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def options_for(folder: Path, lock_wait_seconds: float) -> EngineOptions:
    """Engine options of a store whose snapshots lie in `folder`."""
    return EngineOptions(snapshots_folder=folder.absolute(), lock_wait_seconds=lock_wait_seconds)


def _need_room(database: Database, folder: Path) -> None:
    """A copy is at most as large as file and WAL together, and the floor under the writer stays free."""
    wanted = database.file_bytes + database.wal_bytes + reserve_bytes(folder)
    free = free_bytes(folder)
    if free < wanted:
        raise StoreFull(
            f"There is no room for a snapshot in {folder}: it needs up to {wanted // 2**20 + 1:,} MiB, "
            f"{free // 2**20:,} MiB are free."
        )


def _free_name(folder: Path, now: int) -> Path:
    while (path := folder / f"runwire-{stamp_of(now)}.duckdb").exists():
        now += _SECOND
    return path


def _copy(connection: duckdb.DuckDBPyConnection, draft: Path) -> None:
    source = quoted_name(connection)
    connection.execute(f"ATTACH {quoted(draft)} AS runwire_snapshot")
    try:
        draft.chmod(0o600)
        connection.execute(f"COPY FROM DATABASE {source} TO runwire_snapshot")
    except BaseException:
        with contextlib.suppress(duckdb.TransactionException):
            connection.execute("ROLLBACK")
        connection.execute("DETACH runwire_snapshot")
        raise
    connection.execute("DETACH runwire_snapshot")


def _check(connection: duckdb.DuckDBPyConnection, draft: Path) -> None:
    """The copy opens, and holds the tables and views of what it was copied from, and a version."""
    objects = (
        "SELECT schema_name, table_name, sql FROM duckdb_tables() WHERE database_name = $name UNION ALL "
        "SELECT schema_name, view_name, '' FROM duckdb_views() WHERE database_name = $name AND NOT internal "
        "ORDER BY ALL"
    )
    with attached(connection, draft):
        source = connection.execute("SELECT current_database()").fetchall()[0][0]
        wanted, found = (
            connection.execute(objects, {"name": name}).fetchall() for name in (source, "runwire_snapshot")
        )
        version = connection.execute("SELECT value FROM runwire_snapshot.store.meta WHERE key = 'version'").fetchall()
    if wanted != found or not version:
        raise SnapshotFailed("The snapshot is not like the database it was copied from: it is thrown away.")


def quoted_name(connection: duckdb.DuckDBPyConnection) -> str:
    """The open database's own name in SQL."""
    name: str = connection.execute("SELECT current_database()").fetchall()[0][0]
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Whatever the engine says on the way, also of an interrupt between two steps, is one of ours."""
    try:
        with translated():
            try:
                yield
            except duckdb.IOException as error:
                if _COPY_INVALIDATED not in str(error):
                    raise
                # The last step of the copy found no room: the copy is beyond use, which is what `translated` would
                # take for the end of the store.
                raise SnapshotFailed(f"The snapshot failed: {first_line(error)}") from error
    except (SnapshotFailed, StoreFull, StoreInvalidated, StoreDamaged):
        raise
    except (StoreError, duckdb.Error) as error:
        raise SnapshotFailed(f"The snapshot failed: {first_line(error)}") from error
