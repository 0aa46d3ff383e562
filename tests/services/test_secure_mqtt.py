"""MQTT behind locks, with compose's files: rows arrive over TLS as its users, and a locked door says what to do."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from runwire._errors import TransportError
from runwire._mqtt import MqttTransport
from runwire_consumer.errors import InletError
from runwire_consumer.inlet import MqttInlet
from runwire_schemas.edge import Ack
from runwire_schemas.topics import Destination, parse_url
from tests.services.bridge import BridgeProcess
from tests.services.consumer import ConsumerProcess
from tests.services.process import ServiceMissing, wait_until
from tests.services.receipts import assert_each_point_once, assert_receipts_clean, wait_until_complete
from tests.services.secure_kafka import PASSWORDS as KAFKA_PASSWORDS
from tests.services.secure_mosquitto import PASSWORDS, SecureMosquitto
from tests.services.test_kafka_transport import made
from tests.services.test_mqtt import sync
from tests.services.trainer import TrainerProcess
from tests.tiers import require_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.secure_kafka import SecureKafka

# paho leaves the socket of a handshake that failed to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEED = 20_261_127
SENT = "runwire_bridge_messages_forwarded_total"


def _started(folder: Path) -> SecureMosquitto:
    broker = SecureMosquitto(folder)
    try:
        broker.start()
    except ServiceMissing as missing:
        require_service(missing.name, False, missing.how_to_get)
        raise
    return broker


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureMosquitto]:
    """The module's broker."""
    broker = _started(tmp_path_factory.mktemp("secure-mosquitto"))
    yield broker
    broker.kill()


@pytest.fixture
def own_mosquitto(tmp_path: Path) -> Iterator[SecureMosquitto]:
    """A broker that the test may kill."""
    broker = _started(tmp_path / "secure-mosquitto")
    yield broker
    broker.kill()


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a refused client leaves is this test's, not that of whoever comes next."""
    yield
    gc.collect()


@dataclass(frozen=True)
class Way:
    """A way to the broker: listener ("" the plain one), scheme, user, its password, and what of certificates is known.

    Attributes:
        certificate: our own one's file below the broker's folder.
    """

    listener: str = "TLS"
    scheme: str = "mqtts"
    user: str = ""
    password: str = ""
    knows_authority: bool = True
    certificate: str = ""

    def destination(self, broker: SecureMosquitto) -> Destination:
        """As the programs' settings have it."""
        url = self.at(broker)
        given = {"RUNWIRE_MQTT_USER": self.user, "RUNWIRE_MQTT_PASSWORD": self.password or PASSWORDS.get(self.user, "")}
        if self.knows_authority:
            given["RUNWIRE_CA"] = str(broker.authority.certificate)
        if self.certificate:
            given["RUNWIRE_CLIENT_CERT"] = str(broker.folder / self.certificate)
        return parse_url(url).secured(given)

    def at(self, broker: SecureMosquitto) -> str:
        """Its URL."""
        return broker.at(self.listener, self.scheme) if self.listener else f"{self.scheme}://{broker.address}"


WRONG = "wrong-s3cret"
REFUSED_LOGIN = "doesn't know user 'trainer', or the password is wrong: correct RUNWIRE_MQTT_USER and"
PLAINTEXT_TO_TLS = Way(scheme="mqtt", user="trainer")
CASES = {
    "wrong password": (Way(user="trainer", password=WRONG), REFUSED_LOGIN),
    "unknown user": (Way(user="stranger", password=WRONG), "doesn't know user 'stranger', or the password is"),
    "no user": (Way(), "wants a user: set RUNWIRE_MQTT_USER and RUNWIRE_MQTT_PASSWORD_FILE"),
    "no password": (Way(user="robot"), "user 'robot' has no password: set RUNWIRE_MQTT_PASSWORD_FILE"),
    "unknown authority": (
        Way(user="trainer", knows_authority=False),
        "an authority that isn't known here: set RUNWIRE_CA",
    ),
    "expired certificate": (Way("EXPIRED", user="trainer"), "has expired: have it renewed"),
    "another name": (Way("OTHER", user="trainer"), "is for another name: use a name that is in it"),
    "plaintext to a TLS port": (PLAINTEXT_TO_TLS, "it may want TLS (mqtts://)"),
    "no client certificate": (Way("MTLS", user="trainer"), "may want a certificate of ours (RUNWIRE_CLIENT_CERT)"),
    "client certificate of a stranger": (
        Way("MTLS", user="trainer", certificate="stranger/robot.pem"),
        "it may not take our certificate",
    ),
    "TLS to a plaintext port": (Way("", user="trainer"), "doesn't speak TLS there: use its TLS port"),
}


@pytest.mark.parametrize(("way", "words"), CASES.values(), ids=CASES)
def test_a_locked_door_says_what_to_do(
    mosquitto: SecureMosquitto, way: Way, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer and bridge alike; neither gives up, and no password is in a sentence."""
    seconds = 3.0 if way == PLAINTEXT_TO_TLS else 60.0  # a TLS port says nothing at all to plaintext
    for module in ("runwire._mqtt", "runwire_consumer.inlet"):
        monkeypatch.setattr(f"{module}.CONNECT_SECONDS", seconds)
    destination = way.destination(mosquitto)
    with pytest.raises(TransportError) as trainer:
        asyncio.run(_send(destination, tmp_path))
    with pytest.raises(InletError) as bridge:
        asyncio.run(_open(destination))
    for told in (str(trainer.value), str(bridge.value)):
        assert words in told
        assert "s3cret" not in told
    assert trainer.value.retriable
    assert not bridge.value.is_final


def test_who_has_a_good_certificate_is_let_in(mosquitto: SecureMosquitto) -> None:
    way = Way("MTLS", user="bridge", certificate="certificates/robot.pem")
    asyncio.run(_open(way.destination(mosquitto)))


DISCONNECTS = {
    "a denied message": (b"\xe0\x01\x87", "no longer lets us in, or denies a topic", False),
    "another of that name": (b"\xe0\x01\x8e", "another bridge has taken over the session", True),
    "nothing said": (b"", "the connection broke", False),
}


@pytest.mark.parametrize(("last", "words", "is_final"), DISCONNECTS.values(), ids=DISCONNECTS)
def test_a_broker_that_hangs_up_while_a_bridge_opens(
    last: bytes, words: str, monkeypatch: pytest.MonkeyPatch, *, is_final: bool
) -> None:
    """At once, and by its reason: other brokers than Mosquitto answer so to what they deny."""

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while kind := await reader.read(1):
            body = await reader.readexactly((await reader.readexactly(1))[0])
            if kind[0] >> 4 == 3:  # PUBLISH
                writer.write(last)
                break
            writer.write(b"\x20\x03\x00\x00\x00" if kind[0] >> 4 == 1 else b"\x90\x04" + body[:2] + b"\x00\x01")
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(broker, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, asyncio.timeout(60):
            await _open(parse_url(f"mqtt://127.0.0.1:{port}").secured({}))

    monkeypatch.setattr("runwire_consumer.inlet.CONNECT_SECONDS", 600.0)
    with pytest.raises(InletError, match=words) as caught:
        asyncio.run(go())
    assert caught.value.is_final is is_final


def test_who_may_not_write_events_is_told(mosquitto: SecureMosquitto, tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="user 'bridge' may not publish to runwire/#: have that granted in"):
        asyncio.run(_send(Way(user="bridge").destination(mosquitto), tmp_path))


def test_who_may_not_acknowledge_is_told(mosquitto: SecureMosquitto) -> None:
    """At once, not when a trainer waits for it."""
    with pytest.raises(InletError, match="user 'trainer' may not publish to runwire-ack/#: have that granted in"):
        asyncio.run(_open(Way(user="trainer").destination(mosquitto)))


def test_a_bridge_waits_for_the_right_password(mosquitto: SecureMosquitto, tmp_path: Path) -> None:
    """It says so once, and forwards by itself when the file holds the right one."""
    variables = _variables(tmp_path, "bridge", mosquitto)
    file = tmp_path / "bridge-password"
    file.write_text("wrong-s3cret")
    target = f"dir:{tmp_path / 'topic'}"
    with BridgeProcess(mosquitto.at("TLS"), target, folder=tmp_path, variables=variables) as bridge:
        wait_until(lambda: "the password is wrong" in bridge.log.read_text(), what="a refusal")
        bridge.wait_for("runwire_bridge_disconnects_total", 2)
        file.write_text(PASSWORDS["bridge"])
        bridge.wait_for("runwire_bridge_broker_up", 1)
        assert bridge.stop() == 0, bridge.log.read_text()
    assert bridge.log.read_text().count("the password is wrong") == 1


def test_from_a_trainer_to_sql_with_every_door_locked(
    mosquitto: SecureMosquitto, secure_kafka: SecureKafka, topic_name: str, tmp_path: Path
) -> None:
    """Over mqtts, a bridge and kafkas, each as a user of its own: every row once, and no password anywhere."""
    target, locks = _open_kafka(secure_kafka, topic_name, tmp_path)
    bridge_variables = (
        _variables(tmp_path, "bridge", mosquitto)
        | locks["trainer"]
        | {"RUNWIRE_CA": _both(mosquitto, secure_kafka, tmp_path)}
    )
    with BridgeProcess(mosquitto.at("TLS"), target, folder=tmp_path, variables=bridge_variables) as bridge:
        trainer = TrainerProcess(
            tmp_path / "trainer", mosquitto.at("TLS"), launch="locks", rows=400, rows_per_second=1_000,
            variables=_variables(tmp_path, "trainer", mosquitto),
        )  # fmt: skip
        assert trainer.wait() == 0, trainer.log.read_text()
        assert "all sent to mqtts://" in trainer.log.read_text()
        assert bridge.stop() == 0, bridge.log.read_text()
    with ConsumerProcess(target, home=tmp_path / "consumer", variables=locks["reader"]) as consumer:
        wait_until_complete(consumer, emitters=1)
        assert_each_point_once(consumer, {0: 400})
        assert_receipts_clean(consumer)
        assert consumer.stop() == 0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or path.name.endswith("-password") or b"s3cret" not in path.read_bytes(), path


@pytest.mark.long
@pytest.mark.timeout(600)
def test_everything_killed_in_turn_behind_locks(
    own_mosquitto: SecureMosquitto, own_secure_kafka: SecureKafka, topic_name: str, tmp_path: Path
) -> None:
    """Bridge, Mosquitto, Kafka and the trainer: nothing lost, nothing twice."""
    target, locks = _open_kafka(own_secure_kafka, topic_name, tmp_path)
    bridge_variables = (
        _variables(tmp_path, "bridge", own_mosquitto)
        | locks["trainer"]
        | {"RUNWIRE_CA": _both(own_mosquitto, own_secure_kafka, tmp_path)}
    )
    trainer_variables = _variables(tmp_path, "trainer", own_mosquitto)
    chance = random.Random(SEED)
    url = own_mosquitto.at("TLS")
    trainer = TrainerProcess(tmp_path / "trainer", url, launch="locked-kills", variables=trainer_variables)
    bridge = BridgeProcess(url, target, folder=tmp_path, variables=bridge_variables).start()
    with ConsumerProcess(target, home=tmp_path / "consumer", variables=locks["reader"]) as consumer:
        try:
            stored = 0
            for fault in ["bridge", "mosquitto", "kafka"] * 3 + ["trainer"]:
                query = f"SELECT count(*) AS points FROM metrics HAVING count(*) > {stored + 500}"  # noqa: S608
                stored = consumer.wait_for(query)[0]["points"]
                time.sleep(chance.uniform(0, 0.3))
                match fault:
                    case "bridge":
                        bridge.kill()
                        bridge.start()
                    case "mosquitto":
                        own_mosquitto.kill()
                        time.sleep(chance.uniform(0, 1))
                        own_mosquitto.start()
                    case "kafka":
                        own_secure_kafka.restart()
                    case _:
                        trainer.kill()
            done = sync(trainer.folder, url, trainer_variables)
            assert done.returncode == 0, done.stdout + done.stderr
            wait_until_complete(consumer, emitters=1)
            (last,) = consumer.sql("SELECT count(DISTINCT step) AS rows FROM metrics")
            assert trainer.rows <= last["rows"] <= trainer.rows + 1
            assert_each_point_once(consumer, {0: last["rows"]})
            assert_receipts_clean(consumer)
        finally:
            trainer.kill()
            bridge.kill()


def _variables(folder: Path, user: str, broker: SecureMosquitto) -> dict[str, str]:
    """What a person sets to come in as a user, its password in a file."""
    file = folder / f"{user}-password"
    file.write_text(f"{PASSWORDS[user]}\n")
    return {
        "RUNWIRE_MQTT_USER": user,
        "RUNWIRE_MQTT_PASSWORD_FILE": str(file),
        "RUNWIRE_CA": str(broker.authority.certificate),
    }


def _open_kafka(broker: SecureKafka, topic: str, folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """The URL of a topic behind locks, and what who writes and who reads sets."""
    broker.create_topic(topic, 3)
    locks = {}
    for user, rights in {"trainer": ["Write", "Describe"], "reader": ["Read", "Describe"]}.items():
        broker.allow(user, "topic", topic, rights)
        file = folder / f"kafka-{user}-password"
        file.write_text(KAFKA_PASSWORDS[user])
        locks[user] = {
            "RUNWIRE_KAFKA_USER": user,
            "RUNWIRE_KAFKA_PASSWORD_FILE": str(file),
            "RUNWIRE_CA": str(broker.authority.certificate),
        }
    return broker.at("SECURE", topic), locks


def _both(mosquitto: SecureMosquitto, kafka: SecureKafka, folder: Path) -> str:
    """One file of both authorities."""
    file = folder / "both.crt"
    file.write_text(mosquitto.authority.certificate.read_text() + kafka.authority.certificate.read_text())
    return str(file)


async def _send(destination: Destination, folder: Path) -> None:
    transport = MqttTransport(destination)
    try:
        await transport.open()
        await transport.send(made(folder / "journal", 3))
    finally:
        await transport.close()


async def _open(destination: Destination) -> None:
    inlet = MqttInlet(destination, "runwire-test-bridge")
    try:
        await inlet.open()
        inlet.answer("somebody", Ack(0, 1))
        await inlet.take(1, 1, 0.1)
    finally:
        await inlet.close()
