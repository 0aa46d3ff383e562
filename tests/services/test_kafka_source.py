"""The Kafka source against what brokers and their operators do: topics made again, cut, widened, or not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete

from runwire_consumer.sources.kafka import KafkaSource
from runwire_schemas.topics import parse_url
from tests.services.topic import DEADLINE_SECONDS, World, anomalies, texts

if TYPE_CHECKING:
    from runwire_consumer.sources import Message
    from tests.services.kafka import KafkaTopics


@pytest.fixture
def world(kafka: KafkaTopics, topic_name: str) -> World:
    """A topic of one partition."""
    kafka.create_topic(topic_name, 1)
    return World(kafka, topic_name)


def test_it_goes_on_behind_its_anchor(world: World) -> None:
    """A second life hands out what is new, and only that."""

    async def story() -> None:
        await world.write("one", "two")
        async with world.source() as source:
            assert texts(await world.read(source, 2)) == ["one", "two"]
            await source.commit(world.positions)
        await world.write("three")
        async with world.source() as source:
            assert texts(await world.read(source, 1)) == ["three"]
            assert anomalies(source) == {}

    asyncio.run(story())


@pytest.mark.parametrize("new", [["a"], ["a", "b", "c", "d"]], ids=["shorter", "longer"])
def test_a_topic_made_again_while_nobody_looked_is_read_from_its_start(world: World, new: list[str]) -> None:
    """Shorter or longer than the old one: no record of the new topic is skipped, and it is counted."""

    async def story() -> None:
        await world.write("one", "two", "three")
        async with world.source() as source:
            await world.read(source, 3)
        await world.make_again()
        await world.write(*new)
        async with world.source() as source:
            told, *found = await world.read(source, 1 + len(new))
            assert texts(found) == new
            assert (told.offset, told.next_offset) == (3, 0)
            assert told.damage == (
                f"Partition 0 of {source.name} is gone: the topic was deleted, and made again. "
                "Whatever it held from record 3 on may be gone unread."
            )
            assert anomalies(source) == {"topic_recreated": 1}

    asyncio.run(story())


def test_a_topic_made_again_under_our_eyes(world: World) -> None:
    """The running source finds out and reads the new topic from its start."""

    async def story() -> None:
        await world.write("one", "two", "three")
        async with world.source() as source:
            await world.read(source, 3)
            await world.make_again()
            await world.write("a", "b")
            found: list[Message] = []
            async with asyncio.timeout(DEADLINE_SECONDS):
                while texts(found)[1:] != ["a", "b"]:
                    found += await source.poll(0.1)
            assert "made again" in (found[0].damage or "")
            assert found[0].payload  # what was read last tells two such losses apart
            assert anomalies(source) == {"topic_recreated": 1}

    asyncio.run(story())


def test_a_new_partition_is_read_from_its_start(world: World) -> None:
    """A widened topic; what was read already doesn't come again."""

    async def story() -> None:
        await world.write("one")
        async with world.source() as source:
            await world.read(source, 1)
            async with world.admin() as admin:
                await admin.create_partitions({world.topic: NewPartitions(2)})
            async with asyncio.timeout(DEADLINE_SECONDS):  # the broker spreads the news
                while not await world.is_widened(2):
                    pass
            await world.write("two", partition=1)
            found: list[Message] = []
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not found:
                    found += await source.poll(0.1)
            assert [(message.partition, message.payload) for message in found] == [("1", b"two")]

    asyncio.run(story())


def test_what_retention_removed_is_a_dead_letter(world: World) -> None:
    """Records that are gone before they were read leave a message that names their offsets."""

    async def story() -> None:
        await world.write("one", "two")
        async with world.source() as source:
            await world.read(source, 2)
        await world.write("three", "four", "five")
        async with world.admin() as admin:
            await admin.delete_records({TopicPartition(world.topic, 0): RecordsToDelete(before_offset=4)})
        async with world.source() as source:
            found = await world.read(source, 2)
            assert [message.damage for message in found] == [
                "Records 2 to 3 were removed by the topic's retention before they were read.",
                "",
            ]
            assert texts(found) == ["", "five"]
            assert anomalies(source) == {"expired_records": 2}

    asyncio.run(story())


def test_a_missing_topic_is_made_with_append_time(kafka: KafkaTopics, topic_name: str) -> None:
    """The consumer may be there first; event time is the trainer's business."""

    async def story() -> None:
        world = World(kafka, topic_name)
        async with world.source() as source:
            await source.poll(0.1)
            await world.read(source, 0)
            await world.write("one")
            found = await world.read(source, 1)
            assert texts(found) == ["one"]
            assert found[0].appended_at > 1_600_000_000_000_000

    asyncio.run(story())


def test_a_broker_that_is_away_is_trouble_not_an_error() -> None:
    """Nothing is raised, the sentence names the broker."""

    async def story() -> None:
        source = KafkaSource(parse_url("kafka://127.0.0.1:9/team"))
        await source.start({})
        assert await source.poll(0.01) == []
        assert await source.poll(0.01) == []
        status = source.status()
        assert not status.reachable
        assert status.trouble == "kafka://127.0.0.1:9/team can't be reached: no broker answers at 127.0.0.1:9."
        await source.close()

    asyncio.run(story())
