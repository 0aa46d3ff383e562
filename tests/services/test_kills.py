"""Kill everything that can be killed: each point is stored exactly once, and the receipts prove it."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.receipts import (
    assert_each_point_once,
    assert_offsets_at_end,
    assert_receipts_clean,
    verify,
    wait_until_complete,
)
from tests.services.trainer import TrainerProcess, trainer_environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.kafka import KafkaBroker, KafkaTopics

RANKS = 4
KILLS = 20
BROKER_KILL = 10
SEED = 20_260_721


@pytest.mark.timeout(180)
def test_consumer_killed_20_times_and_broker_once(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path) -> None:
    """Four ranks write all the time; the consumer is killed 20 times, the broker once: every point exactly once."""
    own_kafka.create_topic(topic_name, 3)
    url = own_kafka.url(topic_name)
    chance = random.Random(SEED)
    trainers = [
        TrainerProcess(tmp_path / "trainer", url, launch="kills", rank=rank, world_size=RANKS, rows_per_second=200)
        for rank in range(RANKS)
    ]
    consumer = ConsumerProcess(url, home=tmp_path / "consumer")
    try:
        for kill in range(KILLS):
            # Every fourth dies while it starts; the others while they serve and write.
            consumer.spawn() if kill % 4 == 3 else consumer.start()
            time.sleep(chance.uniform(0.05, 1.5))
            if kill == BROKER_KILL:
                own_kafka.kill()
                time.sleep(chance.uniform(0.5, 2))
            consumer.kill()
            if kill == BROKER_KILL:
                own_kafka.restart()
        consumer.start()
        for trainer in trainers:
            trainer.stop()
        assert [trainer.wait() for trainer in trainers] == [0] * RANKS
        wait_until_complete(consumer, emitters=RANKS)
        assert_each_point_once(consumer, {trainer.rank: trainer.rows for trainer in trainers})
        assert_receipts_clean(consumer)
    finally:
        for trainer in trainers:
            trainer.kill()
    assert consumer.stop() == 0, consumer.log.read_text()
    assert_offsets_at_end(consumer.database, own_kafka.bootstrap, topic_name)


def test_a_killed_trainer_is_synced(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """SIGKILL while `log()` runs: `runwire sync` sends the rest of the journal, and the run is crashed."""
    url = kafka.url(topic_name)
    folder = tmp_path / "trainer"
    trainer = TrainerProcess(folder, url, launch="killed", rows_per_second=2_000)
    trainer.wait_for_rows(1_000)
    trainer.kill()
    returned = trainer.rows
    environment = trainer_environment(folder / "home", url)
    done = subprocess.run([RUNWIRE, "sync"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
        wait_until_complete(consumer, emitters=1)
        (stored,) = consumer.sql("SELECT count(*) AS rows FROM metrics WHERE metric = 'train/loss'")
        # The row being logged when it was killed may be there; no row whose log() returned is missing.
        assert returned <= stored["rows"] <= returned + 1
        assert_each_point_once(consumer, {0: stored["rows"]})
        assert consumer.sql("SELECT how FROM emitters") == [{"how": "crashed"}]
        consumer.wait_for("SELECT 1 FROM runs WHERE state = 'crashed'")
        assert_receipts_clean(consumer)


def test_a_trainer_that_is_stopped_politely_ends_its_run(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """SIGTERM, as a scheduler sends it: what was logged arrives, and the run has ended as preempted or failed."""
    url = kafka.url(topic_name)
    trainer = TrainerProcess(tmp_path / "trainer", url, launch="term", rows_per_second=500)
    trainer.wait_for_rows(200)
    trainer.signal(signal.SIGTERM)
    trainer.wait()
    with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: trainer.rows})
        (run,) = consumer.wait_for("SELECT state, run_id FROM runs WHERE state <> 'running'")
        assert run["state"] in {"preempted", "failed", "crashed"}
        assert verify(consumer, run["run_id"]).returncode == 0


def test_no_broker_at_init(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path) -> None:
    """Training starts and goes on without a broker; when one comes, everything is delivered."""
    url = own_kafka.url(topic_name)
    own_kafka.kill()
    trainer = TrainerProcess(tmp_path / "trainer", url, launch="early")
    trainer.wait_for_rows(300)
    own_kafka.restart()
    with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
        consumer.wait_for("SELECT 1 FROM metrics WHERE step = 299 AND metric = 'lr'", timeout_seconds=60)
        trainer.stop()
        assert trainer.wait() == 0
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: trainer.rows})
        assert_receipts_clean(consumer)
    warnings = [line for line in trainer.log.read_text().splitlines() if "can't be reached" in line]
    assert len(warnings) == 1
