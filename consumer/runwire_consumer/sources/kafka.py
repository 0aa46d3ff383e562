"""The `kafka://` source: assigns itself every partition, keeps no position of its own, and survives what brokers do.

What it guards against, and how:

- New partitions: looked for every few seconds, read from their start.
- A topic that was deleted and made again skips data silently. So reading begins *at* the last stored record: when it
  isn't the one that the stored anchor describes, the partition is another one, and is read from its start.
- Records that retention removed before they were read become a dead letter that names the offsets.
- A client that locks up (known of aiokafka after the loss of a coordinator) is thrown away and made anew when
  something waits and nothing comes for STALL_SECONDS.
- An unreachable broker is retried for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError

from runwire_consumer.errors import SourceUnreachable
from runwire_consumer.sources import Message, Position, SourceStatus
from runwire_schemas.topics import TOPIC_CONFIG, TOPIC_PARTITIONS, TOPIC_REPLICAS_MAX, Destination

GROUP_ID = "runwire-consumer"
CONNECT_TIMEOUT_SECONDS = 10.0
REQUEST_TIMEOUT_SECONDS = 5.0
RETRY_INTERVAL_SECONDS = 1.0
LOOK_INTERVAL_SECONDS = 1.0
SURVEY_INTERVAL_SECONDS = 5.0
STALL_SECONDS = 30.0
FETCH_BYTES_MAX = 16 * 2**20
PARTITION_FETCH_BYTES_MAX = 4 * 2**20

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Partition:
    """How far one partition is read.

    Attributes:
        next_offset: What `poll` hands out next.
        anchor: Fingerprint of the record before it; "" where there is none.
        doubted: The anchor is still to be compared with what the broker has there.
        end: Where the broker's log ends, as far as known.
        moved_at: When something was handed out, or nothing waited.
    """

    next_offset: int = 0
    anchor: str = ""
    doubted: bool = False
    end: int | None = None
    moved_at: float = 0.0


class KafkaSource:
    """One topic, all partitions; used by one event loop."""

    def __init__(self, destination: Destination, group_id: str = GROUP_ID) -> None:
        """`group_id` only carries courtesy offsets for lag tools."""
        self._destination = destination
        self._topic = destination.topic
        self._group_id = group_id
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: dict[int, _Partition] = {}
        self._positions: dict[int, Position] = {}
        self._looking: asyncio.Task[None] | None = None
        self._reachable = False
        self._surveyed = False
        self._trouble = f"{destination} has not answered yet."
        self._assigned: set[int] = set()
        self._broken = False
        self._next_attempt = self._next_survey = 0.0
        self._lost: list[Message] = []
        self._anomalies: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Its URL."""
        return str(self._destination)

    async def start(self, positions: Mapping[str, Position]) -> None:
        """Begin behind these positions; the broker is asked by the first polls."""
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what is wrong is in `status`
        self._positions = {int(partition): position for partition, position in positions.items()}

    async def poll(self, max_wait_seconds: float) -> list[Message]:
        """The next messages of all partitions."""
        consumer = await self._connected(max_wait_seconds)
        if consumer is None:
            return []
        if self._broken:
            await self._fail(SourceUnreachable("the client stalled"))
            return []
        if not self._assigned:
            await asyncio.sleep(max_wait_seconds)
            return []
        try:
            records = await consumer.getmany(timeout_ms=round(max_wait_seconds * 1000))
        except OffsetOutOfRangeError as error:
            await self._recover_offsets(consumer, error)
            return self._take_lost()
        except KafkaError as error:
            await self._fail(error)
            return []
        found = self._take_lost()
        for where, batch in records.items():
            found += self._messages(consumer, where, batch)
        return found

    async def commit(self, positions: Mapping[str, Position]) -> None:
        """Courtesy offsets; whether they arrive matters to nobody's data."""
        if self._consumer is not None and positions:
            offsets = {
                TopicPartition(self._topic, int(partition)): offset
                for partition, (offset, _) in positions.items()
                if int(partition) in self._partitions
            }
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS / 10):
                    await self._consumer.commit(offsets)

    def status(self) -> SourceStatus:
        """How many messages wait in which partition."""
        lag = {
            str(number): max(known.end - known.next_offset, 0)
            for number, known in self._partitions.items()
            if known.end is not None
        }
        surveyed = self._surveyed and len(lag) == len(self._partitions)
        return SourceStatus(self._reachable, lag, self._trouble, dict(self._anomalies), surveyed)

    async def close(self) -> None:
        """Disconnect."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
        await self._disconnect()

    async def _connected(self, max_wait_seconds: float) -> AIOKafkaConsumer | None:
        """The connected client; None while there is none, after a pause."""
        if self._consumer is not None:
            return self._consumer
        now = time.monotonic()
        if now < self._next_attempt:
            await asyncio.sleep(min(max_wait_seconds, self._next_attempt - now))
            return None
        consumer = AIOKafkaConsumer(
            bootstrap_servers=list(self._destination.servers),
            group_id=self._group_id,
            client_id="runwire-consumer",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_bytes=FETCH_BYTES_MAX,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
            fetch_max_wait_ms=100,
            metadata_max_age_ms=5_000,
            request_timeout_ms=round(2 * REQUEST_TIMEOUT_SECONDS * 1000),
            retry_backoff_ms=200,
        )
        self._consumer = consumer
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await consumer.start()
                await self._make_topic(consumer)
                await self._look(consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            await self._fail(error)
            return None
        self._looking = asyncio.ensure_future(self._keep_looking(consumer))
        return consumer

    async def _make_topic(self, consumer: AIOKafkaConsumer) -> None:
        """Make the topic where it is missing and may be made."""
        cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - aiokafka shows it nowhere else
        if self._topic in cluster.topics():
            return
        replicas = min(TOPIC_REPLICAS_MAX, max(len(cluster.brokers()), 1))
        admin = AIOKafkaAdminClient(bootstrap_servers=list(self._destination.servers), client_id="runwire-consumer")
        topic = NewTopic(self._topic, TOPIC_PARTITIONS, replicas, topic_configs=TOPIC_CONFIG)
        with contextlib.suppress(KafkaError):  # without the right to make topics somebody else will
            await admin.start()
            await admin.create_topics([topic])
        with contextlib.suppress(KafkaError):
            await admin.close()

    async def _keep_looking(self, consumer: AIOKafkaConsumer) -> None:
        """In the background: new partitions, ends of the log, and whether anybody answers."""
        while consumer is self._consumer:
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    await self._look(consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                self._away(error)
            if self._stalled():
                self._anomalies["client_stalled"] += 1
                _log.warning("Nothing comes from %s though something waits: connecting anew.", self.name)
                self._broken = True
                return

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        now = time.monotonic()
        if now >= self._next_survey or not self._assigned:
            self._next_survey = now + SURVEY_INTERVAL_SECONDS
            cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - as above
            numbers = set(cluster.partitions_for_topic(self._topic) or ())
            if numbers != self._assigned:
                self._assign(consumer, numbers)
        before = {number: self._partitions[number].next_offset for number in self._assigned}
        ends = await consumer.end_offsets([TopicPartition(self._topic, number) for number in before])
        for where, end in ends.items():
            self._partitions[where.partition].end = end
            if end < before[where.partition]:
                self._restart(consumer, where, 0)
        self._reachable = True
        self._surveyed = bool(self._assigned)
        self._trouble = "" if self._assigned else f"Topic {self._topic} doesn't exist yet."

    def _assign(self, consumer: AIOKafkaConsumer, numbers: set[int]) -> None:
        """Take all partitions; each begins at the record before its position, to be compared with the anchor."""
        consumer.assign([TopicPartition(self._topic, number) for number in sorted(numbers)])
        self._assigned = numbers
        for number in numbers:
            known = self._partitions.get(number)
            if known is None:
                next_offset, anchor = self._positions.get(number, (0, ""))
                known = self._partitions[number] = _Partition(next_offset, anchor)
            known.moved_at = time.monotonic()
            known.doubted = bool(known.anchor)
            # Nothing is awaited between assign and seek, so nothing is fetched from another position.
            begin = _anchor_offset(known.anchor) if known.doubted else known.next_offset
            consumer.seek(TopicPartition(self._topic, number), begin)

    def _messages(
        self, consumer: AIOKafkaConsumer, where: TopicPartition, records: list[ConsumerRecord]
    ) -> list[Message]:
        known = self._partitions[where.partition]
        known.moved_at = time.monotonic()
        if known.doubted:
            first = records[0]
            if first.offset == _anchor_offset(known.anchor) and _anchor_of(first) != known.anchor:
                self._restart(consumer, where, 0)
                return []
            known.doubted = False
        fresh = [record for record in records if record.offset >= known.next_offset]
        if not fresh:
            return []
        last = fresh[-1]
        known.next_offset, known.anchor = last.offset + 1, _anchor_of(last)
        known.end = max(known.end or 0, known.next_offset, consumer.highwater(where) or 0)
        return [
            Message(
                source=self.name,
                partition=str(where.partition),
                offset=record.offset,
                next_offset=record.offset + 1,
                appended_at=record.timestamp * 1_000,
                headers=record.headers,
                payload=record.value or b"",
                anchor=known.anchor if record is last else "",
            )
            for record in fresh
        ]

    def _restart(self, consumer: AIOKafkaConsumer, where: TopicPartition, begin: int) -> None:
        """The partition is not the one that was read before: read the new one from its start."""
        self._anomalies["topic_recreated"] += 1
        _log.warning(
            "Partition %s of %s is another one than before: reading from its start.", where.partition, self.name
        )
        known = self._partitions[where.partition]
        known.next_offset, known.anchor, known.doubted = begin, "", False
        consumer.seek(where, begin)

    async def _recover_offsets(self, consumer: AIOKafkaConsumer, error: OffsetOutOfRangeError) -> None:
        """Retention removed what was to be read next, or the log is shorter than it was."""
        wanted: dict[TopicPartition, int] = error.args[0] if error.args else {}
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                begins = await consumer.beginning_offsets(list(wanted))
        except (KafkaError, OSError, TimeoutError) as trouble:
            await self._fail(trouble)
            return
        for where, offset in wanted.items():
            begin, known = begins[where], self._partitions[where.partition]
            if offset > begin:
                self._restart(consumer, where, begin)
                continue
            known.doubted = False
            if known.next_offset < begin:
                self._anomalies["expired_records"] += begin - known.next_offset
                self._lost.append(self._expired(where, known.next_offset, begin))
                known.next_offset = begin
            consumer.seek(where, known.next_offset)

    def _expired(self, where: TopicPartition, offset: int, begin: int) -> Message:
        reason = f"Records {offset} to {begin - 1} were removed by the topic's retention before they were read."
        now = time.time_ns() // 1_000
        return Message(self.name, str(where.partition), offset, begin, now, (), b"", damage=reason)

    def _take_lost(self) -> list[Message]:
        lost, self._lost = self._lost, []
        return lost

    def _stalled(self) -> bool:
        now = time.monotonic()
        for known in self._partitions.values():
            if known.end is None or known.end <= known.next_offset:
                known.moved_at = now
        return self._reachable and any(now - known.moved_at > STALL_SECONDS for known in self._partitions.values())

    def _away(self, error: BaseException) -> None:
        self._reachable = False
        self._trouble = f"{self.name} can't be reached: {_reason(error, ', '.join(self._destination.servers))}."

    async def _fail(self, error: BaseException) -> None:
        """Drop the client; a later poll makes another, which goes on where this one was."""
        self._away(error)
        self._next_attempt = time.monotonic() + RETRY_INTERVAL_SECONDS
        await self._disconnect()

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._assigned, self._broken = set(), False
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()  # a last look would assign all partitions to this client, and the next one would get none
        if consumer is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    await consumer.stop()


def _reason(error: BaseException, servers: str) -> str:
    if isinstance(error, (KafkaConnectionError, ConnectionError)):
        return f"no broker answers at {servers}"
    if isinstance(error, TimeoutError):
        return f"no answer in time from {servers}"
    name, text = type(error).__name__, str(error).strip().rstrip(".")
    if isinstance(error, SourceUnreachable) or name in text:  # most of aiokafka's texts name the class
        return text
    return f"{name}: {text}" if text else name


def _anchor_of(record: ConsumerRecord) -> str:
    """Where a record stands, when it was appended, and a checksum of what it says."""
    return f"{record.offset} {record.timestamp} {zlib.crc32(record.value or b''):08x}"


def _anchor_offset(anchor: str) -> int:
    return int(anchor.split(" ", 1)[0])
