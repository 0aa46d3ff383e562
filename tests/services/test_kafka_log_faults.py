"""Logs that aren't what they were: topics made again, brokers restored from older data, ends that were cut off.

The law of every story: no record that the log holds now is skipped, and what may be gone is told of in a record.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from runwire_consumer.sources.anchors import Anchor
from tests.services.process import run_blocking
from tests.services.topic import DEADLINE_SECONDS, World, anomalies, texts

if TYPE_CHECKING:
    from runwire_consumer.sources import Message
    from runwire_consumer.sources.kafka import KafkaSource
    from tests.services.kafka import KafkaBroker, KafkaTopics


ANCIENT_MS = 1_700_000_000_000
OLD = ["one", "two", "three"]


@pytest.fixture
def world(kafka: KafkaTopics, topic_name: str) -> World:
    """A topic of one partition that takes the time of its writers."""
    kafka.create_topic(topic_name, 1, message_timestamp_type="CreateTime", retention_ms="-1")
    return World(kafka, topic_name)


@pytest.fixture
def broken(own_kafka: KafkaBroker, topic_name: str) -> World:
    """A topic on a broker that the test breaks."""
    own_kafka.create_topic(topic_name, 1)
    return World(own_kafka, topic_name)


def payloads(messages: list[Message]) -> list[str]:
    """What the log's own records say."""
    return [text for text, message in zip(texts(messages), messages, strict=True) if not message.damage]


async def read_again(source: KafkaSource, log: list[str]) -> list[Message]:
    """Everything, until all that the log holds came in order and nothing waits; some may have come before."""
    found: list[Message] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while payloads(found)[-len(log) :] != log or not source.status().at_tail:
            found += await source.poll(0.1)
    return found


async def settle(source: KafkaSource, offset: int) -> None:
    """Until the source has seen that nobody changed the log since it read so far."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while source._partitions[0].sure[0] < offset:
            assert await source.poll(0.1) == []


NEW_LOGS = {
    "nothing in common": ["a", "b"],
    "the same records": OLD,
    "the same records, and more": [*OLD, "four", "five"],
    "longer": ["a", "b", "c", "d", "e"],
}


@pytest.mark.parametrize("looked", ["up", "down"])
@pytest.mark.parametrize("new", NEW_LOGS.values(), ids=NEW_LOGS)
def test_a_topic_made_again(world: World, new: list[str], looked: str) -> None:
    """Whatever it holds, also records that look like the old ones, it is read from its start, and said once."""

    async def make_again() -> None:
        await world.make_again(message_timestamp_type="CreateTime")
        await world.write(*new, timestamp_ms=ANCIENT_MS)

    async def story() -> None:
        found: list[Message] = []
        await world.write(*OLD, timestamp_ms=ANCIENT_MS)
        async with world.source() as source:
            assert payloads(await world.read(source, 3)) == OLD
            if looked == "up":
                await settle(source, 3)
                run_blocking(make_again())  # the source sees nothing of it until all is done
                found = await read_again(source, new)
                assert anomalies(source) == {"topic_recreated": 1}
        if looked == "down":
            await make_again()
            async with world.source() as source:
                found = await world.read(source, 1 + len(new))
                assert payloads(found) == new
                assert anomalies(source) == {"topic_recreated": 1}
        (told,) = [message for message in found if message.damage]
        assert "made again" in told.damage
        assert (told.offset, told.next_offset) == (3, 0)

    asyncio.run(story())


def test_a_topic_made_again_whose_start_is_gone_already(world: World) -> None:
    """The old anchor's place is gone with the new topic's start: both losses are told of."""

    async def story() -> None:
        await world.write(*OLD)
        async with world.source() as source:
            await world.read(source, 3)
        await world.make_again()
        await world.write("a", "b", "c", "d", "e", "f")
        async with world.admin() as admin:
            await admin.delete_records({TopicPartition(world.topic, 0): RecordsToDelete(before_offset=5)})
        async with world.source() as source:
            found = await world.read(source, 3)
            assert payloads(found) == ["f"]
            assert anomalies(source) == {"topic_recreated": 1, "expired_records": 5}
            assert found[1].damage.startswith("Records 0 to 4 were removed")

    asyncio.run(story())


def test_a_topic_made_again_with_fewer_partitions(kafka: KafkaTopics, topic_name: str) -> None:
    """What waited in a partition that is no more is named, and keeps nobody waiting."""
    kafka.create_topic(topic_name, 2)
    world = World(kafka, topic_name)

    async def story() -> None:
        await world.write("one")
        await world.write("two", partition=1)
        async with world.source() as source:
            await world.read(source, 2)
            await settle(source, 1)
            run_blocking(world.make_again(partitions=1))
            run_blocking(world.write("a"))
            found = await world.read(source, 3)
            assert payloads(found) == ["a"]
            assert sorted(message.partition for message in found) == ["0", "0", "1"]

    asyncio.run(story())


def test_anchors_without_a_topic_id_still_tell(world: World) -> None:
    """A store of an earlier version, or a broker before Kafka 2.8."""

    async def story() -> None:
        await world.write(*OLD)
        async with world.source() as source:
            await world.read(source, 3)
        ((offset, text),) = world.positions.values()
        anchor = Anchor.parse(text)
        world.positions["0"] = (offset, " ".join(text.split(" ")[:3]))
        await world.write("four")
        async with world.source() as source:
            assert payloads(await world.read(source, 1)) == ["four"]
            assert anomalies(source) == {}
        assert Anchor.parse(world.positions["0"][1]).topic_id == anchor.topic_id
        world.positions["0"] = (offset, str(Anchor("", 2, anchor.timestamp, "00000000")))
        async with world.source() as source:
            assert payloads(await world.read(source, 5)) == [*OLD, "four"]
            assert anomalies(source) == {"topic_recreated": 1}

    asyncio.run(story())


def test_offsets_that_are_no_records_are_no_lag(world: World) -> None:
    """The end of a transaction: nothing waits behind the last record, and a second life finds its anchor."""

    async def story() -> None:
        await world.write_transaction("one", "two")
        async with world.source() as source:
            assert payloads(await world.read(source, 2)) == ["one", "two"]
            assert source.status().lag == {"0": 0}
        async with world.source() as source:
            assert await world.read(source, 0) == []
        # An anchor whose record is no more, as compaction would leave it: the marker's place.
        _, text = world.positions["0"]
        topic_id = Anchor.parse(text).topic_id
        world.positions["0"] = (3, str(Anchor(topic_id, 2, 1, "00000000")))
        async with world.source() as source:
            assert await world.read(source, 0) == []
        await world.write_transaction("three")
        async with world.source() as source:
            assert payloads(await world.read(source, 1)) == ["three"]
            assert anomalies(source) == {}

    asyncio.run(story())


def test_nothing_is_at_its_end_before_the_anchor_was_compared(world: World) -> None:
    """A topic made again that is as long as the old one: reading what waits now finds all of it."""

    async def story() -> None:
        await world.write(*OLD)
        async with world.source() as source:
            await world.read(source, 3)
        offset, _ = world.positions["0"]
        world.positions["0"] = (offset, str(Anchor("", 2, 1, "00000000")))  # by the anchor alone
        async with world.source() as source:
            async with asyncio.timeout(DEADLINE_SECONDS):
                found: list[Message] = []
                while not source.status().at_tail:
                    found += await source.poll(0.1)
            assert payloads(found) == OLD

    asyncio.run(story())


def cut_log(broker: KafkaBroker, topic: str, records: int) -> None:
    """Leave so many records of partition 0, a batch each, as a disk might that lost a file's end."""
    folder = broker.folder / "data" / f"{topic}-0"
    (segment,) = folder.glob("*.log")
    data, at = segment.read_bytes(), 0
    for _ in range(records):
        at += 12 + struct.unpack_from(">i", data, at + 8)[0]
    segment.write_bytes(data[:at])
    for other in folder.iterdir():
        if other.suffix in {".index", ".timeindex", ".snapshot"}:
            other.unlink()


def restored(broker: KafkaBroker) -> Callable[[], None]:
    """Remember the broker's folder; calling the result puts it back. The broker is down both times."""
    data, copy = broker.folder / "data", broker.folder / "copy"
    shutil.copytree(data, copy)

    def put_back() -> None:
        shutil.rmtree(data)
        shutil.copytree(copy, data)

    return put_back


LONGER = ["a", "b", "c", "d"]
ENDS = [
    ("cut", LONGER, "up"),
    ("cut", LONGER, "down"),
    *(
        pytest.param(how, new, looked, marks=pytest.mark.long)
        for how, new in [("cut", []), ("cut", ["a"]), ("restored", []), ("restored", ["a"]), ("restored", LONGER)]
        for looked in ("up", "down")
    ),
]


@pytest.mark.parametrize(("how", "new", "looked"), ENDS)
def test_a_log_that_lost_its_end(broken: World, how: str, new: list[str], looked: str) -> None:
    """Two of three records stay, others are appended up to or beyond where we were: all of the log is read again."""
    broker: KafkaBroker = broken.kafka  # type: ignore[assignment]
    copies: list[Callable[[], None]] = []

    async def before() -> None:
        await broken.write("one", "two")
        if how == "restored":
            broker.kill()
            copies.append(restored(broker))
            broker.start()
        await broken.write("three")

    def lose() -> None:
        broker.kill()
        if copies:
            copies[0]()
        else:
            cut_log(broker, broken.topic, 2)
        broker.start()
        run_blocking(broken.write(*new))

    async def story() -> None:
        await before()
        found: list[Message] = []
        now = ["one", "two", *new]
        async with broken.source() as source:
            assert payloads(await broken.read(source, 3)) == OLD
            if looked == "up":
                await settle(source, 3)
                lose()
                found = await read_again(source, now)
                assert anomalies(source) == {"log_truncated": 1}
        if looked == "down":
            await asyncio.to_thread(lose)
            async with broken.source() as source:
                found = await broken.read(source, 1 + len(now))
                assert payloads(found) == now
                assert anomalies(source) == {"log_truncated": 1}
        (told,) = [message for message in found if message.damage]
        assert "restored from older data" in told.damage

    asyncio.run(story())


def test_half_of_the_retention_is_told_before_anything_is_gone(
    kafka: KafkaTopics, topic_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """How old the oldest unread record is, against the topic's retention; once it is read, all is well."""
    kafka.create_topic(topic_name, 1, message_timestamp_type="CreateTime", retention_ms="3600000")
    world = World(kafka, topic_name)

    async def story() -> None:
        now = time.time_ns() // 1_000_000
        await world.write("old", timestamp_ms=now - 2_700_000)
        await world.write("new", timestamp_ms=now)
        async with world.source() as source:
            found = await source.poll(0.0)  # it has looked before it read
            status = source.status()
            assert status.retention_seconds == 3600.0
            assert status.retention_used_ratio == pytest.approx(0.75, abs=0.05)
            assert "has used up 75 % of the topic's retention (1 hours)" in caplog.text
            await world.read(source, 2 - len(found))
            async with asyncio.timeout(DEADLINE_SECONDS):
                while source.status().retention_used_ratio:
                    await source.poll(0.1)
            assert len(caplog.messages) == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
