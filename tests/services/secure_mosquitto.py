"""A real Mosquitto with the files that compose mounts: its users, their rights, and TLS for whoever comes from outside.

with SecureMosquitto(folder) as broker:
    broker.at("TLS")  # mqtts://127.0.0.1:PORT
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tests.services.authority import Authority
from tests.services.mosquitto import MosquittoBroker
from tests.services.process import REPOSITORY, free_ports

if TYPE_CHECKING:
    from pathlib import Path

FILES = REPOSITORY / "deploy" / "mosquitto"
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"  # where Debian has it
PASSWORDS = {"trainer": "train-s3cret", "bridge": "bridge s3cret"}
LISTENERS = ("TLS", "EXPIRED", "OTHER", "MTLS")
"""Beside the plain one of the compose network: the one for everybody else, two whose certificates are no good, and one
that wants certificates itself."""

_MORE = """\
listener {port} 127.0.0.1
certfile {folder}/certificates/{pair}.crt
keyfile {folder}/certificates/{pair}.key
"""


class SecureMosquitto(MosquittoBroker):
    """The broker; users are those of PASSWORDS, rights those of `deploy/mosquitto/acl`.

    Args:
        folder: where configuration, certificates, sessions and log go.
        listeners: the folder that compose mounts: `listeners-secure`, or `listeners`, with the plain one alone.
    """

    def __init__(self, folder: Path, *, listeners: str = "listeners-secure") -> None:
        super().__init__(folder)
        self._listeners = listeners
        self.authority = Authority(folder / "certificates")
        self.stranger = Authority(folder / "stranger", "Nobody's authority")
        self.authority.sign("mosquitto", "IP:127.0.0.1,DNS:localhost")
        self.authority.sign("other", "DNS:broker.example")
        self.authority.sign("expired", "IP:127.0.0.1", expired=True)
        self.authority.sign("robot")
        self.stranger.sign("robot")
        self._locked = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))

    def at(self, listener: str, scheme: str = "mqtts") -> str:
        """The URL by one of LISTENERS."""
        return f"{scheme}://127.0.0.1:{self._locked[listener]}"

    def _environment(self) -> dict[str, str]:
        passwords = {f"MQTT_{user.upper()}_PASSWORD": password for user, password in PASSWORDS.items()}
        return {"PATH": PROGRAMS} | passwords

    def _command(self, program: str, data: Path) -> list[str | Path]:
        """Of `start.sh`; the files are those of compose but for their places."""
        configuration = self.folder / "configuration"
        shutil.copytree(FILES, configuration, dirs_exist_ok=True)
        listeners = configuration / self._listeners
        places = {
            "/mosquitto/data": str(data),
            "/etc/runwire/listeners": str(listeners),
            "/etc/runwire": str(configuration),
            "/certificates": str(self.folder / "certificates"),
            "listener 1883": f"listener {self._port} 127.0.0.1",
            "listener 8883": f"listener {self._locked['TLS']} 127.0.0.1",
        }
        for path in (configuration / "mosquitto.conf", *listeners.glob("*.conf")):
            text = path.read_text()
            for there, here in places.items():
                text = text.replace(there, here)
            path.write_text(text)
        with (listeners / "more.conf").open("w") as file:
            for name in ("EXPIRED", "OTHER"):
                file.write(_MORE.format(port=self._locked[name], folder=self.folder, pair=name.lower()))
            file.write(_MORE.format(port=self._locked["MTLS"], folder=self.folder, pair="mosquitto"))
            file.write(f"cafile {self.authority.certificate}\nrequire_certificate true\n")
        with (configuration / "mosquitto.conf").open("a") as file:
            file.write("user root\n")  # in its container it is nobody else from the start
        return [configuration / "start.sh", configuration, data, program]
