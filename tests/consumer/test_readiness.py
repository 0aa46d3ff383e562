"""What /readyz and the gauges say is true: not begun, catching up, log away, disk full, fenced, ending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from runwire_consumer.change import Change
from runwire_consumer.database import MEMORY
from runwire_consumer.errors import Fenced, StoreFull
from runwire_consumer.runstate import RunState
from runwire_consumer.self_metrics import SelfMetrics
from runwire_consumer.service import Service
from runwire_consumer.sources import SourceStatus
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from tests.consumer.telling import Emitter, play
from tests.consumer.test_service import LIMITS, met

LAG = ("runwire_consumer_lag_messages", {"source": "memory:log", "partition": "0"})


class Disk(Store):
    """A store whose disk is full as long as a test says so."""

    full = False

    def write(self, change: Change, states: dict[int, RunState] | None = None) -> None:
        """Fail as the engine does."""
        if self.full:
            raise StoreFull("The disk of the database is full: planted.")
        super().write(change, states)


class Unseen(MemorySource):
    """A log whose ends nobody has looked up yet."""

    surveyed = False

    def status(self) -> SourceStatus:
        """As far as it was looked through."""
        return replace(super().status(), surveyed=self.surveyed)


class World:
    """A service with metrics over a log and a disk that a test breaks."""

    def __init__(self, source: Callable[[MemoryLog], MemorySource] = MemorySource) -> None:
        self.log = MemoryLog()
        self.store = Disk.open(MEMORY)
        self.reader = self.store.cursor()
        self.registry = CollectorRegistry()
        self.source = source(self.log)
        limits = replace(LIMITS, tell_seconds=0.001, batch_messages_max=2)
        self.service = Service(self.store, [self.source], metrics=SelfMetrics(self.registry), limits=limits)

    def gauge(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """As a scrape sees it."""
        return self.registry.get_sample_value(name, labels or {})

    def append(self, count: int) -> None:
        """Messages of one row each."""
        for number in range(count):
            message = Emitter("a", seq=len(self.log.partitions.get("0", ()))).logs({number: {"loss": 1.0}})
            self.log.append(message.headers, message.payload)  # type: ignore[arg-type]

    def stored(self) -> int:
        """Rows in the store."""
        return int(self.reader.execute("SELECT count(*) FROM store.rows").fetchall()[0][0])

    def play(self, story: Callable[[], Awaitable[None]]) -> None:
        """Run the service while a story is told, then stop it."""
        play(self.service, story)


def test_before_and_after() -> None:
    """Not ready before the first look, ready then, never again after the end."""
    world = World()
    assert world.service.unready() == "The service has not begun to read."

    async def story() -> None:
        await met(lambda: world.service.unready() is None and world.gauge("runwire_consumer_ready") == 1)

    world.play(story)
    assert world.service.unready() == "The consumer is ending."
    assert world.gauge("runwire_consumer_ready") == 0


def test_a_log_that_nobody_looked_through() -> None:
    """Reachable is not enough: how much waits must be known first."""
    world = World(Unseen)

    async def story() -> None:
        await met(lambda: "not looked through" in (world.service.unready() or ""))
        assert world.gauge("runwire_consumer_ready") == 0
        Unseen.surveyed = True
        await met(lambda: world.service.unready() is None)

    world.play(story)


def test_a_log_that_is_away() -> None:
    """503 with the reason, and the gauges say so."""
    world = World()

    async def story() -> None:
        await met(lambda: world.gauge("runwire_source_up") == 1)
        world.log.reachable = False
        await met(lambda: world.gauge("runwire_source_up") == 0 and world.gauge("runwire_consumer_ready") == 0)
        assert world.service.unready() == "The log is away."
        world.log.reachable = True
        await met(lambda: world.gauge("runwire_source_up") == 1 and world.gauge("runwire_consumer_ready") == 1)

    world.play(story)


def test_a_full_disk() -> None:
    """What is in memory only isn't stored: it counts as lag, and what comes on top of it, too."""
    world = World()

    async def story() -> None:
        await met(lambda: world.service.unready() is None)
        world.store.full = True
        world.append(3)
        await met(lambda: "disk" in (world.service.unready() or ""))
        await met(lambda: world.gauge(*LAG) == 3)
        assert world.gauge("runwire_source_up") == 1
        await met(lambda: world.gauge("runwire_consumer_ready") == 0)
        world.append(4)
        await met(lambda: world.gauge(*LAG) == 7)
        assert world.stored() == 0
        world.store.full = False
        await met(lambda: world.gauge(*LAG) == 0 and world.gauge("runwire_consumer_ready") == 1)
        assert world.stored() == 7

    world.play(story)


def test_catching_up() -> None:
    """Ready means that everything that comes is stored; how far behind it is, lag says from the start on."""
    world = World(lambda log: MemorySource(log, poll_messages_max=1))
    world.append(50)
    seen: list[float] = []

    async def story() -> None:
        while world.stored() < 50:
            lag = world.gauge(*LAG)
            stored = world.stored()
            if lag is not None:
                seen.append(lag)
                assert lag >= 50 - stored - 2  # what was stored between two looks
            await asyncio.sleep(0.001)
        await met(lambda: world.gauge(*LAG) == 0)

    world.play(story)
    assert seen


def test_a_consumer_that_is_fenced() -> None:
    """It stops, and doesn't say that it is ready meanwhile."""
    world = World()

    async def story() -> None:
        world.append(1)
        await met(lambda: world.stored() == 1)
        world.reader.execute("UPDATE store.offsets SET next_offset = 77")
        world.append(1)
        await met(lambda: world.service.unready() is not None)

    with pytest.raises(Fenced):
        world.play(story)
    assert world.service.unready() == "The consumer is ending."
    assert world.gauge("runwire_consumer_ready") == 0
