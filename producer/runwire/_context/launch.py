"""A launch and one process's place in it; every launcher's module reads it from a `Process`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_NUMBER_MAX = 2**31 - 1
_DIGITS_MAX = 10


@dataclass(frozen=True, slots=True)
class Launch:
    """One process's place in its launch.

    Attributes:
        launcher: torchrun, deepspeed, ray, mpi, slurm, kubernetes, torch (ranks that nothing known started), or
            process (no launcher).
        job: What all ranks and restarts of the launch share, and no other launch has; None where nothing names it.
        restart_count: How often the launch was restarted; grows with each restart.
        rank: 0 .. world_size - 1.
        world_size: Number of ranks.
        local_rank: Place among the ranks of this node.
        local_world_size: Number of ranks of this node.
        life: What else the launcher makes anew when it starts the ranks again: the port where they meet.
        problem: Why `job` is None although there are several ranks, and what to do.
        notice: What a user should know of a launch that may be meant otherwise.
    """

    launcher: str = "process"
    job: str | None = None
    restart_count: int = 0
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    life: str = ""
    problem: str | None = None
    notice: str | None = None


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Process:
    """What a process knows of its launch: its environment, and what the system and torch say.

    Attributes:
        environ: Environment variables.
        command: What is the same in each restart of one program and differs between programs: folder, argv.
        machine: Names this machine since it was booted (`host.machine_identity`).
        ancestor: Names the nearest ancestor that runs one of these programs so that it is never another's name
            (`host.ancestor_identity`).
        group: (rank, size) of torch's process group, where there is one (`process_group.process_group`).
    """

    environ: Mapping[str, str]
    command: Sequence[str] = ()
    machine: Callable[[], str | None] = _nothing
    ancestor: Callable[[frozenset[str]], str | None] = _nothing
    group: Callable[[], tuple[int, int] | None] = _nothing


def place(environ: Mapping[str, str], names: tuple[str, str, str, str]) -> Launch | None:
    """Rank and world from four variables: rank, world size, local rank, local world size.

    None where rank and world make no sense: such numbers are as good as absent.
    """
    rank, world, local_rank, local_world = (number(environ, name) for name in names)
    if rank is None or not world or rank >= world:
        return None
    if not local_world or local_world > world:
        local_world = 1
    return Launch(rank=rank, world_size=world, local_rank=local_rank or 0, local_world_size=local_world)


def number(environ: Mapping[str, str], name: str) -> int | None:
    """A variable's number from 0 to 2^31 - 1; None for anything else."""
    return whole(environ.get(name, "").strip())


def whole(text: str) -> int | None:
    """A number from 0 to 2^31 - 1 in decimal digits; None for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX):
        return None
    value = int(text)
    return value if value <= _NUMBER_MAX else None


def named(launch: Launch, name: str | None, remedy: str) -> Launch:
    """The launch with its job; where nothing names one and there are several ranks, with the problem.

    Args:
        launch: With its launcher.
        name: None where nothing tells two launches apart.
        remedy: What to set so that something does.
    """
    if name:
        return replace(launch, job=f"{launch.launcher}:{name}")
    if launch.world_size == 1:
        return launch
    return replace(
        launch,
        problem=f"nothing makes these {launch.world_size} ranks one run and tells the next launch from it: "
        f"set {remedy} to a value that all ranks share and each launch has anew",
    )
