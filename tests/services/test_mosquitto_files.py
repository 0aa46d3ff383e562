"""What compose mounts for Mosquitto, tried natively: both users get in by their passwords, to their own topics."""

from __future__ import annotations

import socket
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.services.process import ServiceMissing
from tests.services.secure_mosquitto import FILES, PASSWORDS, PROGRAMS, SecureMosquitto
from tests.tiers import require_service

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = 0x80


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the one that compose has without TLS."""
    broker = SecureMosquitto(tmp_path_factory.mktemp("mosquitto"), listeners="listeners")
    try:
        broker.start()
    except ServiceMissing as missing:
        require_service(missing.name, False, missing.how_to_get)
        raise
    environment = Path(f"/proc/{broker.pid}/environ").read_bytes() + Path(f"/proc/{broker.pid}/cmdline").read_bytes()
    assert b"s3cret" not in environment + (broker.folder / "data" / "passwords").read_bytes()
    yield int(broker.address.rpartition(":")[2])
    broker.kill()


@pytest.mark.parametrize(
    ("user", "password", "is_let_in"),
    [
        ("trainer", PASSWORDS["trainer"], True),
        ("bridge", PASSWORDS["bridge"], True),
        ("trainer", PASSWORDS["bridge"], False),
        ("stranger", "", False),
    ],
)
def test_who_is_let_in(mosquitto: int, user: str, password: str, *, is_let_in: bool) -> None:
    with _connected(mosquitto, user, password) as (code, _):
        assert (code == 0) is is_let_in


@pytest.mark.parametrize(
    ("user", "reads", "is_granted"),
    [
        ("trainer", "runwire-ack/emitter", True),
        ("trainer", "runwire/#", False),
        ("bridge", "runwire/#", True),
        ("bridge", "runwire-ack/emitter", False),
    ],
)
def test_who_reads_what(mosquitto: int, user: str, reads: str, *, is_granted: bool) -> None:
    """A right is one for messages: Mosquitto takes any subscription, and hands out only what may be read."""
    writer = "bridge" if reads.startswith("runwire-ack") else "trainer"
    wrote = reads.replace("#", "p/r/e")
    with (
        _connected(mosquitto, user, PASSWORDS[user]) as (_, reader),
        _connected(mosquitto, writer, PASSWORDS[writer]) as (_, other),
    ):
        reader.sendall(_packet(0x82, struct.pack(">H", 1) + _text(reads) + b"\x00"))
        assert reader.recv(5)[4] in {0, REFUSED}
        other.sendall(_packet(0x30, _text(wrote) + b"row"))
        other.sendall(b"\xc0\x00")
        assert other.recv(2) == b"\xd0\x00"  # what was published before the ping is with its readers, or with nobody
        reader.sendall(b"\xc0\x00")
        answer = reader.recv(200)
        assert (b"row" in answer) is is_granted


@pytest.mark.parametrize(
    ("bridge", "words"),
    [("", "MQTT_BRIDGE_PASSWORD: a password for the bridge, see .env.example"), ("a:b", "with a colon can't be kept")],
)
def test_it_says_which_password_it_lacks(bridge: str, words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [FILES / "start.sh", FILES, tmp_path, "true"],
        env={"PATH": PROGRAMS, "MQTT_TRAINER_PASSWORD": "x", "MQTT_BRIDGE_PASSWORD": bridge},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert words in done.stderr


@contextmanager
def _connected(port: int, user: str, password: str) -> Iterator[tuple[int, socket.socket]]:
    """An MQTT 3.1.1 connection and the code that it was answered with."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(_packet(0x10, _text("MQTT") + b"\x04\xc2\x00\x3c" + _text("") + _text(user) + _text(password)))
        yield link.recv(4)[3], link


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([kind, len(body)]) + body


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()
