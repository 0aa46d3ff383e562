"""Runs one SELECT of a user beside the writer: checked, read-only, on its own cursor, within time and memory.

What holds together (each alone leaks): the check of `selects.py`, a read-only transaction, and a watch that
interrupts (`query_watch.py`). The database's own settings (no external access, locked configuration) are the store's
part. `docs/decisions/025` tells why this happens in the consumer's process, and what bounds it.

A result is read batch by batch, at any length; one that is collected has caps, above which it is refused, never cut: a
cut table would look like a whole one.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa

from runwire_consumer.allowlist import RELATIONS
from runwire_consumer.errors import QueryError, QueryTooLarge, SelectRefused
from runwire_consumer.hints import explained
from runwire_consumer.limits import Limits
from runwire_consumer.projects import Limiter, Params
from runwire_consumer.query_watch import QueryWatch
from runwire_consumer.results import Result
from runwire_consumer.selects import STATEMENT_CHARACTERS_MAX, Widths, check_tree
from runwire_consumer.widths import measure_widths

WIDTHS_SECONDS = 60.0
_BATCH_ROWS = 2_048


@dataclass(frozen=True, slots=True)
class Reading:
    """A result that is being read.

    Attributes:
        schema: Names (one may repeat) and Arrow types of the columns.
        batches: The rows in order, once; raises QueryError where the query doesn't come to its end.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Sandbox:
    """Runs SELECTs on a database that may be written to at the same time.

    Args:
        cursors: Makes a connection of its own to the open database; every query takes one and closes it.
        limits: What one query may take.
        relations: Names that may be read.
    """

    def __init__(
        self,
        cursors: Callable[[], duckdb.DuckDBPyConnection],
        limits: Limits | None = None,
        relations: frozenset[str] = RELATIONS,
    ) -> None:
        """Nothing runs yet."""
        self._cursors = cursors
        self._limits = limits or Limits()
        self._relations = relations
        self._stopped = threading.Event()
        self._widths = Widths()
        self._widths_due = 0.0
        self._limiter = Limiter()

    def check(self, sql: str, params: Params = None) -> None:
        """Pass one harmless SELECT.

        Raises:
            SelectRefused: The sentence says what and what to do.
        """
        with contextlib.closing(self._cursors()) as cursor:
            check(cursor, sql, self._relations, self._widths_of(cursor, params))

    def stop(self) -> None:
        """End the queries in progress and refuse all others: the database is about to close."""
        self._stopped.set()

    def run(self, sql: str, params: Params = None, projects: frozenset[str] | None = None) -> Result:
        """Run a SELECT and fetch the whole result.

        Args:
            sql: The text.
            params: Values of its parameters.
            projects: The text sees nothing but these; None: everything.

        Raises:
            SelectRefused: The text isn't one harmless SELECT.
            QueryError: DuckDB refused it, or it went over a limit.
        """
        with self.reading(sql, params, projects) as reading:
            batches: list[pa.RecordBatch] = []
            count = size_bytes = 0
            for batch in reading.batches:
                count += batch.num_rows
                size_bytes += batch.nbytes
                self._check_size(count, size_bytes)
                batches.append(batch)
            return Result(reading.schema, tuple(batches))

    @contextlib.contextmanager
    def reading(
        self,
        sql: str,
        params: Params = None,
        projects: frozenset[str] | None = None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[Reading]:
        """Run a SELECT whose result is read batch by batch; it ends with the block.

        Args:
            sql: The text.
            params: Values of $name or ?.
            projects: The text sees nothing but these; None: everything.
            cancelled: Set from another thread to end it: whoever wanted the result has gone.

        Raises:
            SelectRefused: The text isn't one harmless SELECT.
            QueryError: DuckDB refused it, or it went over a limit.
        """
        with self._running(sql, params, projects, cancelled) as (cursor, watch):
            with watch.busy():
                cursor.execute(sql, _bindable(params))
                reader = cursor.to_arrow_reader(_BATCH_ROWS)
            if len(reader.schema) > self._limits.columns_max:
                raise QueryTooLarge(
                    f"The result has more than {self._limits.columns_max:,} columns: select fewer columns."
                )
            yield Reading(reader.schema, _batches(reader, watch))

    def _check_size(self, count: int, size_bytes: int) -> None:
        if count > self._limits.rows_max:
            raise QueryTooLarge(f"The result has more than {self._limits.rows_max:,} rows: add a LIMIT or aggregate.")
        if size_bytes > self._limits.result_bytes_max:
            raise QueryTooLarge(
                f"The result is larger than {self._limits.result_bytes_max // 2**20:,} MiB: "
                "select fewer columns or rows."
            )

    @contextlib.contextmanager
    def _running(
        self, sql: str, params: Params, projects: frozenset[str] | None, cancelled: threading.Event | None
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, QueryWatch]]:
        def stops() -> str | None:
            if cancelled is not None and cancelled.is_set():
                return "whoever asked has gone"
            return "the consumer is going down" if self._stopped.is_set() else None

        with contextlib.closing(self._cursors()) as cursor, _in_sentences():
            tree = check(cursor, sql, self._relations, self._widths_of(cursor, params))
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            with QueryWatch(cursor, self._cursors(), self._limits, stops) as watch:
                try:
                    if projects is not None:
                        with watch.busy():
                            self._limiter.limit(cursor, tree, params, projects)
                    yield cursor, watch
                except (duckdb.Error, pa.ArrowException):
                    watch.check()  # when it has spoken, its reason is the better sentence
                    raise

    def _widths_of(self, cursor: duckdb.DuckDBPyConnection, params: Params) -> Widths:
        """How large values are that a query starts from; stored ones are looked at once a minute."""
        now = time.monotonic()
        if now >= self._widths_due:
            self._widths_due = now + WIDTHS_SECONDS
            self._widths = measure_widths(cursor)
        values = params.values() if isinstance(params, Mapping) else params or ()
        return replace(self._widths, params=max((_param_bytes(value) for value in values), default=0))


def _batches(reader: pa.RecordBatchReader, watch: QueryWatch) -> Iterator[pa.RecordBatch]:
    while True:
        with watch.busy():
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                watch.check()
                # Through Arrow's stream the engine's errors lose their type: only their text is left.
                if "database has been invalidated" in str(error):
                    raise duckdb.FatalException(str(error)) from error
                with _in_sentences():
                    raise duckdb.Error(str(error)) from None
        watch.check()
        yield batch
    watch.check()


@contextlib.contextmanager
def _in_sentences() -> Iterator[None]:
    """The engine's errors become ours; one after which the database is gone stays, the service ends itself then."""
    try:
        yield
    except duckdb.FatalException:
        raise
    except (duckdb.Error, pa.ArrowException, UnicodeError, OverflowError, RuntimeError) as error:
        if "INTERRUPT" in str(error).upper():
            # Nobody asked for it, or the watch would have spoken: when one thread of a query fails, the engine
            # interrupts the others, and now and then (3 of 150) hands on their error instead of the first one.
            raise QueryError("The query failed, and the engine lost the reason: ask again to see it.") from None
        raise QueryError(explained(error)) from None


def check(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    relations: frozenset[str] = RELATIONS,
    widths: Widths | None = None,
) -> str:
    """Pass one harmless SELECT, as the tree that `json_serialize_sql` makes of it; `cursor` only parses it.

    Raises:
        SelectRefused: The sentence says what and what to do.
    """
    if len(sql) > STATEMENT_CHARACTERS_MAX:
        raise SelectRefused(f"The query is longer than {STATEMENT_CHARACTERS_MAX:,} characters: send a shorter one.")
    if not _is_text(sql):
        raise SelectRefused("The query holds half a character (a lone surrogate): take it out.")
    if "\0" in sql:
        raise SelectRefused("The query contains a NUL character: take it out.")
    try:
        found = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    except duckdb.FatalException:
        raise  # as below: it is not the text's fault
    except (duckdb.Error, UnicodeError) as error:
        raise SelectRefused(f"The query can't be parsed: {explained(error)}") from None
    tree = str(found[0]) if found else ""
    check_tree(tree, relations, sql, widths)
    return tree


def _bindable(params: Params) -> Any:
    if params is None or isinstance(params, Mapping):
        return dict(params) if params else None
    return list(params)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _param_bytes(value: Any) -> int:
    return len(json.dumps(value, default=repr))
