"""`make services-up` and `make services-down`: Kafka, a consumer and Prometheus in the background, natively.

What runs is written to .cache/services/running.json; data and logs lie beside it and survive `down`.
"""

# ruff: noqa: T201  a command talks to a person
from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a script

from tests.services.consumer import ConsumerProcess
from tests.services.kafka import KafkaBroker
from tests.services.process import CACHE, ServiceFailed, ServiceMissing, free_ports, wait_until
from tests.services.prometheus import PrometheusServer

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = CACHE / "services"
RUNNING = FOLDER / "running.json"
KAFKA_PORT = 9092
CONSUMER_PORT = 8470
PROMETHEUS_PORT = 9090
STOP_ORDER = ["prometheus", "consumer", "kafka"]
STOP_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Service:
    """One program in the background: where it answers, and how to end it."""

    address: str
    log: str
    pid: int
    started: str

    @classmethod
    def of(cls, program: KafkaBroker | ConsumerProcess | PrometheusServer) -> Self:
        """Describe a program that was just started."""
        return cls(program.address, str(program.log), program.pid, _start_time(program.pid))

    def runs(self) -> bool:
        """Whether it still runs; another program that has its process id by now doesn't count."""
        return _start_time(self.pid) == self.started


def up() -> None:
    """Start what isn't running yet and say where everything is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    running = _read()
    home = FOLDER / "home"
    try:
        if "kafka" not in running:
            kafka = KafkaBroker(FOLDER / "kafka", port=_port(KAFKA_PORT), outlives_us=True)
            _add(running, "kafka", kafka.start())
        url = f"kafka://{running['kafka'].address}"
        if "consumer" not in running:
            consumer = ConsumerProcess(url, home=home, port=_port(CONSUMER_PORT), outlives_us=True)
            _add(running, "consumer", consumer.start())
        if "prometheus" not in running:
            prometheus = PrometheusServer(
                [running["consumer"].address],
                token=(home / "token").read_text().strip(),
                folder=FOLDER / "prometheus",
                port=_port(PROMETHEUS_PORT),
                outlives_us=True,
            )
            _add(running, "prometheus", prometheus.start())
    except (ServiceFailed, ServiceMissing) as error:
        raise SystemExit(f"services-up: {error}") from error
    for name, service in running.items():
        print(f"{name:<11} {service.address:<17} log {service.log}")
    print(f"\ntrain with  RUNWIRE_URL={url} python train.py")
    print(f"read with   RUNWIRE_HOME={home} runwire runs")


def down() -> None:
    """Stop what `up` started, the consumer before its broker."""
    running = _read()
    for name in sorted(running, key=STOP_ORDER.index):
        service = running[name]
        os.killpg(service.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            wait_until(_ended(service), timeout_seconds=STOP_TIMEOUT_SECONDS, what=f"{name} ends")
        if service.runs():
            os.killpg(service.pid, signal.SIGKILL)
        print(f"{name} stopped")
    RUNNING.unlink(missing_ok=True)


def _ended(service: Service) -> Callable[[], bool]:
    return lambda: not service.runs()


def _start_time(pid: int) -> str:
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _port(wanted: int) -> int:
    """Return the well-known port, or a free one where another program has it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", wanted))
        except OSError:
            return free_ports(1)[0]
    return wanted


def _read() -> dict[str, Service]:
    if not RUNNING.exists():
        return {}
    services = {name: Service(**entry) for name, entry in json.loads(RUNNING.read_text()).items()}
    return {name: service for name, service in services.items() if service.runs()}


def _add(running: dict[str, Service], name: str, program: KafkaBroker | ConsumerProcess | PrometheusServer) -> None:
    running[name] = Service.of(program)
    RUNNING.write_text(json.dumps({name: asdict(service) for name, service in running.items()}, indent=2))


if __name__ == "__main__":
    verbs = {"up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        raise SystemExit("usage: manage.py up|down")
    verbs[sys.argv[1]]()
