"""Checks that a text is exactly one SELECT which names only allowed relations and functions and can't swell.

DuckDB parses the text; its tree (`json_serialize_sql`) is walked here. Nothing passes because it is not known to be
harmful: every kind of node, relation, function and type must be on a list (`allowlist.py`).
Each visit returns how large one value of the expression may become, in bytes; that is an estimate with generous
constants, there to refuse what grows without bound, not to account for memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runwire_consumer.allowlist import (
    FUNCTIONS,
    LIMITED_AGGREGATES,
    MACROS,
    RELATIONS,
    TABLE_FUNCTIONS,
    TABLE_MACROS,
    TEXT_COLUMNS,
    TEXT_RELATIONS,
    TYPES,
    WIDE_TYPES,
    WINDOW_FUNCTIONS,
    Growth,
)
from runwire_consumer.errors import SelectRefused
from runwire_consumer.growth import NUMBER_BYTES, VALUE_BYTES_MAX, Node, grown, range_length, whole_number

STATEMENT_CHARACTERS_MAX = 100_000
TREE_BYTES_MAX = 8_000_000
VALUES_BYTES_MAX = 1_280_000
TABLE_FUNCTION_ROWS_MAX = 10_000_000
RELATIONS_MAX = 1_000
MACRO_RELATIONS = 25  # as many as a macro reads, with room
ARRAY_TYPE_SIZE_MAX = 1_000
NAME_CHARACTERS_SHOWN_MAX = 60
KEPT_MAX = 1_000

STORED_BYTES = 256

_EXPRESSIONS = frozenset({
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
    "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "WINDOW",
})  # fmt: skip
_OPERATORS = frozenset({
    "ARRAY_CONSTRUCTOR", "ARRAY_EXTRACT", "ARRAY_SLICE", "STRUCT_EXTRACT", "GROUPING_FUNCTION", "OPERATOR_NOT",
    "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "OPERATOR_NULLIF", "OPERATOR_TRY",
    "OPERATOR_UNPACK", "COMPARE_IN", "COMPARE_NOT_IN",
})  # fmt: skip
_PIVOT_ADVICE = "use conditional aggregates such as max(value) FILTER (WHERE metric = 'loss')."
_PIVOT = re.compile(r"\b(?:un)?pivot\b", re.IGNORECASE)
_MODIFIERS = frozenset({"ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"})


@dataclass(frozen=True, slots=True)
class Widths:
    """The largest values that a query starts from, in bytes.

    Attributes:
        names: In columns of names: of runs, metrics, ranks' hosts.
        texts: In columns of what people write.
        params: Among the query's own parameters.
    """

    names: int = STORED_BYTES
    texts: int = STORED_BYTES
    params: int = NUMBER_BYTES


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names mean at one place of the statement.

    Attributes:
        queries: Common table expressions in sight: name -> (bytes of a value, relations it stands for).
        elements: Lambda parameters in sight: name -> bytes of a value.
        column_bytes: How large a value of any column in sight may be.
    """

    queries: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    elements: Mapping[str, int] = field(default_factory=dict)
    column_bytes: int = NUMBER_BYTES

    def with_queries(self, queries: Mapping[str, tuple[int, int]]) -> _Scope:
        return _Scope({**self.queries, **queries}, self.elements, self.column_bytes)

    def with_elements(self, names: Iterable[str], size_bytes: int) -> _Scope:
        return _Scope(self.queries, {**self.elements, **dict.fromkeys(names, size_bytes)}, self.column_bytes)

    def with_columns(self, size_bytes: int) -> _Scope:
        return _Scope(self.queries, self.elements, max(self.column_bytes, size_bytes))


def check_tree(
    serialized: str, relations: frozenset[str] = RELATIONS, sql: str = "", widths: Widths | None = None
) -> None:
    """Pass one harmless SELECT, refuse everything else.

    Args:
        serialized: What `json_serialize_sql` made of the text.
        relations: Names of the tables and views that may be read.
        sql: The text, for nothing but the advice in a refusal.
        widths: How large stored values and parameters are.

    Raises:
        SelectRefused: With one sentence: what, and what to do instead.
    """
    if len(serialized) > TREE_BYTES_MAX:
        raise SelectRefused("The query is too long or has too many grouping sets: split it.")
    try:
        tree = json.loads(serialized)
        if tree["error"]:
            raise SelectRefused(_unparsable(tree, sql))
        statements = tree["statements"]
        if len(statements) != 1:
            found = "is empty" if not statements else f"has {len(statements)} statements"
            raise SelectRefused(f"The text {found}: send exactly one SELECT.")
        _Walk(relations, widths or Widths()).query(statements[0]["node"], _Scope())
    except RecursionError:
        raise SelectRefused("The query is nested too deeply: write it with fewer levels.") from None


def _unparsable(tree: Node, sql: str) -> str:
    message = str(tree.get("error_message", "")).split("\n", 1)[0].strip()
    if tree.get("error_type") == "parser":
        return f"The text is no SQL that DuckDB understands: {message}."
    if "Only SELECT" in message:
        # A PIVOT without a list of values is no single SELECT to DuckDB either.
        if _PIVOT.search(sql):
            return f"Only one SELECT is allowed here, and no PIVOT: {_PIVOT_ADVICE}"
        return "Only one SELECT is allowed here, and nothing that changes data or settings: send a SELECT."
    return f"The query can't be checked, so it isn't run: {message}."


class _Walk:
    """One pass over a statement; `query` and `relation` return (bytes of a value, relations they stand for)."""

    def __init__(self, relations: frozenset[str], widths: Widths) -> None:
        self.relations = relations
        self.widths = widths
        self.macro = ""  # whose arguments are being visited
        self.peak_bytes = 0
        self.total_bytes = 0

    # -- queries and relations ---------------------------------------------------------------------------------

    def query(self, node: Node, scope: _Scope) -> tuple[int, int]:
        kind = node["type"]
        if kind not in {"SELECT_NODE", "SET_OPERATION_NODE"}:
            if kind in {"RECURSIVE_CTE_NODE", "CTE_NODE"}:
                raise SelectRefused("Recursive queries aren't allowed here: use range() or a window function.")
            raise SelectRefused(f"A {_words(kind)} isn't allowed here: write a plain SELECT.")
        for entry in node.get("cte_map", {}).get("map", []):
            inner = self.query(entry["value"]["query"]["node"], scope)
            self._expressions(entry["value"].get("key_targets"), scope)
            scope = scope.with_queries({entry["key"].lower(): inner})
        if kind == "SET_OPERATION_NODE":
            return self._set_operation(node, scope)
        return self._select(node, scope)

    def _set_operation(self, node: Node, scope: _Scope) -> tuple[int, int]:
        parts = node.get("children") or [node["left"], node["right"]]
        results = [self.query(part, scope) for part in parts]
        size = max(size for size, _ in results)
        self._modifiers(node, scope.with_columns(size))
        return size, self._counted(sum(count for _, count in results))

    def _select(self, node: Node, scope: _Scope) -> tuple[int, int]:
        size, relations = self.relation(node["from_table"], scope)
        inside = scope.with_columns(size)
        result = NUMBER_BYTES
        for item in node["select_list"]:
            size = self.expression(item, inside)
            result = max(result, size)
            if item.get("alias"):  # what stands behind it may use it
                inside = inside.with_elements([str(item["alias"]).lower()], max(size, inside.column_bytes))
        # The other clauses may use any alias.
        inside = inside.with_columns(result)
        for part in ("where_clause", "group_expressions", "having", "qualify"):
            self._expressions(node.get(part), inside)
        self._modifiers(node, inside)
        return result, self._counted(relations)

    def _modifiers(self, node: Node, scope: _Scope) -> None:
        for modifier in node.get("modifiers", []):
            if modifier["type"] not in _MODIFIERS:
                raise SelectRefused(f"A {_words(modifier['type'])} isn't allowed here: leave it out.")
            self._expressions(modifier, scope)

    def relation(self, node: Node, scope: _Scope) -> tuple[int, int]:
        match node["type"]:
            case "EMPTY":
                return NUMBER_BYTES, 1
            case "BASE_TABLE":
                return self._base_table(node, scope)
            case "SUBQUERY":
                return self.query(node["subquery"]["node"], scope)
            case "JOIN":
                return self._join(node, scope)
            case "TABLE_FUNCTION" if self._function_name(node["function"]) in TABLE_MACROS:
                return self._table_macro(node, scope)
            case "TABLE_FUNCTION":
                return self._table_function(node, scope), 1
            case "EXPRESSION_LIST":
                sizes = [self.expression(value, scope) for row in node["values"] for value in row]
                return max(sizes, default=NUMBER_BYTES), 1
            case "SHOW_REF":
                return self._describe(node, scope)
            case "PIVOT":
                raise SelectRefused(f"PIVOT and UNPIVOT aren't allowed here: {_PIVOT_ADVICE}")
            case kind:
                raise SelectRefused(f"A {_words(kind)} isn't allowed in FROM: name a relation or a subquery.")

    def _base_table(self, node: Node, scope: _Scope) -> tuple[int, int]:
        name = str(node["table_name"])
        catalog, schema = node.get("catalog_name") or "", node.get("schema_name") or ""
        if not catalog and not schema and name.lower() in scope.queries:
            return scope.queries[name.lower()]
        if catalog or schema not in {"", "main"} or name.lower() not in self.relations or node.get("at_clause"):
            full = ".".join(part for part in (catalog, schema, name) if part)
            raise SelectRefused(
                f"There is no relation {_shown(full)} here: choose from {', '.join(sorted(self.relations))}; "
                "FROM columns lists what is in each."
            )
        return (self.widths.texts if name.lower() in TEXT_RELATIONS else self.widths.names), 1

    def _join(self, node: Node, scope: _Scope) -> tuple[int, int]:
        left_bytes, left = self.relation(node["left"], scope)
        # The right side may be lateral: it sees the columns of the left.
        scope = scope.with_columns(left_bytes)
        right_bytes, right = self.relation(node["right"], scope)
        size = max(left_bytes, right_bytes)
        self._expressions(node.get("condition"), scope.with_columns(size))
        self._expressions(node.get("duplicate_eliminated_columns"), scope)
        return size, self._counted(left + right)

    def _table_function(self, node: Node, scope: _Scope) -> int:
        call = node["function"]
        name = self._function_name(call)
        if name not in TABLE_FUNCTIONS or node.get("subquery"):
            raise SelectRefused(
                f"Function {_shown(name)} isn't allowed in FROM: only range, generate_series, unnest and Runwire's "
                f"{', '.join(sorted(TABLE_MACROS))} are, and no files, settings or engine functions."
            )
        if name == "unnest":
            return self.expression(call, scope)
        rows = range_length(name, call["children"])
        if rows is None or rows > TABLE_FUNCTION_ROWS_MAX:
            raise SelectRefused(
                f"{name}() takes whole numbers written out here, for at most {TABLE_FUNCTION_ROWS_MAX:,} rows."
            )
        return NUMBER_BYTES

    def _table_macro(self, node: Node, scope: _Scope) -> tuple[int, int]:
        """Its arguments are put into its text, perhaps more than once: one in the other would grow without bound."""
        call = node["function"]
        name = self._function_name(call)
        if self.macro or node.get("subquery"):
            raise SelectRefused(
                f"{name}() can't stand inside the arguments of {self.macro or 'a call'}(): "
                "give it a name by WITH, and join it."
            )
        self.macro = name
        self._expressions(_without(call, "class", "type"), scope)
        self.macro = ""
        return self.widths.names, self._counted(MACRO_RELATIONS)

    def _describe(self, node: Node, scope: _Scope) -> tuple[int, int]:
        if node.get("show_type") not in {"DESCRIBE", "SUMMARY"} or not node.get("query"):
            raise SelectRefused(
                "SHOW isn't allowed here: FROM relations lists what there is, DESCRIBE runs what is in one."
            )
        _, relations = self.query(node["query"], scope)
        return max(self.widths.names, self.widths.texts), relations

    def _counted(self, relations: int) -> int:
        if relations > RELATIONS_MAX:
            raise SelectRefused(f"The query reads more than {RELATIONS_MAX:,} relations when written out: split it.")
        return relations

    # -- expressions -------------------------------------------------------------------------------------------

    def _expressions(self, tree: Any, scope: _Scope) -> None:
        """Check every expression below `tree`, which itself is a list or a plain holder of expressions."""
        if isinstance(tree, list):
            for child in tree:
                self._expressions(child, scope)
        elif isinstance(tree, dict):
            if "class" in tree:
                self.expression(tree, scope)
            elif str(tree.get("type", "")).endswith("_NODE") or "from_table" in tree:
                raise SelectRefused("A query stands where none is expected: write it as a subquery in brackets.")
            else:
                for child in tree.values():
                    self._expressions(child, scope)

    def expression(self, node: Node, scope: _Scope) -> int:
        size = self._expression(node, scope)
        self.peak_bytes = max(self.peak_bytes, size)
        if size > VALUE_BYTES_MAX:
            raise SelectRefused(
                f"A value of this query could grow beyond {VALUE_BYTES_MAX:,} bytes: "
                "repeat, replace or combine smaller values."
            )
        if size > STORED_BYTES and node["class"] != "COLUMN_REF":  # that makes no value: it names one
            self.total_bytes += size
            if self.total_bytes > VALUES_BYTES_MAX:
                raise SelectRefused("The query makes too many large values: use fewer or smaller ones.")
        return size

    def _expression(self, node: Node, scope: _Scope) -> int:  # noqa: C901, PLR0911 - one case a class
        match node["class"]:
            case "CONSTANT":
                return max(1, len(str(node["value"].get("value", ""))))
            case "COLUMN_REF":
                names = [str(name).lower() for name in node["column_names"]]
                if names[0] in scope.elements:
                    return scope.elements[names[0]]
                return max(self.widths.texts, scope.column_bytes) if TEXT_COLUMNS & {*names} else scope.column_bytes
            case "PARAMETER":
                return self.widths.params
            case "POSITIONAL_REFERENCE":
                return max(self.widths.texts, scope.column_bytes)
            case "FUNCTION" | "WINDOW":
                return self._call(node, scope)
            case "SUBQUERY":
                self._expressions(node.get("child"), scope)
                return self.query(node["subquery"]["node"], scope)[0]
            case "CAST":
                return self._cast(node, scope)
            case "OPERATOR":
                return self._operator(node, scope)
            case "STAR":
                self._expressions(_without(node, "class", "type"), scope)
                return max(self.widths.texts, scope.column_bytes)
            case "LAMBDA":  # outside of a list function it is the JSON arrow
                return self.expression(node["lhs"], scope) * self.expression(node["expr"], scope)
            case "BETWEEN" | "CASE" | "COLLATE" | "COMPARISON" | "CONJUNCTION" as kind:
                sizes = [self.expression(child, scope) for child in _children(_without(node, "class"))]
                return max(sizes) if kind in {"CASE", "COLLATE"} else NUMBER_BYTES
            case kind:
                raise SelectRefused(f"A {_words(kind)} isn't allowed here: write the query without it.")

    def _operator(self, node: Node, scope: _Scope) -> int:
        if node["type"] not in _OPERATORS:
            raise SelectRefused(f"Operator {_words(node['type'])} isn't allowed here: write the query without it.")
        sizes = [self.expression(child, scope) for child in node["children"]]
        return sum(sizes) if node["type"] == "ARRAY_CONSTRUCTOR" else max(sizes, default=NUMBER_BYTES)

    def _cast(self, node: Node, scope: _Scope) -> int:
        size = self.expression(node["child"], scope)
        kind = _check_type(node["cast_type"])
        # As text a value may need escapes for each of its bytes.
        return 4 * size if kind in WIDE_TYPES else max(size, NUMBER_BYTES)

    def _function_name(self, node: Node) -> str:
        name = str(node["function_name"]).lower()
        if node.get("catalog") or node.get("schema") not in {None, "", "main"}:
            raise SelectRefused(f"Function {_shown(name)} is named with a schema: name it alone.")
        return name

    def _call(self, node: Node, scope: _Scope) -> int:
        name = self._function_name(node)
        growth = Growth.FIXED if name in MACROS else FUNCTIONS.get(name)
        if name in TABLE_MACROS:
            raise SelectRefused(f"{name}() makes a table: put it behind FROM.")
        if growth is None:
            raise SelectRefused(
                f"Function {_shown(name)} isn't allowed here: queries may use DuckDB's functions of values, "
                "but none that reads files, settings or the engine or that can exhaust it."
            )
        self._expressions(_without(node, "class", "type", "children"), scope)
        children = node["children"]
        if node["class"] == "WINDOW" and (name not in WINDOW_FUNCTIONS or _is_limited(name, children)):
            raise SelectRefused(
                f"{name}() isn't allowed over a window, where it would be made anew for every row: "
                "group by something instead."
            )
        if _is_limited(name, children) and not 0 <= (whole_number(children[-1]) or -1) <= KEPT_MAX:
            raise SelectRefused(f"{name}() keeps at most {KEPT_MAX:,} values here: write that number out.")
        if growth is Growth.LAMBDA and len(children) > 1 and children[1]["class"] == "LAMBDA":
            return self._for_each(children[0], children[1], scope)
        sizes = [self.expression(child, scope) for child in children]
        return grown(name, growth, sizes, children)

    def _for_each(self, values: Node, function: Node, scope: _Scope) -> int:
        """A body grows at most like its worst case: all elements small, or one as large as the list."""
        size = self.expression(values, scope)
        names = [str(part).lower() for part in _lambda_names(function["lhs"])]
        before, worst = self.peak_bytes, 0
        for count, element_bytes in ((max(1, size // NUMBER_BYTES), NUMBER_BYTES), (1, size)):
            self.peak_bytes = 0
            self.expression(function["expr"], scope.with_elements(names, element_bytes))
            worst = max(worst, count * self.peak_bytes)
        self.peak_bytes = max(before, worst)
        return max(size, worst)


def _is_limited(name: str, children: list[Node]) -> bool:
    """Whether the call keeps as many values as its last argument says: max(value, 3)."""
    return len(children) >= LIMITED_AGGREGATES.get(name, len(children) + 1)


def _check_type(tree: Node) -> str:
    """The name of a type that values may be cast to.

    Raises:
        SelectRefused: The type, or one inside it, isn't on the list.
    """
    kind = str(tree["id"])
    info = tree.get("type_info") or {}
    if kind == "UNBOUND":
        kind = str(info.get("name", "")).upper()
        if info.get("schema") or info.get("catalog"):
            kind = f"{info.get('schema')}.{kind}"
    if kind == "ARRAY" and int(info["size"]) <= ARRAY_TYPE_SIZE_MAX and info["child_type"]["id"] != "ARRAY":
        return _check_type(info["child_type"])
    if kind not in TYPES:
        raise SelectRefused(f"Casting to {_shown(kind)} isn't allowed here: use an ordinary type.")
    for inner in (info.get("child_type"), *(child["second"] for child in info.get("child_types") or ())):
        if inner:
            _check_type(inner)
    return kind


def _children(node: Any) -> Iterable[Node]:
    """The nearest expressions below a node."""
    if isinstance(node, list):
        for child in node:
            yield from _children(child)
    elif isinstance(node, dict):
        if "class" in node:
            yield node
        else:
            for child in node.values():
                yield from _children(child)


def _lambda_names(node: Node) -> Iterable[str]:
    if node["class"] == "COLUMN_REF":
        yield node["column_names"][0]
    for child in node.get("children", []):
        yield from _lambda_names(child)


def _without(node: Node, *keys: str) -> Node:
    return {key: value for key, value in node.items() if key not in keys}


def _words(kind: str) -> str:
    return kind.replace("_", " ").lower()


def _shown(name: str) -> str:
    return repr(name if len(name) <= NAME_CHARACTERS_SHOWN_MAX else name[: NAME_CHARACTERS_SHOWN_MAX - 1] + "…")
