"""A real SLURM cluster of two nodes on this machine: controller, two node daemons and munge, as the user who tests."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from tests.services.process import ServiceMissing, ServiceProcess, free_ports, wait_until

if TYPE_CHECKING:
    from pathlib import Path

HOW_TO_GET = "apt-get install slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")
CPUS = 16  # claimed of each node: nothing waits for another to end
START_TIMEOUT_SECONDS = 90.0
JOB_TIMEOUT_SECONDS = 180.0  # more than the two minutes after which a requeued job begins by itself

# No control groups, no binding: it runs in a container.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={node0} CPUs={cpus} CoresPerSocket={cpus}
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs={cpus} CoresPerSocket={cpus}
PartitionName=all Nodes=node0,node1 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The cluster, up when made.

    Args:
        folder: Configuration, state and logs; a short path, it holds a socket.

    Raises:
        ServiceMissing: A program of it isn't installed.
        ServiceFailed: It doesn't come up; the message shows why.
    """

    def __init__(self, folder: Path) -> None:
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
        if missing:
            raise ServiceMissing("SLURM", HOW_TO_GET)
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self._programs: list[ServiceProcess] = []
        self._configure()
        try:
            key, sock = folder / "munge.key", folder / "munge.sock"
            files = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
            self._start("munged", "--foreground", "--force", f"--socket={sock}", f"--key-file={key}", *files)
            wait_until(sock.exists, timeout_seconds=START_TIMEOUT_SECONDS, what="munged listens")
            self._start("slurmctld", "-D")
            for node in ("node0", "node1"):
                self._start("slurmd", "-D", "-N", node)
            self._programs[-1].wait_ready(self._all_idle, timeout_seconds=START_TIMEOUT_SECONDS)
        except BaseException:
            self.close()
            raise

    def command(self, *command: str, may_fail: bool = False) -> str:
        """Run a client's command and return what it printed."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
        assert may_fail or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def submit(self, script: Path, environment: dict[str, str], *options: str) -> str:
        """`sbatch` a script in its folder; returns the job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *options, script.name],
            cwd=script.parent,
            env={**environment, **self.environment, "PATH": f"{environment['PATH']}:{self.environment['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def requeue(self, job: str) -> None:
        """End a job and have its script started anew, at once: by itself SLURM waits two minutes."""
        self.command("scontrol", "requeue", job)

        def started_again() -> bool:
            states = self._states(job)
            if states == {"PENDING"}:  # once may be too early: SLURM sets the time when the last task has ended
                # It may have begun since it was asked; it may be held, where its last life ended in the middle of this.
                self.command("scontrol", "update", f"JobId={job}", "StartTime=now", may_fail=True)
                self.command("scontrol", "release", job, may_fail=True)
            elif states and states <= {"FAILED", "CANCELLED", "NODE_FAIL"}:  # it ended before SLURM took it back
                self.command("scontrol", "requeue", job, may_fail=True)
            return bool(states) and states <= {"RUNNING", "COMPLETED"}

        try:
            wait_until(started_again, timeout_seconds=JOB_TIMEOUT_SECONDS, what=f"job {job} runs again")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.command('scontrol', 'show', 'job', job)}") from None

    def wait(self, job: str) -> None:
        """Return when a job, or each task of an array, has ended well."""
        wait_until(
            lambda: self._states(job) == {"COMPLETED"}, timeout_seconds=JOB_TIMEOUT_SECONDS, what=f"job {job} ended"
        )

    def _states(self, job: str) -> set[str]:
        return set(self.command("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").split())

    def close(self) -> None:
        """End its jobs and its daemons."""
        if len(self._programs) > 1 and self._programs[1].exit_code is None:
            self.command("scancel", f"--user={getpass.getuser()}")
            wait_until(
                lambda: not self.command("squeue", "--noheader"), timeout_seconds=START_TIMEOUT_SECONDS, what="no job"
            )
        for program in reversed(self._programs):
            program.stop()

    def _all_idle(self) -> bool:
        environment = {**os.environ, **self.environment}
        told = subprocess.run(
            ["sinfo", "-h", "-o", "%D %T"], env=environment, capture_output=True, text=True, check=False
        )
        return told.stdout.strip() == "2 idle"

    def _start(self, name: str, *arguments: str) -> None:
        # ServiceProcess finds the program on this process's PATH.
        program = shutil.which(name, path=self.environment["PATH"])
        assert program is not None
        log = self.folder / f"{name}-{len(self._programs)}.log"
        environment = {**os.environ, **self.environment}
        self._programs.append(ServiceProcess(name, [program, *arguments], log=log, environment=environment))

    def _configure(self) -> None:
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        controller, node0, node1 = free_ports(3)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            controller=controller,
            node0=node0,
            node1=node1,
            cpus=CPUS,
        )
        (self.folder / "slurm.conf").write_text(text)
