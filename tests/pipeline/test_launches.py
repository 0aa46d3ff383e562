"""A launch of many processes is one run in SQL; the environment is torchrun's, the processes are real."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.pipeline.tracked import TRAIN, Tracked, ended
from tests.services.trainer import torchrun_environment

RANKS = 8
STEPS = 20


def test_eight_processes_of_a_launch_are_one_run(tmp_path: Path) -> None:
    """As torchrun starts them: one run, eight ranks, every step of each, one attempt, all receipts complete."""
    tracked = Tracked(tmp_path)
    command: list[str | Path] = [sys.executable, TRAIN, "--steps", str(STEPS)]
    ended(*(tracked.start(command, **torchrun_environment("job7", rank, RANKS)) for rank in range(RANKS)))

    assert tracked.query("SELECT project, state FROM runs") == [("line", "finished")]
    assert tracked.query("SELECT rank, attempt, complete, missing + dead + lost FROM emitters ORDER BY rank") == [
        (rank, 1, True, 0) for rank in range(RANKS)
    ]
    assert tracked.query("SELECT step, ranks, nonfinite FROM curves WHERE metric = 'train/loss' ORDER BY step") == [
        (step, RANKS, 0) for step in range(STEPS)
    ]
    by_rank = "SELECT rank, count(*), count(DISTINCT value) FROM curves_by_rank GROUP BY rank ORDER BY rank"
    assert tracked.query(by_rank) == [(rank, STEPS, STEPS) for rank in range(RANKS)]
