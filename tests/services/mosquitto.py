"""A real Mosquitto on a free loopback port, with its session store in a folder of its own.

with MosquittoBroker(folder) as broker:
    broker.url  # mqtt://127.0.0.1:PORT
"""

from __future__ import annotations

import getpass
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.services.process import ServiceMissing, ServiceProcess, free_ports

if TYPE_CHECKING:
    from types import TracebackType

PROGRAM = "/usr/sbin/mosquitto"  # only root has its folder on PATH

CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
user {user}
persistence true
persistence_location {data}/
# Its queue is written after so many changes, not every 30 minutes.
autosave_on_changes true
autosave_interval 1000
max_inflight_messages {in_flight}
max_queued_messages {queued}
max_packet_size 4194304
log_type error
log_type warning
"""


class MosquittoBroker:
    """A broker that a test may kill.

    Args:
        folder: where configuration, sessions and log go.
        in_flight: messages that a client may have unacknowledged.
        queued: messages that wait for a client that is away; what is above is dropped.
    """

    def __init__(self, folder: Path, *, in_flight: int = 500, queued: int = 10_000) -> None:
        self.folder = folder
        self._limits = {"in_flight": in_flight, "queued": queued}
        (self._port,) = free_ports(1)
        self._process: ServiceProcess | None = None

    @property
    def url(self) -> str:
        """What emitters are given."""
        return f"mqtt://127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """Its HOST:PORT."""
        return f"127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "mosquitto.log"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None
        return self._process.pid

    def answers(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def start(self) -> Self:
        """Start it, return when it accepts connections.

        Raises:
            ServiceMissing: it isn't installed.
            ServiceFailed: it does not come up; the message carries its log's tail.
        """
        program = shutil.which("mosquitto") or PROGRAM
        if not Path(program).exists():
            raise ServiceMissing("Mosquitto", "apt-get install mosquitto")
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = self._command(program, data)
        self._process = ServiceProcess("Mosquitto", command, log=self.log, environment=self._environment())
        self._process.wait_ready(self.answers)
        return self

    def kill(self) -> None:
        """SIGKILL it: what it hadn't saved is gone."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> Self:
        """Start again on the same port and sessions."""
        self.kill()
        return self.start()

    def _environment(self) -> dict[str, str] | None:
        return None

    def _command(self, program: str, data: Path) -> list[str | Path]:
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(
            CONFIGURATION.format(port=self._port, data=data, user=getpass.getuser(), **self._limits)
        )
        return [program, "-c", configuration]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
