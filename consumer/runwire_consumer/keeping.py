"""Keeps the store of a running consumer safe: snapshots in time, rotation, pruning behind them; on a thread of its own.

A look comes every LOOK_SECONDS. A snapshot is due when the newest is SNAPSHOT_SECONDS old and offsets have moved
since, and FIRST_SNAPSHOT_SECONDS after the start where there is none. One that fails is said, counted and
tried again after RETRY_SECONDS; ingest never waits for any of it. After a snapshot comes a checkpoint: then a torn
one would cost least.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from runwire_consumer import pruning, snapshots
from runwire_consumer.errors import SnapshotFailed, StoreDamaged, StoreEnding, StoreError, first_line
from runwire_consumer.leaving import leave, leaving_if_invalidated
from runwire_consumer.repair import doubt
from runwire_consumer.self_metrics import KeepingMetrics
from runwire_consumer.service import Service
from runwire_consumer.snapshot_files import Snapshot, as_json, listed, rotate
from runwire_consumer.sources import Position
from runwire_consumer.store import Store

SNAPSHOT_SECONDS = 6 * 3600.0
FIRST_SNAPSHOT_SECONDS = 60.0
RETRY_SECONDS = 300.0
LOOK_SECONDS = 5.0
_INTERRUPT_SECONDS = 0.05
ENDING = "The consumer is ending: no snapshot is taken any more."

_log = logging.getLogger("runwire")
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class KeepingLimits:
    """When things are due, in seconds."""

    snapshot_seconds: float = SNAPSHOT_SECONDS
    first_snapshot_seconds: float = FIRST_SNAPSHOT_SECONDS
    retry_seconds: float = RETRY_SECONDS
    look_seconds: float = LOOK_SECONDS


class Keeper:
    """Takes snapshots of the store that a service writes.

    Args:
        service: Writes the store.
        store: Open, with `folder` as its snapshots folder.
        folder: Of the snapshots.
        metrics: What is told.
        topic: The consumer's own topic folder and the name of its source, where pruning may be done.
        limits: When things are due.
        clock: Microseconds since the epoch.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        folder: Path,
        metrics: KeepingMetrics,
        *,
        topic: tuple[Path, str] | None = None,
        limits: KeepingLimits | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """Nothing runs yet."""
        self._service = service
        self._store = store
        self._folder = folder
        self._metrics = metrics
        self._topic = topic
        self._limits = limits or KeepingLimits()
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runwire-keeper")
        self._one_at_a_time = asyncio.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._closing: asyncio.Future[None] | None = None
        self._taken_of: dict[tuple[str, str], Position] | None = None  # offsets in the newest, where that is known
        self._not_before = time.monotonic() + self._limits.first_snapshot_seconds
        self._told = ""

    async def run(self) -> None:
        """Look again and again, until cancelled; `close` must follow before the store closes."""
        while True:
            try:
                found = await self._aside(self._listed)
                self._show(found)
                if self._is_due(found):
                    await self.snapshot()
            except StoreError:
                pass  # said and counted where it was met
            except (OSError, duckdb.Error) as error:  # of the folder, or of a statement around the copy
                self._fail(SnapshotFailed(f"Snapshots in {self._folder} can't be looked after: {first_line(error)}."))
            await asyncio.sleep(self._limits.look_seconds)

    async def snapshot(self) -> Snapshot:
        """Take one now.

        Raises:
            StoreEnding: The consumer is ending, and none was taken.
            StoreError: None was taken; the sentence says why.
        """
        async with self._one_at_a_time:
            if self._closing is not None:
                raise StoreEnding(ENDING)
            began, offsets = time.monotonic(), dict(self._store.catalog.positions)
            try:
                taken = await self._aside(self._take)
            except StoreDamaged as error:
                # The copy reads every block: the next start sets the file aside and goes on from a snapshot.
                with contextlib.suppress(OSError):
                    doubt(self._store.database.path, str(error), self._clock())
                leave(error)
            except StoreError as error:
                if self._closing is not None:
                    raise StoreEnding(ENDING) from error
                self._fail(error)
                raise
            self._taken_of, self._told = offsets, ""
            _log.info(
                "Snapshot %s taken: %s MiB in %.1f s.",
                taken.path.name, f"{taken.bytes / 2**20:,.1f}", time.monotonic() - began,
            )  # fmt: skip
            self._show(await self._aside(listed, self._folder))
            with contextlib.suppress(StoreError):  # the consumer ends, or the disk is full
                await self._service.do(lambda writer: writer.store.database.checkpoint())
            await self._prune()
            return taken

    async def order(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """The order `snapshots` of the HTTP face."""
        return as_json(await self.snapshot())

    async def close(self) -> None:
        """Stop what runs, refuse what waits; afterwards no cursor of ours is open. May be called again."""
        self._closing = self._closing or asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # A `run` that was cancelled has left its snapshot on the thread.
        idle = asyncio.ensure_future(self._aside(bool))
        while not idle.done() or self._one_at_a_time.locked():
            cursor = self._cursor
            if cursor is not None:
                with contextlib.suppress(duckdb.Error):
                    cursor.interrupt()
            await asyncio.sleep(_INTERRUPT_SECONDS)  # an interrupt between two statements hits nothing
        self._thread.shutdown()

    def _listed(self) -> list[Snapshot]:
        try:
            return listed(self._folder)
        except SnapshotFailed as error:
            self._fail(error)
            raise

    def _show(self, found: list[Snapshot]) -> None:
        self._metrics.kept(found[0].taken_at if found else None, len(found), sum(one.bytes for one in found))

    def _is_due(self, found: list[Snapshot]) -> bool:
        if time.monotonic() < self._not_before:
            return False
        offsets = self._store.catalog.positions
        # A name from the future (the clock was set back, or somebody's file) says nothing of how old the newest is.
        ages = [age for one in found if (age := self._clock() - one.taken_at) >= 0]
        if not ages:
            return bool(offsets) and (not found or offsets != self._taken_of)
        is_old = ages[0] >= self._limits.snapshot_seconds * 1e6
        return is_old and bool(offsets) and offsets != self._taken_of

    def _fail(self, error: StoreError) -> None:
        self._metrics.failed()
        self._not_before = time.monotonic() + self._limits.retry_seconds
        if str(error) != self._told:
            self._told = str(error)
            _log.warning("%s It is tried again every %d s.", error, self._limits.retry_seconds)

    def _take(self) -> Snapshot:
        with leaving_if_invalidated():
            self._cursor = self._store.cursor()
            try:
                taken = snapshots.take(self._store.database, self._folder, self._clock(), self._cursor)
            finally:
                self._cursor = None
            rotate(self._folder, taken)
            return taken

    async def _prune(self) -> None:
        if self._topic is None:
            return
        folder, source = self._topic
        try:
            names = await self._aside(pruning.prune, self._store.database, self._folder, folder, source, self._clock())
            if names:
                await self._service.do(lambda writer: pruning.forget(writer.store, source, names))
                _log.info("%d topic files, old and in every snapshot, were removed from %s.", len(names), folder)
        except (StoreError, OSError) as error:
            _log.warning("Topic files in %s could not be pruned: %s", folder, error)
            return
        self._metrics.pruned(len(names))

    async def _aside(self, work: Callable[..., _Made], *given: Any) -> _Made:
        with leaving_if_invalidated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)
