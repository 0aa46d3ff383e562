"""The twin of aiokafka's consumer, for the real `KafkaSource` to talk to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, OffsetOutOfRangeError
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.structs import OffsetAndTimestamp

from tests.simulation.broker import Broker, Partition, Record

RETENTION_MS = 7 * 86_400_000


class Cluster:
    """What a look at the cluster says."""

    def __init__(self, partitions: int) -> None:
        self._numbers = range(partitions)
        self._partitions = _AnyTopic({number: SimpleNamespace(leader=0) for number in self._numbers})

    def topics(self) -> Any:
        return _Everything()

    def brokers(self) -> list[int]:
        return [0]

    def partitions_for_topic(self, _: str) -> set[int]:
        return set(self._numbers)


class _AnyTopic:
    def __init__(self, found: Any) -> None:
        self._found = found

    def __getitem__(self, _: str) -> Any:
        return self._found


class _Everything:
    def __contains__(self, topic: object) -> bool:
        return True


class Client:
    """The part of `AIOKafkaConsumer` that the source uses."""

    broker: Broker  # set by the world, in a subclass
    _fetcher = None

    def __init__(self, **_: Any) -> None:
        self._client = self
        self._conns = {(0, ConnectionGroup.DEFAULT): object()}
        self._epoch = -1
        self._positions: dict[TopicPartition, int] = {}

    async def start(self) -> None:
        await self._answer()
        self._epoch = self.broker.epoch

    async def stop(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def fetch_all_metadata(self) -> Cluster:
        await self._answer()
        return Cluster(len(self.broker.partitions))

    def get_random_node(self) -> int:
        return 0

    async def send(self, _: int, request: Any) -> Any:
        """The two requests of `topic_facts.py`, answered in the fields' order."""
        if isinstance(request, DescribeConfigsRequest):
            await self._answer()
            entries = (("retention.ms", str(RETENTION_MS)), ("retention.bytes", "-1"), ("cleanup.policy", "delete"))
            return SimpleNamespace(resources=[(0, None, 2, "", entries)])
        if not self.broker.gives_ids:
            raise NotImplementedError
        await self._answer()
        partitions = [(0, number, 0, part.leader_epoch) for number, part in enumerate(self.broker.partitions)]
        topic_id = self.broker.topic_number.to_bytes(16, "big")
        return SimpleNamespace(topics=[(0, "", topic_id, False, partitions)])

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, 0)

    def seek(self, where: TopicPartition, offset: int) -> None:
        self._positions[where] = offset

    async def position(self, where: TopicPartition) -> int:
        return self._positions[where]

    def highwater(self, where: TopicPartition) -> int:
        return self._partition(where).end

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        await self._answer()
        self._check()
        return {where: self._partition(where).end for where in partitions}

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        await self._answer()
        self._check()
        return {where: self._partition(where).begin for where in partitions}

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        await self._answer()
        self._check()
        found: dict[TopicPartition, Any] = {}
        for where, time in times.items():
            later = (one for one in self._partition(where).records if one.timestamp >= time)
            first = next(later, None)
            found[where] = None if first is None else OffsetAndTimestamp(first.offset, first.timestamp)
        return found

    async def commit(self, _: Any) -> None:
        self._check()

    async def getmany(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:
        self._check()
        found = {} if self.broker.stands_still else self._fetch(max_records)
        if not found:
            await self.broker.changed(timeout_ms / 1000)
            self._check()
            found = {} if self.broker.stands_still else self._fetch(max_records)
        return found

    def _fetch(self, records_max: int) -> dict[TopicPartition, list[Record]]:
        rng = self.broker.rng
        found = {}
        outside = {}
        for where, position in self._positions.items():
            part = self._partition(where)
            if not part.begin <= position <= part.end:
                outside[where] = position
            elif position < part.end:
                index = position - part.begin
                found[where] = part.records[index : index + min(rng.choice((1, 3, 10, 100)), records_max)]
        if outside:
            raise OffsetOutOfRangeError(outside)
        for where, records in found.items():
            self._positions[where] = records[-1].offset + 1
        return found

    def _partition(self, where: TopicPartition) -> Partition:
        if where.partition >= len(self.broker.partitions):
            raise KafkaTimeoutError("no such partition any more")
        found: Partition = self.broker.partitions[where.partition]
        return found

    async def _answer(self) -> None:
        await asyncio.sleep(self.broker.rng.random() * 0.02)
        waited = False
        while self.broker.stands_still:
            waited = True
            await self.broker.changed(60.0)
        if waited:
            await asyncio.sleep(self.broker.rng.random() * 0.5)  # records may come before the answer
        if not self.broker.reachable:
            raise KafkaConnectionError("the model broker is away")

    def _check(self) -> None:
        if not self.broker.reachable or self._epoch != self.broker.epoch:
            raise KafkaConnectionError("the connection broke")
