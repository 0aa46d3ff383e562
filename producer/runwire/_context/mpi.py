"""MPI: the ranks of mpirun and mpiexec, of Open MPI, MPICH, Intel MPI, MVAPICH2 and Cray PALS.

What names one mpirun is a random number that it gives to all its ranks; MPICH and Open MPI 5 have none, and on one
node the process that started the ranks stands for it. Inside a SLURM job it is the job, so that a requeue meets
what it was before: with the step where mpiexec starts all its ranks in one (MPICH, Intel MPI), else with the
command, since Open MPI's mpirun starts the ranks of other nodes inside a step and those of its own node outside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runwire._context.launch import Launch, named, place
from runwire._context.slurm import job_of, requeues, started_by_srun, step_of

if TYPE_CHECKING:
    from runwire._context.launch import Process

# rank, world size, local rank, local world size
_PLACES = (
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
# Random, made by mpirun, the same on all nodes: Open MPI 4, Intel MPI, Cray PALS.
_INSTANCES = ("OMPI_MCA_orte_precondition_transports", "I_MPI_HYDRA_UUID", "PALS_APID")
# Programs that start the ranks of one node, and those of one launch alone.
_STARTERS = frozenset({"mpirun", "mpirun.openmpi", "orterun", "prterun", "prted", "hydra_pmi_proxy", "mpispawn"})


def read_mpi(process: Process) -> Launch | None:
    """A rank that mpirun started."""
    environ = process.environ
    # Of two rows that place this rank, the one that knows its node.
    possible = [names for names in _PLACES if place(environ, names)]
    names = max(possible, key=lambda names: names[3] in environ, default=None)
    found = place(environ, names) if names else None
    if names is None or found is None or started_by_srun(environ, found):
        return None
    launch = replace(found, launcher="mpi", restart_count=requeues(environ))
    step = step_of(environ) if names[0] == "PMI_RANK" else ""
    scheduled = job_of(environ, step, () if step else process.command)
    if scheduled:
        return replace(launch, job=scheduled)
    instance = next((environ[name] for name in _INSTANCES if environ.get(name)), None)
    if instance is None and launch.local_world_size == launch.world_size:
        instance = process.ancestor(_STARTERS)
    return named(launch, instance, "RUNWIRE_RUN_ID (Open MPI hands it on with `mpirun -x RUNWIRE_RUN_ID`)")
