"""Launchers: which rank, world and job each environment means.

The environments were printed by real launchers (torchrun 2.15, Ray 2.60, Open MPI 4.1 and 5.0, MPICH 4.0 and 5.0,
Intel MPI 2021.18, SLURM 22.05), but for DeepSpeed, whose source says what it sets, and MVAPICH2, Cray PALS and
Kubernetes, which follow their documentation.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._context.launch import Launch, Process
from runwire._context.ranks import detect

COMMAND = ("/work", "train.py", "--lr", "0.1")
# What the command above is called inside of SLURM jobs, without and with two devices.
DIGEST, DIGEST_OF_GPUS = "7401dd8ddacc", "10e2c227bed4"
UUID = "2fc1f163-8f02-48d2-9c8c-8c6c138e48c0"

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "46429",
    "TORCHELASTIC_RUN_ID": "job7",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_MAX_RESTARTS": "3",
    "TORCHELASTIC_ERROR_FILE": "/scratch/torchelastic_z2wcv52f/job7_xn8wz2jj/attempt_2/1/error.json",
}
ONE_NODE = {
    **TORCHRUN,
    "WORLD_SIZE": "4",
    "RANK": "1",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_ERROR_FILE": "/scratch/torchelastic_xyu4/none_ufe0/attempt_2/1/error.json",
}
NONE = {"TORCHELASTIC_RUN_ID": "none"}
DEEPSPEED = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "2",
    "CROSS_RANK": "0",
    "CROSS_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
RAY = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "0",
    "MASTER_ADDR": "192.0.2.2",
    "MASTER_PORT": "42779",
    "RAY_JOB_ID": "01000000",
    "RAY_RAYLET_PID": "23829",
}
OPEN_MPI_4 = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_NODE_RANK": "0",
    "OMPI_MCA_ess_base_jobid": "680132609",
    "OMPI_MCA_orte_hnp_uri": "680132608.0;tcp://192.0.2.2:37257;tcp6://[fd00::2]:53413",
    "OMPI_MCA_orte_precondition_transports": "c35f30263d7ba9bb-6be6fbac072350bf",
    "PMIX_NAMESPACE": "680132609",
    "PMIX_RANK": "3",
    "PMIX_SERVER_URI2": "680132608.2;tcp4://127.0.0.1:33023",
}
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_VERSION": "5.0.11",
    "PMIX_NAMESPACE": "prterun-vm-15412@1",
    "PMIX_RANK": "1",
    "PMIX_SERVER_URI2": "prterun-vm-15412@0.0;tcp4://127.0.0.1:41521",
}
MPICH = {"PMI_FD": "8", "PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
INTEL_MPI = {
    "PMI_FD": "7",
    "PMI_RANK": "3",
    "PMI_SIZE": "4",
    "MPI_LOCALRANKID": "0",
    "MPI_LOCALNRANKS": "1",
    "I_MPI_HYDRA_UUID": "64470000-1688-e3be-2161-0600488b9a65",
}
MVAPICH2 = {
    "MV2_COMM_WORLD_RANK": "1",
    "MV2_COMM_WORLD_SIZE": "2",
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "2",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
PALS = {
    "PMI_RANK": "5",
    "PMI_SIZE": "8",
    "PMI_LOCAL_RANK": "1",
    "PMI_LOCAL_SIZE": "4",
    "PALS_APID": "c5d0b0b2-7a5e-4d1c-9d5a-1d6c5f0a4b11",
}
BATCH = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_CLUSTER_NAME": "tau",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "4(x2)",
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
AGENTS = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
ONE_AGENT = {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"}
SALLOC = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8"}
HETEROGENEOUS = {
    **STEP,
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_ID_HET_GROUP_0": "77",
    "SLURM_JOB_ID_HET_GROUP_1": "78",
    "SLURM_NTASKS_HET_GROUP_0": "2",
    "SLURM_NTASKS_HET_GROUP_1": "1",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
ARRAY = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
INDEXED = {"JOB_COMPLETION_INDEX": "2", "HOSTNAME": "train-2", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}

CASES = [
    ("nothing", {}, Launch()),
    # torchrun
    ("torchrun with an id", TORCHRUN, Launch("torchrun", "torchrun:job7", 2, 5, 8, 1, 4, "46429")),
    (
        "torchrun on one node takes a UUID for itself",
        {**ONE_NODE, "TORCHELASTIC_RUN_ID": UUID},
        Launch("torchrun", f"torchrun:{UUID}", 2, 1, 4, 1, 4, "29500"),
    ),
    (
        "torchrun without an id, one node; torch.distributed.launch; accelerate launch",
        ONE_NODE,
        Launch("torchrun", "torchrun:machine:/scratch/torchelastic_xyu4/none_ufe0", 2, 1, 4, 1, 4, "29500"),
    ),
    (
        "the same where it keeps no logs",
        {**ONE_NODE, "TORCHELASTIC_ERROR_FILE": ""},
        Launch("torchrun", "torchrun:ancestor", 2, 1, 4, 1, 4, "29500"),
    ),
    (
        "torchrun in a requeued slurm job, its id a word",
        {**AGENTS, **TORCHRUN, "SLURM_RESTART_COUNT": "1"},
        Launch("torchrun", "slurm:tau:77.batch:job7", 1_002, 5, 8, 1, 4, "46429"),
    ),
    (
        "srun torchrun --rdzv-id $RANDOM: another one after a requeue",
        {**AGENTS, **TORCHRUN, "TORCHELASTIC_RUN_ID": "17432"},
        Launch("torchrun", f"slurm:tau:77.3:{DIGEST}", 2, 5, 8, 1, 4, "46429"),
    ),
    (
        "an srun for each node's torchrun",
        {**ONE_AGENT, **TORCHRUN, **NONE},
        Launch("torchrun", f"slurm:tau:77.batch:{DIGEST}", 2, 5, 8, 1, 4, "46429"),
    ),
    (
        "torchrun in a batch script",
        {**BATCH, **ONE_NODE, "TORCHELASTIC_RUN_ID": UUID, "CUDA_VISIBLE_DEVICES": "0,1"},
        Launch("torchrun", f"slurm:tau:77.batch:{DIGEST_OF_GPUS}", 2, 1, 4, 1, 4, "29500"),
    ),
    (
        "torchrun in an interactive job",
        {**SALLOC, **ONE_NODE},
        Launch("torchrun", "torchrun:machine:/scratch/torchelastic_xyu4/none_ufe0", 2, 1, 4, 1, 4, "29500"),
    ),
    # DeepSpeed
    ("deepspeed, one node", DEEPSPEED, Launch("deepspeed", "deepspeed:ancestor", 0, 1, 2, 1, 2)),
    (
        "deepspeed in a batch script",
        {**BATCH, **DEEPSPEED, "SLURM_RESTART_COUNT": "1"},
        Launch("deepspeed", f"slurm:tau:77.batch:{DIGEST}", 1, 1, 2, 1, 2),
    ),
    (
        "deepspeed --launcher openmpi, after it set torch's variables",
        {**OPEN_MPI_4, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
        Launch("mpi", "mpi:c35f30263d7ba9bb-6be6fbac072350bf", 0, 3, 4, 0, 1),
    ),
    (
        "deepspeed --launcher mpich",
        {**MPICH, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"},
        Launch("mpi", "mpi:ancestor", 0, 1, 2, 1, 2),
    ),
    # MPI
    ("open mpi 4, several nodes", OPEN_MPI_4, Launch("mpi", "mpi:c35f30263d7ba9bb-6be6fbac072350bf", 0, 3, 4, 0, 1)),
    ("open mpi 5, one node", OPEN_MPI_5, Launch("mpi", "mpi:ancestor", 0, 1, 2, 1, 2)),
    ("mpich, one node", MPICH, Launch("mpi", "mpi:ancestor", 0, 1, 2, 1, 2)),
    (
        "intel mpi, several nodes",
        INTEL_MPI,
        Launch("mpi", "mpi:64470000-1688-e3be-2161-0600488b9a65", 0, 3, 4, 0, 1),
    ),
    ("mvapich2, one node", MVAPICH2, Launch("mpi", "mpi:ancestor", 0, 1, 2, 1, 2)),
    ("cray pals", PALS, Launch("mpi", "mpi:c5d0b0b2-7a5e-4d1c-9d5a-1d6c5f0a4b11", 0, 5, 8, 1, 4)),
    (
        "mpich in a slurm job: all its ranks are in a step of two proxies",
        {**AGENTS, **INTEL_MPI, "SLURM_RESTART_COUNT": "1"},
        Launch("mpi", "slurm:tau:77.3", 1, 3, 4, 0, 1),
    ),
    (
        "open mpi in a slurm job, on a node where a step started its ranks",
        {**AGENTS, **OPEN_MPI_4},
        Launch("mpi", f"slurm:tau:77.batch:{DIGEST}", 0, 3, 4, 0, 1),
    ),
    (
        "open mpi in a slurm job, on its own node",
        {**BATCH, **OPEN_MPI_4, "OMPI_COMM_WORLD_RANK": "0"},
        Launch("mpi", f"slurm:tau:77.batch:{DIGEST}", 0, 0, 4, 0, 1),
    ),
    ("torchrun before mpi", {**OPEN_MPI_4, **TORCHRUN}, Launch("torchrun", "torchrun:job7", 2, 5, 8, 1, 4, "46429")),
    # SLURM
    ("slurm step", STEP, Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3)),
    (
        "srun --mpi=pmi2",
        {**STEP, "PMI_FD": "11", "PMI_JOBID": "77.3", "PMI_RANK": "5", "PMI_SIZE": "7"},
        Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3),
    ),
    ("requeued slurm step", {**STEP, "SLURM_RESTART_COUNT": "2"}, Launch("slurm", "slurm:tau:77.3", 2, 5, 7, 1, 3)),
    (
        "a task of a job array",
        {**STEP, **ARRAY, "SLURM_JOB_ID": "79"},
        Launch("slurm", "slurm:tau:79.3", 0, 5, 7, 1, 3),
    ),
    ("a heterogeneous job's second component", HETEROGENEOUS, Launch("slurm", "slurm:tau:77.3", 0, 2, 3, 0, 1)),
    (
        "torch's variables made of slurm's",
        {**STEP, "RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "1", "MASTER_ADDR": "node0"},
        Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3),
    ),
    (
        "ranks that a task started",
        {**AGENTS, "RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"},
        Launch("torch", f"slurm:tau:77.3:{DIGEST}", 0, 6, 8, 2, 4),
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
        Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3),
    ),
    # what makes no sense
    ("a rank without a world", {"RANK": "0"}, Launch()),
    ("a rank of minus one", {"RANK": "-1", "WORLD_SIZE": "4"}, Launch()),
    ("a rank beyond its world", {"RANK": "4", "WORLD_SIZE": "4"}, Launch()),
    ("garbage", {"RANK": "one", "WORLD_SIZE": "\u0664"}, Launch()),
    ("numbers too large", {"RANK": "0", "WORLD_SIZE": "9" * 5000}, Launch()),
    (
        "garbage falls through to the next launcher",
        {**STEP, "RANK": "x", "WORLD_SIZE": ""},
        Launch("slurm", "slurm:tau:77.3", 0, 5, 7, 1, 3),
    ),
]


def process(environ: dict[str, str], *, group: tuple[int, int] | None = None) -> Process:
    """A process whose ancestors and machine have plain names."""
    return Process(environ, COMMAND, lambda: "machine", lambda _: "ancestor", lambda: group)


@pytest.mark.parametrize(("environ", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_launcher_is_read(environ: dict[str, str], expected: Launch) -> None:
    """One literal launch for each environment."""
    assert detect(process(environ)) == expected


ID_OF_ALL = "RUNWIRE_RUN_ID to a value that all ranks share and each launch has anew"
UNNAMED = [
    ("torchrun", {**TORCHRUN, **NONE}, (5, 8), f"set --rdzv-id of torchrun or {ID_OF_ALL}"),
    ("ray train", RAY, (1, 2), "set `run_id=ray.train.get_context().get_experiment_name()` in the call of init"),
    ("deepspeed", {**DEEPSPEED, "WORLD_SIZE": "4", "CROSS_SIZE": "2"}, (1, 4), "where a file .deepspeed_env holds it"),
    ("open mpi 5", {**OPEN_MPI_5, "OMPI_COMM_WORLD_SIZE": "4"}, (1, 4), "`mpirun -x RUNWIRE_RUN_ID`"),
    ("mpich", {**MPICH, "MPI_LOCALNRANKS": "1"}, (1, 2), "set RUNWIRE_RUN_ID"),
    (
        "two shells, each with a rank",
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"},
        (1, 2),
        f"nothing makes these 2 ranks one run and tells the next launch from it: set {ID_OF_ALL}",
    ),
    ("kubeflow's PyTorchJob", {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a-master-0"}, (0, 2), "RUNWIRE_RUN_ID"),
    (
        "kubeflow's TrainJob: torchrun by PET_ variables",
        {**TORCHRUN, **NONE, **INDEXED, "PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a-node-0-0.a"},
        (5, 8),
        "set --rdzv-id",
    ),
    ("an indexed Job that says its size", {**INDEXED, "WORLD_SIZE": "4"}, (2, 4), "from a label of the pod"),
    (
        "a child of Lightning's own launcher",
        {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        (1, 2),
        "set RUNWIRE_RUN_ID",
    ),
]


@pytest.mark.parametrize(
    ("environ", "rank_and_world", "says"), [case[1:] for case in UNNAMED], ids=[case[0] for case in UNNAMED]
)
def test_what_nothing_unites_says_what_to_set(
    environ: dict[str, str], rank_and_world: tuple[int, int], says: str
) -> None:
    """No job is guessed: two launches would share a run by accident. The ranks are known all the same."""
    launch = detect(process(environ))
    assert launch.job is None
    assert says in str(launch.problem)
    assert (launch.rank, launch.world_size) == rank_and_world


def test_pods_of_an_indexed_job_are_one_run_when_the_user_says_so() -> None:
    """Else each is its own, and says so: no variable tells a sweep from a training."""
    alone = detect(process(INDEXED))
    assert (alone.rank, alone.world_size, alone.problem) == (0, 1, None)
    assert str(alone.notice).startswith("Pod 2 of an indexed Job is a run of its own. To make the pods one run, set")
    assert detect(process(INDEXED), united=True) == Launch("kubernetes", None, 0, 2, 3)


def test_ranks_that_only_torch_knows() -> None:
    """torch.multiprocessing tells its children nothing: four of them are no four runs, nor one rank four times."""
    spawned = detect(process({}, group=(3, 4)))
    assert (spawned.launcher, spawned.rank, spawned.world_size, spawned.local_rank) == ("torch", 3, 4, 3)
    assert f"these 4 ranks one run and tells the next launch from it: set {ID_OF_ALL}" in str(spawned.problem)
    in_a_step = detect(process(ONE_AGENT, group=(3, 4)))
    assert (in_a_step.job, in_a_step.rank, in_a_step.world_size) == ("slurm:tau:77.3", 3, 4)
    assert detect(process(TORCHRUN, group=(5, 8))) == detect(process(TORCHRUN))


def test_the_batch_script_is_one_process_whatever_its_steps_may_use() -> None:
    """SLURM_NTASKS is no world size there; the job is told apart by its command and its devices."""
    launch = detect(process(BATCH))
    assert (launch.rank, launch.world_size, launch.launcher) == (0, 1, "slurm")
    assert str(launch.job).startswith("slurm:tau:77.batch:")
    requeued = detect(process({**BATCH, "SLURM_RESTART_COUNT": "1"}))
    assert (requeued.job, requeued.restart_count) == (launch.job, 1)
    assert detect(Process(BATCH, (*COMMAND, "--seed", "2"))).job != launch.job
    assert detect(process({**BATCH, "CUDA_VISIBLE_DEVICES": "1"})).job != launch.job
    assert detect(process({**BATCH, "SLURM_JOB_ID": "78"})).job != launch.job


def test_a_rank_among_the_arguments_splits_nothing() -> None:
    """torch.distributed.launch and deepspeed add --local_rank to each rank's command."""
    arguments: list[list[str]] = [["--local_rank=0"], ["--local-rank", "1"], ["--local_rank", "2"], []]
    jobs = {detect(Process({**BATCH, **DEEPSPEED}, (*COMMAND, *rank))).job for rank in arguments}
    assert len(jobs) == 1


def test_one_rank_needs_no_id() -> None:
    """A world of one is a run of its own where nothing names its launch."""
    for environ in ({"RANK": "0", "WORLD_SIZE": "1"}, {**RAY, "RANK": "0", "WORLD_SIZE": "1"}):
        launch = detect(process(environ))
        assert (launch.job, launch.problem) == (None, None)


NAMES = sorted(
    {
        *(name for _, environ, _ in CASES for name in environ),
        *(name for _, environ, _, _ in UNNAMED for name in environ),
        "SLURM_STEPID",
    }
)
odd = st.sampled_from(["", "none", "4(x2),3", "9" * 30, "\u0664", "-1"])
garbage = st.text("0129-x (),", max_size=12) | st.integers(-3, 10).map(str) | odd


@given(st.dictionaries(st.sampled_from(NAMES), garbage), st.none() | st.tuples(st.just(1), st.integers(2, 9)))
def test_no_environment_is_too_odd(environ: dict[str, str], group: tuple[int, int] | None) -> None:
    """Total, and what comes out makes sense."""
    launch = detect(process(environ, group=group))
    assert 0 <= launch.rank < launch.world_size
    assert launch.local_world_size >= 1
    assert launch.restart_count >= 0
    assert launch.job is None or launch.problem is None
