"""The `kafka://` transport against a real broker: refusals, broken connections, and what a producer leaves behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from runwire._batch import Message, messages
from runwire._errors import TransportError
from runwire._journal import Journal
from runwire._kafka import KafkaTransport
from runwire._recovery import DeadJournal
from runwire._sender import Sender
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import TOPIC_PARTITIONS, parse_url
from tests.producer.journals import EMITTER, HEADER, open_journal, tell
from tests.producer.test_sender import Speaker
from tests.services.kafka import KafkaBroker, KafkaTopics
from tests.services.process import free_ports, wait_until

KEYS = tuple(f"metric/{number}" for number in range(10))
IDLE_SECONDS = 4.0
IDLE_SHARE_MAX = 0.02  # the promise is 1 %; twice that is allowed on a machine that is busy with other tests


def made(folder: Path, rows: int, rows_max: int = 10) -> list[Message]:
    """Messages of rows of ten values that no compression makes small."""
    journal = open_journal(folder / EMITTER)
    log(journal, rows)
    batches = list(messages(DeadJournal(journal.folder, HEADER)._read(), HEADER, rows_max, 2**20))
    journal.close(delete=True)
    return batches


def log(journal: Journal, rows: int) -> None:
    """Rows of ten random values."""
    chance = random.Random(3)
    for step in range(rows):
        journal.append_row(KEYS, step, 0, [chance.random() for _ in KEYS])


async def send(url: str, *parts: Sequence[Message]) -> None:
    """Open, send each part, close."""
    transport = KafkaTransport(parse_url(url))
    try:
        await transport.open()
        for part in parts:
            await transport.send(part)
    finally:
        await transport.close()


async def send_until_taken(url: str, part: Sequence[Message]) -> None:
    """As senders do: a broker that has just woken up may be fenced for a moment."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await send(url, part)
        except TransportError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


async def stored(kafka: KafkaTopics, topic: str, partitions: int) -> list[Message]:
    """Everything in a topic, a partition after the other."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, enable_auto_commit=False)
    await consumer.start()
    found = []
    try:
        assigned = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(assigned)
        for partition, end in (await consumer.end_offsets(assigned)).items():
            consumer.seek(partition, 0)
            while await consumer.position(partition) < end:
                batch = (await consumer.getmany(partition, timeout_ms=1000)).get(partition, [])
                found += [Message(Envelope.from_headers(record.headers), record.value) for record in batch]
    finally:
        await consumer.stop()
    return found


async def test_what_send_returned_is_in_the_log(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """The topic is made where it is missing; envelopes and payloads arrive in order in one partition."""
    sent = made(tmp_path, 100)
    await send(kafka.url(topic_name), sent[:3], sent[3:])
    found = await stored(kafka, topic_name, TOPIC_PARTITIONS)
    assert [(message.envelope, message.payload) for message in found] == [
        (message.envelope, message.payload) for message in sent
    ]


async def test_a_message_beyond_the_limit_is_refused(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """The broker's limit is told from a broker that is away, and a new producer goes on."""
    kafka.create_topic(topic_name, max_message_bytes="20000")
    large = made(tmp_path / "large", 1000, 1000)
    assert len(large[0].payload) > 20_000
    small = made(tmp_path / "small", 10)
    with pytest.raises(TransportError, match="refused a message") as raised:
        await send(kafka.url(topic_name), large)
    assert raised.value.refused
    await send(kafka.url(topic_name), small)
    assert [message.envelope for message in await stored(kafka, topic_name, 1)] == [small[0].envelope]


def test_a_low_limit_of_the_topic_costs_no_row(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """The sender halves what is refused until it fits: all rows arrive, none is declared lost."""
    kafka.create_topic(topic_name, max_message_bytes="20000")
    journal = open_journal(tmp_path / EMITTER)
    log(journal, 2000)
    sender = Sender(journal, parse_url(kafka.url(topic_name)), Speaker(journal))
    sender.start()
    journal.seal()
    assert sender.finish(60.0)
    journal.close(delete=True)
    story = tell(asyncio.run(stored(kafka, topic_name, 1)))
    assert story.steps == set(range(2000))
    assert (story.lost, story.end) == ([], (2000, "finished"))


async def test_a_port_where_nobody_listens_is_an_error_soon(tmp_path: Path) -> None:
    """Worth trying again, and nothing of the attempt stays behind."""
    (port,) = free_ports(1)
    before = len(asyncio.all_tasks())
    with pytest.raises(TransportError, match=f"can't be reached: no broker answers at 127.0.0.1:{port}.$") as raised:
        await send(f"kafka://127.0.0.1:{port}/topic", made(tmp_path, 1))
    assert raised.value.retriable
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before


async def test_a_frozen_broker_leaves_no_task_behind(
    own_kafka: KafkaBroker, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A send that gets no answer ends in time; its producer is gone, and adds nothing when the broker wakes up."""
    own_kafka.create_topic(topic_name)
    sent = made(tmp_path, 100)
    transport = KafkaTransport(parse_url(own_kafka.url(topic_name)))
    before = len(asyncio.all_tasks())
    await transport.open()
    await transport.send(sent[:1])
    monkeypatch.setattr("runwire._kafka.SEND_TIMEOUT_SECONDS", 1.0)
    os.kill(own_kafka.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TransportError, match="took no message"):
            await transport.send(sent[1:2])
        start = time.monotonic()
        await transport.close()
        assert time.monotonic() - start < 20
    finally:
        os.kill(own_kafka.pid, signal.SIGCONT)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    await send_until_taken(own_kafka.url(topic_name), sent[1:])
    rows = [row[0] for row in tell(await stored(own_kafka, topic_name, 1)).rows]
    assert sorted(set(rows)) == list(range(100))


def test_a_quiet_run_costs_next_to_nothing(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """Five small rows a second: the sender's thread takes about 1 % of a core."""
    kafka.create_topic(topic_name)
    journal = open_journal(tmp_path / EMITTER)
    sender = Sender(journal, parse_url(kafka.url(topic_name)), Speaker(journal))
    sender.start()
    journal.append_row(("a",), 0, 0, [0.0])
    wait_until(lambda: sender.acknowledged_seq == 1, what="the first row")
    before, start, pace = sender.cpu_seconds, time.monotonic(), threading.Event()
    step = 1
    while time.monotonic() - start < IDLE_SECONDS:
        journal.append_row(KEYS, step, 0, [0.0] * 10)
        step += 1
        pace.wait(0.2)  # the pace is what is measured
    share = (sender.cpu_seconds - before) / (time.monotonic() - start)
    journal.seal()
    assert sender.finish(20)
    journal.close(delete=True)
    assert share <= IDLE_SHARE_MAX, f"{100 * share:.2f} % of a core"
