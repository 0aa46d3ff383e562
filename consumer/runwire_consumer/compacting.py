"""Runs compaction beside ingest: slice by slice on the store's thread, with pauses that leave ingest most of the time.

While messages come in, a slice that took t seconds is followed by a pause of PAUSE_FACTOR times t; else the next one
follows at once, until nothing is left to do. While there is a backlog nothing is moved before the points in arrival
order are HOT_POINTS_BACKLOG: they cost readers time, and the backlog costs more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import duckdb
import pyarrow as pa

from runwire_consumer.compaction import Slice, describe
from runwire_consumer.errors import StoreError, StoreFull
from runwire_consumer.leaving import leaving_if_invalidated
from runwire_consumer.service import Service
from runwire_consumer.store import Store
from runwire_consumer.writing import Writer

PAUSE_FACTOR = 3.0
LOOK_SECONDS = 2.0
RETRY_SECONDS = 60.0
HOT_POINTS_BACKLOG = 20_000_000
_INTERRUPT_SECONDS = 0.05

_log = logging.getLogger("runwire")


@dataclass(frozen=True, slots=True)
class CompactingLimits:
    """When slices are due."""

    pause_factor: float = PAUSE_FACTOR
    look_seconds: float = LOOK_SECONDS
    retry_seconds: float = RETRY_SECONDS
    hot_points_backlog: int = HOT_POINTS_BACKLOG


class Compactor:
    """Compacts the store that a service writes."""

    def __init__(self, service: Service, store: Store, limits: CompactingLimits | None = None) -> None:
        """Nothing runs yet."""
        self._service = service
        self._store = store
        self._limits = limits or CompactingLimits()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runwire-compactor")
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._ended = False
        self._closing: asyncio.Task[None] | None = None
        self._told = ""

    async def run(self) -> None:
        """Look again and again, until cancelled; `close` must follow before the store closes."""
        stats, limits = self._service.stats, self._limits
        messages = -1
        while not self._ended:
            came, messages = stats.messages != messages, stats.messages
            try:
                pause_seconds = await self._slice(pauses=came)
                self._told = ""
            except StoreError as error:
                if str(error) != self._told and not (isinstance(error, StoreFull) or self._ended):
                    self._told = str(error)
                    _log.warning("%s Compaction is tried again every %d s.", error, limits.retry_seconds)
                pause_seconds = limits.retry_seconds
            await asyncio.sleep(pause_seconds)

    async def close(self) -> None:
        """Stop what runs; afterwards no cursor of ours is open. May be called again."""
        self._ended = True
        self._closing = self._closing or asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        idle = asyncio.get_running_loop().run_in_executor(self._thread, bool)
        while not idle.done():
            if (cursor := self._cursor) is not None:
                with contextlib.suppress(duckdb.Error):
                    cursor.interrupt()
            await asyncio.sleep(_INTERRUPT_SECONDS)  # an interrupt between two statements hits nothing
        self._thread.shutdown()

    async def _slice(self, *, pauses: bool) -> float:
        """One slice, or else summaries; returns how long to wait for the next look."""
        done, took_seconds = await self._service.do(self._step)
        if done is not None:
            return took_seconds * self._limits.pause_factor if pauses else 0.0
        while keys := await self._service.do(lambda writer: writer.store.compaction.unsettled()):
            with leaving_if_invalidated():
                table = await asyncio.get_running_loop().run_in_executor(self._thread, self._describe, keys)
            await self._service.do(partial(_settle, table))
        return self._limits.look_seconds

    def _step(self, writer: Writer) -> tuple[Slice | None, float]:
        """On the store's thread."""
        if self._service.stats.behind and writer.store.compaction.hot_points < self._limits.hot_points_backlog:
            return None, 0.0
        began = time.perf_counter()
        return writer.compact(), time.perf_counter() - began

    def _describe(self, run_keys: list[int]) -> pa.Table:
        """On our own thread, beside the writer."""
        self._cursor = self._store.cursor()
        try:
            return describe(self._cursor, run_keys)
        finally:
            self._cursor.close()
            self._cursor = None


def _settle(described: pa.Table, writer: Writer) -> int:
    return writer.store.compaction.settle(described)
