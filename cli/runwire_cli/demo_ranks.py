"""The demo's training runs: real images, rank processes as torchrun starts them, one of them killed on the way."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire_cli.demo_train import Config, read_progress
from runwire_cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runwire_cli.live import LiveView
    from runwire_schemas.topics import Destination

WORLD_SIZE = 4
KILLED_RANK = 2
VALIDATION_ROWS = 360
TRAIN_TIMEOUT_SECONDS = 300.0


class DemoError(CommandError):
    """The demo can't go on; the sentence says why."""


@dataclass(slots=True)
class Training:
    """One run: its configuration and rank processes."""

    folder: Path
    config: Config
    job: str
    ranks: dict[int, subprocess.Popen[bytes]]
    killed_at_points: int = 0

    @property
    def progress(self) -> list[tuple[int, int]]:
        """(points given, points returned) of each rank."""
        return [read_progress(self.folder / f"progress-{rank}") for rank in range(WORLD_SIZE)]


def load_digits() -> tuple[Any, Any]:
    """scikit-learn's 1,797 images of 8 x 8 pixels in 0 .. 1, and their digits.

    The file is read from the package without importing it: that would take a second of the five until the first curve.

    Raises:
        DemoError: scikit-learn is not installed.
    """
    import numpy as np  # noqa: PLC0415 - the other commands don't need it

    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DemoError("The demo trains on scikit-learn's digits: pip install 'runwire[demo]'.")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1] / 16.0, table[:, -1].astype(np.int64)


def prepare(folder: Path, *, lr: float, steps: int, group: str, job: str) -> Training:
    """Write data and configuration of one run."""
    import numpy as np  # noqa: PLC0415 - the other commands don't need it

    folder.mkdir(parents=True)
    images, labels = load_digits()
    cut = len(images) - VALIDATION_ROWS
    np.savez(
        folder / "digits.npz",
        images=images[:cut],
        labels=labels[:cut],
        val_images=images[cut:],
        val_labels=labels[cut:],
    )
    config = Config(str(folder), lr, steps, ["demo"], group)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    return Training(folder, config, job, {})


def variables_of(destination: Destination) -> dict[str, str]:
    """What a process is given to reach it as we do; user and password don't stand in its text."""
    login = destination.security.variables() if destination.security is not None else {}
    return {"RUNWIRE_URL": str(destination), **login}


def start_rank(training: Training, rank: int, destination: Destination, home: Path) -> None:
    """Start one rank as torchrun would."""
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD_SIZE),
        "LOCAL_WORLD_SIZE": str(WORLD_SIZE),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": training.job,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        **variables_of(destination),
        "RUNWIRE_HOME": str(home),
        # Four ranks share the cores: more threads a rank would only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    for name in ("RUNWIRE_RUN_ID", "RUNWIRE_NAME", "RUNWIRE_PROJECT", "RUNWIRE_GROUP", "RUNWIRE_TAGS", "RUNWIRE_MODE"):
        environment.pop(name, None)
    log = (training.folder / f"rank-{rank}.log").open("ab")
    with log:
        training.ranks[rank] = subprocess.Popen(  # noqa: S603 - this very Python, on our own module
            [sys.executable, "-m", "runwire_cli.demo_train", str(training.folder / "config.json")],
            env=environment,
            stdout=log,
            stderr=log,
        )


@contextmanager
def ended_with_us(trainings: Sequence[Training]) -> Iterator[None]:
    """Whatever ends the demo ends its ranks too."""
    try:
        yield
    finally:
        for training in trainings:
            for process in training.ranks.values():
                process.kill()
                process.wait()


def last_line(log: Path) -> str:
    """What a process said last, for a sentence."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def watch(training: Training, view: LiveView, *, kill_at: float | None, destination: Destination, home: Path) -> None:
    """Wait for all ranks; at the share `kill_at` of the work SIGKILL one of them and start it again.

    Raises:
        DemoError: A rank failed, or it takes too long.
    """
    total = 4 * training.config.steps
    deadline = time.monotonic() + TRAIN_TIMEOUT_SECONDS
    while any(process.poll() is None for process in training.ranks.values()):
        if kill_at is not None and training.progress[KILLED_RANK][1] >= kill_at * total:
            kill_at = None
            victim = training.ranks[KILLED_RANK]
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            training.killed_at_points = training.progress[KILLED_RANK][1]
            view.note(
                f"[bold red]rank {KILLED_RANK} killed -9[/] after {training.killed_at_points:,} points; started again"
            )
            start_rank(training, KILLED_RANK, destination, home)
        if time.monotonic() > deadline:
            raise DemoError(f"Training takes longer than {TRAIN_TIMEOUT_SECONDS:.0f} s: see {training.folder}.")
        time.sleep(0.05)
    for rank, process in training.ranks.items():
        if process.returncode:
            said = last_line(training.folder / f"rank-{rank}.log")
            raise DemoError(f"Rank {rank} of the demo's training ended with code {process.returncode}: {said}")


def start_training(training: Training, destination: Destination, home: Path) -> None:
    """Start all ranks."""
    for rank in range(WORLD_SIZE):
        start_rank(training, rank, destination, home)
