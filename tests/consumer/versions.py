"""Database files as earlier versions of this program wrote them, made from its migrations, and what is in a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import duckdb

from runwire_consumer.database import MEMORY
from runwire_consumer.migrations import migrate, migrations
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import Emitter, store_all

NEWEST = migrations()[-1].version

# A value at an edge of each type; the first one where only one is wanted.
EDGES: dict[str, list[Any]] = {
    "INTEGER": [2**31 - 1, -(2**31), 0],
    "DOUBLE": [float("nan"), float("-inf"), -0.0, 5e-324, 2.0**53 + 2],
    "VARCHAR": ["", "a 'quoted' \"name\"\n\t\\", "\u202eright to left\U0001f525", "x" * 10_000],
    "VARCHAR[]": [[], ["", "a,b", "[c]"]],
    "MAP(VARCHAR, VARCHAR)": [{}, {"numpy": "2.0", "": "=,{}"}],
    "TINYINT": [127, -128, 0],
    "BOOLEAN": [True, False],
    "BLOB": [b"", bytes(range(256))],
}
FOLLOWING = {"senders", "summaries", "unsettled"}  # from the other tables: what those hold is in them, nothing else
STEPS = [2**62, -(2**62), 0]
TIMES = [0, 253_402_300_799_999_999, 1_700_000_000_000_000]
_TIMES = {"time", "last_time", "row_time", "started_at", "ended_at", "seen_at", "deleted_at", "appended_at", "since"}


def make_file(path: Path, version: int) -> None:
    """A file of that version with a story of runs and, in each table, rows at the edges of what its columns hold."""
    connection = duckdb.connect(str(path), config={"checkpoint_threshold": "1TB"})
    migrate(connection, migrations()[:version])
    fill(connection)
    connection.close()


def fill(connection: duckdb.DuckDBPyConnection) -> None:
    """Fill the tables as they are in this version."""
    store = Store.open(MEMORY)
    store_all(store, story())
    newest = store.cursor()
    connection.execute("BEGIN")
    for table, columns in tables(connection).items():
        if table == "meta":
            continue
        known = {row[0] for row in newest.execute(f"DESCRIBE store.{table}").fetchall()}
        if known >= set(columns):
            names = ", ".join(f'"{name}"' for name in columns)
            rows = newest.execute(f"SELECT {names} FROM store.{table}").fetchall()  # noqa: S608 - names of our own
            _insert(connection, table, columns, rows)
        if table in FOLLOWING:
            continue
        for at in range(max(map(len, EDGES.values()))):
            row = [_edge(name, kind, at) for name, kind in columns.items()]
            _insert(connection, table, columns, [row])
    connection.execute("COMMIT")
    store.close()


def story() -> list[Any]:
    """Two attempts, two ranks, every kind of record, a declared loss, an end."""
    one, two = Emitter("a"), Emitter("b", rank=1)
    again = Emitter("c", attempt="second", started=100)
    return [
        one.starts(tags=("base",), user="ada"),
        one.says(events.ParamsLogged, params={"lr": 0.1, "deep": True, "none": None}),
        one.says(events.MetricDefined, metric="acc", unit="%", best="max"),
        one.logs({step: {"loss": 1.0 / (step + 1), "acc": float(step)} for step in range(5)}),
        two.starts(),
        two.logs({step: {"loss": float("nan")} for step in range(5)}),
        one.says(events.RowsLost, first_seq=9, count=2, reason="full"),
        one.signals(events.EmitterEnded, next_seq=11, how="crashed"),
        again.starts(restart_count=1),
        again.logs({step: {"loss": 0.5, "acc": 9.0} for step in range(3, 6)}),
        again.says(events.RunEdited, name="renamed", notes="better"),
        again.signals(events.Heartbeat, next_seq=again.seq, next_in_seconds=2.0),
    ]


def tables(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Types by column, by table of schema store."""
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(
        "SELECT c.table_name, c.column_name, c.data_type FROM duckdb_columns() c SEMI JOIN duckdb_tables() t "
        "ON c.table_oid = t.table_oid AND c.database_oid = t.database_oid "
        "WHERE c.schema_name = 'store' AND c.database_name = current_database() ORDER BY c.table_name, c.column_index"
    ).fetchall():
        found.setdefault(table, {})[column] = kind
    return found


def contents(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, list[str]]]:
    """Every value of every table, as text, by table and column; rows in one order."""
    found = {}
    for table, columns in tables(connection).items():
        rows = connection.execute(f"FROM store.{table} ORDER BY ALL").fetchall()
        found[table] = {name: [repr(row[at]) for row in rows] for at, name in enumerate(columns)}
    return found


def shape(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Version, columns with their types, and the text of each view and macro."""
    return connection.execute(
        "SELECT 'version', value, '', '' FROM store.meta WHERE key = 'version' UNION ALL "
        "SELECT c.schema_name || '.' || c.table_name, column_name, data_type, is_nullable::VARCHAR "
        "FROM duckdb_columns() c SEMI JOIN duckdb_tables() t "
        "ON c.table_oid = t.table_oid AND c.database_oid = t.database_oid "
        "WHERE NOT c.internal AND c.database_name = current_database() UNION ALL "
        "SELECT schema_name || '.' || view_name, sql, '', '' FROM duckdb_views() "
        "WHERE NOT internal AND database_name = current_database() UNION ALL "
        "SELECT schema_name || '.' || function_name, macro_definition, parameters::VARCHAR, '' FROM duckdb_functions() "
        "WHERE NOT internal AND database_name = current_database() ORDER BY ALL"
    ).fetchall()


def digests(folder: Path) -> dict[str, str]:
    """What is in each file of a folder, but for lock files."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix != ".lock"
    }


def _edge(name: str, kind: str, at: int) -> Any:
    """A value at an edge; keys that nothing else has, and times and steps that the store's door lets in."""
    if name.endswith("_key"):
        return 900_000 + at
    if name in _TIMES:
        return TIMES[at % len(TIMES)]
    if kind == "BIGINT":
        return STEPS[at % len(STEPS)]
    return EDGES[kind][at % len(EDGES[kind])]


def _insert(connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], rows: list[Any]) -> None:
    for row in rows:
        marks = ", ".join(f"?::{kind}" for kind in columns.values())
        connection.execute(f"INSERT INTO store.{table} VALUES ({marks})", list(row))  # noqa: S608 - as above
