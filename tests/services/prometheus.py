"""A real Prometheus with the configuration of deploy/, for tests and benchmarks.

    with PrometheusServer(["127.0.0.1:8470"], token="…") as prometheus:
        prometheus.query("runwire_step")

The configuration is the one that docker-compose mounts, byte for byte, brought into place by the same
script; only the target file and the token beside it are ours.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

import httpx

from tests.services.process import PATIENCE_SECONDS, REPOSITORY, ServiceMissing, ServiceProcess, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

CONFIGURATION = REPOSITORY / "deploy" / "prometheus"


class Series(TypedDict):
    """One element of an instant query's answer: labels, and [unix time, value as text]."""

    metric: dict[str, str]
    value: tuple[float, str]


class PrometheusServer:
    """Prometheus on a free loopback port, scraping the given consumers.

    Args:
        targets: `HOST:PORT` of each consumer.
        token: the consumers' bearer token; empty for targets that ask for none.
        folder: where configuration, data and log go; a temporary one, deleted at the end, when not given.
        port: listens there; a free one when not given.
        outlives_us: keep it running when this process ends.
    """

    def __init__(
        self,
        targets: Sequence[str] = (),
        *,
        token: str = "",
        folder: Path | None = None,
        port: int | None = None,
        outlives_us: bool = False,
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="runwire-prometheus-"))
        self._token = token
        self._outlives_us = outlives_us
        self._targets = tuple(targets)
        self._process: ServiceProcess | None = None
        self.address = f"127.0.0.1:{port or free_ports(1)[0]}"

    @property
    def url(self) -> str:
        """Its HTTP address."""
        return f"http://{self.address}"

    @property
    def log(self) -> Path:
        """Its own log."""
        return self.folder / "prometheus.log"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it and return when it answers.

        Raises:
            ServiceMissing: no `prometheus` here.
            ServiceFailed: it does not come up; the message carries its log's tail.
        """
        if shutil.which("prometheus") is None:
            raise ServiceMissing("Prometheus", "apt-get install prometheus")
        ours, running = self.folder / "ours", self.folder / "config"
        shutil.copytree(CONFIGURATION, ours, dirs_exist_ok=True)
        self._write_targets(ours)
        self._process = ServiceProcess(
            "Prometheus",
            [
                *(CONFIGURATION / "start.sh", ours, running, "prometheus"),
                f"--config.file={running}/prometheus.yml",
                f"--storage.tsdb.path={self.folder}/data",
                f"--web.listen-address={self.address}",
            ],
            log=self.log,
            environment={**os.environ, "RUNWIRE_TOKEN": self._token or "none"},
            outlives_us=self._outlives_us,
        )
        self._process.wait_ready(self.answers)
        return self

    def answers(self) -> bool:
        """Whether it is ready to serve queries."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _write_targets(self, configuration: Path) -> None:
        folder = configuration / "targets"
        text = "".join(f'- targets: ["{target}"]\n' for target in self._targets) or "[]\n"
        fresh = folder / "consumer.fresh"
        fresh.write_text(text)
        fresh.replace(folder / "consumer.yml")

    def query(self, promql: str) -> list[Series]:
        """Answer an instant query now.

        Raises:
            ValueError: Prometheus refuses the expression; the message is its own.
        """
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": promql}, timeout=10)
        body: dict[str, Any] = answer.json()
        if body["status"] != "success":
            raise ValueError(f"{promql}: {body['error']}")
        rows: list[Series] = body["data"]["result"]
        return rows

    def wait_for(self, promql: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> list[Series]:
        """Poll an instant query until it has rows, and return them."""
        return wait_until(lambda: self.query(promql), timeout_seconds=timeout_seconds, what=f"rows of {promql}")

    def target_errors(self) -> dict[str, str]:
        """What went wrong at each target's last scrape; empty text for nothing."""
        body = httpx.get(f"{self.url}/api/v1/targets", timeout=10).json()
        return {target["labels"]["instance"]: target["lastError"] for target in body["data"]["activeTargets"]}

    def wait_for_errors(self, errors: dict[str, str]) -> None:
        """Return when the last scrapes ended so: a text that each target's has, or "" for well."""

        def so() -> bool:
            found = self.target_errors()
            return found.keys() == errors.keys() and all(
                part in found[target] and bool(part) == bool(found[target]) for target, part in errors.items()
            )

        wait_until(so, what=f"scrapes that end with {errors}")

    def close(self, *, keep_folder: bool = False) -> None:
        """End it; delete its folder if it is a temporary one."""
        if self._process is not None:
            self._process.kill()
        if self._own_folder and not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep_folder=error is not None)
