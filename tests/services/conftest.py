"""Fixtures of the services tier: one real broker and one real Prometheus a session, a topic a test."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pytest

from tests.services.kafka import KafkaBroker, KafkaTopics, external_broker, unused_topic
from tests.services.process import ServiceMissing
from tests.services.prometheus import PrometheusServer
from tests.services.secure_kafka import SecureKafka
from tests.tiers import require_service

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

LOG_TAIL_LINES = 30


@runtime_checkable
class _Logged(Protocol):
    @property
    def log(self) -> Path: ...


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test how the logs of its services end."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, _Logged) and value.log.exists():
                lines = value.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                report.sections.append((f"{name}: {value.log}", "\n".join(lines)))
    return report


def _started(broker: KafkaBroker) -> KafkaBroker:
    try:
        return broker.start()
    except ServiceMissing as missing:
        require_service(missing.name, False, missing.how_to_get)
        raise


def _end_broker(broker: KafkaBroker) -> None:
    broker.close()
    shutil.rmtree(broker.folder / "data", ignore_errors=True)  # the log stays


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaTopics]:
    """The session's broker: the one that RUNWIRE_TEST_KAFKA names, else one of our own."""
    named = external_broker()
    if named is not None:
        yield named
        return
    broker = _started(KafkaBroker(tmp_path_factory.mktemp("kafka"), is_killed=False))
    yield broker
    _end_broker(broker)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that the test may kill."""
    broker = _started(KafkaBroker(tmp_path / "kafka"))
    yield broker
    _end_broker(broker)


@pytest.fixture
def topic_name() -> str:
    """The name of a topic that nobody has used; it does not exist yet."""
    return unused_topic()


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[[str, str], PrometheusServer]]:
    """Start a Prometheus that scrapes one consumer: (its HOST:PORT, its token) -> the server."""
    servers: list[PrometheusServer] = []

    def start(target: str, token: str) -> PrometheusServer:
        server = PrometheusServer([target], token=token, folder=tmp_path / "prometheus")
        servers.append(server)
        try:
            return server.start()
        except ServiceMissing as missing:
            require_service(missing.name, False, missing.how_to_get)
            raise

    yield start
    for server in servers:
        server.close()
        shutil.rmtree(server.folder / "data", ignore_errors=True)  # the log stays


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """The session's broker behind locks: users and rights are in its module."""
    broker = SecureKafka(tmp_path_factory.mktemp("secure-kafka"))
    _started(broker)
    yield broker
    _end_broker(broker)


@pytest.fixture
def own_secure_kafka(tmp_path: Path) -> Iterator[SecureKafka]:
    """Another one that the test may kill."""
    broker = SecureKafka(tmp_path / "secure-kafka", is_killed=True)
    _started(broker)
    yield broker
    _end_broker(broker)
