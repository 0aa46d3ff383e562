"""What the Kafka source's looks beside its reading must survive: a service that is busy, answers nobody has seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from runwire._batch import Message
from runwire_consumer.letters import letter_id
from runwire_consumer.sources import Message as Read
from runwire_consumer.sources import kafka as kafka_module
from runwire_consumer.sources.kafka import KafkaSource
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import parse_url
from tests.simulation.broker import Broker
from tests.simulation.client import Client
from tests.simulation.loop import VirtualLoop
from tests.simulation.trainer import URL
from tests.simulation.world import VirtualTime

Story = Callable[[Broker, KafkaSource, VirtualLoop], Awaitable[None]]


def tell(story: Story, monkeypatch: pytest.MonkeyPatch, **methods: object) -> None:
    """A story of a broker and a source, in virtual time; `methods` replace those of the client."""
    loop = VirtualLoop(lambda: 0.0)
    broker = Broker(loop, random.Random(0), 1, 10_000)
    monkeypatch.setattr(kafka_module, "AIOKafkaConsumer", type("Simulated", (Client,), {"broker": broker, **methods}))
    monkeypatch.setattr(kafka_module, "time", VirtualTime(loop, lambda: 0))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(story(broker, KafkaSource(parse_url(URL)), loop))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def append(broker: Broker, text: bytes) -> None:
    broker.append(Message(Envelope("TextLogged", "project", "run", "emitter", "attempt", 0, 0, 1), text))


async def take(source: KafkaSource, loop: VirtualLoop, seconds: float) -> list[Read]:
    """What comes within a time."""
    ends_at, found = loop.time() + seconds, list[Read]()
    while loop.time() < ends_at:
        found += await source.poll(0.5)
    return found


async def read(source: KafkaSource, loop: VirtualLoop, seconds: float) -> list[bytes]:
    """The bytes that come within a time."""
    return [message.payload for message in await take(source, loop, seconds)]


def test_a_service_that_is_busy_makes_no_client_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a long transaction: nobody polls for minutes, and what waits waits for us."""

    async def story(broker: Broker, source: KafkaSource, loop: VirtualLoop) -> None:
        await source.start({})
        append(broker, b"one")
        assert await read(source, loop, 5.0) == [b"one"]
        append(broker, b"two")
        await asyncio.sleep(10 * kafka_module.STALL_SECONDS)
        assert await read(source, loop, 5.0) == [b"two"]
        assert source.status().anomalies == {}
        await source.close()

    tell(story, monkeypatch)


def test_a_look_that_fails_as_none_before_costs_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done again by a new client; and closing, which must close the store after it, raises nothing."""
    looks = 0

    async def end_offsets(self: Client, partitions: object) -> object:
        nonlocal looks
        looks += 1
        if looks == 2:  # the first is made when it connects
            raise KeyError("nobody has thought of this")
        return await Client.end_offsets(self, partitions)  # type: ignore[arg-type]

    async def story(broker: Broker, source: KafkaSource, loop: VirtualLoop) -> None:
        await source.start({})
        append(broker, b"one")
        assert await read(source, loop, 10.0) == [b"one"]
        append(broker, b"two")
        append(broker, b"three")
        assert await read(source, loop, 10.0) == [b"two", b"three"]
        assert source.status().reachable
        await source.close()

    tell(story, monkeypatch, end_offsets=end_offsets)


def test_two_losses_at_one_offset_are_two_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log loses its end, and what came instead is lost, too: each is told, by an id of its own."""

    async def story(broker: Broker, source: KafkaSource, loop: VirtualLoop) -> None:
        await source.start({})
        ids = []
        for text in (b"one", b"two", b"three"):
            append(broker, text)
            ids += [letter_id(one) for one in await take(source, loop, 60.0) if one.damage]
            broker.truncate(0, 1)
        assert len(ids) == len(set(ids)) == 2
        await source.close()

    tell(story, monkeypatch)
