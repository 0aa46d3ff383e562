"""SLURM: the steps of srun, batch scripts and what they start; requeues.

What names the job is the job's id and the step's number; a requeued job has both again. Ranks that something
else started inside a job (torchrun, mpirun) have the command as well: the same command in the same job is the
same run started again. A task of an array has a job id of its own; all components of a heterogeneous job have
their leader's. An interactive shell names no job: what is typed there twice is two runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runwire._context.launch import Launch, number, place, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runwire._context.launch import Process

_NODES_MAX = 100_000
_INTERACTIVE_STEP, _BATCH_STEP = "4294967290", "4294967291"
_SHELLS = frozenset({"interactive", "bash", "sh", "zsh", "fish", "tcsh"})
_RANK_ARGUMENTS = frozenset({"--local-rank", "--node-rank", "--rank"})


def read_slurm(process: Process) -> Launch | None:
    """A task of a step, or the batch script's own process."""
    environ = process.environ
    step = step_of(environ)
    # Tasks of a step may have a command each; in a script the command and the devices tell programs apart.
    job = job_of(environ, step, () if step else command_and_devices(process))
    if job is None:
        return None
    launch = Launch(launcher="slurm", job=job, restart_count=requeues(environ))
    # SLURM_NTASKS of a batch script is what its steps may use.
    task = place(environ, ("SLURM_PROCID", _tasks_name(environ), "SLURM_LOCALID", "")) if step else None
    if task is None:
        return launch
    node = number(environ, "SLURM_NODEID") or 0
    notation = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    per_node = _tasks_per_node(notation)
    return replace(
        launch,
        rank=task.rank,
        world_size=task.world_size,
        local_rank=task.local_rank,
        local_world_size=per_node[node] if node < len(per_node) else 1,
    )


def started_by_srun(environ: Mapping[str, str], launch: Launch) -> bool:
    """Whether a rank is just a task of a step: `srun --mpi=pmi2` sets MPI's variables too."""
    task = place(environ, ("SLURM_PROCID", _tasks_name(environ), "", "")) if step_of(environ) else None
    return task is not None and (task.rank, task.world_size) == (launch.rank, launch.world_size)


def step_of(environ: Mapping[str, str]) -> str:
    """The number of the step that this process belongs to; empty outside of steps started by srun."""
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID") or ""
    return "" if step in {_INTERACTIVE_STEP, _BATCH_STEP} else step


def tasks_of_step(environ: Mapping[str, str]) -> int:
    """How many tasks the step has, at least 1."""
    return number(environ, _tasks_name(environ)) or 1


def job_of(environ: Mapping[str, str], step: str, command: Sequence[str]) -> str | None:
    """What names a launch inside of a job; None outside and where a person types."""
    job = environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID")
    if not job or _is_interactive(environ):
        return None
    name = f"slurm:{environ.get('SLURM_CLUSTER_NAME', '')}:{job}.{step or 'batch'}"
    return f"{name}:{_digest(_without_ranks(command))}" if command else name


def command_and_devices(process: Process) -> tuple[str, ...]:
    """What tells two programs of one batch script apart, where all ranks of each see the same devices."""
    devices = process.environ.get("CUDA_VISIBLE_DEVICES")
    return (*process.command, devices) if devices else (*process.command,)


def requeues(environ: Mapping[str, str]) -> int:
    """How often the job was requeued."""
    return number(environ, "SLURM_RESTART_COUNT") or 0


def _tasks_name(environ: Mapping[str, str]) -> str:
    return "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"


def _without_ranks(command: Sequence[str]) -> list[str]:
    """The command as all ranks have it: some launchers put the rank among its arguments."""
    kept: list[str] = []
    skip = False
    for part in command:
        flag, equals, _ = part.replace("_", "-").partition("=")
        is_rank = flag in _RANK_ARGUMENTS
        if not skip and not is_rank:
            kept.append(part)
        skip = is_rank and not equals
    return kept


def _is_interactive(environ: Mapping[str, str]) -> bool:
    """Whether a person types here: salloc's shell, `srun --pty bash`."""
    if environ.get("SLURM_STEP_ID") == _INTERACTIVE_STEP:
        return True
    if step_of(environ):
        return "SLURM_PTY_PORT" in environ and tasks_of_step(environ) == 1
    in_script = "SLURM_PROCID" in environ or environ.get("ENVIRONMENT") == "BATCH"
    return not in_script or environ.get("SLURM_JOB_NAME") in _SHELLS


def _tasks_per_node(text: str) -> list[int]:
    """Numbers of tasks from SLURM's notation: `4(x2),3` is 4, 4, 3; empty for what is no such thing."""
    counts: list[int] = []
    for part in text.split(","):
        tasks, _, times = part.rstrip(")").partition("(x")
        each, nodes = whole(tasks), whole(times or "1")
        if each is None or nodes is None:
            return []
        counts += [each] * min(nodes, _NODES_MAX)
    return counts


def _digest(parts: Sequence[str]) -> str:
    # Imported here: needed inside SLURM jobs alone, and `import runwire` stays light.
    import hashlib  # noqa: PLC0415

    lengths = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(lengths.encode("utf-8", "backslashreplace")).hexdigest()[:12]
