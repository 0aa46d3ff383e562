"""A real broker that takes two seconds for each request: training doesn't notice, rows arrive, the end is bounded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import runwire
from tests.producer.journals import recovered
from tests.services.kafka import KafkaBroker, KafkaTopics
from tests.services.process import wait_until

DELAY_SECONDS = 2.0
CONNECT_SECONDS_MAX = 100.0  # a dozen requests one after the other until the first message may go


@pytest.mark.long
def test_rows_arrive_and_the_end_is_bounded(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path) -> None:
    """What can't be sent within the ten seconds of the end waits for `runwire sync`."""
    with own_kafka.slow(DELAY_SECONDS) as proxy:
        run = runwire.init(project="p", url=KafkaTopics(proxy.address).url(topic_name), home=tmp_path)
        emitter = run._emitter
        assert emitter is not None
        sender = emitter.sender
        assert sender is not None
        rows = 0
        while not sender.acknowledged_seq:
            run.log({"a": 1.0}, step=rows)
            rows += 1
            assert rows < 10 * CONNECT_SECONDS_MAX, sender.last_error
            time.sleep(0.1)
        for step in range(rows, rows + 200_000):
            run.log({"a": 1.0}, step=step)
        start = time.monotonic()
        delivered = run.finish()
        assert time.monotonic() - start < 15
        assert not delivered
        assert sender.acknowledged_seq > rows / 2
        assert recovered(emitter.journal.folder).end == (emitter.journal.next_seq, "finished")
        wait_until(lambda: not sender.is_alive(), timeout_seconds=60, what="the sender has given up")
