"""Fits a line; every rank has data of its own. It stands for any training: no line of it knows the launcher."""

import argparse
import time
from pathlib import Path

import numpy as np

import runwire

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--seconds-per-step", type=float, default=0.0)
parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.npz"))
options = parser.parse_args()

weights, first_step = np.zeros(2), 0
if options.checkpoint.exists():  # an earlier attempt of this run got so far
    with np.load(options.checkpoint) as saved:
        weights, first_step = saved["weights"], int(saved["step"]) + 1

resumed_from_step = first_step - 1 if first_step else None
with runwire.init(project="line", params={"lr": 0.1}, resumed_from_step=resumed_from_step) as run:
    random = np.random.default_rng(run.rank)
    for step in range(first_step, options.steps):
        x = np.stack([random.uniform(-1, 1, 64), np.ones(64)])
        error = weights @ x - (3 * x[0] + 1)
        weights = weights - 0.1 * (x @ error) / 64
        run.log({"train/loss": np.mean(error**2)}, step=step)
        time.sleep(options.seconds_per_step)
        if run.rank == 0 and step % 10 == 9:
            np.savez("new.npz", weights=weights, step=step)
            Path("new.npz").replace(options.checkpoint)
