"""The `kafka://` source: assigns itself every partition, keeps no position of its own, and survives what brokers do.

What it guards against, and how:

- New partitions: looked for every second, read from their start.
- A topic that was deleted and made again skips data silently: found out by its id (`anchors.py`), read from its start.
- A log that lost its end and grew again (a broker restored from older data, an unclean election) does so, too, under
  the same id. So reading begins *at* the last record that was read, also after each reconnect and each new leader:
  when it isn't the one that the anchor describes, the log is read again from its start, and the ledger leaves out what
  is stored. The law: what was read since the broker and its leaders were last seen unchanged isn't trusted.
- Records that retention removed before they were read become a dead letter that names the offsets, and so does what
  went with a topic or with a log's end. Before that, from half of the retention on, it is said (`retention.py`).
- Offsets that are no record (ends of transactions, what compaction left) are passed, and are no lag.
- A client that locks up (known of aiokafka after the loss of a coordinator) is thrown away and made anew when
  something waits, is asked for, and nothing comes for STALL_SECONDS.
- An unreachable broker is retried for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, OffsetOutOfRangeError

from runwire_consumer.errors import SourceUnreachable
from runwire_consumer.sources import Message, Position, SourceStatus
from runwire_consumer.sources.anchors import NOTHING, Anchor
from runwire_consumer.sources.records import be_tolerant
from runwire_consumer.sources.retention import RetentionWatch, Unread
from runwire_consumer.sources.topic_facts import TopicFacts, ask_retention, ask_topic
from runwire_schemas.brokers import Cause, client_options, heard, reason
from runwire_schemas.errors import SecurityError
from runwire_schemas.topics import TOPIC_CONFIG, TOPIC_PARTITIONS, TOPIC_REPLICAS_MAX, Destination

GROUP_ID = "runwire-consumer"
CONNECT_TIMEOUT_SECONDS = 10.0
REQUEST_TIMEOUT_SECONDS = 5.0
RETRY_INTERVAL_SECONDS = 1.0
LOOK_INTERVAL_SECONDS = 1.0
RETENTION_INTERVAL_SECONDS = 30.0
STALL_SECONDS = 30.0
FETCH_BYTES_MAX = 16 * 2**20
PARTITION_FETCH_BYTES_MAX = 4 * 2**20
# What is fetched is compressed, constant values some 200 times: this bounds what a poll unpacks.
POLL_RECORDS_MAX = 500

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Partition:
    """How far one partition is read.

    Attributes:
        next_offset: What `poll` hands out next.
        anchor: The last record before it.
        read_to: The highest that `next_offset` was in this log.
        sure: Both, as they were when the partition was last seen under the same leader as before; `sure_end` with them.
        leader: That leader's reign.
        doubted: The anchor is still to be compared with what the broker has there.
        rewinds: How often it went back.
        again: What comes was read once before: what retention removed of it is no loss.
        end: Where the broker's log ends, as far as known.
        moved_at: When something was handed out, or nothing waited.
    """

    next_offset: int = 0
    anchor: Anchor = NOTHING
    read_to: int = 0
    sure: tuple[int, Anchor] = (0, NOTHING)
    sure_end: int = 0
    leader: object = None
    doubted: bool = False
    rewinds: int = 0
    again: bool = False
    end: int | None = None
    moved_at: float = 0.0
    unread: Unread = field(default_factory=Unread)


class KafkaSource:
    """One topic, all partitions; used by one event loop."""

    def __init__(self, destination: Destination, group_id: str = GROUP_ID) -> None:
        """`group_id` only carries courtesy offsets for lag tools."""
        self._destination = destination
        self._topic = destination.topic
        self._group_id: str | None = group_id
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: dict[int, _Partition] = {}
        self._positions: dict[int, Position] = {}
        self._looking: asyncio.Task[None] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._reachable = False
        self._cause = Cause()
        self._surveyed = False
        self._trouble = f"{destination} has not answered yet."
        self._assigned: set[int] = set()
        self._broken = False
        self._next_attempt = self._next_retention = self._polled_at = 0.0
        self._topic_id = ""
        self._surveying = asyncio.Lock()
        self._retention = RetentionWatch(str(destination))
        self._lost: list[Message] = []
        self._anomalies: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Its URL."""
        return str(self._destination)

    async def start(self, positions: Mapping[str, Position]) -> None:
        """Begin behind these positions; the broker is asked by the first polls."""
        be_tolerant()
        if self._destination.plaintext_warning:
            _log.warning("%s", self._destination.plaintext_warning)
        self._positions = {int(partition): position for partition, position in positions.items()}

    async def poll(self, max_wait_seconds: float) -> list[Message]:
        """The next messages of all partitions."""
        self._polled_at = time.monotonic()
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
            records = await consumer.getmany(timeout_ms=round(max_wait_seconds * 1000), max_records=POLL_RECORDS_MAX)
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
        if self._consumer is None or self._group_id is None:
            return
        if positions and (self._committing is None or self._committing.done()):
            offsets = {
                TopicPartition(self._topic, int(partition)): offset
                for partition, (offset, _) in positions.items()
                if int(partition) in self._partitions
            }
            # Left alone when it takes long: cancelled, it would leave a request behind whose error nobody collects.
            self._committing = asyncio.ensure_future(self._consumer.commit(offsets))
            self._committing.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([self._committing], timeout=REQUEST_TIMEOUT_SECONDS / 10)

    def status(self) -> SourceStatus:
        """How many messages wait in which partition."""
        lag = {
            str(number): max(known.end - known.next_offset, 0)
            for number, known in self._partitions.items()
            if known.end is not None
        }
        doubts = any(known.doubted for known in self._partitions.values())
        surveyed = self._surveyed and len(lag) == len(self._partitions) and not doubts and not self._lost
        return SourceStatus(
            self._reachable,
            lag,
            self._trouble,
            dict(self._anomalies),
            surveyed,
            retention_seconds=self._retention.seconds,
            retention_used_ratio=self._retention.used_ratio,
        )

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
        self._cause = heard()  # what is wrong is in `status`
        try:
            options = client_options(self._destination)
        except SecurityError as error:
            await self._fail(error)
            return None
        consumer = AIOKafkaConsumer(
            **options,
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
                await self._make_topic(consumer, options)
                await self._look(consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            await self._fail(error)
            return None
        self._looking = asyncio.ensure_future(self._keep_looking(consumer))
        return consumer

    async def _make_topic(self, consumer: AIOKafkaConsumer, options: dict[str, Any]) -> None:
        """Make the topic where it is missing and may be made."""
        cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - aiokafka shows it nowhere else
        if self._topic in cluster.topics():
            return
        replicas = min(TOPIC_REPLICAS_MAX, max(len(cluster.brokers()), 1))
        admin = AIOKafkaAdminClient(**options, client_id="runwire-consumer")
        topic = NewTopic(self._topic, TOPIC_PARTITIONS, replicas, topic_configs=TOPIC_CONFIG)
        with contextlib.suppress(KafkaError):  # without the right to make topics somebody else will
            await admin.start()
            await admin.create_topics([topic])
        with contextlib.suppress(KafkaError):
            await admin.close()

    async def _keep_looking(self, consumer: AIOKafkaConsumer) -> None:
        """In the background: new partitions, ends of the log, and whether anybody answers."""
        while consumer is self._consumer:
            before = time.monotonic()
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)
            if time.monotonic() - before > LOOK_INTERVAL_SECONDS + REQUEST_TIMEOUT_SECONDS:
                self._move_all()  # this process stood still, not the client
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    await self._look(consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                self._away(error)
            except Exception as error:  # noqa: BLE001 - else nobody would look again, and `close` would raise it
                _log.warning("A look at %s failed: %s. Connecting anew.", self.name, self._reason(error))
                self._broken = True
                return
            if self._stalled() or _has_died(consumer):
                self._anomalies["client_stalled"] += 1
                _log.warning("The Kafka client reads nothing more from %s: connecting anew.", self.name)
                self._broken = True
                return

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        """Whether it is the topic, and the log, that was read so far; then how much waits there."""
        async with self._surveying:
            await self._survey(consumer)
        before = {number: self._partitions[number].rewinds for number in self._assigned}
        ends = await consumer.end_offsets([TopicPartition(self._topic, number) for number in before])
        for where, end in ends.items():
            known = self._partitions[where.partition]
            known.end = end
            if end < known.read_to and known.rewinds == before[where.partition]:
                self._cut(consumer, where)
            elif end > known.next_offset or known.doubted:
                self._pass_gaps(consumer, where, await consumer.position(where))
        self._reachable = True
        self._cause.forget()
        self._surveyed = bool(self._assigned)
        self._trouble = "" if self._assigned else f"Topic {self._topic} doesn't exist yet."
        with contextlib.suppress(KafkaError):  # who may not ask doesn't know, and reads all the same
            await self._look_at_retention(consumer)

    async def _survey(self, consumer: AIOKafkaConsumer) -> None:
        """Ask for the topic; go back to where it was sure wherever something changed."""
        before = {
            number: (one.rewinds, one.end or 0, one.next_offset, one.anchor) for number, one in self._partitions.items()
        }
        facts = await ask_topic(consumer._client, self._topic) or TopicFacts()  # noqa: SLF001 - as above
        numbers = set(facts.leaders)
        if facts.topic_id:
            self._topic_id = facts.topic_id
        if numbers:
            self._find_recreated(numbers)
        if numbers != self._assigned:
            self._assign(consumer, facts)
        for number, leader in facts.leaders.items():
            known = self._partitions[number]
            if known.leader != leader:
                self._doubt(consumer, number)
            elif not known.doubted and number in before and known.rewinds == before[number][0]:
                known.sure_end, known.sure = before[number][1], before[number][2:]
            known.leader = leader

    def _find_recreated(self, numbers: set[int]) -> None:
        """Begin anew where the topic has another id than the one that was read."""
        found = False
        for number in self._positions.keys() | self._partitions.keys():
            known = self._partitions.get(number) or self._known(number)
            if not known.anchor.is_elsewhere(self._topic_id):
                continue
            found = True
            self._lose(number, known, f"{self._name_of(number)} is gone: the topic was deleted, and made again.")
            self._partitions[number] = _Partition(anchor=Anchor(self._topic_id), sure=(0, Anchor(self._topic_id)))
            self._positions.pop(number, None)
        for number in self._partitions.keys() - numbers:
            del self._partitions[number]
            self._assigned.discard(number)
        if found:
            self._assigned = set()
            self._anomalies["topic_recreated"] += 1
            _log.warning(
                "Topic %s was deleted and made again: it is read from its start. "
                "What the old one held and wasn't read is gone; see the relation dead_letters.",
                self.name,
            )

    def _known(self, number: int) -> _Partition:
        """A partition as the store knows it."""
        offset, text = self._positions.get(number, (0, ""))
        anchor = Anchor.parse(text)
        return _Partition(offset, anchor, offset, (offset, anchor))

    def _assign(self, consumer: AIOKafkaConsumer, facts: TopicFacts) -> None:
        """Take all partitions; each begins at the record before its position, to be compared with the anchor."""
        consumer.assign([TopicPartition(self._topic, number) for number in sorted(facts.leaders)])
        self._assigned = set(facts.leaders)
        for number, leader in facts.leaders.items():
            known = self._partitions.setdefault(number, self._known(number))
            known.moved_at = time.monotonic()
            # Nothing is awaited between assign and seek, so nothing is fetched from another position.
            if known.leader != leader or known.doubted:
                self._doubt(consumer, number)
            else:
                consumer.seek(TopicPartition(self._topic, number), known.next_offset)
            known.leader = leader

    def _doubt(self, consumer: AIOKafkaConsumer, number: int) -> None:
        """Back to where it was sure, to see whether the record there is still the same."""
        known = self._partitions[number]
        known.next_offset, known.anchor = known.sure
        known.rewinds += 1
        known.moved_at = time.monotonic()
        known.doubted = known.anchor.offset is not None
        begin = known.next_offset if known.anchor.offset is None else known.anchor.offset
        consumer.seek(TopicPartition(self._topic, number), begin)

    def _pass_gaps(self, consumer: AIOKafkaConsumer, where: TopicPartition, position: int) -> None:
        """The client went over offsets that are no records, which `_messages` never sees."""
        known = self._partitions[where.partition]
        if known.doubted and known.anchor.offset is not None and position > known.anchor.offset:
            self._settle(consumer, where, None)
        if not known.doubted and position > known.next_offset:
            known.next_offset = position

    def _messages(
        self, consumer: AIOKafkaConsumer, where: TopicPartition, records: list[ConsumerRecord]
    ) -> list[Message]:
        known = self._partitions[where.partition]
        known.moved_at = time.monotonic()
        if known.doubted and not self._settle(consumer, where, records[0]):
            return []
        fresh = [record for record in records if record.offset >= known.next_offset]
        if not fresh:
            return []
        last = fresh[-1]
        known.next_offset = last.offset + 1
        known.read_to = max(known.read_to, known.next_offset)
        known.anchor = Anchor.of(self._topic_id, last.offset, last.timestamp, last.value)
        known.end = max(known.end or 0, known.next_offset, consumer.highwater(where) or 0)
        known.again = False
        known.unread.read(len(fresh), sum(len(record.value or b"") for record in fresh), last.timestamp)
        topic, anchor = str(Anchor(self._topic_id)), str(known.anchor)
        return [
            Message(
                source=self.name,
                partition=str(where.partition),
                offset=record.offset,
                next_offset=record.offset + 1,
                appended_at=record.timestamp * 1_000,
                headers=record.headers,
                payload=record.value or b"",
                anchor=anchor if record is last else topic,
            )
            for record in fresh
        ]

    def _settle(self, consumer: AIOKafkaConsumer, where: TopicPartition, first: ConsumerRecord | None) -> bool:
        """Compare the anchor with the first record from there on, None where there is none; False: it's another log."""
        known = self._partitions[where.partition]
        if first is not None and first.offset == known.anchor.offset:
            same = known.anchor.is_of(first.offset, first.timestamp, first.value)
        else:
            # The record is no more, and others are: compaction. Without ids it may as well be another topic.
            same = bool(known.anchor.topic_id and known.anchor.topic_id == self._topic_id)
        known.doubted = False
        if not same:
            self._cut(consumer, where)
        return same

    def _cut(self, consumer: AIOKafkaConsumer, where: TopicPartition) -> None:
        """The log isn't the one that was read, or not all of it: read it from its start."""
        known = self._partitions[where.partition]
        same_topic = bool(known.anchor.topic_id and known.anchor.topic_id == self._topic_id)
        kind = "log_truncated" if same_topic else "topic_recreated"
        what = (
            "lost records that were read already: a broker lost its end or was restored from older data"
            if same_topic
            else "is another one than before, or lost its end"
        )
        self._anomalies[kind] += 1
        _log.warning(
            "%s %s. It is read again from its start; what is stored already is left out.",
            self._name_of(where.partition),
            what,
        )
        self._lose(where.partition, known, f"{self._name_of(where.partition)} {what}.")
        known.next_offset, known.anchor, known.doubted = 0, Anchor(self._topic_id), False
        known.again, known.end, known.sure, known.read_to = same_topic, None, (0, known.anchor), 0
        known.rewinds += 1
        consumer.seek(where, 0)

    def _lose(self, number: int, known: _Partition, reason: str) -> None:
        """A record for people of what may be gone with a log: everything behind what was read."""
        at = known.sure[0] or known.read_to
        if not at:
            return
        gone = f"Whatever it held from record {at} on may be gone unread"
        if known.sure_end > at:
            gone = f"Its records {at} to {known.sure_end - 1}, and whatever followed them, may be gone unread"
        # Two losses at one offset are of two logs: the record read last tells which, and makes the letter's id.
        read_last = known.sure[1] if known.sure[0] else known.anchor
        self._lost.append(self._loss(number, at, 0, f"{reason} {gone}.", str(read_last).encode()))

    async def _recover_offsets(self, consumer: AIOKafkaConsumer, error: OffsetOutOfRangeError) -> None:
        """Retention removed what was to be read next, or the log is shorter than it was, or another one."""
        wanted: dict[TopicPartition, int] = error.args[0] if error.args else {}
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                async with self._surveying:
                    await self._survey(consumer)
                begins = await consumer.beginning_offsets(list(wanted))
        except (KafkaError, OSError, TimeoutError) as trouble:
            await self._fail(trouble)
            return
        for where, offset in wanted.items():
            known = self._partitions.get(where.partition)
            if known is None or where.partition not in self._assigned:
                continue
            if offset != await consumer.position(where):
                continue  # this answer is older than where we went since
            begin = begins[where]
            if known.next_offset and offset > begin:
                self._cut(consumer, where)
                continue
            known.doubted = False
            if known.next_offset < begin:
                if not known.again:
                    self._anomalies["expired_records"] += begin - known.next_offset
                    reason = (
                        f"Records {known.next_offset} to {begin - 1} were removed by the topic's retention "
                        "before they were read."
                    )
                    self._lost.append(self._loss(where.partition, known.next_offset, begin, reason))
                    _log.warning("%s: %s", self._name_of(where.partition), reason)
                known.next_offset, known.anchor = begin, Anchor(self._topic_id)
            consumer.seek(where, known.next_offset)

    def _loss(self, number: int, offset: int, next_offset: int, reason: str, payload: bytes = b"") -> Message:
        now, anchor = time.time_ns() // 1_000, str(Anchor(self._topic_id))
        return Message(self.name, str(number), offset, next_offset, now, (), payload, anchor, reason)

    def _name_of(self, number: int) -> str:
        return f"Partition {number} of {self.name}"

    def _take_lost(self) -> list[Message]:
        lost, self._lost = self._lost, []
        return lost

    async def _look_at_retention(self, consumer: AIOKafkaConsumer) -> None:
        """How much of the topic's retention the oldest record that waits has used up."""
        now = time.monotonic()
        if now >= self._next_retention and self._assigned:
            self._next_retention = now + RETENTION_INTERVAL_SECONDS
            self._retention.learn(await ask_retention(consumer._client, self._topic))  # noqa: SLF001 - as above
        waiting = {
            number: known
            for number in self._assigned
            if (known := self._partitions[number]).end is not None and (known.end or 0) > known.next_offset
        }
        times = {
            TopicPartition(self._topic, number): known.unread.asks_for(known.anchor)
            for number, known in waiting.items()
            if self._retention.is_finite
        }
        found = await consumer.offsets_for_times(times) if times else {}
        begins = await consumer.beginning_offsets(list(times)) if times and self._retention.bytes_max else {}
        for where in times:
            known, at = waiting[where.partition], found.get(where)
            oldest = at.timestamp if at is not None else None
            known.unread.is_now(oldest, known.next_offset, known.end or 0, begins.get(where, 0))
        self._retention.judge([known.unread for known in waiting.values()], time.time_ns() // 1_000_000)

    def _move_all(self) -> None:
        for known in self._partitions.values():
            known.moved_at = time.monotonic()

    def _stalled(self) -> bool:
        now = time.monotonic()
        if now - self._polled_at > REQUEST_TIMEOUT_SECONDS:
            self._move_all()  # nobody asked: the store has no room, or enough to do
        for known in self._partitions.values():
            if known.end is None or known.end <= known.next_offset:
                known.moved_at = now
        return self._reachable and any(now - known.moved_at > STALL_SECONDS for known in self._partitions.values())

    def _away(self, error: BaseException) -> None:
        self._reachable = False
        self._trouble = f"{self.name} can't be reached: {self._reason(error)}."

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, SourceUnreachable):
            return str(error)
        return reason(error, self._destination, self._cause, "read")

    async def _fail(self, error: BaseException) -> None:
        """Drop the client; a later poll makes another, which goes on where this one was."""
        self._away(error)
        if isinstance(error, GroupAuthorizationFailedError):
            _log.warning("%s Reading without it: lag tools won't see how far.", self._trouble)
            self._group_id = None
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
            with contextlib.suppress(Exception):  # where fetching had died, `stop` raises before it closes connections
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    await consumer._client.close()  # noqa: SLF001 - as above


def _has_died(consumer: AIOKafkaConsumer) -> bool:
    """Whether the client fetches nothing more, of which it tells nobody.

    aiokafka's fetching ends with a KeyError where a request runs out of time as its connection goes: so it is after a
    stand-still of this process.
    """
    fetcher = consumer._fetcher  # noqa: SLF001 - shown nowhere
    return fetcher is not None and bool(fetcher.error_future.done())
