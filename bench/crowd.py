"""Many small senders at a pace: each emitter sends a row of ten values four times a second, through Kafka.

usage: python bench/crowd.py BOOTSTRAP TOPIC EMITTERS SECONDS

One process plays them all with messages encoded beforehand: what is due within a tick and belongs to one partition
travels in one batch. Prints {"ready": true}, begins with the first line of its input; at the end it prints what it
sent, and how far it fell behind its own pace.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

from aiokafka import AIOKafkaProducer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.generator import KAFKA_BATCH_BYTES, Sender
from bench.load import SHAPES, EmitterStream, Encoded, make_bodies

MESSAGES_A_SECOND = 4
TICK_SECONDS = 0.01


async def play(bootstrap: str, topic: str, emitters: int, seconds: float) -> dict[str, float]:
    """Send until the time is up; returns what was sent."""
    shape = SHAPES["small_messages"]
    now_us = time.time_ns() // 1000
    bodies = make_bodies(shape, now_us)
    streams = [EmitterStream(number, shape, bodies, now_us) for number in range(emitters)]
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", compression_type="lz4", max_batch_size=KAFKA_BATCH_BYTES
    )
    async with producer:
        partitions = len(await producer.partitions_for(topic))
        sender = Sender(producer, topic, partitions)

        async def send(due: range, turn: int | None) -> None:
            batches: defaultdict[int, list[Encoded]] = defaultdict(list)
            for number in due:
                stream = streams[number % emitters]
                made = stream.start() if turn is None else stream.batch(turn)
                batches[number % emitters % partitions].append(made)
            for partition, batch in batches.items():
                await sender.send(partition, batch)

        for first in range(0, emitters, 100):
            await send(range(first, min(first + 100, emitters)), None)
        await sender.drain()
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begin = time.monotonic()
        sent, late = 0, 0.0
        while (passed := time.monotonic() - begin) < seconds:
            due = int(passed * emitters * MESSAGES_A_SECOND)
            await send(range(sent, due), sent // emitters)
            sent = due
            late = max(late, time.monotonic() - begin - passed)
            await asyncio.sleep(TICK_SECONDS)
        await sender.drain()
    return {"messages": sent, "points": sent * shape.points, "late_seconds_max": round(late, 3)}


if __name__ == "__main__":
    _, bootstrap_servers, topic_name, count, run_seconds = sys.argv
    print(json.dumps(asyncio.run(play(bootstrap_servers, topic_name, int(count), float(run_seconds)))), flush=True)
