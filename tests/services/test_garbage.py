"""What is no message of ours becomes a dead letter, and the partition goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from runwire_schemas.codec import encode
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import Block, MetricBatch
from tests.services.consumer import ConsumerProcess
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
