"""The Kafka source on a network, and a broker, that fail: all of the log comes, in order, and it comes back alone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from runwire_consumer.sources import kafka as kafka_source
from tests.services.fault_proxy import FaultProxy
from tests.services.kafka import KafkaBroker, KafkaTopics
from tests.services.topic import DEADLINE_SECONDS, World, anomalies, texts

if TYPE_CHECKING:
    from runwire_consumer.sources import Message
    from runwire_consumer.sources.kafka import KafkaSource


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is given up after two seconds instead of ten."""
    monkeypatch.setattr(kafka_source, "REQUEST_TIMEOUT_SECONDS", 1.0)


async def read_to(source: KafkaSource, last: str) -> list[Message]:
    """Up to a record."""
    found: list[Message] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while last not in texts(found):
            found += await source.poll(0.1)
    return found


def in_order(messages: list[Message]) -> list[str]:
    """What came, each once; where some came again, they came in order, too, without a hole."""
    seen: list[str] = []
    for text in texts(messages):
        if text not in seen:
            seen.append(text)
    return seen


async def until(source: KafkaSource, reachable: bool) -> None:  # noqa: FBT001 - the question itself
    """Poll until it says so."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while source.status().reachable is not reachable:
            await source.poll(0.1)


FAULTS: dict[str, Callable[[FaultProxy], object]] = {
    "black hole": FaultProxy.blackhole,
    "half-open": FaultProxy.half_open,
    "answers lost": lambda proxy: proxy.set(drop_responses=True),
    "refused": FaultProxy.refuse,
    "answers break off": lambda proxy: proxy.set(response_bytes_max=200),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_network_that_fails_and_heals(
    own_kafka: KafkaBroker, topic_name: str, fault: Callable[[FaultProxy], object]
) -> None:
    """It is said while it lasts, and nothing is skipped; what was written meanwhile comes when it is over."""
    own_kafka.create_topic(topic_name, 1)
    direct = World(own_kafka, topic_name)

    async def story() -> None:
        with own_kafka.faulty() as proxy:
            world = World(KafkaTopics(proxy.address), topic_name)
            await direct.write("one", "two")
            async with world.source() as source:
                found = await world.read(source, 2)
                fault(proxy)
                await direct.write("three")
                if fault is not FaultProxy.half_open:  # new connections work there: it comes back by itself
                    await until(source, reachable=False)
                    assert "can't be reached" in source.status().trouble
                    proxy.heal()
                await direct.write("four")
                found += await read_to(source, "four")
                assert in_order(found) == ["one", "two", "three", "four"]
                assert anomalies(source) == {}

    asyncio.run(story())


def test_a_flapping_network(own_kafka: KafkaBroker, topic_name: str) -> None:
    """Connections that are reset again and again while records come."""
    own_kafka.create_topic(topic_name, 1)
    direct = World(own_kafka, topic_name)
    numbers = [str(number) for number in range(200)]

    async def story() -> None:
        with own_kafka.faulty() as proxy:
            world = World(KafkaTopics(proxy.address), topic_name)
            async with world.source() as source:
                writing = asyncio.create_task(direct.write(*numbers))
                found: list[Message] = []
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while numbers[-1] not in texts(found):
                        found += await source.poll(0.1)
                        if not writing.done():
                            proxy.reset()
                await writing
                assert in_order(found) == numbers
                assert anomalies(source) == {}

    asyncio.run(story())


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_broker_that_stands_still_or_dies(own_kafka: KafkaBroker, topic_name: str, how: str) -> None:
    """SIGSTOP and SIGCONT, SIGKILL and a new start: it goes on where it was."""
    own_kafka.create_topic(topic_name, 1)
    world = World(own_kafka, topic_name)

    async def story() -> None:
        await world.write("one", "two")
        async with world.source() as source:
            found = await world.read(source, 2)
            if how == "stopped":
                os.kill(own_kafka.pid, signal.SIGSTOP)
            else:
                own_kafka.kill()
            await until(source, reachable=False)
            if how == "stopped":
                os.kill(own_kafka.pid, signal.SIGCONT)
            else:
                await asyncio.to_thread(own_kafka.start)
            await world.write("three")
            found += await read_to(source, "three")
            assert in_order(found) == ["one", "two", "three"]
            assert anomalies(source) == {}

    asyncio.run(story())
