"""How large the texts in the store really are: what the check of a SELECT starts its estimates from.

Only small tables hold texts (a row a run, a metric, an event), so looking at all of them takes milliseconds.
"""

from __future__ import annotations

import duckdb

from runwire_consumer.allowlist import TEXT_COLUMNS
from runwire_consumer.selects import STORED_BYTES, Widths

_TABLE_ROWS_MAX = 5_000_000
_COLUMNS = f"""
    SELECT table_name, column_name, data_type FROM duckdb_tables() JOIN duckdb_columns() USING (schema_name, table_name)
    WHERE schema_name = 'store' AND data_type LIKE '%VARCHAR%' AND estimated_size <= {_TABLE_ROWS_MAX}
    ORDER BY ALL
"""  # noqa: S608 - a number of ours
_TEXTS = TEXT_COLUMNS | {"value"}


def measure_widths(cursor: duckdb.DuckDBPyConnection) -> Widths:
    """The largest name and the largest text of the store, in bytes.

    Raises:
        duckdb.Error: The store can't be read.
    """
    names = texts = STORED_BYTES
    tables: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in cursor.execute(_COLUMNS).fetchall():
        tables.setdefault(table, []).append((column, kind))
    for table, columns in tables.items():
        sizes = ", ".join(
            f'max(strlen("{column}"))' if kind == "VARCHAR" else f'max(strlen(CAST("{column}" AS VARCHAR)))'
            for column, kind in columns
        )
        found = cursor.execute(f'SELECT {sizes} FROM store."{table}"').fetchone() or ()  # noqa: S608 - our own names
        for (column, kind), size in zip(columns, found, strict=True):
            if column in _TEXTS or kind != "VARCHAR":
                texts = max(texts, size or 0)
            else:
                names = max(names, size or 0)
    return Widths(names, texts)
