"""Kill everything that can be killed: each point is stored exactly once, and the receipts prove it."""

from __future__ import annotations

import random
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.process import wait_until
from tests.services.receipts import (
    assert_each_point_once,
    assert_offsets_at_end,
    assert_receipts_clean,
    wait_until_complete,
)
from tests.services.trainer import TrainerProcess, trainer_environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.kafka import KafkaBroker, KafkaTopics

RANKS = 4
SEED = 20_260_721


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.long)])
def test_consumer_killed_again_and_again(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path, kills: int) -> None:
    """Four ranks write all the time; the consumer is killed often, the broker once: every point exactly once."""
    own_kafka.create_topic(topic_name, 3)
    url = own_kafka.url(topic_name)
    chance = random.Random(SEED)
    trainers = [
        TrainerProcess(tmp_path / "trainer", url, launch="kills", rank=rank, world_size=RANKS, rows_per_second=200)
        for rank in range(RANKS)
    ]
    consumer = ConsumerProcess(url, home=tmp_path / "consumer")
    try:
        for kill in range(kills):
            _live(consumer, kill % 4)
            time.sleep(chance.uniform(0, 0.5))
            if kill == kills // 2:
                own_kafka.kill()
                time.sleep(chance.uniform(0.5, 2))
            consumer.kill()
            if kill == kills // 2:
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


def _live(consumer: ConsumerProcess, turn: int) -> None:
    """Start it and let it live until it stores rows (two turns of four), until it serves, or hardly at all."""
    if turn == 3:
        consumer.spawn()
        return
    consumer.start()
    if turn != 1:
        # Nobody stores while it is down, so the first answer tells where it began.
        query = "SELECT coalesce(sum(stored), 0) AS rows FROM emitters"
        (begin,) = consumer.sql(query)
        consumer.wait_for(f"{query} HAVING sum(stored) > {begin['rows']}")


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


def test_the_next_start_sends_what_a_dead_process_left(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """SIGKILL, then another training in the same home: both are complete, and the first one crashed."""
    url = kafka.url(topic_name)
    dead = TrainerProcess(tmp_path / "trainer", url, launch="dead", rows_per_second=2_000)
    dead.wait_for_rows(500)
    dead.kill()
    returned = dead.rows
    following = TrainerProcess(tmp_path / "trainer", url, launch="following")
    journals = tmp_path / "trainer" / "home" / "journal"
    wait_until(
        lambda: following.rows > returned and len(list(journals.iterdir())) == 1,
        what="the dead one's journal was sent",
    )
    following.stop()
    assert following.wait() == 0, following.log.read_text()
    with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
        wait_until_complete(consumer, emitters=2)
        stored = consumer.sql("""
            SELECT how, count(*) AS rows FROM emitters JOIN metrics USING (run_id, emitter_id)
            WHERE metric = 'lr' GROUP BY how ORDER BY how
        """)
        assert [row["how"] for row in stored] == ["crashed", "finished"]
        assert returned <= stored[0]["rows"] <= returned + 1
        assert stored[1]["rows"] == following.rows - returned
        assert_receipts_clean(consumer)


def test_no_broker_at_init(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path) -> None:
    """Training starts and goes on without a broker; when one comes, everything is delivered."""
    url = own_kafka.url(topic_name)
    own_kafka.kill()
    trainer = TrainerProcess(tmp_path / "trainer", url, launch="early")
    trainer.wait_for_rows(300)
    own_kafka.restart()
    with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
        consumer.wait_for("SELECT 1 FROM metrics WHERE step = 299 AND metric = 'lr'")
        trainer.stop()
        assert trainer.wait() == 0
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: trainer.rows})
        assert_receipts_clean(consumer)
    warnings = [line for line in trainer.log.read_text().splitlines() if "can't be reached" in line]
    assert len(warnings) == 1
