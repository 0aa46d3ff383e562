"""What compose mounts for Mosquitto, tried natively: both users get in by their passwords, to their own topics."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.services.process import REPOSITORY, ServiceProcess, free_ports
from tests.tiers import require_service

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"  # where Debian has it
PASSWORDS = {"trainer": "train-s3cret", "bridge": "bridge s3cret"}
FILES = REPOSITORY / "deploy" / "mosquitto"
REFUSED = 0x80


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port; the files are those of compose but for their places."""
    program = shutil.which("mosquitto", path=PROGRAMS)
    require_service("Mosquitto", program is not None, "apt-get install mosquitto")
    folder = tmp_path_factory.mktemp("mosquitto")
    (port,) = free_ports(1)
    shutil.copytree(FILES, folder / "conf")
    for name in ("mosquitto.conf", "listeners/plain.conf"):
        path = folder / "conf" / name
        text = path.read_text().replace("/mosquitto/data", str(folder)).replace("/etc/runwire", str(folder / "conf"))
        path.write_text(text.replace("listener 1883", f"listener {port} 127.0.0.1"))
    with (folder / "conf" / "mosquitto.conf").open("a") as file:
        file.write("user root\n")  # in its container it is nobody else from the start
    process = ServiceProcess(
        "Mosquitto",
        [folder / "conf" / "start.sh", folder / "conf", folder, str(program)],
        log=folder / "log",
        environment={"PATH": PROGRAMS} | {f"MQTT_{user.upper()}_PASSWORD": PASSWORDS[user] for user in PASSWORDS},
    )
    process.wait_ready(lambda: _answers(port), timeout_seconds=30)
    environment = Path(f"/proc/{process.pid}/environ").read_bytes() + Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"s3cret" not in environment + (folder / "passwords").read_bytes()
    yield port
    process.kill()


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


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


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
