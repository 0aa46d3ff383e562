"""Runs compaction beside ingest: slice by slice on the store's thread, with pauses that leave ingest most of the time.

While messages come in, a slice that took t seconds is followed by a pause of PAUSE_FACTOR times t; else the next one
follows at once, until nothing is left to do. While there is a backlog nothing is moved before the points in arrival
order are HOT_POINTS_BACKLOG: they cost readers time, and the backlog costs more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from runwire_consumer.compaction import Slice
from runwire_consumer.errors import StoreError, StoreFull
from runwire_consumer.service import Service
from runwire_consumer.writing import Writer

PAUSE_FACTOR = 3.0
LOOK_SECONDS = 2.0
RETRY_SECONDS = 60.0
HOT_POINTS_BACKLOG = 20_000_000

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

    def __init__(self, service: Service, limits: CompactingLimits | None = None) -> None:
        """Nothing runs yet."""
        self._service = service
        self._limits = limits or CompactingLimits()
        self._told = ""

    async def run(self) -> None:
        """Look again and again, until cancelled or the service ends."""
        stats, limits = self._service.stats, self._limits
        messages = -1
        while True:
            came, messages = stats.messages != messages, stats.messages
            try:
                done, took_seconds = await self._service.do(self._step)
                self._told = ""
            except StoreError as error:
                if self._service.unready() == "The consumer is ending.":
                    return
                if str(error) != self._told and not isinstance(error, StoreFull):
                    self._told = str(error)
                    _log.warning("%s Compaction is tried again every %d s.", error, limits.retry_seconds)
                await asyncio.sleep(limits.retry_seconds)
                continue
            if done is None:
                await asyncio.sleep(limits.look_seconds)
                continue
            await asyncio.sleep(took_seconds * limits.pause_factor if came else 0.0)

    def _step(self, writer: Writer) -> tuple[Slice | None, float]:
        """On the store's thread."""
        compaction = writer.store.compaction
        if self._service.stats.behind and compaction.hot_points < self._limits.hot_points_backlog:
            return None, 0.0
        began = time.perf_counter()
        return writer.compact(), time.perf_counter() - began
