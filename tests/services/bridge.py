"""The bridge as users start it, `runwire bridge`, in a process of its own that tests may kill."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import httpx

from tests.services.consumer import RUNWIRE
from tests.services.process import ServiceProcess, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType


class BridgeProcess:
    """`runwire bridge` with its metrics on a free loopback port.

    Args:
        source: mqtt:// URL.
        target: kafka:// or dir: URL.
        folder: its log.
        client_id: the session's name; its own choice when not given.
        variables: what its environment has beside this process's own, without Runwire's.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        folder: Path,
        client_id: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / "bridge.log"
        (self._metrics_port,) = free_ports(1)
        self._command: list[str | Path] = [RUNWIRE, "bridge", source, target]
        self._command += ["--metrics-port", str(self._metrics_port)]
        self._command += [] if client_id is None else ["--client-id", client_id]
        self._variables = variables or {}
        self._process: ServiceProcess | None = None

    @property
    def process(self) -> ServiceProcess:
        """The running program."""
        assert self._process is not None
        return self._process

    def start(self) -> Self:
        """Start it; it needs neither broker nor target for that."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
        self._process = ServiceProcess(
            "runwire bridge", self._command, log=self.log, environment={**inherited, **self._variables}
        )
        return self

    def metric(self, name: str) -> float:
        """What one of its metrics says now; NaN while it doesn't answer."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=2).text
        except httpx.HTTPError:
            return float("nan")
        return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), float("nan"))

    def wait_for(self, name: str, at_least: float) -> None:
        """Return when a metric has reached a value."""
        wait_until(lambda: self.metric(name) >= at_least, what=f"{name} >= {at_least}")

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
