"""Launchers that set torch's variables, RANK and WORLD_SIZE: torchrun, DeepSpeed, Ray Train, a user's own script.

| launcher                       | what names its job                                                            |
|--------------------------------|-------------------------------------------------------------------------------|
| torchrun, Accelerate           | `--rdzv-id`; without one on one node the folder it made for this launch's logs |
| the same inside a SLURM job    | the job, step and command; with the id where it is a word                     |
| deepspeed on one node          | the process that started the ranks                                            |
| deepspeed on several, Ray Train | nothing: a fixed port, the cluster's number of a driver that may train twice |
| variables set by hand          | the SLURM job around them, else nothing                                       |
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from runwire._context.launch import Launch, named, number, place
from runwire._context.slurm import command_and_devices, job_of, requeues, step_of, tasks_of_step

if TYPE_CHECKING:
    from runwire._context.launch import Process

RESTARTS_PER_REQUEUE = 1_000  # torchrun counts its restarts anew in each life of a requeued SLURM job

# rank, world size, local rank, local world size
_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_DEEPSPEED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")
# Lightning's own launcher sets no RANK; on its first node it is this.
_LIGHTNING = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_RANK", "")
_TORCH_STARTERS = frozenset({"torchrun", "torch.distributed.run", "torch.distributed.launch", "accelerate"})
_DEEPSPEED_STARTERS = frozenset({"deepspeed.launcher.launch"})
# `--rdzv-id $RANDOM` and `uuidgen` of a batch script, and what torchrun takes for itself on one node.
_NEW_IN_EACH_LIFE = re.compile(r"\d+|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def read_torchrun(process: Process) -> Launch | None:
    """A rank of torchrun, `torch.distributed.launch` or `accelerate launch`."""
    environ = process.environ
    given = environ.get("TORCHELASTIC_RUN_ID")
    found = place(environ, _TORCH)
    if not given or found is None:
        return None
    launch = replace(
        found,
        launcher="torchrun",
        restart_count=(number(environ, "TORCHELASTIC_RESTART_COUNT") or 0) + RESTARTS_PER_REQUEUE * requeues(environ),
        # A node that joins or leaves starts the ranks again; torchrun doesn't count that as a restart, but its port is
        # another one then, unless it keeps its store.
        life=environ.get("MASTER_PORT", ""),
    )
    nodes = number(environ, "GROUP_WORLD_SIZE") or 1
    scheduled = _torchrun_in_slurm(process, given, nodes)
    if scheduled:
        return replace(launch, job=scheduled)
    name = given if given != "none" else None
    if name is None and nodes == 1:
        name = _launch_folder(process) or process.ancestor(_TORCH_STARTERS)
    return named(launch, name, "--rdzv-id of torchrun or RUNWIRE_RUN_ID")


def _torchrun_in_slurm(process: Process, given: str, nodes: int) -> str | None:
    """The SLURM job's name for this launch: a requeue must find it again."""
    environ = process.environ
    if given != "none" and not _NEW_IN_EACH_LIFE.fullmatch(given):
        job = job_of(environ, "", ())
        return f"{job}:{given}" if job else None
    # A script may start each node's agent by an srun of its own: then the step names but a part of the launch.
    step = "" if nodes > 1 and tasks_of_step(environ) == 1 else step_of(environ)
    return job_of(environ, step, process.command if step or nodes > 1 else command_and_devices(process))


def _launch_folder(process: Process) -> str | None:
    """The folder that torchrun makes for the logs of one launch: no other launch on this machine has its name."""
    # FOLDER/attempt_N/LOCAL_RANK/error.json
    folder, *inside = process.environ.get("TORCHELASTIC_ERROR_FILE", "").rsplit("/", 3)
    machine = process.machine()
    return f"{machine}:{folder}" if machine and len(inside) == 3 else None  # noqa: PLR2004 - see above


def read_ray(process: Process) -> Launch | None:
    """A worker of Ray Train: a child of its node's daemon, which outlives every training."""
    environ = process.environ
    found = place(environ, _TORCH)
    if found is None or not ("RAY_JOB_ID" in environ or "RAY_RAYLET_PID" in environ):
        return None
    return named(
        replace(found, launcher="ray", life=environ.get("MASTER_PORT", "")),
        None,
        "`run_id=ray.train.get_context().get_experiment_name()` in the call of init, or RUNWIRE_RUN_ID,",
    )


def read_deepspeed(process: Process) -> Launch | None:
    """A rank of the `deepspeed` command; its MPI and SLURM runners are those launchers' ranks."""
    environ = process.environ
    found = place(environ, _DEEPSPEED)
    nodes = number(environ, "CROSS_SIZE")
    if found is None or nodes is None:
        return None
    launch = replace(found, launcher="deepspeed", restart_count=requeues(environ))
    scheduled = job_of(environ, step_of(environ), process.command)
    if scheduled:
        return replace(launch, job=scheduled)
    name = process.ancestor(_DEEPSPEED_STARTERS) if nodes == 1 else None
    return named(launch, name, "RUNWIRE_RUN_ID (deepspeed hands it on where a file .deepspeed_env holds it)")


def read_by_hand(process: Process) -> Launch | None:
    """Ranks that a script, an operator or torch.multiprocessing set: their parent may start others as well."""
    environ = process.environ
    found = place(environ, _TORCH if "LOCAL_WORLD_SIZE" in environ else _DEEPSPEED)
    if found is None and "RANK" not in environ and number(environ, "NODE_RANK") == 0:
        found = place(environ, _LIGHTNING)
    if found is None:
        return None
    launch = replace(found, launcher="torch", restart_count=requeues(environ))
    scheduled = job_of(environ, step_of(environ), process.command)
    return replace(launch, job=scheduled) if scheduled else named(launch, None, "RUNWIRE_RUN_ID")
