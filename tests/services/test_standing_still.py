"""A consumer that stands still and wakes up, one beside it, and a topic that is widened under everybody's feet."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.process import run_blocking, wait_until
from tests.services.receipts import assert_each_point_once, assert_receipts_clean, wait_until_complete
from tests.services.trainer import TrainerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.kafka import KafkaBroker, KafkaTopics

pytestmark = pytest.mark.timeout(600)
STORED = "SELECT sum(stored) AS rows FROM emitters HAVING sum(stored) > {}"


def test_a_consumer_that_stood_still_goes_on(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path) -> None:
    """SIGSTOP, a broker that dies and comes back meanwhile, SIGCONT: each row once, nobody has to do anything."""
    own_kafka.create_topic(topic_name, 3)
    url = own_kafka.url(topic_name)
    trainer = TrainerProcess(tmp_path / "trainer", url, launch="still")
    try:
        with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
            consumer.wait_for(STORED.format(0))
            os.kill(consumer.pid, signal.SIGSTOP)
            second = subprocess.run(
                [RUNWIRE, "up", "--once"], env=consumer.environment, capture_output=True, text=True, check=False
            )
            assert second.returncode != 0
            assert str(consumer.pid) in second.stderr
            own_kafka.restart()
            at = trainer.rows
            trainer.wait_for_rows(at + 200)
            os.kill(consumer.pid, signal.SIGCONT)
            trainer.stop()
            assert trainer.wait() == 0
            wait_until_complete(consumer, emitters=1)
            assert_each_point_once(consumer, {0: trainer.rows})
            assert_receipts_clean(consumer)
            assert consumer.stop() == 0, consumer.log.read_text()
    finally:
        trainer.kill()


def test_a_consumer_whose_database_was_replaced_while_it_stood_still(
    kafka: KafkaTopics, topic_name: str, tmp_path: Path
) -> None:
    """Its files were moved aside and another consumer took their place: neither has a row twice."""
    kafka.create_topic(topic_name, 1)
    url = kafka.url(topic_name)
    home = tmp_path / "consumer"
    first = TrainerProcess(tmp_path / "first", url, launch="first", rows=200)
    with ConsumerProcess(url, home=home) as sleeper:
        assert first.wait() == 0, first.log.read_text()
        wait_until_complete(sleeper, emitters=1)
        os.kill(sleeper.pid, signal.SIGSTOP)
        aside = tmp_path / "aside"
        aside.mkdir()
        for file in home.glob("runwire.duckdb*"):
            file.rename(aside / file.name)
        with ConsumerProcess(url, home=home) as other:
            second = TrainerProcess(tmp_path / "second", url, launch="second", rows=200)
            assert second.wait() == 0, second.log.read_text()
            wait_until_complete(other, emitters=2)
            os.kill(sleeper.pid, signal.SIGCONT)
            third = TrainerProcess(tmp_path / "third", url, launch="third", rows=200)
            assert third.wait() == 0, third.log.read_text()
            wait_until_complete(other, emitters=3)
            wait_until_complete(sleeper, emitters=3)
            for consumer in (other, sleeper):
                assert consumer.sql("SELECT count(*) AS n FROM metrics") == [{"n": 3 * 200 * 4}]
                assert consumer.sql("SELECT count(DISTINCT (emitter_id, metric, step)) AS n FROM metrics") == [
                    {"n": 3 * 200 * 4}
                ]
            assert other.stop() == 0, other.log.read_text()
    shutil.rmtree(aside)


async def _widen(kafka: KafkaTopics, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_partitions({topic: NewPartitions(partitions)})
    await admin.close()


async def _written(kafka: KafkaTopics, topic: str, partitions: range) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap)
    await consumer.start()
    try:
        async with asyncio.timeout(90):
            ends = await consumer.end_offsets([TopicPartition(topic, number) for number in partitions])
    finally:
        await consumer.stop()
    return sum(ends.values())


def test_a_topic_widened_while_runs_write(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """From 3 to 6 partitions: runs go on in other ones, their order is lost, and every row is stored once."""
    kafka.create_topic(topic_name, 3)
    url = kafka.url(topic_name)
    trainers = [TrainerProcess(tmp_path / name, url, launch=name) for name in "abcd"]
    try:
        with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
            consumer.wait_for("SELECT 1 FROM emitters WHERE stored > 20 HAVING count(*) = 4")
            run_blocking(_widen(kafka, topic_name, 6))
            wait_until(
                lambda: run_blocking(_written(kafka, topic_name, range(3, 6))) > 0,
                what="records in the new partitions",
            )
            for trainer in trainers:
                at = trainer.rows
                trainer.wait_for_rows(at + 200)
            for trainer in trainers:
                trainer.stop()
            assert [trainer.wait() for trainer in trainers] == [0] * 4
            wait_until_complete(consumer, emitters=4)
            rows = sum(trainer.rows for trainer in trainers)
            counted = "SELECT count(*) AS n, count(DISTINCT (run_id, metric, step)) AS different FROM metrics"
            assert consumer.sql(counted) == [{"n": 4 * rows, "different": 4 * rows}]
            assert_receipts_clean(consumer)
            states = consumer.wait_for("SELECT state FROM runs GROUP BY state HAVING count(*) = 4")
            assert states == [{"state": "finished"}]
    finally:
        for trainer in trainers:
            trainer.kill()
