"""The Kafka broker that measurements go through: one of our own, the one RUNWIRE_TEST_KAFKA names, or none."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.kafka import KafkaBroker, KafkaTopics, external_broker
from tests.services.process import ServiceFailed, ServiceMissing

PARTITIONS = 6


@contextmanager
def broker_if_possible() -> Iterator[KafkaTopics | None]:
    """A broker for as long as the block lasts; None, with a line on stderr, where none can be had."""
    try:
        found = external_broker() or KafkaBroker().start()
    except (ServiceMissing, ServiceFailed) as error:
        print(f"no Kafka broker: {str(error).splitlines()[0]}", file=sys.stderr)
        yield None
        return
    try:
        yield found
    finally:
        if isinstance(found, KafkaBroker):
            found.close()


def new_topic(broker: KafkaTopics) -> str:
    """Create a topic as the producer would; returns its name."""
    name = f"bench.{uuid.uuid4().hex[:12]}"
    return broker.create_topic(name, PARTITIONS, message_timestamp_type="LogAppendTime")


def stored_bytes(broker: KafkaTopics, topic: str) -> int | None:
    """Bytes of a topic's log on disk; None for a broker that runs elsewhere."""
    if not isinstance(broker, KafkaBroker):
        return None
    data: Path = broker.folder / "data"
    return sum(path.stat().st_size for path in data.glob(f"{topic}-*/*.log"))
