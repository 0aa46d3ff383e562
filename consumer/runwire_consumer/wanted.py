"""Values that a query asks for, as the relation `wanted`: a list given as a parameter costs 0.1 ms an element."""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa


def want(cursor: duckdb.DuckDBPyConnection, values: Collection[str] | Collection[int]) -> None:
    """Make these values what `FROM wanted` gives on this connection: one column, texts or integers of 32 bits."""
    texts = bool(values) and isinstance(next(iter(values)), str)
    cursor.register("wanted", pa.table({"value": pa.array(values, pa.string() if texts else pa.int32())}))
