"""Behind locks a real broker lets in who may come in; who may not is told why, and no secret is shown on the way."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from runwire._errors import TransportError
from runwire._kafka import KafkaTransport
from runwire._notices import Notices
from runwire._sender import Sender
from runwire_consumer.doctor.broker import ask_broker
from runwire_consumer.sources.kafka import KafkaSource
from runwire_schemas.topics import Destination, parse_url
from tests.producer.journals import EMITTER, open_journal
from tests.producer.test_sender import Speaker
from tests.services.process import PATIENCE_SECONDS, wait_until
from tests.services.secure_kafka import PASSWORDS
from tests.services.test_kafka_transport import log, made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.secure_kafka import SecureKafka

# aiokafka doesn't wait until the connection of a refused login is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TEAM = "secure.team"
CLOSED = "secure.closed"
SCRIPT = """
import runwire
run = runwire.init(project="locks", run_id="r", auto_metrics=False)
run.log({"loss": 1.0})
run.log({"loss": 2.0})
"""


@pytest.fixture(scope="module")
def broker(secure_kafka: SecureKafka) -> SecureKafka:
    """One topic for all, one for nobody."""
    for topic in (TEAM, CLOSED):
        secure_kafka.create_topic(topic)
    secure_kafka.allow("trainer", "topic", TEAM, ["Write", "Describe"])
    secure_kafka.allow("CN=robot", "topic", TEAM, ["Write", "Describe"])
    secure_kafka.allow("reader", "topic", TEAM, ["Read", "Describe"])
    secure_kafka.allow("nobody", "topic", TEAM, ["Describe"])
    return secure_kafka


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a refused client leaves is this test's, not that of whoever comes next."""
    yield
    gc.collect()


@dataclass(frozen=True)
class Way:
    """A way to a topic: listener, scheme, user, further variables without `RUNWIRE_`, and whether our CA is known."""

    listener: str
    scheme: str = "kafkas"
    user: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    knows_authority: bool = True
    topic: str = TEAM

    def environment(self, broker: SecureKafka) -> dict[str, str]:
        """What a person sets."""
        given = {"RUNWIRE_URL": broker.at(self.listener, self.topic, self.scheme)}
        if self.user:
            given |= {"RUNWIRE_KAFKA_USER": self.user, "RUNWIRE_KAFKA_PASSWORD": PASSWORDS.get(self.user, "any-s3cret")}
        if self.knows_authority:
            given["RUNWIRE_CA"] = str(broker.authority.certificate)
        return given | {f"RUNWIRE_{name}": value.format(folder=broker.folder) for name, value in self.variables}

    def destination(self, broker: SecureKafka) -> Destination:
        """The same, as the programs' settings have it."""
        given = self.environment(broker)
        return parse_url(given["RUNWIRE_URL"]).secured(given)


ROBOT = (("CLIENT_CERT", "{folder}/certificates/robot.pem"),)
STRANGER = (("CLIENT_CERT", "{folder}/stranger/robot.pem"),)
PLAIN = (("KAFKA_SASL", "plain"),)
WRONG = (("KAFKA_PASSWORD", "wrong-s3cret"),)
REFUSED_LOGIN = "doesn't know user '{user}', or the password is wrong: correct RUNWIRE_KAFKA_USER and"
MAY_WANT_TLS = "closes the connection, it may want TLS (kafkas://)"


@pytest.mark.parametrize(
    "way",
    [
        Way("SECURE", user="trainer"),
        Way("SECURE", user="trainer", variables=PLAIN),
        Way("SECURE", variables=(("KAFKA_USER", "trainer"), ("KAFKA_PASSWORD_FILE", "{folder}/password"))),
        Way("MTLS", variables=ROBOT),
        Way("LOGIN", "kafka", user="trainer"),
        Way("LOGIN", "kafka", user="trainer", variables=PLAIN),
    ],
    ids=["scram", "plain", "file", "mtls", "scram-in-the-clear", "plain-on-this-machine"],
)
def test_who_may_write_is_let_in(broker: SecureKafka, way: Way, tmp_path: Path) -> None:
    (broker.folder / "password").write_text(f"{PASSWORDS['trainer']}\n")
    asyncio.run(_send(way.destination(broker), tmp_path))


def test_who_may_read_needs_no_right_on_the_group(broker: SecureKafka, tmp_path: Path) -> None:
    """Courtesy offsets are all that it is for: without the right they are left out, and everything is read."""
    asyncio.run(_send(Way("SECURE", user="trainer").destination(broker), tmp_path))
    messages, trouble = asyncio.run(_read(Way("SECURE", user="reader").destination(broker)))
    assert messages, trouble
    assert ask_broker(Way("SECURE", user="reader").destination(broker)).trouble == ""


# Who wants what, and what trainer, consumer and doctor are told; None: that one is let in.
LOGIN_CASES = {
    "wrong password": (Way("SECURE", user="trainer", variables=WRONG), REFUSED_LOGIN),
    "wrong password, plain": (Way("SECURE", user="trainer", variables=(*WRONG, *PLAIN)), REFUSED_LOGIN),
    "unknown user": (Way("SECURE", user="stranger"), REFUSED_LOGIN),
    "no user": (Way("SECURE"), "may want a user (RUNWIRE_KAFKA_USER, RUNWIRE_KAFKA_PASSWORD_FILE)"),
    "another mechanism": (
        Way("SCRAM", user="trainer", variables=PLAIN),
        "takes no password by PLAIN there: set RUNWIRE_KAFKA_SASL to SCRAM-SHA-512",
    ),
    "unknown mechanism": (
        Way("SECURE", user="trainer", variables=(("KAFKA_SASL", "MAGIC"),)),
        "RUNWIRE_KAFKA_SASL must be one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN, not 'MAGIC'",
    ),
    "no password": (
        Way("SECURE", variables=(("KAFKA_USER", "trainer"),)),
        "user 'trainer' has no password: set RUNWIRE_KAFKA_PASSWORD_FILE",
    ),
    "unknown authority": (
        Way("SECURE", user="trainer", knows_authority=False),
        "an authority that isn't known here: set RUNWIRE_CA",
    ),
    "expired certificate": (Way("EXPIRED", user="trainer"), "has expired: have it renewed"),
    "another name": (Way("OTHER"), "is for another name: use a name that is in it"),
    "no client certificate": (Way("MTLS"), "or a certificate (RUNWIRE_CLIENT_CERT)"),
    "client certificate of a stranger": (Way("MTLS", variables=STRANGER), "it may want"),
    "key with a passphrase": (
        Way(
            "MTLS",
            variables=(
                ("CLIENT_CERT", "{folder}/certificates/robot.crt"),
                ("CLIENT_KEY", "{folder}/certificates/robot.secret.key"),
            ),
        ),
        "is encrypted: set RUNWIRE_CLIENT_KEY_PASSWORD_FILE",
    ),
    "plaintext to a TLS port": (Way("TLS", "kafka"), MAY_WANT_TLS),
    "a login in the clear to a TLS port": (Way("SECURE", "kafka", user="trainer"), MAY_WANT_TLS),
    "TLS to a plaintext port": (Way("LOGIN", user="trainer"), "doesn't speak TLS there: use its TLS port"),
}


@pytest.mark.parametrize(("way", "words"), LOGIN_CASES.values(), ids=LOGIN_CASES)
def test_a_locked_door_says_what_to_do(broker: SecureKafka, way: Way, words: str, tmp_path: Path) -> None:
    """Trainer, consumer and doctor alike; nobody dies, and no password is in a sentence."""
    broker.authority.encrypted_key("robot", "open-s3cret")
    destination = way.destination(broker)
    wanted = words.format(user=way.user)
    with pytest.raises(TransportError) as caught:
        asyncio.run(_send(destination, tmp_path))
    _, source_trouble = asyncio.run(_read(destination))
    for told in (str(caught.value), source_trouble, ask_broker(destination).trouble):
        assert wanted in told
        assert "s3cret" not in told
    assert caught.value.retriable


@pytest.mark.parametrize(
    ("user", "topic", "told"),
    [
        ("reader", TEAM, ("user 'reader' may not write topic secure.team: have Write", "", "")),
        ("trainer", TEAM, ("", "user 'trainer' may not read topic secure.team: have Read and Describe", "")),
        ("nobody", TEAM, ("may not write topic", "may not read topic secure.team", "")),
        ("trainer", CLOSED, ("may not write topic secure.closed", "may not read topic", "may not use topic")),
    ],
)
def test_a_denied_topic_says_which_right_is_missing(
    broker: SecureKafka, user: str, topic: str, told: tuple[str, str, str], tmp_path: Path
) -> None:
    """To trainer, consumer and doctor; "" where nothing is."""
    destination = Way("SECURE", user=user, topic=topic).destination(broker)
    written = ""
    try:
        asyncio.run(_send(destination, tmp_path))
    except TransportError as error:
        written = str(error)
    _, read = asyncio.run(_read(destination))
    for said, words in zip((written, read, ask_broker(destination).trouble), told, strict=True):
        assert words in said
        assert bool(words) == bool(said)


def test_a_trainer_waits_for_the_right_password(
    broker: SecureKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, says so once, and delivers by itself when the file holds the right one."""
    file = tmp_path / "password"
    file.write_text("wrong-s3cret")
    way = Way("SECURE", variables=(("KAFKA_USER", "trainer"), ("KAFKA_PASSWORD_FILE", str(file))))
    journal = open_journal(tmp_path / EMITTER)
    log(journal, 50)
    told: list[str] = []
    monkeypatch.setattr("runwire._notices._log.warning", lambda _, __, text: told.append(text))
    sender = Sender(journal, way.destination(broker), Speaker(journal), notices=Notices())
    sender.start()
    wait_until(lambda: sender.last_error, what="the broker refuses the login")
    assert "or the password is wrong" in str(sender.last_error)
    assert sender.acknowledged_seq == 0
    file.write_text(PASSWORDS["trainer"])
    wait_until(lambda: sender.acknowledged_seq == 50, what="all is acknowledged")
    journal.seal()
    assert sender.finish(30)
    journal.close(delete=True)
    assert len(told) == 1
    assert "or the password is wrong" in told[0]
    assert "s3cret" not in told[0]


def test_a_run_that_ends_at_once_delivers_and_keeps_its_secrets(broker: SecureKafka, tmp_path: Path) -> None:
    """Also while Python ends, when no thread pool works any more; then a refused one, which `runwire sync` sends."""
    topic = broker.create_topic("secure.ends")
    broker.allow("trainer", "topic", topic, ["Write", "Describe"])
    broker.allow("reader", "topic", topic, ["Read", "Describe"])
    way = Way("SECURE", user="trainer", topic=topic)
    done = _train(broker, way, tmp_path / "a")
    assert "Training goes on" not in done.stderr
    assert not list((tmp_path / "a" / "journal").glob("[!.]*/"))

    wrong = _train(broker, Way("SECURE", user="trainer", variables=WRONG, topic=topic), tmp_path / "b")
    assert "or the password is wrong" in wrong.stderr
    waiting = list((tmp_path / "b" / "journal").glob("[!.]*/"))
    assert len(waiting) == 1
    held = b"".join(path.read_bytes() for path in waiting[0].iterdir())
    assert b"s3cret" not in held
    assert b"kafkas://" in held
    sync = _run(["-m", "runwire_cli", "sync"], broker, way, tmp_path / "b")
    assert sync.returncode == 0, sync.stderr
    assert not list((tmp_path / "b" / "journal").glob("[!.]*/"))

    # What both sent, as the consumer stores it, with a password in RUNWIRE_URL.
    url = broker.at("SECURE", topic).replace("://", f"://reader:{PASSWORDS['reader']}@")
    reads = Way("SECURE", variables=(("URL", url),))
    up = _run(["-m", "runwire_cli", "up", "--once"], broker, reads, tmp_path / "c")
    assert up.returncode == 0, up.stderr
    assert " 4 points stored" in up.stdout + up.stderr
    for one in (done, wrong, sync, up):
        assert "s3cret" not in one.stdout + one.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or path.name == "password" or b"s3cret" not in path.read_bytes()


def _train(broker: SecureKafka, way: Way, home: Path) -> subprocess.CompletedProcess[str]:
    done = _run(["-c", SCRIPT], broker, way, home)
    assert done.returncode == 0, done.stderr
    return done


def _run(arguments: list[str], broker: SecureKafka, way: Way, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **way.environment(broker), "RUNWIRE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def _send(destination: Destination, folder: Path) -> None:
    transport = KafkaTransport(destination)
    try:
        await transport.open()
        await transport.send(made(folder / "journal", 3))
    finally:
        await transport.close()


async def _read(destination: Destination) -> tuple[int, str]:
    """How many messages come first, and what is wrong where none do."""
    source = KafkaSource(destination)
    await source.start({})
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            found = await source.poll(0.2)
            status = source.status()
            is_told = "can't be reached" in status.trouble and "consumer group" not in status.trouble
            if found or is_told:
                return len(found), "" if found else status.trouble
        pytest.fail("neither messages nor a trouble")
    finally:
        await source.close()
