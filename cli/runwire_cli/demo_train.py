"""The demo's trainer: one rank of a small neural network on scikit-learn's digits, by local SGD.

Each rank trains a replica on its shard of the images and averages its weights with the others' every AVERAGE_STEPS
steps, through files, as `torchrun` ranks would through a network. It keeps a checkpoint there too: a rank that
was killed goes on from it. Run as `python -m runwire_cli.demo_train CONFIG.json` with the environment of torchrun.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import runwire

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Weights = dict[str, Floats]

AVERAGE_STEPS = 200
HIDDEN = 256
BATCH = 64
DECAY = 1e-4

_PROGRESS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Config:
    """What the demo tells its ranks.

    Attributes:
        folder: Where data, checkpoints, weights and counters lie.
        lr: Learning rate.
        steps: Steps of the whole run.
        tags: Tags of the run.
        group: Group of both runs.
    """

    folder: str
    lr: float
    steps: int
    tags: list[str]
    group: str


class Progress:
    """Points handed to `log()` and points it has returned from, in a file that outlives SIGKILL."""

    def __init__(self, path: Path) -> None:
        """Go on counting where an earlier life of this rank stopped."""
        if not path.exists():
            path.write_bytes(bytes(_PROGRESS.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _PROGRESS.size)
        self._given, self._returned = _PROGRESS.unpack(self._map)
        # What was on its way when the rank was killed may be in the journal or not.
        self._base = self._given

    def giving(self, points: int) -> None:
        """`log()` is about to get this many more."""
        self._given += points
        self._map[:8] = struct.pack("<Q", self._given)

    def returned(self, points: int) -> None:
        """`log()` has returned."""
        self._returned += points
        self._map[8:] = struct.pack("<Q", self._returned)


def read_progress(path: Path) -> tuple[int, int]:
    """(points given to log(), points it returned from), over all lives of a rank."""
    try:
        given, returned = _PROGRESS.unpack(path.read_bytes())
    except (OSError, struct.error):
        return 0, 0
    return given, returned


def main(config: Config) -> None:
    """Train this process's rank."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    folder = Path(config.folder)
    data = np.load(folder / "digits.npz")
    images, labels = data["images"][rank::world], data["labels"][rank::world]
    progress = Progress(folder / f"progress-{rank}")
    random = np.random.default_rng(rank)
    weights, first = _restore(folder, rank)
    params = {
        "lr": config.lr,
        "batch": BATCH,
        "hidden": HIDDEN,
        "decay": DECAY,
        "optimizer": "sgd",
        "average_steps": AVERAGE_STEPS,
    }
    with runwire.init(project="digits", params=params, tags=config.tags, group=config.group) as run:
        run.define("val/acc", best="max")
        run.define("train/loss", best="min")

        def log(metrics: dict[str, Any], step: int) -> None:
            progress.giving(len(metrics))
            run.log(metrics, step=step)
            progress.returned(len(metrics))

        for step in range(first, config.steps):
            picked = random.integers(0, len(images), BATCH)
            lr = config.lr * (1 - step / config.steps)
            loss, accuracy, norm = _train(weights, images[picked], labels[picked], lr)
            log({"train/loss": loss, "train/acc": accuracy, "train/grad_norm": norm, "lr": lr}, step)
            if (step + 1) % AVERAGE_STEPS == 0:
                weights = _average(folder, rank, world, weights, step + 1)
                if rank == 0:
                    log({"val/acc": _accuracy(weights, data["val_images"], data["val_labels"])}, step)


def _train(weights: Weights, images: Floats, labels: NDArray[np.int64], lr: float) -> tuple[float, float, float]:
    """One step of gradient descent in place: (loss, accuracy, norm of the gradient) of the batch."""
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0.0)
    logits = hidden @ weights["w2"] + weights["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    odds /= odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -float(np.log(odds[rows, labels] + 1e-12).mean())
    accuracy = float((odds.argmax(axis=1) == labels).mean())
    odds[rows, labels] -= 1.0
    odds /= len(labels)
    back = odds @ weights["w2"].T
    back[hidden <= 0] = 0.0
    gradients = {"w1": images.T @ back, "b1": back.sum(0), "w2": hidden.T @ odds, "b2": odds.sum(0)}
    norm = float(np.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients.values())))
    for name, gradient in gradients.items():
        weights[name] -= lr * (gradient + DECAY * weights[name])
    return loss, accuracy, norm


def _accuracy(weights: Weights, images: Floats, labels: NDArray[np.int64]) -> float:
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0.0)
    return float(((hidden @ weights["w2"] + weights["b2"]).argmax(axis=1) == labels).mean())


def _fresh() -> Weights:
    random = np.random.default_rng(0)  # the same start on every rank
    return {
        "w1": random.normal(0, 1 / 8, (64, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": random.normal(0, 1 / np.sqrt(HIDDEN), (HIDDEN, 10)),
        "b2": np.zeros(10),
    }


def _restore(folder: Path, rank: int) -> tuple[Weights, int]:
    """This rank's checkpoint: (weights, next step), or a fresh start."""
    path = folder / f"weights-{rank}.npz"
    if not path.exists():
        return _fresh(), 0
    saved = np.load(path)
    return {name: saved[name] for name in ("w1", "b1", "w2", "b2")}, int(saved["step"])


def _average(folder: Path, rank: int, world: int, weights: Weights, step: int) -> Weights:
    """Keep a checkpoint, and take the mean of all ranks' newest ones: nobody waits for a rank that is gone."""
    path = folder / f"weights-{rank}.npz"
    with (folder / f"weights-{rank}.tmp").open("wb") as file:
        np.savez(file, step=step, w1=weights["w1"], b1=weights["b1"], w2=weights["w2"], b2=weights["b2"])
    Path(file.name).replace(path)
    others = [_restore(folder, other)[0] for other in range(world) if other != rank]
    return {name: np.mean([weights[name], *(other[name] for other in others)], axis=0) for name in weights}


if __name__ == "__main__":
    main(Config(**json.loads(Path(sys.argv[1]).read_text())))
