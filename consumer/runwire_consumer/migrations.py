"""The database's versions: numbered SQL files, each applied once in its own transaction, then checkpointed.

WAL replay can fail when a transaction holds DDL beside data, so migrations run before anything is ingested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

import duckdb

from runwire_consumer.errors import StoreForeign, StoreNewer

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_OURS = "SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'store' AND database_name = current_database()"
_OTHERS = """
SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND NOT internal
UNION ALL
SELECT view_name FROM duckdb_views() WHERE database_name = current_database() AND NOT internal
LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step; versions count 1, 2, 3, ... without a hole."""

    version: int
    name: str
    sql: str


def migrations() -> tuple[Migration, ...]:
    """All steps of this version of the program, in order."""
    found = [
        Migration(int(match[1]), file.name, file.read_text("utf-8"))
        for file in resources.files("runwire_consumer").joinpath("tables").iterdir()
        if (match := _NAME.fullmatch(file.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


def migrate(connection: duckdb.DuckDBPyConnection, steps: tuple[Migration, ...]) -> None:
    """Bring the database to the newest version; nothing happens where it is already there.

    Raises:
        StoreNewer: The database knows steps that this program doesn't.
        StoreForeign: The database is somebody else's, or lacks its version.
    """
    # Whatever is no file for us is closed as it was found, with its WAL.
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    version = check_version(connection, steps[-1].version)
    connection.execute("PRAGMA enable_checkpoint_on_shutdown")
    if version == 0:
        _begin(connection)
    for step in steps:
        if step.version > version:
            _apply(connection, step)


def check_version(connection: duckdb.DuckDBPyConnection, newest: int) -> int:
    """The version of a database; 0 of one where nothing is yet. Nothing is changed.

    Args:
        connection: May be read-only.
        newest: The version that this program brings databases to.

    Raises:
        StoreNewer: The database knows steps that this program doesn't.
        StoreForeign: The database is somebody else's, or lacks its version.
    """
    if not connection.execute(_OURS).fetchall():
        others = connection.execute(_OTHERS).fetchall()
        if others:
            raise StoreForeign(
                f"The database is none of ours: it holds {others[0][0]!r} and no schema 'store'. It is left alone."
            )
        return 0
    try:
        row = connection.execute("SELECT value FROM store.meta WHERE key = 'version'").fetchone()
    except duckdb.CatalogException:
        row = None
    if row is None or not str(row[0]).isdecimal():
        raise StoreForeign("The database has a schema 'store' without a version: it is none of ours.")
    version = int(row[0])
    if version > newest:
        raise StoreNewer(
            f"The database has version {version}, this program knows versions up to {newest}: "
            "upgrade runwire, or let a newer consumer own the file."
        )
    return version


def _begin(connection: duckdb.DuckDBPyConnection) -> None:
    """The version's own place, whole or not at all; a database that has it already is left as it is."""
    connection.execute("BEGIN")
    connection.execute("CREATE SCHEMA IF NOT EXISTS store")
    connection.execute("CREATE TABLE IF NOT EXISTS store.meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL)")
    connection.execute(
        "INSERT INTO store.meta SELECT 'version', '0' WHERE NOT EXISTS (FROM store.meta WHERE key = 'version')"
    )
    connection.execute("COMMIT")
    connection.execute("CHECKPOINT")


def _apply(connection: duckdb.DuckDBPyConnection, step: Migration) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute(step.sql)
        connection.execute("UPDATE store.meta SET value = ? WHERE key = 'version'", [str(step.version)])
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("CHECKPOINT")
