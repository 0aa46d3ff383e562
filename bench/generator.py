"""Sends pre-encoded messages to Kafka as fast as it may; `ingest.py` starts it as a process of its own.

usage: python bench/generator.py BOOTSTRAP TOPIC SHAPE SECONDS [POINTS]

Prints {"ready": true}, begins with the first line of its input, reads from every further line how many points are
stored, and stays at most the shape's lead before that. It ends after the time or the points, and prints what it sent.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.load import SHAPES, EmitterStream, Encoded, Shape, make_bodies

KAFKA_BATCH_BYTES = 900_000
IN_FLIGHT_MAX = 24
PAUSE_SECONDS = 0.002
FULL = 0.9  # a batch takes no record beyond this share of its bytes, or of MESSAGES_MAX
MESSAGES_MAX = 500


class Progress:
    """What the parent says on standard input: first that it begins, then how many points are stored."""

    def __init__(self) -> None:
        self.stored = 0
        self.begun = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.stored = int(line)
            self.begun.set()


class Sender:
    """Fills Kafka's own batches, one a partition, and keeps a bounded number of them in flight."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._in_flight: set[asyncio.Future[Any]] = set()

    async def send(self, partition: int, messages: Iterable[Encoded]) -> None:
        """Send messages of emitters whose stories are in this partition."""
        batch = self._producer.create_batch()
        for key, value, headers in messages:
            if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
                raise ValueError("a batch of messages is too large for Kafka")
        while len(self._in_flight) >= IN_FLIGHT_MAX:
            await self._collect()
        future = await self._producer.send_batch(batch, self._topic, partition=partition % self._partitions)
        self._in_flight.add(future)

    async def drain(self) -> None:
        """Wait for every acknowledgement."""
        while self._in_flight:
            await self._collect()

    async def _collect(self) -> None:
        done, self._in_flight = await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()


async def generate(
    bootstrap: str, topic: str, shape: Shape, seconds: float, points: float = float("inf")
) -> dict[str, float]:
    """Send for some seconds, or so many points; returns what was sent."""
    now_us = time.time_ns() // 1000
    bodies = make_bodies(shape, now_us)
    streams = [EmitterStream(number, shape, bodies, now_us) for number in range(shape.emitters)]
    progress = Progress()
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        max_batch_size=KAFKA_BATCH_BYTES,
        max_request_size=2 * KAFKA_BATCH_BYTES,
    )
    async with producer:
        partitions = len(await producer.partitions_for(topic))
        sender = Sender(producer, topic, partitions)
        # An emitter's messages stay in one partition, its run's.
        groups = _groups(streams, min(partitions, shape.emitters), shape)
        for partition, group in groups:
            await sender.send(partition, [stream.start() for stream in group])
        await sender.drain()
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(progress.begun.wait)
        begin = time.monotonic()
        sent, waited = 0, 0.0
        for turn, (partition, group) in enumerate(itertools.cycle(groups)):
            if time.monotonic() - begin >= seconds or sent >= points:
                break
            arrived = time.monotonic()
            while sent - progress.stored > shape.lead_points:  # noqa: ASYNC110 - a thread reads the pipe
                await asyncio.sleep(PAUSE_SECONDS)
            waited += time.monotonic() - arrived
            await sender.send(partition, [stream.batch(turn) for stream in group])
            sent += shape.points * len(group)
        await sender.drain()
        took = time.monotonic() - begin
        for partition, group in groups:
            await sender.send(partition, [stream.end() for stream in group])
        await sender.drain()
    return {"points": sent, "rows": sent // shape.keys, "seconds": took, "waited": waited}


def _groups(streams: list[EmitterStream], partitions: int, shape: Shape) -> list[tuple[int, list[EmitterStream]]]:
    """Emitters whose messages travel in one batch of Kafka, with their partition."""
    message_bytes = 600 + 11 * shape.points
    size = max(1, min(MESSAGES_MAX, int(FULL * KAFKA_BATCH_BYTES / message_bytes)))
    groups = []
    for partition in range(partitions):
        own = streams[partition::partitions]
        groups += [(partition, own[at : at + size]) for at in range(0, len(own), size)]
    return groups


if __name__ == "__main__":
    _, bootstrap_servers, topic_name, shape_name, *amounts = sys.argv
    made = asyncio.run(generate(bootstrap_servers, topic_name, SHAPES[shape_name], *map(float, amounts)))
    print(json.dumps(made), flush=True)
