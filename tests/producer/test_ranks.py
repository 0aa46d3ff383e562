"""Launchers: which rank, world and job each environment means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._context.ranks import Launch, detect

COMMAND = ("/work", "train.py", "--lr", "0.1")

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "job7",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
ONE_NODE = {
    **TORCHRUN,
    "WORLD_SIZE": "4",
    "RANK": "1",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "TORCHELASTIC_RUN_ID": "none",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "123",
    "OMPI_MCA_orte_hnp_uri": "123.0;tcp://10.0.0.1:4567",
    "PMIX_SERVER_URI2": "123.0;tcp4://127.0.0.1:999",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
BATCH = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_CLUSTER_NAME": "tau",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "ENVIRONMENT": "BATCH",
}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
}
SALLOC = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8"}

CASES = [
    ("nothing", {}, Launch()),
    (
        "torchrun with an id",
        TORCHRUN,
        Launch("torchrun", "torchrun:job7", 2, 5, 8, 1, 4, 1),
    ),
    (
        "torchrun without an id, one node",
        ONE_NODE,
        Launch("torchrun", "torchrun:agent", 2, 1, 4, 1, 4, 0),
    ),
    (
        "torch's variables set by hand, one node",
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"},
        Launch("torch", "torch:agent", 0, 1, 2),
    ),
    (
        "deepspeed",
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "MASTER_ADDR": "10.0.0.1"},
        Launch("torch", "torch:agent", 0, 1, 2, 1, 2),
    ),
    (
        "torchrun in a requeued slurm job",
        {**STEP, **TORCHRUN, "SLURM_RESTART_COUNT": "1"},
        Launch("torchrun", "torchrun:job7", 1_002, 5, 8, 1, 4, 1),
    ),
    (
        "open mpi, one node",
        OPEN_MPI,
        Launch("mpi", "mpi:123,123.0;tcp://10.0.0.1:4567,123.0;tcp4://127.0.0.1:999", 0, 3, 4, 3, 4),
    ),
    (
        "open mpi, several nodes",
        {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        Launch("mpi", "mpi:123,123.0;tcp://10.0.0.1:4567", 0, 3, 4, 1, 2),
    ),
    ("hydra, one node", HYDRA, Launch("mpi", "mpi:agent", 0, 1, 2, 1, 2)),
    ("torchrun before mpi", {**OPEN_MPI, **TORCHRUN}, Launch("torchrun", "torchrun:job7", 2, 5, 8, 1, 4, 1)),
    ("slurm step", STEP, Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3, 1)),
    (
        "requeued slurm step",
        {**STEP, "SLURM_RESTART_COUNT": "2"},
        Launch("slurm", "slurm:tau:77.3", 2, 5, 7, 1, 3, 1),
    ),
    ("salloc's shell on the login node", SALLOC, Launch()),
    ("salloc's shell on a node", {**BATCH, "SLURM_STEP_ID": "4294967290"}, Launch()),
    ("an interactive job by name", {**BATCH, "SLURM_JOB_NAME": "bash"}, Launch()),
    (
        "srun --pty bash",
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_PTY_PORT": "4"},
        Launch(),
    ),
    (
        "srun inside of salloc",
        {**STEP, "SLURM_JOB_NAME": "interactive"},
        Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3, 1),
    ),
    ("a rank without a world", {"RANK": "0"}, Launch()),
    ("a rank of minus one", {"RANK": "-1", "WORLD_SIZE": "4"}, Launch()),
    ("a rank beyond its world", {"RANK": "4", "WORLD_SIZE": "4"}, Launch()),
    ("garbage", {"RANK": "one", "WORLD_SIZE": "\u0664"}, Launch()),
    ("numbers too large", {"RANK": "0", "WORLD_SIZE": "9" * 5000}, Launch()),
    (
        "garbage falls through to the next launcher",
        {**STEP, "RANK": "x", "WORLD_SIZE": ""},
        Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3, 1),
    ),
]


@pytest.mark.parametrize(("environ", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_launcher_is_read(environ: dict[str, str], expected: Launch) -> None:
    """One literal launch for each environment."""
    assert detect(environ, agent=lambda: "agent", command=COMMAND) == expected


def test_the_batch_script_is_one_process_whatever_its_steps_may_use() -> None:
    """SLURM_NTASKS is no world size there; the job is told apart by its command and its devices."""
    launch = detect(BATCH, command=COMMAND)
    assert (launch.rank, launch.world_size, launch.launcher) == (0, 1, "slurm")
    assert str(launch.job).startswith("slurm:tau:77.batch:")
    requeued = detect({**BATCH, "SLURM_RESTART_COUNT": "1"}, command=COMMAND)
    assert (requeued.job, requeued.restart_count) == (launch.job, 1)
    assert detect(BATCH, command=(*COMMAND, "--seed", "2")).job != launch.job
    assert detect({**BATCH, "CUDA_VISIBLE_DEVICES": "1"}, command=COMMAND).job != launch.job
    assert detect({**BATCH, "SLURM_JOB_ID": "78"}, command=COMMAND).job != launch.job


def test_ranks_without_an_id_meet_through_their_slurm_job() -> None:
    """The "none" of torchrun and mpirun's own ids are new after a requeue; the job is not."""
    nodes = [{**TORCHRUN, "RANK": rank, "TORCHELASTIC_RUN_ID": "none"} for rank in "05"]
    for environ in nodes:
        assert detect({**STEP, **environ}).problem is None
    jobs = {
        detect({**STEP, **environ}, command=(*COMMAND, f"--local_rank={rank}")).job
        for rank, environ in enumerate(nodes)
    }
    assert len(jobs) == 1
    inside, outside = {**STEP, **OPEN_MPI}, {**BATCH, **OPEN_MPI}
    assert detect(inside, command=COMMAND).job == detect(outside, command=COMMAND).job


UNNAMED = [
    ("torchrun", {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, "--rdzv-id of torchrun or RUNWIRE_RUN_ID"),
    ("kubernetes", {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "pod-0"}, "set RUNWIRE_RUN_ID"),
    ("hydra", {**HYDRA, "MPI_LOCALNRANKS": "1"}, "set RUNWIRE_RUN_ID"),
]


@pytest.mark.parametrize(("environ", "says"), [case[1:] for case in UNNAMED], ids=[case[0] for case in UNNAMED])
def test_several_nodes_without_an_id_say_what_to_set(environ: dict[str, str], says: str) -> None:
    """No job is guessed: two launches would share a run by accident."""
    launch = detect(environ, agent=lambda: "agent")
    assert launch.job is None
    assert says in str(launch.problem)


def test_one_rank_needs_no_id() -> None:
    """A world of one is a run of its own where its agent can't be named."""
    launch = detect({"RANK": "0", "WORLD_SIZE": "1"})
    assert (launch.job, launch.problem) == (None, None)


NAMES = sorted({*TORCHRUN, *OPEN_MPI, *HYDRA, *STEP, "SLURM_RESTART_COUNT", "SLURM_PTY_PORT", "LOCAL_SIZE"})
garbage = st.text(max_size=12) | st.integers(-3, 10).map(str) | st.sampled_from(["", "none", "4(x2),3", "9" * 30])


@given(st.dictionaries(st.sampled_from(NAMES), garbage))
def test_no_environment_is_too_odd(environ: dict[str, str]) -> None:
    """Total, and what comes out makes sense."""
    launch = detect(environ, command=COMMAND)
    assert 0 <= launch.rank < launch.world_size
    assert launch.local_world_size >= 1
    assert launch.restart_count >= 0
    assert launch.job is None or launch.problem is None
