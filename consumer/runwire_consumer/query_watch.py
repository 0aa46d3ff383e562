"""Interrupts a query that takes too long or too much memory, or whose client has gone.

Memory is looked at twice. What the engine counts (hash tables, sorts) is also the writer's: a query that has most of it
is stopped before a commit finds none. What it doesn't count, the strings and lists that expressions make, is the
process's resident memory beyond the engine's pool; that is everybody's together.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from runwire_consumer.errors import QueryTimeout
from runwire_consumer.limits import Limits

_WATCH_INTERVAL_SECONDS = 0.05
_PAGE_BYTES = 4_096
# Pages of tables are let go of when room is needed; everything else in the pool is in use.
_POOL = """
    SELECT sum(memory_usage_bytes)::BIGINT,
        (sum(memory_usage_bytes) FILTER (tag NOT IN ('BASE_TABLE', 'METADATA', 'IN_MEMORY_TABLE')))::BIGINT
    FROM duckdb_memory()
"""


class QueryWatch:
    """Watches one query from a thread of its own.

    Args:
        query: The cursor that the query runs on.
        looking: Another cursor, for looks at the pool; the watch closes it.
        limits: What the query may take.
        stops: Reasons to end it at once: a sentence, or None.
    """

    def __init__(
        self,
        query: duckdb.DuckDBPyConnection,
        looking: duckdb.DuckDBPyConnection,
        limits: Limits,
        stops: Callable[[], str | None],
    ) -> None:
        """Nothing is watched yet."""
        self.reason: str | None = None
        self._query = query
        self._looking = looking
        self._limits = limits
        self._stops = stops
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runwire-query-watch", daemon=True)
        self._spent_seconds = 0.0
        self._busy_since: float | None = None
        self._first: tuple[int, int] | None = None  # bytes of the process and of the pool, when first looked at

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._looking.close()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """The engine works: only that counts against the query's time, not a client that reads slowly."""
        self._busy_since = began = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = None
            self._spent_seconds += time.monotonic() - began

    def check(self) -> None:
        """Between batches, where an interrupt has nothing to hit.

        Raises:
            QueryTimeout: There is a reason to end.
        """
        self.reason = self.reason or self._stops()
        if self.reason:
            raise QueryTimeout(f"The query was stopped: {self.reason}.")

    def _run(self) -> None:
        while not self._done.wait(_WATCH_INTERVAL_SECONDS):
            self.reason = self.reason or self._find_reason()
            if self.reason:
                self._query.interrupt()

    def _find_reason(self) -> str | None:
        stop = self._stops()
        if stop is not None:
            return stop
        since = self._busy_since
        spent = self._spent_seconds + (0.0 if since is None else time.monotonic() - since)
        if spent > self._limits.seconds_max:
            return f"it ran longer than {self._limits.seconds_max:g} s, so read fewer rows or aggregate first"
        with contextlib.suppress(duckdb.Error):
            return self._find_waste()
        return None

    def _find_waste(self) -> str | None:
        resident = resident_bytes()
        if self._first is not None and resident - self._first[0] <= self._limits.growth_looked_at_bytes:
            return None
        pool, used = self._looking.execute(_POOL).fetchone() or (0, 0)
        if used > self._limits.pool_bytes_max:
            return f"it took more than {self._limits.pool_bytes_max // 2**20:,} MiB of the database's memory"
        self._first = self._first or (resident, pool)
        # The process grows by the pool, which has its own limit, and by what nobody counts.
        if resident - self._first[0] - (pool - self._first[1]) > self._limits.uncounted_bytes_max:
            return f"it took more than {self._limits.uncounted_bytes_max // 2**20:,} MiB of memory"
        return None


def resident_bytes() -> int:
    """Memory of this process; 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
