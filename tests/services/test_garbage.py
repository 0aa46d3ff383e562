"""What is no message of ours becomes a dead letter, and the partition goes on."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator
from aiokafka.producer import producer as producer_module
from aiokafka.record import default_records

from runwire_schemas.codec import encode
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import Block, MetricBatch
from tests.pipeline.poison import Poison
from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.receipts import verify

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.kafka import KafkaTopics

RUN = "garbagegarbage22"
EMITTER = "e" * 32


def _batch(first_seq: int) -> MetricBatch:
    """Two rows of one metric."""
    steps, times = (first_seq, first_seq + 1), (1_000_000, 2_000_000)
    block = Block(keys=("loss",), steps=steps, times=times, values=(0.5, 0.25))
    return MetricBatch(run_id=RUN, emitter_id=EMITTER, rank=0, first_seq=first_seq, blocks=(block,))


def _headers(first_seq: int) -> list[tuple[str, bytes]]:
    return Envelope.of(_batch(first_seq), project="garbage", attempt="one").to_headers()


GOOD = encode(_batch(0))
CASES = [
    ("random bytes", b"\x07garbage\xff" * 20, _headers(2)),
    ("truncated Avro", encode(_batch(4))[:-3], _headers(4)),
    ("unknown fingerprint", GOOD[:2] + b"\x00" * 8 + GOOD[10:], _headers(6)),
    ("trailing bytes", encode(_batch(8)) + b"\x00", _headers(8)),
    ("no payload", None, _headers(10)),
    ("no envelope", b"hello", []),
]


class _OddName(str):
    """A header's name that is no UTF-8 on the wire."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe name"


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_a_header_name_that_is_no_text_stops_nobody(
    kafka: KafkaTopics, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    """A broker takes it; the messages before, in and behind it are stored."""
    kafka.create_topic(topic_name)
    # aiokafka's builder in C takes no such name.
    for module in (message_accumulator, producer_module):
        monkeypatch.setattr(module, "DefaultRecordBatchBuilder", default_records._DefaultRecordBatchBuilderPy)
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, acks="all", compression_type=compression, linger_ms=200
    ) as producer:
        sent = []
        for seq in range(0, 12, 2):
            headers = [*_headers(seq), *([(_OddName("x"), b"\xfe")] if seq in {4, 6} else [])]
            payload = b"\0garbage" if seq == 6 else encode(_batch(seq))
            sent.append(await producer.send(topic_name, payload, key=RUN.encode(), headers=headers))
        await asyncio.gather(*sent)
    with ConsumerProcess(kafka.url(topic_name), home=tmp_path / "consumer") as consumer:
        consumer.wait_for("SELECT 1 FROM metrics WHERE step = 11")
        stored = consumer.sql("SELECT step FROM metrics ORDER BY step")
        assert [row["step"] for row in stored] == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
        (letter,) = consumer.sql("SELECT first_seq, whole, headers FROM dead_letters")
        assert (letter["first_seq"], letter["whole"]) == (6, True)
        assert json.loads(letter["headers"])[-1] == ["\\xff\\xfe name", {"base64": "/g=="}]


async def test_thousands_of_hostile_messages(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """Mutated in every way, through a real broker, the consumer killed on the way: the honest have every row."""
    kafka.create_topic(topic_name)
    poison = Poison(7)
    told = list(poison.messages(3_000))
    last = Envelope.of(_batch(0), "garbage", "one").to_headers()
    with ConsumerProcess(kafka.url(topic_name), home=tmp_path / "consumer") as consumer:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all", linger_ms=20) as producer:
            for half in (told[:1_500], told[1_500:]):
                sent = [
                    await producer.send(topic_name, payload, headers=[*headers])
                    for headers, payload, _ in half
                    if len(payload) < 900_000
                ]
                await asyncio.gather(*sent)
                consumer.kill()
                consumer.start()
            await producer.send_and_wait(topic_name, GOOD, headers=last)
        consumer.wait_for(f"SELECT 1 FROM metrics WHERE run_id = '{RUN}' AND step = 1")  # noqa: S608 - our own
        found = consumer.sql(
            "SELECT emitter_id, count(*) AS rows, count(DISTINCT seq) AS different, "
            "min(value - seq) AS least, max(value - seq) AS most, bool_and(step = seq) AS in_step "
            "FROM metrics WHERE starts_with(emitter_id, '000') GROUP BY emitter_id ORDER BY emitter_id"
        )
        assert found == [
            {
                "emitter_id": one.emitter_id,
                "rows": one.seq,
                "different": one.seq,
                "least": 1_000.0 * one.number,
                "most": 1_000.0 * one.number,
                "in_step": True,
            }
            for one in poison.honest
        ]
        (counted,) = consumer.sql(
            'SELECT count(*) AS letters, count(DISTINCT letter_id) AS different, count(DISTINCT "offset") AS places '
            "FROM dead_letters"
        )
        assert len(set(counted.values())) == 1
        assert counted["letters"] >= sum(kind in {"noise", "cut", "slander"} for *_, kind in told)


async def _send(bootstrap: str, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        for payload, headers in [
            (GOOD, _headers(0)),
            *((payload, headers) for _, payload, headers in CASES),
            (encode(_batch(12)), _headers(12)),
        ]:
            await producer.send_and_wait(topic, payload, key=RUN.encode(), headers=headers)


@pytest.mark.parametrize("restarted", [False, True])
async def test_garbage_becomes_dead_letters(
    kafka: KafkaTopics, topic_name: str, tmp_path: Path, *, restarted: bool
) -> None:
    """Random, truncated, unknown, excessive, empty: each names offset, reason and rows; good rows around it are in."""
    kafka.create_topic(topic_name)
    await _send(kafka.bootstrap, topic_name)
    with ConsumerProcess(kafka.url(topic_name), home=tmp_path / "consumer") as consumer:
        consumer.wait_for("SELECT 1 FROM metrics WHERE step = 13")
        if restarted:
            consumer.kill()
            consumer.start()
        letters = consumer.sql(
            'SELECT "partition", "offset", first_seq, count, bytes, reason FROM dead_letters ORDER BY "offset"'
        )
        reasons = [letter.pop("reason") for letter in letters]
        assert letters == [
            {
                "partition": "0",
                "offset": offset,
                "first_seq": 2 * offset if headers else None,
                "count": 2 if headers else None,
                "bytes": len(payload or b""),
            }
            for offset, (_, payload, headers) in enumerate(CASES, start=1)
        ]
        assert all(reasons)
        stored = consumer.sql("SELECT step, value FROM metrics ORDER BY step")
        assert [row["step"] for row in stored] == [0, 1, 12, 13]
        gaps = consumer.sql("SELECT kind, first_seq, end_seq FROM gaps ORDER BY first_seq")
        assert {gap["kind"] for gap in gaps} == {"dead"}
        assert (gaps[0]["first_seq"], gaps[-1]["end_seq"]) == (2, 12)
        assert verify(consumer, RUN).returncode == 1
        # Orders go to the consumer that runs: nothing here can be decoded by this version, so the letters stay.
        done = _order(consumer, "replay", "--all", "--json")
        assert done.returncode == 1, done.stderr
        told = json.loads(done.stdout)
        assert (told["replayed"], told["dead"], told["not_whole"]) == (0, len(CASES), 0)
        assert any("upgrade the consumer" in one["reason"] for one in told["reasons"])
        done = _order(consumer, "discard", "--all")
        assert (done.returncode, done.stdout.split(" ", 1)[0]) == (0, str(len(CASES))), done.stderr
        assert consumer.sql("SELECT status, sum(octet_length(head)) AS held FROM dead_letters GROUP BY status") == [
            {"status": "discarded", "held": 0}
        ]
        assert consumer.sql("SELECT kind, first_seq, end_seq FROM gaps ORDER BY first_seq") == gaps


def _order(consumer: ConsumerProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [RUNWIRE, "dead-letters", *words]
    return subprocess.run(command, env=consumer.environment, capture_output=True, text=True, check=False, timeout=60)
