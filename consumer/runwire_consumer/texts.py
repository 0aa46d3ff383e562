"""Columns of a batch as text for JSON and CSV, made by Arrow's kernels: no Python step a value, and the GIL is free.

Strings with characters that need care go through Python once for each distinct one; nested values, rare in long
results, one by one. How a value looks is said in `values.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runwire_consumer.results import python_values
from runwire_consumer.values import csv_cell, json_text

_MICROS_MIN, _MICROS_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_NEEDS_CARE = r'[",\r\n]|^[=+\-@\t\r]'


def json_column(column: pa.Array, *, nonfinite_null: bool) -> pa.Array:
    """JSON texts of a column's values.

    Args:
        column: Any type.
        nonfinite_null: NaN and ±inf become null, not strings.
    """
    if pa.types.is_string(column.type):
        if not pc.any(pc.match_substring_regex(column, _NEEDS_ESCAPE)).as_py():
            return _filled(pc.binary_join_element_wise('"', column, '"', ""), "null")
        return _filled(_distinct(column, json_text), "null")
    quoted = '"' if _is_moment(column) else ""
    texts = _plain_texts(column, [json_text(value) for value in _NONFINITE] if not nonfinite_null else ["null"] * 3)
    if texts is None:
        made = [json_text(_without_nonfinite(value) if nonfinite_null else value) for value in python_values(column)]
        return pa.array(made, pa.string())
    return _filled(pc.binary_join_element_wise(quoted, texts, quoted, "") if quoted else texts, "null")


def csv_column(column: pa.Array, *, nonfinite_null: bool) -> pa.Array:
    """Cells of a column's values, quoted where CSV wants it, formulas disarmed; nothing at all for NULL."""
    if pa.types.is_string(column.type):
        if pc.any(pc.match_substring_regex(column, _NEEDS_CARE)).as_py():
            column = _distinct(column, _csv_text)
        return _filled(column, "")
    texts = _plain_texts(column, [csv_cell(value) for value in _NONFINITE] if not nonfinite_null else [""] * 3)
    if texts is None:
        values = python_values(column)
        made = [_csv_text(_without_nonfinite(value) if nonfinite_null else value) for value in values]
        return pa.array(made, pa.string())
    return _filled(texts, "")


def csv_line(names: tuple[str, ...]) -> str:
    """The header."""
    return ",".join(map(_csv_text, names)) if names != ("",) else '""'


_NONFINITE = (math.nan, math.inf, -math.inf)


def _plain_texts(column: pa.Array, nonfinite: list[Any]) -> pa.Array | None:
    """Texts of numbers, truth values and moments, NULL where there is none; None for other types."""
    kind = column.type
    if pa.types.is_decimal(kind):
        return pc.cast(column, pa.string()) if kind.scale == 0 else _floats(pc.cast(column, pa.float64()), nonfinite)
    if pa.types.is_floating(kind):
        return _floats(column, nonfinite)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_timestamp(kind) and _is_moment(column):
        if kind.unit != "ns":
            column = pc.cast(column, pa.timestamp("us", kind.tz))
        return pc.replace_substring_regex(pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ"), r"\.0+Z$", "Z")
    return None


def _floats(column: pa.Array, nonfinite: list[Any]) -> pa.Array:
    texts = pc.cast(column, pa.string())
    is_whole = pc.match_substring_regex(texts, r"^-?[0-9]+$")  # 2.0 is no integer
    texts = pc.if_else(is_whole, pc.binary_join_element_wise(texts, ".0", ""), texts)
    if not pc.all(pc.is_finite(column)).as_py():
        below = pc.less(column, 0)
        named = pc.if_else(pc.is_nan(column), nonfinite[0], pc.if_else(below, nonfinite[2], nonfinite[1]))
        texts = pc.if_else(pc.is_finite(column), texts, named)
    return texts


def _is_moment(column: pa.Array) -> bool:
    """Times within the years that ISO 8601 writes with four digits; DuckDB's reach further."""
    if not pa.types.is_timestamp(column.type):
        return False
    bounds = pc.min_max(pc.cast(column, pa.int64())).as_py()
    per_unit = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}[column.type.unit]
    return bounds["min"] is None or (
        bounds["min"] * per_unit >= _MICROS_MIN and bounds["max"] * per_unit <= _MICROS_MAX
    )


def _distinct(column: pa.Array, text: Callable[[Any], str]) -> pa.Array:
    """Each distinct string through `text` once."""
    encoded = column.dictionary_encode()
    made = pa.array([text(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return made.take(encoded.indices)


def _csv_text(value: Any) -> str:
    cell = csv_cell(value)
    text = cell if isinstance(cell, str) else json.dumps(cell)
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\r\n') else text


def _without_nonfinite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _without_nonfinite(held) for key, held in value.items()}
        case list() | tuple():
            return [_without_nonfinite(held) for held in value]
        case _:
            return value


def _filled(texts: pa.Array, empty: str) -> pa.Array:
    return pc.fill_null(texts, empty)
