"""Orders through a real broker: in the run's own partition, behind what the run had sent, and in the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer

from runwire._batch import Message
from runwire._kafka import KafkaTransport
from runwire._orders import Order, send_orders
from runwire_consumer.database import MEMORY
from runwire_consumer.service import Service
from runwire_consumer.sources.kafka import KafkaSource
from runwire_consumer.store import Store
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import RunDeleted, RunEdited
from runwire_schemas.topics import parse_url
from tests.consumer.telling import DAY_ONE, Emitter

if TYPE_CHECKING:
    from tests.services.kafka import KafkaTopics

RUNS = [letter * 16 for letter in "abcdef"]


def test_orders_land_in_their_runs_partitions(kafka: KafkaTopics, topic_name: str) -> None:
    """Six runs, each renamed; the first is deleted as well."""
    destination = parse_url(kafka.url(topic_name))
    asyncio.run(_train(KafkaTransport(destination)))
    edits = [Order("digits", run_id, RunEdited, {"name": f"new {run_id[0]}"}, DAY_ONE) for run_id in RUNS]
    send_orders(destination, [*edits, Order("digits", RUNS[0], RunDeleted, {"reason": None}, DAY_ONE)])
    places = asyncio.run(_places(kafka, topic_name, 2 * len(RUNS) + 2 * (len(RUNS) + 1)))
    assert {key: len(parts) for key, parts in places.items()} == dict.fromkeys(RUNS, 1)
    store = Store.open(MEMORY)
    found: list[object] = []

    async def read() -> None:
        service = Service(store, [KafkaSource(destination)])
        close, store.close = store.close, lambda: None  # type: ignore[method-assign]
        await service.run_once()
        found.extend(store.cursor().execute("SELECT name FROM runs ORDER BY name").fetchall())
        close()

    asyncio.run(read())
    assert found == [(f"new {run_id[0]}",) for run_id in RUNS[1:]]


async def _train(transport: KafkaTransport) -> None:
    await transport.open()
    for run_id in RUNS:
        run = Emitter(run_id[0], run_id)
        sent = [run.starts(), run.logs({0: {"loss": 1.0}})]
        await transport.send([Message(Envelope.from_headers(one.headers), one.payload) for one in sent])  # type: ignore[arg-type]
    await transport.close()


async def _places(kafka: KafkaTopics, topic: str, count: int) -> dict[str, set[int]]:
    """Partitions by key."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found: dict[str, set[int]] = {}
    async with asyncio.timeout(30):
        for _ in range(count):
            record = await consumer.getone()
            found.setdefault((record.key or b"").decode(), set()).add(record.partition)
    await consumer.stop()
    return found
