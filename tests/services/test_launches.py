"""Real launchers: one launch is one run, whatever starts its processes and starts them again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.pipeline.tracked import TRAIN, TRAIN_DDP, Tracked, ended
from tests.services.launchers import MPI_ON_FEW_CORES
from tests.services.process import wait_until
from tests.services.slurm import Slurm

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

RANKS = 4
STEPS = 8  # fewer than make a checkpoint: launches at once share a folder
SHORT = [str(TRAIN), "--steps", str(STEPS)]

EMITTERS_BY_RUN = "SELECT list(rank ORDER BY rank) FROM emitters GROUP BY run_id"
LAUNCHERS = "SELECT DISTINCT launched_by FROM store.starts"
INCOMPLETE = "SELECT emitter_id FROM emitters WHERE missing + dead + lost <> 0 OR NOT complete"
CURVE = "SELECT step, ranks FROM curves WHERE metric = 'train/loss' ORDER BY step"
ZIGZAGS = """
    SELECT * FROM (
        SELECT rank, step, attempt, lag(attempt) OVER (PARTITION BY rank ORDER BY step) AS before
        FROM curves_by_rank WHERE metric = 'train/loss'
    ) WHERE before > attempt
"""


STRETCHES = """
    SELECT rank, attempt, min(step), max(step) + 1, count(*) FROM curves_by_rank
    WHERE metric = 'train/loss' GROUP BY rank, attempt ORDER BY rank, attempt
"""


def assert_one_curve(tracked: Tracked, *, ranks: int, steps: int, attempts: int) -> None:
    """Check that all is one run: each step of each rank once, of attempts in order, every receipt complete."""
    assert_one_run(tracked, attempts)
    assert tracked.query(CURVE) == [(step, ranks) for step in range(steps)]


def assert_resumed(tracked: Tracked, *, ranks: int, steps: int) -> None:
    """The same where no rank waits for another: one killed behind the checkpoint never logged what lies between."""
    assert_one_run(tracked, attempts=2)
    found = tracked.query(STRETCHES)
    assert all(end - start == count for _, _, start, end, count in found)
    before = {rank: (start, end) for rank, attempt, start, end, _ in found if attempt == 1}
    after = {rank: (start, end) for rank, attempt, start, end, _ in found if attempt == 2}
    _, checkpoint = before[0]
    assert 0 < checkpoint < steps
    assert after == dict.fromkeys(range(ranks), (checkpoint, steps))
    assert all(start == 0 and end <= checkpoint for start, end in before.values())


def assert_one_run(tracked: Tracked, attempts: int) -> None:
    """Check that all is one run, of attempts in order, every receipt complete."""
    assert tracked.query("SELECT count(*) FROM runs") == [(1,)]
    assert tracked.query("SELECT count(*) FROM attempts") == [(attempts,)]
    assert tracked.query(ZIGZAGS) == []
    assert tracked.query(INCOMPLETE) == []


@pytest.mark.parametrize("how", ["plainly", "behind a shell"])
def test_an_mpirun_is_a_run(mpirun: Path, tmp_path: Path, how: str) -> None:
    """Four ranks; two at once are two runs; a wrapper script between mpirun and the ranks changes nothing."""
    tracked = Tracked(tmp_path)
    rank: list[str | Path] = [sys.executable, *SHORT]
    if how == "behind a shell":
        rank = ["sh", "-c", '"$@"; exit $?', "sh", *rank]
    command = [mpirun, "-n", str(RANKS), *rank]
    ended(*(tracked.start(command, **MPI_ON_FEW_CORES) for _ in "12"))
    assert tracked.query(EMITTERS_BY_RUN) == [([0, 1, 2, 3],), ([0, 1, 2, 3],)]
    assert tracked.query(LAUNCHERS) == [("mpi",)]
    assert tracked.query(INCOMPLETE) == []


@pytest.mark.parametrize("plugin", ["none", "pmi2"])
def test_an_srun_is_a_run(slurm: Slurm, tmp_path: Path, plugin: str) -> None:
    """Four tasks on two nodes; two at once are two runs; MPI's variables beside SLURM's change nothing."""
    tracked = Tracked(tmp_path)
    command: list[str | Path] = ["srun", f"--mpi={plugin}", "-N", "2", "-n", str(RANKS), sys.executable, *SHORT]
    ended(*(tracked.start(command, **slurm.environment) for _ in "12"))
    assert tracked.query(EMITTERS_BY_RUN) == [([0, 1, 2, 3],), ([0, 1, 2, 3],)]
    assert tracked.query(LAUNCHERS) == [("slurm",)]
    assert tracked.query(INCOMPLETE) == []


IN_A_JOB = {
    "srun": "srun python",
    "torchrun": "torchrun --nproc-per-node 4",
    "mpirun": "mpirun.mpich -n 4 python",
}


@pytest.mark.parametrize("launcher", sorted(IN_A_JOB))
def test_a_requeued_job_is_the_same_run(slurm: Slurm, torch_bin: Path, tmp_path: Path, launcher: str) -> None:
    """`scontrol requeue` ends the job and starts its script anew: the run's next attempt, from the checkpoint on."""
    tracked = Tracked(tmp_path)
    script = tmp_path / "train.sbatch"
    script.write_text(f"#!/bin/sh\n{IN_A_JOB[launcher]} {TRAIN} --steps 30 --seconds-per-step 0.2\n")
    environment = {**tracked.environment, "PATH": f"{torch_bin}:{os.environ['PATH']}"}
    job = slurm.submit(script, environment, "-N2" if launcher == "srun" else "-N1", "-n4", "--requeue")
    wait_until((tmp_path / "checkpoint.npz").exists, timeout_seconds=120, what="a checkpoint")
    slurm.requeue(job)
    slurm.wait(job)
    assert_resumed(tracked, ranks=RANKS, steps=30)


def test_each_task_of_an_array_is_a_run(slurm: Slurm, tmp_path: Path) -> None:
    """Same script, same command, another job id."""
    tracked = Tracked(tmp_path)
    script = tmp_path / "train.sbatch"
    script.write_text(f"#!/bin/sh\nsrun {sys.executable} {TRAIN} --steps {STEPS}\n")
    slurm.wait(slurm.submit(script, tracked.environment, "-n2", "--array=0-1"))
    assert tracked.query(EMITTERS_BY_RUN) == [([0, 1],), ([0, 1],)]


# torch 2.15 keeps its store over a restart, and gloo finds the addresses of the dead in it.
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}


def test_a_rank_that_torchrun_starts_again_leaves_one_curve(torch_bin: Path, tmp_path: Path) -> None:
    """SIGKILL one of four: torchrun starts all four again, the run's second attempt goes on from the checkpoint."""
    tracked = Tracked(tmp_path)
    steps = 600
    command: list[str | Path] = [torch_bin / "torchrun", "--nproc-per-node", str(RANKS), "--max-restarts", "1"]
    launch = tracked.start([*command, TRAIN_DDP, "--steps", str(steps)], **RESTARTABLE)
    try:
        wait_until((tmp_path / "checkpoint.npz").exists, timeout_seconds=120, what="a checkpoint")
        os.kill(rank_of(launch, 2), signal.SIGKILL)
    finally:
        ended(launch)
    assert_one_curve(tracked, ranks=RANKS, steps=steps, attempts=2)
    crashed = tracked.query("SELECT rank FROM emitters WHERE how = 'crashed' AND rank = 2 AND attempt = 1")
    assert crashed == [(2,)]


def rank_of(launch: subprocess.Popen[str], rank: int) -> int:
    """The process id of a rank."""
    for process in psutil.Process(launch.pid).children():
        if process.environ().get("RANK") == str(rank):
            return process.pid
    raise AssertionError(f"no rank {rank}")


SPAWN = """
import os, torch.distributed, torch.multiprocessing, runwire
def rank(rank, port):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    with runwire.init(project="spawned") as run:
        run.log({"rank": rank}, step=0)
if __name__ == "__main__":
    from tests.services.process import free_ports
    torch.multiprocessing.spawn(rank, free_ports(1), nprocs=2)
"""


def test_spawned_ranks_need_an_id_and_say_so(torch_bin: Path, tmp_path: Path) -> None:
    """torch.multiprocessing tells its children nothing: no four runs, and no rank 0 four times."""
    tracked = Tracked(tmp_path)
    (tmp_path / "spawn.py").write_text(SPAWN)
    command: list[str | Path] = [torch_bin / "python", "spawn.py"]
    refused, _ = tracked.start(command).communicate(timeout=120)
    assert re.search("SettingsError: RUNWIRE_RUN_ID: nothing makes these 2 ranks one run and tells the next", refused)
    ended(tracked.start(command, RUNWIRE_RUN_ID="spawned-1"))
    assert tracked.query(EMITTERS_BY_RUN) == [([0, 1],)]
    assert tracked.query(INCOMPLETE) == []
