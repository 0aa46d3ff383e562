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
    version = _version(connection)
    newest = steps[-1].version
    if version > newest:
        raise StoreNewer(
            f"The database has version {version}, this program knows versions up to {newest}: "
            "upgrade runwire, or let a newer consumer own the file."
        )
    for step in steps:
        if step.version > version:
            _apply(connection, step)


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    schemas = connection.execute(
        "SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'store' AND database_name = current_database()"
    ).fetchall()
    if not schemas:
        connection.execute("CREATE SCHEMA store")
        connection.execute("CREATE TABLE store.meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL)")
        connection.execute("INSERT INTO store.meta VALUES ('version', '0')")
        connection.execute("CHECKPOINT")
        return 0
    try:
        row = connection.execute("SELECT value FROM store.meta WHERE key = 'version'").fetchone()
    except duckdb.CatalogException:
        row = None
    if row is None:
        raise StoreForeign("The database has a schema 'store' without a version: it is none of ours.")
    return int(row[0])


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
