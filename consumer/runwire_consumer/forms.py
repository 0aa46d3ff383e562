"""The forms that a result goes out in, each a stream of byte chunks made from record batches as they come.

    json      an array, an object a row; NaN and ±inf as strings, or null
    csv       RFC 4180, a header and a line a row
    arrow     an Arrow IPC stream, types and NaN as they are
    parquet   one file in row groups

None is ever cut without a sign of it: JSON lacks its closing bracket and holds a last object {"error": ...}, Arrow
ends with an empty batch whose metadata says `runwire-error`, Parquet lacks its footer; CSV has no such place, so
whoever carries it has to say that it broke off (over HTTP: the answer ends without its last chunk).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runwire_consumer.errors import QueryError
from runwire_consumer.results import unique_names
from runwire_consumer.texts import csv_column, csv_line, json_column

ERROR_KEY = "runwire-error"
CHUNK_BYTES = 256 * 1024
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 8 * 2**20

_Batches = Iterable[pa.RecordBatch]


class Encoder(Protocol):
    """Makes the chunks of one form."""

    def __call__(self, schema: pa.Schema, batches: _Batches, *, nonfinite_null: bool) -> Iterator[bytes]:
        """Chunks, none before the first batch has come; an error of `batches` comes out after a sign of it."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form by its media type."""

    media_type: str
    encode: Encoder


def encode_json(schema: pa.Schema, batches: _Batches, *, nonfinite_null: bool) -> Iterator[bytes]:
    """An array with an object a row, a line each."""
    names = [json.dumps(name) for name in unique_names(schema.names)]
    heads = [f"{', ' if index else '{'}{name}: " for index, name in enumerate(names)]
    before = "["
    try:
        for batch in batches:
            texts = [json_column(column, nonfinite_null=nonfinite_null) for column in batch.columns]
            pieces = [piece for pair in zip(heads, texts, strict=True) for piece in pair]
            if batch.num_rows:
                yield before.encode() + _joined(pc.binary_join_element_wise(*pieces, "}", ""), ",\n ")
                before = ",\n "
    except QueryError as error:
        if before != "[":
            yield (",\n " + json.dumps({"error": str(error)}) + "\n").encode()
        raise
    yield b"[]\n" if before == "[" else b"]\n"


def encode_csv(schema: pa.Schema, batches: _Batches, *, nonfinite_null: bool) -> Iterator[bytes]:
    """A header and a line a row."""
    before = csv_line(tuple(schema.names)) + "\n"
    alone = len(schema.names) == 1
    for batch in batches:
        cells = [csv_column(column, nonfinite_null=nonfinite_null) for column in batch.columns]
        if alone:  # an empty line would be no row
            cells = [pc.if_else(pc.equal(cells[0], ""), '""', cells[0])]
        if batch.num_rows:
            yield before.encode() + _joined(pc.binary_join_element_wise(*cells, ","), "\n") + b"\n"
            before = ""
    if before:
        yield before.encode()


def encode_arrow(schema: pa.Schema, batches: _Batches, *, nonfinite_null: bool) -> Iterator[bytes]:  # noqa: ARG001 - as the others
    """An IPC stream; its columns have a name of their own each."""
    named = _renamed(schema)
    sink = _Sink()
    with pa.ipc.new_stream(sink, named) as writer:
        try:
            for batch in batches:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=named))
                if sink.size >= CHUNK_BYTES:
                    yield sink.take()
        except QueryError as error:
            empty = pa.RecordBatch.from_pylist([], schema=named)
            writer.write_batch(empty, custom_metadata={ERROR_KEY: str(error)})
            yield sink.take()
            raise
    yield sink.take()


def encode_parquet(schema: pa.Schema, batches: _Batches, *, nonfinite_null: bool) -> Iterator[bytes]:  # noqa: ARG001 - as the others
    """A file, a row group at a time.

    Raises:
        QueryError: Parquet lacks one of the types.
    """
    named = _renamed(schema)
    sink = _Sink()
    try:
        writer = pq.ParquetWriter(sink, named, compression="zstd")
    except pa.ArrowException as error:
        raise QueryError(f"Parquet lacks a type of this result, cast it to another: {error}") from None
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(pa.RecordBatch.from_arrays(batch.columns, schema=named))
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            writer.write_table(pa.Table.from_batches(group, named))
            group, rows, size = [], 0, 0
            yield sink.take()
    if group:
        writer.write_table(pa.Table.from_batches(group, named))
    writer.close()
    yield sink.take()


FORMS = {
    "json": Form("application/json", encode_json),
    "csv": Form("text/csv", encode_csv),
    "arrow": Form("application/vnd.apache.arrow.stream", encode_arrow),
    "parquet": Form("application/vnd.apache.parquet", encode_parquet),
}


class _Sink(io.RawIOBase):
    """Where a writer leaves bytes until they are taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        self.size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts, self.size = [], 0
        return taken


def _renamed(schema: pa.Schema) -> pa.Schema:
    names = unique_names(schema.names)
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def _joined(rows: pa.Array, separator: str) -> bytes:
    """The rows' texts as one."""
    lists = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows)
    return bytes(pc.binary_join(lists, separator)[0].as_buffer())
