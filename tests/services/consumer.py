"""The consumer as users start it, `runwire up`, in a process of its own that tests may kill.

with ConsumerProcess("kafka://127.0.0.1:9092/team", home=folder) as consumer:
    consumer.sql("SELECT count(*) AS n FROM runs")
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.services.process import PATIENCE_SECONDS, ServiceProcess, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

RUNWIRE = Path(sys.executable).with_name("runwire")


class ConsumerProcess:
    """`runwire up` on a free loopback port.

    Args:
        url: the topic it reads.
        home: its `RUNWIRE_HOME`: database, token and its log.
        host: listens on this address; as in a container on all, it asks even Prometheus for the token.
        port: listens there; a free one when not given. Kept over restarts.
        outlives_us: keep it running when this process ends.
        variables: what more its environment has, and that of commands that ask it.
    """

    def __init__(
        self,
        url: str,
        *,
        home: Path,
        host: str = "127.0.0.1",
        port: int | None = None,
        outlives_us: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._host = host
        self.home = home
        self._port = port or free_ports(1)[0]
        self._outlives_us = outlives_us
        self._variables = variables or {}
        self._process: ServiceProcess | None = None

    @property
    def address(self) -> str:
        """Its HOST:PORT."""
        return f"127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.home / "consumer.log"

    @property
    def database(self) -> Path:
        """Its DuckDB file; open it only after `stop`."""
        return self.home / "runwire.duckdb"

    @property
    def token(self) -> str:
        """The bearer token that it made at its first start."""
        return (self.home / "token").read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        """What it and the commands that ask it are configured with, and nothing else of Runwire's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
        return {
            **inherited,
            "RUNWIRE_HOME": str(self.home),
            "RUNWIRE_URL": self.url,
            "RUNWIRE_HOST": self._host,
            "RUNWIRE_PORT": str(self._port),
            **self._variables,
        }

    @property
    def process(self) -> ServiceProcess:
        """The running program."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def spawn(self) -> Self:
        """Start it without waiting for its first answer."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._process = ServiceProcess(
            "runwire up",
            [RUNWIRE, "up"],
            log=self.log,
            environment=self.environment,
            outlives_us=self._outlives_us,
        )
        return self

    def start(self) -> Self:
        """Start it and return when it serves requests.

        Raises:
            ServiceFailed: it does not come up; the message carries its log's tail.
        """
        self.spawn().process.wait_ready(self.answers)
        return self

    def answers(self) -> bool:
        """Whether it is alive."""
        return self._says_ok("healthz")

    def is_ready(self) -> bool:
        """Whether it reads its topic."""
        return self._says_ok("readyz")

    def _says_ok(self, path: str) -> bool:
        try:
            return httpx.get(f"http://{self.address}/{path}", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Answer a query over HTTP, a row a dictionary.

        Raises:
            httpx.HTTPError: it is away, or refuses the query; the message ends with its answer.
        """
        answer = httpx.post(
            f"http://{self.address}/api/sql",
            params={"format": "json"},
            content=query,
            headers={"Content-Type": "text/plain", "Authorization": f"Bearer {self.token}"},
            timeout=30,
        )
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{answer.status_code} for {query}: {answer.text}", request=answer.request, response=answer
            )
        rows: list[dict[str, Any]] = answer.json()
        return rows

    def wait_for(self, query: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> list[dict[str, Any]]:
        """Poll a query until it has rows, also over a restart, and return them."""

        def rows() -> list[dict[str, Any]]:
            try:
                return self.sql(query)
            except (httpx.TransportError, FileNotFoundError):
                return []

        return wait_until(rows, timeout_seconds=timeout_seconds, what=f"rows of {query}")

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> int:
        """SIGTERM, as a supervisor would; returns the exit code."""
        return self.process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
