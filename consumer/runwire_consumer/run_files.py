"""One run as files that others read: Parquet, CSV or JSON, each there whole or not at all.

    parquet, csv    points, params, events and run, a file each
    json            one document: {"format", "run", "receipt", "points": [...], "params": [...], "events": [...]}

Points are in the long form, a line a point there ever was: run_id, metric, rank, step, time, value, attempt,
superseded, role, emitter_id, seq. Values keep every bit in Parquet, and their shortest exact digits in CSV (nan, inf,
-inf) and JSON ("NaN", "Infinity", "-Infinity"); times are UTC, in microseconds. Texts are verbatim, in CSV too: a
spreadsheet may take one that begins with = for a formula. What is nested (tags apart) is JSON text. Of a run whose full
resolution is gone there are `buckets` too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

import pyarrow as pa
from pyarrow import csv, parquet

from runwire_consumer import queries, run_pages
from runwire_consumer.run_pages import BUCKETS, EVENTS, PARAMS, POINTS, Columns
from runwire_consumer.values import plain

FORMAT = "runwire-run/1"
PARQUET, CSV, JSON = "parquet", "csv", "json"
FORMS = (PARQUET, CSV, JSON)
JSON_ROWS_MAX = 10_000  # made into text at a time
PART_CHARACTERS_MAX = 160  # file systems take 255 bytes, of which "project=" and others need some

_TIME = pa.timestamp("us")
RUN = pa.schema(
    [
        ("run_id", pa.string()),
        ("project", pa.string()),
        ("name", pa.string()),
        ("group", pa.string()),
        ("user", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("notes", pa.string()),
        ("state", pa.string()),
        ("started_at", _TIME),
        ("ended_at", _TIME),
        ("commit", pa.string()),
        ("branch", pa.string()),
        ("dirty", pa.bool_()),
        ("host", pa.string()),
        ("world_size", pa.int64()),
        ("attempts", pa.int64()),
        ("points", pa.int64()),
        ("params", pa.string()),
        ("last", pa.string()),
        ("best", pa.string()),
        ("receipt", pa.string()),
        ("description", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class RunSource:
    """Where a run is read from.

    Attributes:
        ask: Rows as JSON values.
        columns: Arrow tables.
    """

    ask: queries.Ask
    columns: Columns


@dataclass(frozen=True, slots=True)
class Description:
    """What a run is: its row of `runs`, and its receipt as a dict with its verdict."""

    run: dict[str, Any]
    receipt: dict[str, Any]

    @property
    def run_id(self) -> str:
        """Its id."""
        return str(self.run["run_id"])

    def table(self) -> pa.Table:
        """One row of RUN."""
        row: dict[str, Any] = {name: self.run.get(name) for name in RUN.names}
        for name in ("started_at", "ended_at"):
            row[name] = None if row[name] is None else datetime.fromisoformat(row[name]).replace(tzinfo=None)
        for name in ("params", "last", "best"):
            row[name] = json.dumps(row[name])
        row |= {"receipt": json.dumps(self.receipt), "description": json.dumps(self.run)}
        return pa.Table.from_pylist([row], RUN)


def describe(source: RunSource, run_id: str) -> Description:
    """Everything but points, parameters' types and events.

    Raises:
        RunNotFound: There is no run with this id.
    """
    receipt = queries.receipt(source.ask, run_id)
    (run,) = source.ask("SELECT * FROM runs WHERE run_id = $run_id", {"run_id": run_id})
    return Description(dict(run), {"verdict": receipt.verdict, **dataclasses.asdict(receipt)})


def tables(source: RunSource, about: Description) -> Iterator[tuple[str, pa.Schema, Iterable[pa.Table]]]:
    """(name, schema, pages) of each table of a run; the pages are read when they are asked for."""
    run_id = about.run_id
    yield "points", POINTS, run_pages.points(source.columns, run_id)
    yield "params", PARAMS, [run_pages.params(source.columns, run_id)]
    yield "events", EVENTS, run_pages.events(source.columns, run_id)
    yield "run", RUN, [about.table()]
    if about.run.get("full_resolution") is False:
        yield "buckets", BUCKETS, run_pages.buckets(source.columns, run_id)


class Sink(Protocol):
    """Takes the pages of one table."""

    def write(self, table: pa.Table) -> None:
        """The next page."""

    def close(self) -> None:
        """The end is written."""


def open_sink(form: str, target: Path | IO[bytes], schema: pa.Schema, about: Description) -> Sink:
    """A file of one table, Parquet or CSV."""
    where = str(target) if isinstance(target, Path) else target
    if form == CSV:
        return _CsvSink(where, schema)
    told = {"runwire.format": FORMAT, "runwire.run": json.dumps(about.run)}
    return _ParquetSink(where, schema.with_metadata(told))


class _ParquetSink:
    def __init__(self, where: str | IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = parquet.ParquetWriter(where, schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table.replace_schema_metadata(self._schema.metadata))

    def close(self) -> None:
        self._writer.close()


class _CsvSink:
    def __init__(self, where: str | IO[bytes], schema: pa.Schema) -> None:
        nested = [pa.field(one.name, pa.string()) if pa.types.is_list(one.type) else one for one in schema]
        self._schema = pa.schema(nested)
        self._writer = csv.CSVWriter(where, self._schema)

    def write(self, table: pa.Table) -> None:
        arrays = [
            pa.array([None if value is None else json.dumps(value) for value in column.to_pylist()], pa.string())
            if pa.types.is_list(column.type)
            else column
            for column in table.columns
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def write_table(
    form: str, target: Path | IO[bytes], about: Description, schema: pa.Schema, pages: Iterable[pa.Table],
    *,
    seen: Callable[[pa.Table], None] = lambda _: None,
) -> int:  # fmt: skip
    """Write one table, `seen` is shown each page; returns the number of its rows."""
    sink = open_sink(form, target, schema, about)
    count = 0
    try:
        for page in pages:
            sink.write(page)
            seen(page)
            count += page.num_rows
    finally:
        sink.close()
    return count


def write_points(form: str, target: Path | IO[bytes], source: RunSource, about: Description) -> int:
    """The points alone, with what the run is in a Parquet file's metadata; returns their number."""
    return write_table(form, target, about, POINTS, run_pages.points(source.columns, about.run_id))


def write_folder(form: str, folder: Path, source: RunSource, about: Description) -> int:
    """All tables, a file each, in a folder that is there; returns the number of points."""
    counts = {
        name: write_table(form, folder / f"{name}.{form}", about, schema, pages)
        for name, schema, pages in tables(source, about)
    }
    return counts["points"]


def write_json(target: IO[bytes], source: RunSource, about: Description) -> int:
    """One document; returns the number of points."""
    head = {"format": FORMAT, "run": about.run, "receipt": about.receipt}
    target.write(json.dumps(head, allow_nan=False).encode().removesuffix(b"}"))
    counts = {}
    for name, _, pages in tables(source, about):
        if name == "run":
            continue
        target.write(f', "{name}": ['.encode())
        counts[name] = 0
        for batch in (batch for page in pages for batch in page.to_batches(JSON_ROWS_MAX) if batch.num_rows):
            lines = ",\n".join(_json_rows(batch))
            target.write(f"{',' * bool(counts[name])}\n{lines}".encode())
            counts[name] += batch.num_rows
        target.write(b"]")
    target.write(b"}\n")
    return counts["points"]


def _json_rows(batch: pa.RecordBatch) -> Iterator[str]:
    """Each row as an object."""
    names = batch.schema.names
    columns = [_json_values(name, column) for name, column in zip(names, batch.columns, strict=True)]
    return (json.dumps(dict(zip(names, row, strict=True)), allow_nan=False) for row in zip(*columns, strict=True))


def _json_values(name: str, column: pa.Array) -> list[Any]:
    """A column as what JSON has."""
    values: list[Any] = column.to_pylist()
    if name == "body":
        return [json.loads(text) for text in values]
    if pa.types.is_floating(column.type) or pa.types.is_timestamp(column.type):
        return [plain(value) for value in values]
    return values


@contextlib.contextmanager
def appearing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A file or folder beside `path` that takes its place when all went well, brought to the disk before; else it goes.

    Raises:
        FileExistsError: There is something at `path`.
    """
    if os.path.lexists(path):
        raise FileExistsError(17, "There is something already", str(path))
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        if folder:
            draft.mkdir()
        yield draft
        to_disk(draft)
        draft.rename(path)
    except BaseException:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
        raise


def path_part(text: str) -> str:
    """A name that any file system takes, of any text: percent-encoded; a long one is cut, and ends with a hash."""
    signs = [quote(sign, safe="") for sign in text]
    if text[:1] in {".", "_"}:  # names that begin so are hidden from many readers, and .. is another folder
        signs[0] = f"%{ord(text[0]):02X}"
    if sum(map(len, signs)) <= PART_CHARACTERS_MAX:
        return "".join(signs)
    kept = ""
    for sign in signs:
        if len(kept) + len(sign) > PART_CHARACTERS_MAX:
            break
        kept += sign
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def to_disk(path: Path) -> None:
    """Bring a file, or a folder with its files, to the disk itself."""
    for one in sorted(path.iterdir()) if path.is_dir() else ():
        to_disk(one)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
