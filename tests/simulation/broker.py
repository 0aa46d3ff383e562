"""The model of a Kafka topic: partitions that grow, and everything that goes wrong on the way there.

What a send may do: arrive and be acknowledged; arrive without a word; arrive in part; not arrive; arrive twice; arrive
late, after the client gave up and sent again; be refused. What may happen to the log itself: its end is cut off
(acknowledged by one replica, which died), it is made anew, retention takes its beginning, it gets more partitions, a
record's bytes are damaged. `gone` names what the log has lost that way: of that no more is promised than that it isn't
told wrongly.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runwire._batch import Message
from runwire._errors import TransportError
from runwire_schemas.codec import decode
from runwire_schemas.events import RowsLost
from runwire_schemas.topics import message_key
from tests.simulation.loop import CURRENT, VirtualLoop

Row = tuple[str, int]
"""Emitter and sequence number."""


@dataclass(slots=True)
class Faults:
    """What a send may meet, as chances; all 0 after healing."""

    lost_ack: float = 0.0
    partial: float = 0.0
    nothing: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    odd: float = 0.0
    delay_seconds: float = 0.05
    late_seconds: float = 8.0


@dataclass(slots=True, eq=False)
class Record:
    """One record of a partition; the names are aiokafka's."""

    offset: int
    timestamp: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    emitter: str = ""
    first_seq: int = 0
    count: int = 0
    declares: tuple[int, int] = (0, 0)
    is_damaged: bool = False

    def rows(self) -> list[Row]:
        """What it stands for, and what it declares lost: lost with it."""
        own = range(self.first_seq, self.first_seq + self.count)
        return [(self.emitter, seq) for seq in (*own, *range(*self.declares))]


@dataclass(slots=True)
class Partition:
    """Records begin .. begin + len - 1; `leader_epoch` rises when they are not the ones of before."""

    begin: int = 0
    records: list[Record] = field(default_factory=list)
    leader_epoch: int = 0

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.begin + len(self.records)


class Broker:
    """One topic.

    Attributes:
        gives_ids: It tells the topic's id and the leaders' epochs; brokers before Kafka 2.8 tell neither.
        topic_number: The id; another one each time the topic is made.
        epoch: Rises when connections break.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random, partitions: int, message_bytes_max: int) -> None:
        self.loop = loop
        self.rng = rng
        self.message_bytes_max = message_bytes_max
        self.partitions = [Partition() for _ in range(partitions)]
        self.faults = Faults()
        self.reachable = True
        self.stands_still = False  # for those who read: nothing is answered
        self.gives_ids = True
        self.topic_number = 1
        self.epoch = 0  # a client that was connected before is thrown out
        self.clock_offset_seconds = 0.0
        self.appended: set[Row] = set()
        self.gone: set[Row] = set()
        self.gone_ends: set[str] = set()  # emitters of which a record outside the sequence is gone
        self.damaged: set[Row] = set()
        self.refused: set[Row] = set()
        self.ended: dict[str, int] = {}
        self.expired_unread = 0
        self.anomalies = 0
        self.breaks = 0  # of connections, and changes of leaders
        self.late_waiting = 0
        self.damages_next = 0
        self._waiters: list[asyncio.Future[None]] = []

    def now_ms(self) -> int:
        """The broker's clock."""
        return int((1_700_000_000 + self.loop.time() + self.clock_offset_seconds) * 1000)

    def append(self, message: Message) -> None:
        """At the end of the run's partition."""
        envelope = message.envelope
        number = zlib.crc32(message_key(envelope.run_id)) % len(self.partitions)
        part = self.partitions[number]
        record = Record(
            part.end,
            self.now_ms(),
            message.payload,
            tuple(envelope.to_headers()),
            envelope.emitter_id,
            envelope.first_seq,
            envelope.count,
        )
        if envelope.type == "RowsLost":
            lost = decode(message.payload)
            assert isinstance(lost, RowsLost)
            record.declares = (lost.first_seq, lost.first_seq + lost.count)
        if self.damages_next and record.value:
            # Cut, not flipped: Avro has no check sum, and a flipped bit of a value is a value.
            self.damages_next -= 1
            record.is_damaged = True
            record.value = record.value[: self.rng.randrange(len(record.value))]
            self.damaged.update(record.rows())
            self.gone.update((record.emitter, seq) for seq in range(*record.declares))
            if record.count == 0:
                self.gone_ends.add(record.emitter)
        part.records.append(record)
        self.appended.update((record.emitter, seq) for seq in range(record.first_seq, record.first_seq + record.count))
        if envelope.type == "EmitterEnded":
            self.ended[envelope.emitter_id] = self.ended.get(envelope.emitter_id, 0) + 1
        self.wake()

    def append_raw(self, number: int, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
        """What a stranger sends."""
        part = self.partitions[number % len(self.partitions)]
        part.records.append(Record(part.end, self.now_ms(), value, headers))
        self.wake()

    def wake(self) -> None:
        """Something changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, timeout_seconds: float) -> None:
        """Wait for news, so long at most."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
        except TimeoutError:
            pass

    # What happens to the log.

    def truncate(self, number: int, count: int, *, quietly: bool = False) -> None:
        """The last records are gone, though acknowledged; `quietly`, and no connection breaks."""
        part = self.partitions[number % len(self.partitions)]
        cut = part.records[max(0, len(part.records) - count) :]
        del part.records[len(part.records) - len(cut) :]
        self._lose(cut)
        part.leader_epoch += 1
        self._shake(quietly=quietly)

    def recreate(self, partitions: int, *, quietly: bool = False) -> None:
        """The topic was deleted and made again; `quietly`, and no connection breaks."""
        for part in self.partitions:
            self._lose(part.records)
        self.partitions = [Partition() for _ in range(partitions)]
        self.topic_number += 1
        self._shake(quietly=quietly)

    def expire(self, number: int, count: int, read_until: int) -> None:
        """Retention takes the oldest records; the consumer has stored those before `read_until`."""
        part = self.partitions[number % len(self.partitions)]
        old = part.records[:count]
        self.expired_unread += max(0, part.begin + len(old) - max(read_until, part.begin))
        del part.records[: len(old)]
        part.begin += len(old)
        self._lose(old)

    def grow(self, partitions: int) -> None:
        """More partitions: runs move to others from now on."""
        self.partitions += [Partition() for _ in range(partitions)]

    def stand_still(self, *, still: bool) -> None:
        """Whoever reads waits, as where its process was stopped, and goes on later with what it knew."""
        self.stands_still = still
        self.wake()

    def outage(self, *, reachable: bool) -> None:
        """Nobody reaches the broker, or everybody again."""
        self.reachable = reachable
        self.epoch += 1
        self.breaks += 1
        self.wake()

    def _lose(self, records: Sequence[Record]) -> None:
        for record in records:
            self.gone.update(record.rows())
            if record.count == 0:
                self.gone_ends.add(record.emitter)

    def _shake(self, *, quietly: bool) -> None:
        # Who knows neither ids nor epochs can't notice what nothing else tells of: then connections always break.
        if not (quietly and self.gives_ids):
            self.epoch += 1
        self.anomalies += 1
        self.breaks += 1
        self.wake()


class BrokerTransport:
    """The twin of `KafkaTransport`: what its process sends arrives by the broker's faults."""

    def __init__(self, broker: Broker, destination: Any) -> None:
        self._broker = broker
        self._destination = destination
        self._epoch = -1

    async def open(self) -> None:
        """Connect."""
        broker = self._broker
        await asyncio.sleep(broker.rng.random() * broker.faults.delay_seconds)
        if not broker.reachable:
            raise TransportError("The broker can't be reached.")
        self._epoch = broker.epoch

    async def send(self, messages: Sequence[Message]) -> None:
        """Append, by the dice."""
        broker, rng, faults = self._broker, self._broker.rng, self._broker.faults
        await asyncio.sleep(rng.random() * faults.delay_seconds)
        self._check()
        self._refuse(messages)
        if trouble := self._append(messages, rng.random()):
            raise trouble
        await asyncio.sleep(rng.random() * faults.delay_seconds)
        if not broker.reachable:
            raise TransportError("No acknowledgement came: the broker can't be reached.")

    async def close(self) -> None:
        """Nothing to give back."""

    def _append(self, messages: Sequence[Message], dice: float) -> Exception | None:
        """What becomes of a send; the error that its sender meets, if any."""
        broker, faults = self._broker, self._broker.faults
        if (dice := dice - faults.nothing) < 0:
            return TransportError("Nothing arrived.")
        if (dice := dice - faults.partial) < 0:
            for message in messages[: broker.rng.randrange(len(messages) + 1)]:
                broker.append(message)
            return TransportError("A part arrived.")
        if (dice := dice - faults.late) < 0:
            self._append_late(messages)
            return TransportError("It may arrive later.")
        if (dice := dice - faults.odd) < 0:
            return RuntimeError("a fault that nobody thought of")
        for message in messages:
            broker.append(message)
        if (dice := dice - faults.twice) < 0:
            for message in messages:
                broker.append(message)
        elif dice - faults.lost_ack < 0:
            return TransportError("No acknowledgement came.")
        return None

    def _refuse(self, messages: Sequence[Message]) -> None:
        broker = self._broker
        for index, message in enumerate(messages):
            if len(message.payload) > broker.message_bytes_max:
                for other in messages[:index] if broker.rng.random() < 0.7 else ():
                    broker.append(other)
                if message.envelope.count == 1 and len(messages) == 1:
                    broker.refused.add((message.envelope.emitter_id, message.envelope.first_seq))
                raise TransportError("The broker refused a message.", refused=True)

    def _check(self) -> None:
        process = CURRENT.get()
        if process is not None and not process.alive:
            raise asyncio.CancelledError
        if not self._broker.reachable or self._epoch != self._broker.epoch:
            raise TransportError("The connection broke.")

    def _append_late(self, messages: Sequence[Message]) -> None:
        broker = self._broker
        taken = list(messages)
        if broker.rng.random() < 0.3:
            broker.rng.shuffle(taken)
        broker.late_waiting += 1

        def arrive() -> None:
            broker.late_waiting -= 1
            for message in taken:
                broker.append(message)

        broker.loop.call_later(broker.rng.random() * broker.faults.late_seconds, arrive)
