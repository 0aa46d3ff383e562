"""MQTT with a real Mosquitto: emitter → broker → bridge → Kafka or a folder, each of them killed under load."""

from __future__ import annotations

import json
import random
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.services.bridge import BridgeProcess
from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.mosquitto import MosquittoBroker
from tests.services.process import ServiceMissing, wait_until
from tests.services.receipts import assert_each_point_once, assert_receipts_clean, wait_until_complete
from tests.services.trainer import TrainerProcess, trainer_environment
from tests.tiers import require_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.services.kafka import KafkaBroker, KafkaTopics

SEED = 20_261_126
RANKS = 3
SENT = "runwire_bridge_messages_forwarded_total"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[MosquittoBroker]:
    """A Mosquitto that the test may kill."""
    broker = MosquittoBroker(tmp_path / "mosquitto")
    try:
        broker.start()
    except ServiceMissing as missing:
        require_service(missing.name, False, missing.how_to_get)
        raise
    yield broker
    broker.kill()


def sync(folder: Path, url: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`runwire sync` in a trainer's home."""
    environment = trainer_environment(folder / "home", url) | dict(variables or {})
    return subprocess.run([RUNWIRE, "sync"], env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_into_a_folder_with_strangers(mosquitto: MosquittoBroker, tmp_path: Path) -> None:
    """A run's every row arrives once; what others publish there becomes a dead letter, once, and stops nothing."""
    target = f"dir:{tmp_path / 'topic'}"
    with BridgeProcess(mosquitto.url, target, folder=tmp_path) as bridge:
        bridge.wait_for("runwire_bridge_broker_up", 1)
        host, _, port = mosquitto.address.partition(":")
        for payload in ("not ours", "a byte order mark"):
            command = ["mosquitto_pub", "-V", "5", "-h", host, "-p", port, "-q", "1", "-t", "runwire/x", "-m", payload]
            subprocess.run([*command, "-D", "publish", "user-property", "type", "\ufeffx"], check=True, timeout=30)
        trainer = TrainerProcess(tmp_path / "trainer", mosquitto.url, launch="folder", rows=400, rows_per_second=1_000)
        assert trainer.wait() == 0, trainer.log.read_text()
        assert "all sent to mqtt://" in trainer.log.read_text()
        wait_until(
            lambda: bridge.metric("runwire_bridge_messages_refused_total") == 2,
            what="two messages were refused",
        )
        assert bridge.stop() == 0, bridge.log.read_text()
    with ConsumerProcess(target, home=tmp_path / "consumer") as consumer:
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: 400})
        assert_receipts_clean(consumer)
        letters = consumer.sql("SELECT bytes FROM dead_letters ORDER BY bytes")
        assert letters == [{"bytes": 8}, {"bytes": 17}]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("turns", [1, pytest.param(4, marks=pytest.mark.long)])
def test_everything_killed_in_turn(
    mosquitto: MosquittoBroker, own_kafka: KafkaBroker, topic_name: str, tmp_path: Path, turns: int
) -> None:
    """Three ranks write all the time; bridge, Mosquitto, Kafka and a rank are killed: every point exactly once."""
    own_kafka.create_topic(topic_name, 3)
    target = own_kafka.url(topic_name)
    chance = random.Random(SEED)
    trainers = [
        TrainerProcess(tmp_path / f"trainer-{rank}", mosquitto.url, launch="kills", rank=rank, world_size=RANKS)
        for rank in range(RANKS)
    ]
    bridge = BridgeProcess(mosquitto.url, target, folder=tmp_path).start()
    with ConsumerProcess(target, home=tmp_path / "consumer") as consumer:
        try:
            stored = 0
            for fault in ["bridge", "mosquitto", "kafka"] * turns + ["rank"]:
                query = f"SELECT count(*) AS points FROM metrics HAVING count(*) > {stored + 1_000}"  # noqa: S608
                stored = consumer.wait_for(query)[0]["points"]
                time.sleep(chance.uniform(0, 0.3))
                match fault:
                    case "bridge":
                        bridge.kill()
                        bridge.start()
                    case "mosquitto":
                        mosquitto.kill()
                        time.sleep(chance.uniform(0, 1))
                        mosquitto.start()
                    case "kafka":
                        own_kafka.restart()
                    case _:
                        trainers[0].kill()
            for trainer in trainers[1:]:
                trainer.stop()
            assert [trainer.wait() for trainer in trainers[1:]] == [0] * (RANKS - 1)
            for trainer in trainers:  # the killed one's journal, and what found no way within the end's time
                done = sync(trainer.folder, mosquitto.url)
                assert done.returncode == 0, done.stdout + done.stderr
            wait_until_complete(consumer, emitters=RANKS)
            (last,) = consumer.sql("SELECT count(DISTINCT step) AS rows FROM metrics WHERE rank = 0")
            assert trainers[0].rows <= last["rows"] <= trainers[0].rows + 1
            assert_each_point_once(consumer, {0: last["rows"]} | {one.rank: one.rows for one in trainers[1:]})
            assert_receipts_clean(consumer)
        finally:
            for trainer in trainers:
                trainer.kill()
            bridge.kill()


def test_offline_for_a_whole_run(
    mosquitto: MosquittoBroker, kafka: KafkaTopics, topic_name: str, tmp_path: Path
) -> None:
    """No broker, then a broker without a bridge: the run ends in time, and `runwire sync` delivers it afterwards."""
    target = kafka.url(topic_name)
    mosquitto.kill()
    trainer = TrainerProcess(tmp_path / "trainer", mosquitto.url, launch="offline", rows=300, finish_seconds=10)
    assert trainer.wait() == 0, trainer.log.read_text()
    mosquitto.start()
    refused = sync(trainer.folder, mosquitto.url)
    assert refused.returncode == 1
    assert "no bridge answers behind it" in refused.stderr
    with BridgeProcess(mosquitto.url, target, folder=tmp_path) as bridge:
        bridge.wait_for("runwire_bridge_broker_up", 1)
        done = sync(trainer.folder, mosquitto.url)
        assert done.returncode == 0, done.stdout + done.stderr
    with ConsumerProcess(target, home=tmp_path / "consumer") as consumer:
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: 300})
        assert_receipts_clean(consumer)


def test_a_queue_that_drops(mosquitto: MosquittoBroker, tmp_path: Path) -> None:
    """Mosquitto drops what is above its queue's limit while the bridge is down; the emitter sends it again."""
    target = f"dir:{tmp_path / 'topic'}"
    mosquitto.kill()
    with (
        MosquittoBroker(tmp_path / "small", in_flight=5, queued=5) as small,
        BridgeProcess(small.url, target, folder=tmp_path) as bridge,
    ):
        trainer = TrainerProcess(tmp_path / "trainer", small.url, launch="queue", rows_per_second=100)
        bridge.wait_for(SENT, 5)
        bridge.kill()
        before = trainer.rows
        trainer.wait_for_rows(before + 300)
        bridge.start()
        bridge.wait_for(SENT, 5)
        trainer.stop()
        assert trainer.wait() == 0, trainer.log.read_text()
        done = sync(trainer.folder, small.url)
        assert done.returncode == 0, done.stdout + done.stderr
    with ConsumerProcess(target, home=tmp_path / "consumer") as consumer:
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: trainer.rows})
        assert_receipts_clean(consumer)


def test_two_bridges_of_one_name(mosquitto: MosquittoBroker, tmp_path: Path) -> None:
    """They take the session from each other, which is said, and no more often than a broker bears."""
    (tmp_path / "second").mkdir()
    target = f"dir:{tmp_path / 'topic'}"
    with BridgeProcess(mosquitto.url, target, folder=tmp_path, client_id="b") as first:
        first.wait_for("runwire_bridge_broker_up", 1)
        with BridgeProcess(mosquitto.url, target, folder=tmp_path / "second", client_id="b"):
            wait_until(
                lambda: "give one of them another --client-id" in first.log.read_text(),
                timeout_seconds=60,
                what="a hint",
            )


def test_doctor_tells_how_far_it_gets(mosquitto: MosquittoBroker, tmp_path: Path) -> None:
    """No bridge, a bridge, no broker; asking leaves nothing in the target."""
    target = tmp_path / "topic"

    def told() -> tuple[int, str]:
        environment = trainer_environment(tmp_path / "home", mosquitto.url)
        command = [str(RUNWIRE), "doctor", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.stderr == ""
        (what,) = (one["what"] for one in json.loads(done.stdout)["findings"] if one["check"] == "broker")
        return done.returncode, what

    code, what = told()
    assert code == 2
    assert f"takes messages, but no bridge answers behind it: start one: runwire bridge {mosquitto.url}" in what
    with BridgeProcess(mosquitto.url, f"dir:{target}", folder=tmp_path) as bridge:
        bridge.wait_for("runwire_bridge_broker_up", 1)
        assert told() == (0, "The MQTT broker takes messages, and a bridge answers behind it.")
        assert not list(target.rglob("*.avro"))
    mosquitto.kill()
    code, what = told()
    assert code == 2
    assert "can't be reached" in what
