"""What the engine really did for a query: how many rows left the scans of a table."""

from __future__ import annotations

import json
from typing import Any

import duckdb


def rows_scanned(cursor: duckdb.DuckDBPyConnection, sql: str, table: str) -> int:
    """Rows that left the scans of a store table."""
    plan = json.loads(cursor.execute(f"EXPLAIN (ANALYZE, FORMAT json) {sql}").fetchall()[0][1])

    def walk(node: dict[str, Any]) -> int:
        scanned = str(node.get("extra_info", {}).get("Table", "")).replace('"', "")
        mine = int(node["operator_cardinality"]) if scanned.endswith(f"store.{table}") else 0
        return mine + sum(walk(child) for child in node.get("children", []))

    return walk(plan)
