"""A training process for tests: logs rows whose values tell rank and step, so that SQL can check every one.

As a script it trains; `TrainerProcess` starts it as one rank of a run, with the environment torchrun sets.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services.process import PATIENCE_SECONDS, REPOSITORY, ServiceProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

VALUE_OF_A_RANK = 1_000_000
"""At rank r and step s, `train/loss` is r x this + s."""

METRICS = 4
"""How many values each row holds."""

END_TIMEOUT_SECONDS = 150.0
FINISH_SECONDS = 120.0


class TrainerProcess:
    """One rank that trains until its `stop` file exists, or for a number of rows.

    Args:
        folder: home, log and progress file; ranks may share it.
        url: where its events go.
        launch: ranks of one launch are one run.
        rank: this process's.
        world_size: of the launch.
        rows: ends by itself after so many `log()` calls.
        rows_per_second: its pace.
        sender: who delivers: "thread", or "relay".
        finish_seconds: how long its end waits for delivery: nobody syncs what a machine that stands still leaves.
        variables: what more its environment has.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        launch: str,
        rank: int = 0,
        world_size: int = 1,
        rows: int | None = None,
        rows_per_second: float = 200.0,
        sender: str = "thread",
        finish_seconds: float = FINISH_SECONDS,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.rank = rank
        self.progress = folder / f"progress-{rank}"
        self._stop = folder / f"stop-{rank}"
        command: list[str | Path] = [sys.executable, "-P", __file__]
        command += ["--progress", self.progress, "--stop", self._stop]
        command += ["--rows-per-second", str(rows_per_second), "--finish-seconds", str(finish_seconds)]
        if rows is not None:
            command += ["--rows", str(rows)]
        folder.mkdir(parents=True, exist_ok=True)
        self._process = ServiceProcess(
            f"rank {rank}",
            command,
            log=folder / f"rank-{rank}.log",
            environment=trainer_environment(folder / "home", url)
            | torchrun_environment(launch, rank, world_size)
            | {"RUNWIRE_SENDER": sender}
            | dict(variables or {}),
        )

    @property
    def log(self) -> Path:
        """What it printed."""
        return self._process.log

    @property
    def rows(self) -> int:
        """How many `log()` calls are known to have returned."""
        # Seven digits and a newline a row: a record cut by SIGKILL doesn't count.
        return self.progress.stat().st_size // 8 if self.progress.exists() else 0

    def wait_for_rows(self, count: int, *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Return when `count` rows were logged."""
        wait_until(lambda: self.rows >= count, timeout_seconds=timeout_seconds, what=f"{count} rows of {self.log}")

    def stop(self) -> None:
        """Ask it to finish its run and end; returns at once."""
        self._stop.touch()

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return self._process.wait(timeout_seconds=END_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()


def trainer_environment(home: Path, url: str) -> dict[str, str]:
    """The environment of a process that uses Runwire, and only as said here."""
    launchers = ("RUNWIRE_", "TORCHELASTIC_", "SLURM_", "OMPI_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    own = {"RUNWIRE_HOME": str(home), "RUNWIRE_URL": url, "RUNWIRE_AUTO_METRICS": "off"}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), **own}


def torchrun_environment(launch: str, rank: int, world_size: int) -> dict[str, str]:
    """What torchrun sets for one rank of a single-node launch."""
    return {
        "TORCHELASTIC_RUN_ID": launch,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }


def values(rank: int, step: int) -> dict[str, float]:
    """The row that a rank logs at a step."""
    return {
        "train/loss": float(rank * VALUE_OF_A_RANK + step),
        "val/acc": 1 - math.exp(-step / 1000),
        "lr": 0.1 / (1 + step),
        "odd/value": (math.nan, math.inf, -math.inf, -0.0)[step % 4],
    }


def main() -> None:
    """Train: log rows at a pace, noting each that `log()` took."""
    import runwire  # noqa: PLC0415 - the tests that import this module need none of it
    from runwire import _start  # noqa: PLC0415 - as above

    parser = argparse.ArgumentParser()
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--stop", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=sys.maxsize)
    parser.add_argument("--rows-per-second", type=float, required=True)
    parser.add_argument("--finish-seconds", type=float, required=True)
    options = parser.parse_args()
    rank = int(os.environ["RANK"])
    _start.FINISH_TIMEOUT_SECONDS = options.finish_seconds  # type: ignore[attr-defined]
    run = runwire.init(project="services", params={"lr": 0.1, "optimizer": "none"}, tags=["test"])
    run.define("val/acc", best="max")
    progress = os.open(options.progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start = time.monotonic()
    step = 0
    while step < options.rows and not (step % 16 == 0 and options.stop.exists()):
        run.log(values(rank, step), step=step)
        os.write(progress, b"%07d\n" % step)
        step += 1
        time.sleep(max(0.0, start + step / options.rows_per_second - time.monotonic()))
    run.finish()


if __name__ == "__main__":
    main()
