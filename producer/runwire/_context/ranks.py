"""How this process was launched: rank, world and the launcher's job, read from the environment.

Precedence where launchers are nested: torchrun, then MPI, then SLURM. Numbers that make no sense are as good
as absent. What names the job, so that all its ranks and restarts meet in one run:

1. an id that the user gave to the launcher (torchrun's `--rdzv-id`; its default "none" counts as absent);
2. a SLURM step with its tasks; inside a SLURM job, the command too: the same command in the same job is the
   same run started again, which is what a requeue is;
3. on one node, the agent that started the ranks (its process id and start time);
4. else nothing can tell two launches apart, and `problem` says what to set.

An interactive SLURM shell names no job: what is typed there twice is two runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESTARTS_PER_REQUEUE = 1_000  # torchrun counts its restarts anew in each life of a requeued SLURM job
_NUMBER_MAX = 2**31 - 1
_DIGITS_MAX = 10
_NODES_MAX = 100_000
_INTERACTIVE_STEP, _BATCH_STEP = "4294967290", "4294967291"
_SHELLS = frozenset({"interactive", "bash", "sh", "zsh", "fish", "tcsh"})

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

# rank, world size, local rank, local world size
_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_DEEPSPEED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")
_MPI = (
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# What names one mpirun to all its processes: made of its process id, so a port or address goes with it.
_MPI_INSTANCE = (
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "OMPI_MCA_orte_hnp_uri",
    "PMI_JOBID",
    "PALS_APID",
)
_MPI_INSTANCE_OF_NODE = ("PMIX_SERVER_URI41", "PMIX_SERVER_URI4", "PMIX_SERVER_URI3", "PMIX_SERVER_URI2")


@dataclass(frozen=True, slots=True)
class Launch:
    """One process's place in its launch.

    Attributes:
        launcher: torchrun, torch (its variables set by something else), mpi, slurm, or process (none known).
        job: What all ranks and restarts of the launch share; None where nothing names it.
        restart_count: How often the launch was restarted; grows with each restart.
        rank: 0 .. world_size - 1.
        world_size: Number of ranks.
        local_rank: Place among the ranks of this node.
        local_world_size: Number of ranks of this node.
        node_rank: Place of this node among the nodes.
        problem: Why `job` is None although there are several ranks, and what to set.
    """

    launcher: str = "process"
    job: str | None = None
    restart_count: int = 0
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0
    problem: str | None = None


def detect(
    environ: Mapping[str, str], *, agent: Callable[[], str | None] = lambda: None, command: Sequence[str] = ()
) -> Launch:
    """Read the launch; never raises.

    Args:
        environ: Environment variables.
        agent: Names the parent process so that it is never another's name (`host.parent_identity`).
        command: What is the same in each restart of one program and differs between programs: folder, argv.
    """
    return _torchrun(environ, agent, command) or _mpi(environ, agent, command) or _slurm(environ, command) or Launch()


def _torchrun(environ: Mapping[str, str], agent: Callable[[], str | None], command: Sequence[str]) -> Launch | None:
    place = _place(environ, _TORCH if "LOCAL_WORLD_SIZE" in environ else _DEEPSPEED)
    if place is None:
        return None
    restarts = _number(environ, "TORCHELASTIC_RESTART_COUNT") or 0
    given = environ.get("TORCHELASTIC_RUN_ID", "")
    launch = replace(
        place,
        launcher="torchrun" if given else "torch",
        node_rank=_number(environ, "GROUP_RANK") or 0,
        restart_count=restarts + RESTARTS_PER_REQUEUE * _requeues(environ),
    )
    if given and given != "none":
        return replace(launch, job=f"torchrun:{given}")
    scheduled = _slurm_job(environ, _slurm_step(environ), command)
    if scheduled:
        return replace(launch, job=scheduled)
    one_node = (_number(environ, "GROUP_WORLD_SIZE") or 1) == 1 and (
        launch.local_world_size == launch.world_size or environ.get("MASTER_ADDR") in _LOOPBACK
    )
    return _instance(launch, agent() if one_node else None)


def _mpi(environ: Mapping[str, str], agent: Callable[[], str | None], command: Sequence[str]) -> Launch | None:
    place = next((place for names in _MPI if (place := _place(environ, names))), None)
    if place is None:
        return None
    launch = replace(
        place,
        launcher="mpi",
        node_rank=_number(environ, "SLURM_NODEID") or 0,
        restart_count=_requeues(environ),
    )
    # Not the step: mpirun starts the ranks of other nodes inside a step, those of its own node outside.
    scheduled = _slurm_job(environ, "", command)
    if scheduled:
        return replace(launch, job=scheduled)
    one_node = launch.local_world_size == launch.world_size
    names = _MPI_INSTANCE + (_MPI_INSTANCE_OF_NODE if one_node else ())
    named = ",".join(environ[name] for name in names if environ.get(name))
    return _instance(launch, named or (agent() if one_node else None))


def _slurm(environ: Mapping[str, str], command: Sequence[str]) -> Launch | None:
    step = _slurm_step(environ)
    # Tasks of a step may have a command each; in a script the command and the devices tell programs apart.
    parts = () if step else (*command, environ.get("CUDA_VISIBLE_DEVICES", ""))
    job = _slurm_job(environ, step, parts)
    if job is None:
        return None
    launch = Launch(launcher="slurm", job=job, restart_count=_requeues(environ))
    if not step:
        return launch  # the batch script's own process: SLURM_NTASKS is what its steps may use
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    place = _place(environ, ("SLURM_PROCID", tasks, "SLURM_LOCALID", ""))
    if place is None:
        return launch
    node = _number(environ, "SLURM_NODEID") or 0
    notation = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    per_node = _tasks_per_node(notation)
    return replace(
        launch,
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        local_world_size=per_node[node] if node < len(per_node) else 1,
        node_rank=node,
    )


def _slurm_step(environ: Mapping[str, str]) -> str:
    """The number of the step that this process belongs to; empty outside of steps started by srun."""
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID") or ""
    return "" if step in {_INTERACTIVE_STEP, _BATCH_STEP} else step


def _slurm_job(environ: Mapping[str, str], step: str, command: Sequence[str]) -> str | None:
    job = environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID")
    if not job or _is_interactive(environ):
        return None
    name = f"slurm:{environ.get('SLURM_CLUSTER_NAME', '')}:{job}.{step or 'batch'}"
    return f"{name}:{_digest(_without_ranks(command))}" if command else name


def _without_ranks(command: Sequence[str]) -> list[str]:
    """The command as all ranks have it: some launchers put the rank among its arguments."""
    kept: list[str] = []
    skip = False
    for part in command:
        flag, equals, _ = part.replace("_", "-").partition("=")
        is_rank = flag in {"--local-rank", "--node-rank", "--rank"}
        if not skip and not is_rank:
            kept.append(part)
        skip = is_rank and not equals
    return kept


def _is_interactive(environ: Mapping[str, str]) -> bool:
    """Whether a person types here: salloc's shell, `srun --pty bash`."""
    if environ.get("SLURM_STEP_ID") == _INTERACTIVE_STEP:
        return True
    if _slurm_step(environ):
        tasks = _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS") or 1
        return "SLURM_PTY_PORT" in environ and tasks == 1
    in_script = "SLURM_PROCID" in environ or environ.get("ENVIRONMENT") == "BATCH"
    return not in_script or environ.get("SLURM_JOB_NAME") in _SHELLS


def _tasks_per_node(text: str) -> list[int]:
    """Numbers of tasks from SLURM's notation: `4(x2),3` is 4, 4, 3; empty for what is no such thing."""
    counts: list[int] = []
    for part in text.split(","):
        tasks, _, times = part.rstrip(")").partition("(x")
        if not tasks.isdecimal() or not (times or "1").isdecimal() or max(len(tasks), len(times)) > _DIGITS_MAX:
            return []
        counts += [int(tasks)] * min(int(times or "1"), _NODES_MAX)
    return counts


def _instance(launch: Launch, name: str | None) -> Launch:
    """The launch named by what started it, or told apart by nothing."""
    if name:
        return replace(launch, job=f"{launch.launcher}:{name}")
    if launch.world_size == 1:
        return launch
    remedy = "--rdzv-id of torchrun or RUNWIRE_RUN_ID" if launch.launcher == "torchrun" else "RUNWIRE_RUN_ID"
    return replace(
        launch,
        problem=f"{launch.world_size} ranks on several nodes share no id that makes them one run: "
        f"set {remedy} to a value that is the same on all nodes and new for each launch",
    )


def _place(environ: Mapping[str, str], names: tuple[str, str, str, str]) -> Launch | None:
    """Rank and world from four variables; None where they make no sense."""
    rank, world, local_rank, local_world = (_number(environ, name) for name in names)
    if rank is None or not world or rank >= world:
        return None
    if not local_world or local_world > world:
        local_world = 1
    return Launch(rank=rank, world_size=world, local_rank=local_rank or 0, local_world_size=local_world)


def _requeues(environ: Mapping[str, str]) -> int:
    return _number(environ, "SLURM_RESTART_COUNT") or 0


def _number(environ: Mapping[str, str], name: str) -> int | None:
    """A number from 0 to _NUMBER_MAX; None for anything else."""
    text = environ.get(name, "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX):
        return None
    number = int(text)
    return number if number <= _NUMBER_MAX else None


def _digest(parts: Sequence[str]) -> str:
    # Imported here: needed inside SLURM jobs alone, and `import runwire` stays light.
    import hashlib  # noqa: PLC0415

    lengths = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(lengths.encode("utf-8", "backslashreplace")).hexdigest()[:12]
