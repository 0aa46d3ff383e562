"""Sweeping: what is let go of on purpose leaves the store, slice by slice, in a running consumer between two batches.

A look comes every `look_seconds`: deleted runs are purged at once (`purging.py`), settled runs whose full resolution
nobody wants any more are reduced every `reduce_seconds` (`reduction.py`). Each slice is one transaction on the writer's
thread; a pause follows, so that ingest has most of it. A disk without room, or any other trouble of the store, is said
once and met again at the next look.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from runwire_consumer import purging, reduction
from runwire_consumer.database import MEMORY
from runwire_consumer.errors import StoreError
from runwire_consumer.floor import check_floor
from runwire_consumer.reduction import Due, Retention
from runwire_consumer.replay import Do
from runwire_consumer.store import Store
from runwire_consumer.thinning import drop_full_resolution

LOOK_SECONDS = 5.0
REDUCE_SECONDS = 600.0
PAUSE_SECONDS = 0.05

_Made = TypeVar("_Made")

_log = logging.getLogger("runwire")


@dataclass(frozen=True, slots=True)
class SweepingLimits:
    """When things are done, in seconds."""

    look_seconds: float = LOOK_SECONDS
    reduce_seconds: float = REDUCE_SECONDS
    pause_seconds: float = PAUSE_SECONDS


class Sweeper:
    """Sweeps a store.

    Args:
        do: Runs work with its writer: `Service.do`, or `replay.Directly`.
        store: The store.
        retention: For how long projects keep full resolution.
        limits: When things are done.
        clock: Microseconds since the epoch.
    """

    def __init__(
        self,
        do: Do,
        store: Store,
        retention: Retention | None = None,
        *,
        limits: SweepingLimits | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """Nothing runs yet."""
        self._do = do
        self._store = store
        self._retention = retention or Retention()
        self._limits = limits or SweepingLimits()
        self._clock = clock
        self._purged: set[int] = set()
        self._next_reduction = 0.0
        self._told = ""

    async def run(self) -> None:
        """Look again and again, until cancelled: that leaves whole slices done."""
        while True:
            try:
                await self.sweep()
                self._told = ""
            except StoreError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.warning("What is deleted could not leave the database: %s It is tried again.", error)
            await asyncio.sleep(self._limits.look_seconds)

    async def sweep(self) -> None:
        """Purge, and reduce when it is time.

        Raises:
            StoreError: The rest is still to be done.
        """
        await self.purge()
        if self._retention and time.monotonic() >= self._next_reduction:
            self._next_reduction = time.monotonic() + self._limits.reduce_seconds
            await self.reduce()

    async def purge(self) -> int:
        """Purge every deleted run; returns how many points went.

        Raises:
            StoreError: The rest is still to be done.
        """
        deleted = set(self._store.catalog.deleted_runs)
        if deleted <= self._purged:
            return 0
        points = 0
        for run_key in await self._do(lambda writer: purging.waiting(writer.store)):
            points += await self._purge(run_key)
        if points:
            await self._do(lambda writer: writer.store.database.checkpoint())  # what went makes room by it
        self._purged = deleted
        return points

    async def reduce(self) -> int:
        """Reduce every run whose time has come; returns how many.

        Raises:
            StoreError: The rest is still to be done.
        """
        now = self._clock()
        found = await self._do(lambda writer: reduction.due(writer.store, self._retention, now))
        for one in found:
            while await self._slice(lambda store, one=one: self._reduce(store, one, now)):  # type: ignore[misc]
                pass
        return len(found)

    async def _purge(self, run_key: int) -> int:
        purge = await self._do(lambda writer: purging.plan(writer.store, run_key))
        for part in purge.slices:
            await self._slice(lambda store, part=part: purging.drop(store, part))  # type: ignore[misc]
        await self._slice(lambda store: purging.finish(store, purge, self._clock()))
        _log.info("A deleted run's %s points have left the database.", f"{purge.points:,}")
        return purge.points

    def _reduce(self, store: Store, one: Due, now: int) -> bool:
        """A slice of a run, unless something has come of it meanwhile; returns whether more may follow."""
        if not reduction.due(store, self._retention, now, one.run_key):
            return False
        if drop_full_resolution(store, one.run_key):
            return True
        if reduction.is_done(store, one.run_key):
            reduction.record(store, one, now)
        return False

    async def _slice(self, work: Callable[[Store], _Made]) -> _Made:
        """One transaction, and a pause for others."""
        made = await self._do(lambda writer: _with_room(writer.store, work))
        await asyncio.sleep(self._limits.pause_seconds)
        return made


def _with_room(store: Store, work: Callable[[Store], _Made]) -> _Made:
    database = store.database
    if database.path != MEMORY:
        check_floor(database.path.parent, database.wal_bytes, 0)
    return work(store)
