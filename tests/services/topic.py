"""One Kafka topic, written, read by a `KafkaSource`, and mistreated by somebody with rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from runwire_consumer.sources.kafka import KafkaSource
from runwire_schemas.topics import parse_url

if TYPE_CHECKING:
    from runwire_consumer.sources import Message, Position
    from tests.services.kafka import KafkaTopics

DEADLINE_SECONDS = 90.0  # three times what a source waits before it gives a client up


def anomalies(source: KafkaSource) -> dict[str, int]:
    """What was put right in the log; a client that is given up after our own stand-still is another matter."""
    return {kind: count for kind, count in source.status().anomalies.items() if kind != "client_stalled"}


class World:
    """One topic, written and read."""

    def __init__(self, kafka: KafkaTopics, topic: str) -> None:
        """Nothing is connected yet."""
        self.kafka, self.topic = kafka, topic
        self.positions: dict[str, Position] = {}

    @asynccontextmanager
    async def source(self) -> AsyncIterator[KafkaSource]:
        """A source that goes on where the last one was."""
        source = KafkaSource(parse_url(self.kafka.url(self.topic)))
        await source.start(self.positions)
        try:
            yield source
        finally:
            await source.close()

    async def is_widened(self, partitions: int) -> bool:
        """Whether a writer that comes now is told of so many partitions."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap)
        await producer.start()
        try:
            return len(await producer.partitions_for(self.topic)) == partitions
        finally:
            await producer.stop()

    async def write(self, *texts: str, partition: int = 0, timestamp_ms: int | None = None) -> None:
        """Records in one partition, a batch each; their time counts where the topic takes it."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, acks="all")
        await producer.start()
        for text in texts:
            await producer.send_and_wait(self.topic, text.encode(), partition=partition, timestamp_ms=timestamp_ms)
        await producer.stop()

    async def write_transaction(self, *texts: str) -> None:
        """Records and, behind them, an offset that is none: the transaction's end."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, transactional_id=f"test-{self.topic}")
        await producer.start()
        async with producer.transaction():
            for text in texts:
                await producer.send(self.topic, text.encode(), partition=0)
        await producer.stop()

    async def read(self, source: KafkaSource, count: int) -> list[Message]:
        """Poll until `count` messages came and nothing more waits; their positions are remembered."""
        found: list[Message] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found) < count or not source.status().at_tail:
                found += await source.poll(0.1)
        self.positions |= {message.partition: (message.next_offset, message.anchor) for message in found}
        return found

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """Somebody with rights."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def make_again(self, partitions: int = 1, **configs: str) -> None:
        """Delete the topic and create it anew."""
        async with self.admin() as admin:
            await admin.delete_topics([self.topic])
            async with asyncio.timeout(DEADLINE_SECONDS):
                while self.topic in await admin.list_topics():  # noqa: ASYNC110 - it happens in the broker
                    await asyncio.sleep(0.05)
        await asyncio.to_thread(self.kafka.create_topic, self.topic, partitions, **configs)


def texts(messages: list[Message]) -> list[str]:
    """What the messages say."""
    return [message.payload.decode() for message in messages]
