"""`runwire doctor` and a real broker: a topic that loses rows, one that somebody else made, lag, and no broker."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from runwire_consumer.doctor.broker import ask_broker
from runwire_consumer.snapshot_files import stamp_of
from runwire_schemas.topics import parse_url
from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.kafka import KafkaTopics
from tests.services.process import free_ports, wait_until

Found = dict[tuple[str, str], str]


def doctor(url: str, home: Path) -> tuple[int, Found]:
    """Its exit code; and by check and severity its last sentence."""
    home.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
    done = subprocess.run(
        [RUNWIRE, "doctor", "--json"],
        env={**inherited, "RUNWIRE_URL": url, "RUNWIRE_HOME": str(home)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    found = {(one["check"], one["severity"]): one["what"] for one in json.loads(done.stdout)["findings"]}
    return done.returncode, found


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cleanup_policy": "compact"}, ("error", "cleanup.policy is compact")),
        ({"message_timestamp_type": "CreateTime"}, ("warning", "message.timestamp.type is CreateTime")),
        ({"retention_ms": "60000"}, ("warning", "kept for 60 s only")),
        ({"max_message_bytes": "20000"}, ("warning", "more than 19.5 KiB are refused")),
        ({"retention_bytes": "1048576"}, ("note", "keeps 1.0 MiB at most")),
    ],
)
def test_a_topic_with_wrong_settings(
    kafka: KafkaTopics, topic_name: str, tmp_path: Path, settings: dict[str, str], told: tuple[str, str]
) -> None:
    """The broker's own word on its topic."""
    severity, words = told
    kafka.create_topic(topic_name, 2, **settings)
    facts = ask_broker(parse_url(kafka.url(topic_name)))
    assert (facts.trouble, facts.exists, len(facts.partitions), facts.brokers) == ("", True, 2, 1)
    code, found = doctor(kafka.url(topic_name), tmp_path / "home")
    assert code == {"error": 2, "warning": 1, "note": 0}[severity]
    assert any(words in what for (check, how), what in found.items() if (check, how) == ("topic", severity)), found


def test_asking_makes_no_topic(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """It comes with the first sender, not with the doctor."""
    for _ in range(2):
        code, found = doctor(kafka.url(topic_name), tmp_path / "home")
        assert code == 0
        assert "doesn't exist yet" in found["topic", "note"]


def test_lag_and_clocks_of_a_log_that_is_read(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """What the store has not is counted from the log's own ends, with a consumer and without."""
    url, home = kafka.url(topic_name), tmp_path / "home"
    train(url, tmp_path / "trainer")
    with ConsumerProcess(url, home=home) as consumer:
        consumer.wait_for("SELECT 1 AS n FROM runs WHERE state = 'finished'")
        code, found = doctor(url, home)
        assert code == 0, found
        assert found["lag", "ok"] == "Everything in the log is stored."
        wait_until(  # a busy broker's is not waited for
            lambda: doctor(url, home)[1]["clock", "ok"] == "No clock disagrees with this machine's (3 compared).",
            what="three clocks agree",
        )
        consumer.stop()
    train(url, tmp_path / "trainer")
    code, found = doctor(url, home)
    assert code == 0, found
    assert found["lag", "note"].startswith("The log holds ")
    assert "50 rows, 50 points agree" in found["store", "ok"]


def test_a_snapshot_is_held_against_what_the_broker_keeps(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """The topic's own retention: from a quarter of it on the newest snapshot is late, behind all of it too late."""
    url, home = kafka.url(topic_name), tmp_path / "home"
    kafka.create_topic(topic_name, 1, retention_ms=str(4 * 86_400_000))
    train(url, tmp_path / "trainer")
    for command in (["up", "--once"], ["snapshot"]):
        environment = {**os.environ, "RUNWIRE_URL": url, "RUNWIRE_HOME": str(home)}
        subprocess.run([RUNWIRE, *command], env=environment, check=True, capture_output=True)
    (taken,) = (home / "snapshots").iterdir()
    now, found = time.time_ns() // 1_000, Found()
    for days, severity in ((0.5, "ok"), (1.5, "warning"), (4.5, "error")):
        taken = taken.rename(taken.with_name(f"runwire-{stamp_of(now - round(days * 86_400e6))}.duckdb"))
        _, found = doctor(url, home)
        assert ("snapshots", severity) in found, found
    assert "keeps records for 4 d" in found["snapshots", "error"]


def test_a_topic_that_was_made_anew(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """Stored offsets that the log hasn't reached."""
    url, home = kafka.url(topic_name), tmp_path / "home"
    kafka.create_topic(topic_name, 1)
    train(url, tmp_path / "trainer")
    with ConsumerProcess(url, home=home) as consumer:
        consumer.wait_for("SELECT 1 AS n FROM runs WHERE state = 'finished'")
        consumer.stop()
    other = f"{topic_name}-again"
    kafka.create_topic(other, 1)
    subprocess.run(
        [RUNWIRE.with_name("python"), "-c", MOVE, home / "runwire.duckdb", url, kafka.url(other)], check=True
    )
    code, found = doctor(kafka.url(other), home)
    assert code == 2
    assert "the topic was made anew" in found["lag", "error"]


def test_no_broker(tmp_path: Path) -> None:
    """An error with what to do, in seconds."""
    code, found = doctor(f"kafka://127.0.0.1:{free_ports(1)[0]}/events", tmp_path / "home")
    assert code == 2
    assert found["broker", "error"].startswith("No broker at 127.0.0.1:")


MOVE = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("UPDATE store.offsets SET source = ? WHERE source = ?", [sys.argv[3], sys.argv[2]])
connection.close()
"""
TRAINING = """
import runwire
from runwire import _start
_start.FINISH_TIMEOUT_SECONDS = 50  # nobody sends what a busy machine leaves
run = runwire.init(project="digits")
for step in range(50):
    run.log({"loss": float(step)})
run.finish()
"""


def train(url: str, home: Path) -> None:
    """A run of 50 rows, all acknowledged when this returns."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
    environment = {**inherited, "RUNWIRE_URL": url, "RUNWIRE_HOME": str(home), "RUNWIRE_AUTO_METRICS": "off"}
    subprocess.run([RUNWIRE.with_name("python"), "-c", TRAINING], env=environment, check=True, capture_output=True)
