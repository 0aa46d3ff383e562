"""A training process that learns: softmax regression on scikit-learn's digits by SGD, one shard a rank.

As a script it trains until its stop file exists, or for a number of steps; `Learner` starts it as one rank of a run.
With a learning rate that is too high it diverges as real ones do: the loss grows, and is infinite or NaN from then on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from tests.services.process import ServiceProcess
from tests.services.trainer import END_TIMEOUT_SECONDS, FINISH_SECONDS, torchrun_environment, trainer_environment

PROJECT = "digits"
DIVERGES_AT = 1e300
"""A learning rate: the second step's weights are beyond what a float holds."""


class Learner:
    """One rank that learns.

    Args:
        folder: home, log and stop file; ranks share it.
        url: where its events go.
        launch: ranks of one launch are one run; a launch again is its next attempt.
        name: of the run.
        rank: this process's.
        world_size: of the launch.
        restart: how often the launcher started it before.
        learning_rate: of SGD.
        steps: ends by itself after so many; forever when not given.
        pause_seconds: after each step, so that it lasts; more of it makes a straggler.
        alert_at: raises an alert at this step.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        launch: str,
        name: str,
        rank: int = 0,
        world_size: int = 1,
        restart: int = 0,
        learning_rate: float = 0.1,
        steps: int = 10**9,
        pause_seconds: float = 0.02,
        alert_at: int = -1,
    ) -> None:
        self._stop = folder / f"stop-{launch}"
        options: dict[str, object] = {
            "--stop": self._stop,
            "--name": name,
            "--lr": learning_rate,
            "--steps": steps,
            "--pause-seconds": pause_seconds,
            "--alert-at": alert_at,
        }
        arguments = [str(part) for pair in options.items() for part in pair]
        environment = trainer_environment(folder / "home", url) | torchrun_environment(launch, rank, world_size)
        self.process = ServiceProcess(
            f"{name}, rank {rank}",
            [sys.executable, "-P", __file__, *arguments],
            log=folder / f"{launch}-{rank}.log",
            environment=environment
            | {"TORCHELASTIC_RESTART_COUNT": str(restart), "RUNWIRE_AUTO_METRICS": "on", "OMP_NUM_THREADS": "1"},
        )

    def stop(self) -> None:
        """Ask it to finish its run and end; returns at once."""
        self._stop.touch()

    def preempt(self) -> None:
        """SIGTERM, as a scheduler ends a job."""
        os.kill(self.process.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(timeout_seconds=END_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """SIGKILL it."""
        self.process.kill()


def _digits_file() -> Path:
    """Where scikit-learn keeps the images; importing it takes seconds."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def main() -> None:
    """Train one rank."""
    import numpy as np  # noqa: PLC0415 - the tests that import this module need none of it

    import runwire  # noqa: PLC0415 - as above
    from runwire import _start  # noqa: PLC0415 - as above

    parser = argparse.ArgumentParser()
    parser.add_argument("--stop", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pause-seconds", type=float, required=True)
    parser.add_argument("--alert-at", type=int, required=True)
    options = parser.parse_args()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    np.seterr(all="ignore")
    _start.FINISH_TIMEOUT_SECONDS = FINISH_SECONDS  # type: ignore[attr-defined]

    run = runwire.init(
        project=PROJECT,
        name=options.name,
        params={"lr": options.lr, "batch": 64, "max_steps": options.steps, "data": {"shards": world_size}},
    )
    run.define("val/accuracy", best="max")
    run.progress(expect_next_in=60)
    digits = np.loadtxt(_digits_file(), delimiter=",")
    inputs, labels = digits[:, :-1] / 16, digits[:, -1].astype(int)
    train, held_out = np.arange(rank, 1400, world_size), np.arange(1400, len(labels))
    weights = np.zeros((inputs.shape[1], 10))
    random = np.random.default_rng(rank)
    for step in range(options.steps):
        if options.stop.exists():
            break
        with run.time("data"):
            batch = random.choice(train, 64)
            time.sleep(options.pause_seconds)
        with run.time("compute"):
            scores = inputs[batch] @ weights
            scores = scores - scores.max(axis=1, keepdims=True)
            chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            wanted = np.eye(10)[labels[batch]]
            loss = -np.log((chances * wanted).sum(axis=1)).mean()
            rate = options.lr * 0.999**step
            weights = weights - rate * inputs[batch].T @ (chances - wanted) / len(batch)
        row = {"train/loss": float(loss), "lr": rate}
        if step % 10 == 0:
            guesses = (inputs[held_out] @ weights).argmax(axis=1)
            row["val/accuracy"] = float((guesses == labels[held_out]).mean())
        run.log(row, step=step)
        if step == options.alert_at:
            run.alert("Loss is high", f"It is {loss:.3f}", level="warning")
    run.finish()


if __name__ == "__main__":
    main()
