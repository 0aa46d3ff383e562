"""What simulated histories found in the Kafka source, each as a story of its own."""

from __future__ import annotations

import asyncio
import random

import pytest

from runwire._batch import Message
from runwire_consumer.sources import kafka as kafka_module
from runwire_consumer.sources.kafka import KafkaSource
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import parse_url
from tests.simulation.broker import Broker
from tests.simulation.client import Client
from tests.simulation.loop import VirtualLoop
from tests.simulation.trainer import URL
from tests.simulation.world import VirtualTime

SOON_SECONDS = 10.0  # far below the watchdog's STALL_SECONDS


def test_a_connection_that_broke_leaves_the_next_one_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old connection's look, due in between, assigns nothing: the new one reads on at once."""
    loop = VirtualLoop(lambda: 0.0)
    broker = Broker(loop, random.Random(0), 1, 10_000)
    monkeypatch.setattr(kafka_module, "AIOKafkaConsumer", type("Simulated", (Client,), {"broker": broker}))
    monkeypatch.setattr(kafka_module, "time", VirtualTime(loop, lambda: 0))

    async def story() -> list[bytes]:
        source = KafkaSource(parse_url(URL))
        await source.start({})
        found = []
        for text in (b"one", b"two"):
            broker.append(Message(Envelope("TextLogged", "project", "run", "emitter", "attempt", 0, 0, 1), text))
            ends_at = loop.time() + SOON_SECONDS
            while loop.time() < ends_at:
                found += [message.payload for message in await source.poll(0.5)]
            broker.outage(reachable=True)  # everybody is thrown out, and may come again
        await source.close()
        return found

    asyncio.set_event_loop(loop)
    try:
        assert loop.run_until_complete(story()) == [b"one", b"two"]
    finally:
        asyncio.set_event_loop(None)
        loop.close()
