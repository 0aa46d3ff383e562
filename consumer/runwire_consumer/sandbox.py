"""Runs one SELECT of a user beside the writer: checked, read-only, on its own cursor, within time, rows and bytes.

What holds together (each alone leaks): the check of `selects.py`, a read-only transaction, `interrupt()` after a
deadline or when the process swells, and caps on what is fetched. The database's own settings (no external access,
locked configuration) are the store's part.

A result above a cap is refused, never cut: a cut table would look like a whole one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from runwire_consumer.allowlist import RELATIONS
from runwire_consumer.errors import QueryError, QueryTimeout, QueryTooLarge, SelectRefused
from runwire_consumer.hints import explained
from runwire_consumer.projects import Limiter, Params
from runwire_consumer.results import Result
from runwire_consumer.selects import STATEMENT_CHARACTERS_MAX, check_tree

COLUMNS_MAX = 2_000
_BATCH_ROWS = 2_048
_WATCH_INTERVAL_SECONDS = 0.05
_PAGE_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may take."""

    seconds_max: float = 30.0
    rows_max: int = 1_000_000
    columns_max: int = COLUMNS_MAX
    result_bytes_max: int = 256 * 2**20
    process_growth_bytes_max: int = 2 * 2**30


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
        self._limiter = Limiter()

    def check(self, sql: str) -> None:
        """Pass one harmless SELECT.

        Raises:
            SelectRefused: The sentence says what and what to do.
        """
        with contextlib.closing(self._cursors()) as cursor:
            check(cursor, sql, self._relations)

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
        with self._running(sql, params, projects) as (cursor, watch):
            reader = cursor.to_arrow_reader(_BATCH_ROWS)
            if len(reader.schema) > self._limits.columns_max:
                raise QueryTooLarge(
                    f"The result has more than {self._limits.columns_max:,} columns: select fewer columns."
                )
            batches: list[pa.RecordBatch] = []
            count = size_bytes = 0
            for batch in reader:
                watch.check()
                count += batch.num_rows
                size_bytes += batch.nbytes
                self._check_size(count, size_bytes)
                batches.append(batch)
            watch.check()
            return Result(reader.schema, tuple(batches))

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
        self, sql: str, params: Params, projects: frozenset[str] | None
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, _Watch]]:
        cursor = self._cursors()
        try:
            tree = check(cursor, sql, self._relations)
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            with _Watch(cursor.interrupt, self._limits, self._stopped) as watch:
                try:
                    if projects is not None:
                        self._limiter.limit(cursor, tree, params, projects)
                    cursor.execute(sql, _bindable(params))
                    yield cursor, watch
                except (duckdb.Error, pa.ArrowException):
                    watch.check()  # when it has spoken, its reason is the better sentence
                    raise
        except duckdb.FatalException:
            raise  # the database is gone for the writer too: the service ends itself
        except (duckdb.Error, pa.ArrowException, UnicodeError, OverflowError) as error:
            if "INTERRUPT" in str(error).upper():
                raise QueryTimeout("The query was stopped before its end: read fewer rows.") from None
            raise QueryError(explained(error)) from None
        finally:
            cursor.close()


def check(cursor: duckdb.DuckDBPyConnection, sql: str, relations: frozenset[str] = RELATIONS) -> str:
    """Pass one harmless SELECT, as the tree that `json_serialize_sql` makes of it; `cursor` only parses it.

    Raises:
        SelectRefused: The sentence says what and what to do.
    """
    if len(sql) > STATEMENT_CHARACTERS_MAX:
        raise SelectRefused(f"The query is longer than {STATEMENT_CHARACTERS_MAX:,} characters: send a shorter one.")
    if "\0" in sql:
        raise SelectRefused("The query contains a NUL character: take it out.")
    try:
        found = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    except duckdb.FatalException:
        raise  # as below: it is not the text's fault
    except (duckdb.Error, UnicodeError) as error:
        raise SelectRefused(f"The query can't be parsed: {explained(error)}") from None
    tree = str(found[0]) if found else ""
    check_tree(tree, relations, sql)
    return tree


class _Watch:
    """Interrupts a query that runs too long or makes the process swell."""

    def __init__(self, interrupt: Callable[[], None], limits: Limits, stopped: threading.Event) -> None:
        self.reason: str | None = None
        self._interrupt = interrupt
        self._limits = limits
        self._stopped = stopped
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runwire-query-watch", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._resident_bytes = resident_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Between batches, where an interrupt has nothing to hit.

        Raises:
            QueryTimeout: The watch has already spoken.
        """
        if self.reason:
            raise QueryTimeout(f"The query was stopped: {self.reason}.")

    def _run(self) -> None:
        while not self._done.wait(_WATCH_INTERVAL_SECONDS):
            self.reason = self.reason or self._find_reason()
            if self.reason:
                self._interrupt()

    def _find_reason(self) -> str | None:
        if self._stopped.is_set():
            return "the consumer is going down"
        if time.monotonic() - self._started > self._limits.seconds_max:
            return f"it ran longer than {self._limits.seconds_max:g} s, so read fewer rows or aggregate first"
        if resident_bytes() - self._resident_bytes > self._limits.process_growth_bytes_max:
            return f"it took more than {self._limits.process_growth_bytes_max // 2**20:,} MiB of memory"
        return None


def resident_bytes() -> int:
    """Memory of this process; 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _bindable(params: Params) -> Any:
    if params is None or isinstance(params, Mapping):
        return dict(params) if params else None
    return list(params)
