"""Asks a broker for a checkup of one topic: its settings, replicas and ends; once, nothing is made or changed.

What the consumer itself keeps asking while it reads is `sources/topic_facts.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from runwire_consumer.doctor.topic import TIMEOUT_SECONDS, BrokerFacts, PartitionFacts
from runwire_consumer.sources.topic_facts import ask_topic
from runwire_schemas.brokers import client_options, heard, reason
from runwire_schemas.errors import SecurityError
from runwire_schemas.topics import Destination

READ_SECONDS = 2.0
CLIENT_ID = "runwire-doctor"
_CONFIG_ROW = 3  # a resource of a DescribeConfigs answer: error code, error text, type, name, entries


def ask_broker(destination: Destination) -> BrokerFacts:
    """Ask, within about TIMEOUT_SECONDS; never raises for what a broker does."""
    cause = heard()  # what is wrong is in the facts
    try:
        return asyncio.run(_ask(destination))
    except TimeoutError as error:
        why = reason(error, destination, cause) if cause.error else f"no answer within {TIMEOUT_SECONDS:g} s"
    except (KafkaError, OSError, SecurityError) as error:
        why = reason(error, destination, cause)
    return BrokerFacts(
        destination.topic, trouble=f"No broker at {', '.join(destination.servers)} could be asked: {why}."
    )


async def _ask(destination: Destination) -> BrokerFacts:
    topic = destination.topic
    async with asyncio.timeout(TIMEOUT_SECONDS), _admin(destination) as admin:
        # All topics: a question for one by name would make it on a broker that makes topics by itself.
        found = {one["topic"]: one for one in await admin.describe_topics()}
        brokers = len((await admin.describe_cluster())["brokers"])
        if topic not in found or not found[topic]["partitions"]:
            await ask_topic(admin._client, topic)  # noqa: SLF001 - who may not know of it gets an error
            return BrokerFacts(topic, brokers=brokers)
        config = await _config(admin, topic)
        bare = [
            PartitionFacts(one["partition"], one["leader"] >= 0, len(one["replicas"]), len(one["isr"]))
            for one in sorted(found[topic]["partitions"], key=lambda one: one["partition"])
        ]
        facts = BrokerFacts(topic, "", exists=True, brokers=brokers, partitions=tuple(bare), config=config)
        return await _with_ends(destination, facts)


@contextlib.asynccontextmanager
async def _admin(destination: Destination) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(
        **client_options(destination),
        client_id=CLIENT_ID,
        request_timeout_ms=round(TIMEOUT_SECONDS * 1_000),
    )
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _config(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """Settings of the topic; {} without the right to see them."""
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    except KafkaError:
        return {}
    return {
        str(entry[0]): str(entry[1])
        for answer in answers
        for resource in answer.resources
        if resource[0] == 0 and resource[_CONFIG_ROW] == topic
        for entry in resource[_CONFIG_ROW + 1]
        if entry[1] is not None
    }


async def _with_ends(destination: Destination, facts: BrokerFacts) -> BrokerFacts:
    """The same, with the partitions' ends and the newest record's time."""
    led = [TopicPartition(facts.topic, one.number) for one in facts.partitions if one.has_leader]
    consumer = AIOKafkaConsumer(
        **client_options(destination),
        client_id=CLIENT_ID,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="latest",  # nothing is fetched before it is asked for
        request_timeout_ms=round(TIMEOUT_SECONDS * 1_000),
    )
    try:
        await consumer.start()
        consumer.assign(led)
        begins = await consumer.beginning_offsets(led)
        ends = await consumer.end_offsets(led)
        halves = {}
        if facts.retention_seconds is not None:
            half = round((time.time() - facts.retention_seconds / 2) * 1_000)
            halves = await consumer.offsets_for_times(dict.fromkeys(led, half))
        newest = await _newest_append(consumer, ends, begins)
    finally:
        await consumer.stop()
    partitions = []
    for one in facts.partitions:
        where = TopicPartition(facts.topic, one.number)
        begin, end = begins.get(where, 0), ends.get(where, 0)
        half_kept = None
        if where in halves:
            half_kept = end if halves[where] is None else halves[where].offset
        partitions.append(PartitionFacts(one.number, one.has_leader, one.replicas, one.in_sync, begin, end, half_kept))
    broker_time = facts.config.get("message.timestamp.type") == "LogAppendTime"
    return BrokerFacts(
        facts.topic, "", facts.exists, facts.brokers, tuple(partitions), facts.config, newest if broker_time else None
    )


async def _newest_append(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int], begins: Mapping[TopicPartition, int]
) -> int | None:
    """Time of the newest record, microseconds."""
    filled = [where for where, end in ends.items() if end > begins[where]]
    if not filled:
        return None
    consumer.assign(filled)
    for where in filled:
        consumer.seek(where, ends[where] - 1)
    newest: int | None = None
    waiting = set(filled)
    with contextlib.suppress(TimeoutError, KafkaError):  # a clock is compared where there is one
        async with asyncio.timeout(READ_SECONDS):
            while waiting:
                records = await consumer.getmany(timeout_ms=500)
                for where, batch in records.items():
                    waiting.discard(where)
                    newest = max(newest or 0, *(record.timestamp * 1_000 for record in batch))
    return newest
