"""A whole result in memory, and Arrow's values as Python's; `forms.py` has the forms that results go out in."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from runwire_consumer.values import json_text, plain

_INFINITIES = {sign * (2**bits - 1) for sign in (1, -1) for bits in (31, 63)}


@dataclass(frozen=True, slots=True)
class Result:
    """A whole result.

    Attributes:
        schema: Names (one may repeat) and Arrow types of the columns.
        batches: The rows in order.
    """

    schema: pa.Schema
    batches: tuple[pa.RecordBatch, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in order."""
        return tuple(self.schema.names)

    @property
    def unique_columns(self) -> tuple[str, ...]:
        """Names of the columns where none repeats: a second `loss` is called `loss_1`."""
        return unique_names(self.columns)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Each row as Python values: maps and structs are dicts, times are aware datetimes, whole decimals ints."""
        for batch in self.batches:
            yield from zip(*(python_values(column) for column in batch.columns), strict=True)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Each row as a dict of what JSON has, so that it is the same here and behind HTTP."""
        names = self.unique_columns
        return (dict(zip(names, map(plain, row), strict=True)) for row in self.rows())

    def to_arrow(self) -> bytes:
        """An Arrow IPC stream."""
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            for batch in self.batches:
                writer.write_batch(batch)
        return sink.getvalue()


def read_arrow(stream: bytes) -> pa.Table:
    """The table of an Arrow stream."""
    return pa.ipc.open_stream(stream).read_all()


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of columns where none repeats: a second `loss` is called `loss_1`."""
    taken: dict[str, int] = {}  # a name that is given, and the last number tried behind it
    for name in names:
        count, free = taken.get(name, 0), name
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        if count:
            taken[name] = count
        taken[free] = 0
    return tuple(taken)


def python_values(column: pa.Array) -> list[Any]:
    """A column as Python values: maps and structs are dicts, times are aware datetimes, whole decimals ints."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        # DuckDB's times reach further than Python's, to infinity.
        return [_far(scalar) for scalar in column]
    if _is_plain(column.type):
        return values
    return [_python(value, column.type) for value in values]


def _far(scalar: pa.Scalar) -> Any:
    try:
        return _python(scalar.as_py(), scalar.type)
    except (OverflowError, ValueError):
        count = getattr(scalar, "value", None)
        far = isinstance(count, int) and abs(count) >= 2**31 - 1 and count in _INFINITIES
        return ("-infinity" if (count or 0) < 0 else "infinity") if far else str(count)


def _is_plain(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_string(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date(kind)
    )


def _python(value: Any, kind: pa.DataType) -> Any:
    """An Arrow value as the plainest Python value; maps come as lists of pairs, times with nanoseconds."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        return {_key(key): _python(held, kind.item_type) for key, held in value}
    if pa.types.is_struct(kind):
        return {field.name: _python(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_python(held, kind.value_type) for held in value]
    if pa.types.is_decimal(kind):
        return int(value) if kind.scale == 0 else float(value)
    if pa.types.is_timestamp(kind) and isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return value


def _key(key: Any) -> Any:
    return key if isinstance(key, (str, int, float, bool)) else json_text(key)
