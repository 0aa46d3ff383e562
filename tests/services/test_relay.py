"""The relay between eight ranks and a real broker: each of the three is killed, and every receipt is complete."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.process import ServiceProcess
from tests.services.receipts import assert_each_point_once, assert_receipts_clean, wait_until_complete
from tests.services.trainer import TrainerProcess, trainer_environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.kafka import KafkaBroker

RANKS = 8
SEED = 20_261_125


@pytest.mark.long
@pytest.mark.timeout(600)
def test_relay_killed_twice_and_broker_once(own_kafka: KafkaBroker, topic_name: str, tmp_path: Path) -> None:
    """Eight ranks that open no connection: relay killed twice, broker once, a rank once; each point exactly once."""
    own_kafka.create_topic(topic_name, 3)
    url = own_kafka.url(topic_name)
    chance = random.Random(SEED)
    folder = tmp_path / "trainer"
    relays: list[ServiceProcess] = []

    def start_relay() -> ServiceProcess:
        relays.append(
            ServiceProcess(
                "runwire sync --follow",
                [RUNWIRE, "sync", "--follow", folder / "home"],
                log=tmp_path / f"relay-{len(relays)}.log",
                environment=trainer_environment(folder / "home", url),
            )
        )
        return relays[-1]

    relay = start_relay()  # before there is a home
    trainers = [
        TrainerProcess(folder, url, launch="relayed", rank=rank, world_size=RANKS, sender="relay")
        for rank in range(RANKS)
    ]
    with ConsumerProcess(url, home=tmp_path / "consumer") as consumer:
        try:
            stored = 0
            for fault in ("relay", "broker", "relay", "rank"):
                query = f"SELECT count(*) AS points FROM metrics HAVING count(*) > {stored + 2_000}"  # noqa: S608
                stored = consumer.wait_for(query)[0]["points"]
                match fault:
                    case "relay":
                        relay.kill()
                        relay = start_relay()
                    case "broker":
                        own_kafka.kill()
                        for trainer in trainers:  # training goes on
                            trainer.wait_for_rows(trainer.rows + chance.randrange(50, 100))
                        own_kafka.restart()
                    case _:
                        trainers[-1].kill()
            assert consumer.wait_for("SELECT 1 FROM runs WHERE state = 'crashed'", timeout_seconds=60)
            for trainer in trainers[:-1]:
                trainer.stop()
            assert [trainer.wait() for trainer in trainers[:-1]] == [0] * (RANKS - 1)
            wait_until_complete(consumer, emitters=RANKS)
            rows = {trainer.rank: trainer.rows for trainer in trainers}
            (last,) = consumer.sql(f"SELECT count(*) AS rows FROM metrics WHERE metric = 'lr' AND rank = {RANKS - 1}")  # noqa: S608
            # The row being logged when the rank was killed may be there; none whose log() returned is missing.
            assert rows[RANKS - 1] <= last["rows"] <= rows[RANKS - 1] + 1
            assert_each_point_once(consumer, {**rows, RANKS - 1: last["rows"]})
            assert_receipts_clean(consumer)
            assert relay.stop() == 0
            assert "is left alone" not in relay.log.read_text()
        finally:
            for trainer in trainers:
                trainer.kill()
            relay.kill()
