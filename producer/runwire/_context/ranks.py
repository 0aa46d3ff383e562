"""How this process was launched: rank, world and the launcher's job.

Where launchers are nested the innermost one counts: torchrun, Ray Train and deepspeed, then variables that a
script set, then MPI, then SLURM. Variables that only repeat what MPI or SLURM says of a rank are theirs.

What names the job must be the same for all its ranks and restarts, and another for each launch. Each launcher's
module says what that is. Where there is no such thing nothing is guessed: `Launch.problem` says what to set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runwire._context.launch import Launch, named, number
from runwire._context.mpi import read_mpi
from runwire._context.slurm import read_slurm
from runwire._context.torch_launchers import read_by_hand, read_deepspeed, read_ray, read_torchrun

if TYPE_CHECKING:
    from runwire._context.launch import Process


def detect(process: Process, *, united: bool = False) -> Launch:
    """Read the launch; never raises.

    Args:
        process: What tells of it.
        united: Whether the user named the run: then processes that nothing else unites are its ranks.
    """
    launch = read_torchrun(process) or read_ray(process) or read_deepspeed(process)
    if launch is None:
        outer = read_mpi(process) or read_slurm(process)
        inner = read_by_hand(process)
        same = outer and inner and (outer.rank, outer.world_size) == (inner.rank, inner.world_size)
        launch = (outer if same else inner or outer) or _kubernetes(process, united=united) or Launch()
    return _with_group(launch, process)


def _kubernetes(process: Process, *, united: bool) -> Launch | None:
    """A pod of an indexed Job: its own work, or a rank; no variable tells which, nor names the Job."""
    index = number(process.environ, "JOB_COMPLETION_INDEX")
    if index is None:
        return None
    launch = Launch(launcher="kubernetes")
    world = number(process.environ, "WORLD_SIZE") or 0
    if index < world:
        launch = replace(launch, rank=index, world_size=world)
        return named(launch, None, "RUNWIRE_RUN_ID (from a label of the pod, through the downward API)")
    if united:
        # How many there are nobody says; the highest rank's word counts.
        return replace(launch, rank=index, world_size=index + 1)
    return replace(
        launch,
        notice=f"Pod {index} of an indexed Job is a run of its own. To make the pods one run, set RUNWIRE_RUN_ID "
        "from a label of the pod, through the downward API.",
    )


def _with_group(launch: Launch, process: Process) -> Launch:
    """The launch with ranks that only torch knows of: torch.multiprocessing tells its children nothing."""
    group = process.group()
    if group is None or group[1] <= launch.world_size:
        return launch
    rank, size = group
    local_rank = number(process.environ, "LOCAL_RANK")
    launch = replace(
        launch,
        launcher="torch" if launch.launcher == "process" else launch.launcher,
        rank=rank,
        world_size=size,
        local_rank=rank if local_rank is None else local_rank,
    )
    return launch if launch.job else named(launch, None, "RUNWIRE_RUN_ID")
