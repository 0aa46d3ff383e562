"""Limits one statement to the runs of some projects: what it names are copies that hold nothing else.

A filter in front of the relations would not do: whether a user's condition meets a row before ours is the optimizer's
choice, and `WHERE error(name)` or a failing cast tells what stands in the row. So the rows are copied first, into
temporary tables of this cursor alone, which carry the relations' names and so stand before them. The statement runs on
the copies, whatever it is.

Laws:

1. Every relation that the tree names anywhere is copied, none is read itself but those that say what relations there
   are and hold nothing of any run; names with a schema are refused.
2. The copies are made with our own conditions only: the project, and comparisons of texts that the statement itself
   demands of every row (`WHERE run_id = 'a' AND metric = $m`). Those can neither fail nor call a function.
3. Functions that read relations inside (our macros) are refused: no copy would stand before those.
4. Copies and statement see one moment of the store: they share a read-only transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb

from runwire_consumer.allowlist import RELATIONS
from runwire_consumer.errors import QueryTooLarge, SelectRefused

Params = Sequence[Any] | Mapping[str, Any] | None
Node = dict[str, Any]
Conditions = Mapping[str, frozenset[str]]
"""Column -> the texts that it may have."""

COPIED_ROWS_MAX = 1_000_000
_DESCRIBING = frozenset({"relations", "columns"})
_RUNS = "FROM store.live_runs WHERE project IN (SELECT unnest($projects::VARCHAR[]))"
_COLUMNS = frozenset({"run_id", "metric", "emitter_id"})  # what curves are asked by; texts in every relation


class Limiter:
    """Puts copies in front of the relations that a statement names; one a database."""

    def __init__(self) -> None:
        """Nothing is known of the database yet."""
        self._macros: frozenset[str] | None = None

    def limit(
        self, cursor: duckdb.DuckDBPyConnection, serialized: str, params: Params, projects: frozenset[str]
    ) -> None:
        """Let a statement see nothing but some projects.

        Args:
            cursor: Of this statement alone, in a read-only transaction.
            serialized: The checked statement's tree.
            params: Values of its parameters.
            projects: Whose runs it may see.

        Raises:
            SelectRefused: The statement names something that can't be limited.
            QueryTooLarge: The copies would be too large.
        """
        tree = json.loads(serialized)
        self._refuse_macros(cursor, tree)
        named = sorted({str(node["table_name"]).lower() for node in _tables(tree)} & (RELATIONS - _DESCRIBING))
        copied = 0
        for name in named:
            copied += _copy(cursor, name, _demanded(tree, name, params), projects, COPIED_ROWS_MAX - copied)
        # Only now: a relation that is made of others must be copied from those themselves.
        for name in named:
            cursor.execute(f'ALTER TABLE temp.main."{_copy_name(name)}" RENAME TO "{name}"')

    def _refuse_macros(self, cursor: duckdb.DuckDBPyConnection, tree: Any) -> None:
        if self._macros is None:  # they come with the database's version: nobody can make one while it is open
            found = cursor.execute("SELECT lower(function_name) FROM duckdb_functions() WHERE NOT internal").fetchall()
            self._macros = frozenset(str(row[0]) for row in found)
        called = {str(node["function_name"]).lower() for node in _nodes(tree) if "function_name" in node}
        for name in sorted(called & self._macros):
            raise SelectRefused(
                f"Function {name!r} reads all projects, and the token is limited to some: ask a relation instead."
            )


def _copy(
    cursor: duckdb.DuckDBPyConnection, name: str, conditions: Conditions, projects: frozenset[str], rows_max: int
) -> int:
    """Make one copy; the answer is its number of rows."""
    columns = {row[0] for row in cursor.execute(f'DESCRIBE main."{name}"').fetchall()}
    where: list[str] = []
    values: dict[str, Any] = {"rows": rows_max + 1}
    if "run_id" in conditions:
        # Ids written out reach the points' own scans, a condition with a subquery doesn't.
        conditions = {**conditions, "run_id": _permitted(cursor, conditions["run_id"], projects)}
    else:
        where.append(f"run_id IN (SELECT run_id {_RUNS})")
        values["projects"] = sorted(projects)
    for column, texts in sorted(conditions.items()):
        if column not in columns:
            continue
        names = [f"{column}_{number}" for number in range(len(texts))]
        values.update(zip(names, sorted(texts), strict=True))
        # Each a comparison with one text, which the engine brings to the scans; IN with parameters it doesn't.
        where.append("(" + (" OR ".join(f"{column} = ${each}" for each in names) or "false") + ")")
    cursor.execute(
        f'CREATE TEMP TABLE "{_copy_name(name)}" AS '  # noqa: S608 - names of our own list
        f'SELECT * FROM main."{name}" WHERE {" AND ".join(where)} LIMIT $rows',
        values,
    )
    found = cursor.execute(f'SELECT count(*) FROM temp.main."{_copy_name(name)}"').fetchone()  # noqa: S608 - as above
    count = int(found[0]) if found else 0
    if count > rows_max:
        raise QueryTooLarge(
            f"The token is limited to projects, and for it this query would read more than {COPIED_ROWS_MAX:,} rows: "
            "say WHERE run_id = '...' AND metric = '...' where it names the relation."
        )
    return count


def _permitted(cursor: duckdb.DuckDBPyConnection, run_ids: frozenset[str], projects: frozenset[str]) -> frozenset[str]:
    """Those of the runs that belong to the projects."""
    found = cursor.execute(
        f"SELECT run_id {_RUNS} AND run_id IN (SELECT unnest($run_ids::VARCHAR[]))",
        {"projects": sorted(projects), "run_ids": sorted(run_ids)},
    ).fetchall()
    return frozenset(str(row[0]) for row in found)


def _copy_name(name: str) -> str:
    return f"__{name}"


def _tables(tree: Any) -> Iterator[Node]:
    for node in _nodes(tree):
        if node.get("type") == "BASE_TABLE":
            if node.get("schema_name") or node.get("catalog_name"):
                raise SelectRefused("The token is limited to projects: name a relation alone, without its schema.")
            yield node


def _demanded(tree: Any, name: str, params: Params) -> Conditions:
    """What the statement demands of every row of a relation, at each place where it names it."""
    found: list[Conditions] = []
    certain: set[int] = set()
    for node in _nodes(tree):
        table = node.get("from_table")
        if isinstance(table, dict) and table.get("type") == "BASE_TABLE" and _is(table, name):
            found.append(_of_where(node, table, params))
            certain.add(id(table))
    # Beside a join or wherever else it stands nothing is known: then all of the project's rows are needed.
    if any(id(table) not in certain for table in _tables(tree) if _is(table, name)):
        return {}
    everywhere = set.intersection(*(set(each) for each in found)) if found else set()
    return {column: frozenset().union(*(each[column] for each in found)) for column in everywhere}


def _of_where(select: Node, table: Node, params: Params) -> Conditions:
    alias = str(table.get("alias") or table["table_name"]).lower()
    # A column's own name means the column, unless the query gives it to something else.
    renamed = {str(item.get("alias") or "").lower() for item in select.get("select_list") or ()}
    renamed |= {str(column).lower() for column in table.get("column_name_alias") or ()}
    found: dict[str, frozenset[str]] = {}
    for condition in _conjuncts(select.get("where_clause")):
        sides: list[tuple[Node, list[Node]]]
        match condition:
            case {"class": "COMPARISON", "type": "COMPARE_EQUAL", "left": left, "right": right}:
                sides = [(left, [right]), (right, [left])]
            case {"class": "OPERATOR", "type": "COMPARE_IN", "children": [left, *others]}:
                sides = [(left, others)]
            case _:
                continue
        for side, others in sides:
            column = _column(side, alias)
            texts = [_text(other, params) for other in others]
            if column in _COLUMNS and column not in renamed and all(text is not None for text in texts):
                asked = frozenset(text for text in texts if text is not None)
                found[column] = found.get(column, asked) & asked
    return found


def _conjuncts(condition: Any) -> Iterator[Node]:
    if not isinstance(condition, dict):
        return
    if condition.get("class") == "CONJUNCTION" and condition.get("type") == "CONJUNCTION_AND":
        for child in condition["children"]:
            yield from _conjuncts(child)
    else:
        yield condition


def _column(node: Node, alias: str) -> str | None:
    if node.get("class") != "COLUMN_REF":
        return None
    names = [str(part).lower() for part in node["column_names"]]
    if names[:-1] not in ([], [alias]):
        return None
    return names[-1]


def _text(node: Node, params: Params) -> str | None:
    value: Any = None
    if node.get("class") == "CONSTANT":
        kind = node["value"].get("type") or {}
        value = node["value"].get("value") if kind.get("id") == "VARCHAR" else None
    elif node.get("class") == "PARAMETER":
        place = str(node.get("identifier"))
        if isinstance(params, Mapping):
            value = params.get(place)
        elif params is not None and place.isdecimal() and 0 < int(place) <= len(params):
            value = params[int(place) - 1]
    return value if isinstance(value, str) else None


def _is(table: Node, name: str) -> bool:
    return str(table["table_name"]).lower() == name


def _nodes(tree: Any) -> Iterator[Node]:
    if isinstance(tree, dict):
        yield tree
        tree_parts: Iterable[Any] = tree.values()
    elif isinstance(tree, list):
        tree_parts = tree
    else:
        return
    for part in tree_parts:
        yield from _nodes(part)
