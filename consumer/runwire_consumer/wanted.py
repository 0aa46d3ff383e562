"""Values that a query asks for, as the relation `wanted`: a list given as a parameter costs 0.1 ms an element."""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa


def want(
    cursor: duckdb.DuckDBPyConnection, values: Collection[str] | Collection[int], integers: pa.DataType | None = None
) -> None:
    """Make these values what `FROM wanted` gives on this connection: one column, of texts or of integers.

    `integers` is their type where they are no texts, as that of the column they are compared with; 32 bits if not said.
    """
    texts = bool(values) and isinstance(next(iter(values)), str)
    kind = pa.string() if texts else integers or pa.int32()
    cursor.register("wanted", pa.table({"value": pa.array(values, kind)}))
