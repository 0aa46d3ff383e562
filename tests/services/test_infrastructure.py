"""What the services tier stands on: a broker that survives SIGKILL, a Prometheus, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import TopicAlreadyExistsError

from tests.services import process
from tests.services.process import REPOSITORY, ServiceFailed, ServiceProcess, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.kafka import KafkaBroker, KafkaTopics
    from tests.services.prometheus import PrometheusServer

LOG_APPEND_TIME = 1


async def _send(bootstrap: str, topic: str, payloads: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        for payload in payloads:
            await producer.send_and_wait(topic, payload)


async def _read(bootstrap: str, topic: str, count: int) -> list[tuple[bytes, int]]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        records = [await consumer.getone() for _ in range(count)]
        assert (await consumer.end_offsets([partition]))[partition] == count
    return [(record.value, record.timestamp_type) for record in records]


async def test_a_killed_broker_keeps_what_it_acknowledged(own_kafka: KafkaBroker, topic_name: str) -> None:
    """SIGKILL, restart on the same address: every acknowledged record is there, with the broker's time."""
    own_kafka.create_topic(topic_name)
    payloads = [b"%d" % number for number in range(100)]
    await _send(own_kafka.bootstrap, topic_name, payloads)
    own_kafka.kill()
    assert not own_kafka.answers()
    own_kafka.restart()
    assert await _read(own_kafka.bootstrap, topic_name, 100) == [(one, LOG_APPEND_TIME) for one in payloads]


def test_a_topic_is_never_made_twice(kafka: KafkaTopics, topic_name: str) -> None:
    """Creating an existing topic is an error, so no test reads another one's records."""
    kafka.create_topic(topic_name, 2, max_message_bytes="20000")
    with pytest.raises(TopicAlreadyExistsError):
        kafka.create_topic(topic_name)


def test_prometheus_answers_promql(start_prometheus: Callable[[str, str], PrometheusServer]) -> None:
    """It scrapes the target it was given, with the deployed configuration, and refuses what is no PromQL."""
    prometheus = start_prometheus("127.0.0.1:9", "secret")
    assert prometheus.wait_for('up{job="runwire"}')[0]["value"][1] == "0"
    prometheus.wait_for_errors({"127.0.0.1:9": "connection refused"})
    with pytest.raises(ValueError, match="parse error"):
        prometheus.query("no such")


def test_a_program_that_does_not_come_up_shows_its_log(tmp_path: Path) -> None:
    """A start that fails says why, with the end of the program's own log."""
    program = ServiceProcess("sh", ["sh", "-c", "echo out of luck; exit 3"], log=tmp_path / "log")
    with pytest.raises(ServiceFailed, match=r"(?s)sh ended with 3.*out of luck"):
        program.wait_ready(lambda: False, timeout_seconds=10)
    program.kill()


def test_nothing_survives_a_killed_test_process(tmp_path: Path) -> None:
    """Programs and their children are gone soon after the process that started them was killed."""
    start = f"""
import os, pathlib, signal
from tests.services.process import ServiceProcess
log = pathlib.Path({str(tmp_path / "log")!r})
ServiceProcess("sh", ["sh", "-c", "sleep 600 & echo $! $$; wait"], log=log)
while not log.read_text().endswith("\\n"): pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", start], cwd=REPOSITORY, check=False, timeout=30)
    pids = (tmp_path / "log").read_text().split()
    assert len(pids) == 2

    def all_gone() -> bool:
        states = subprocess.run(
            ["ps", "-o", "stat=", "-p", ",".join(pids)], capture_output=True, text=True, check=False
        )
        return all(state.startswith("Z") for state in states.stdout.split())

    wait_until(all_gone, what="the reaper killed them")


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in one call nor in two: a broker does not start with two listeners on one port."""
    monkeypatch.setattr(process, "PORT_RANGE", process.PORT_RANGE[:300])
    ports = [port for _ in range(10) for port in free_ports(6)]
    assert len(set(ports)) == len(ports)
