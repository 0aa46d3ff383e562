"""Fixtures of real launchers: SLURM, the two MPIs, and torchrun in an environment of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.environments import EnvironmentMissing, install
from tests.services.process import CACHE, REPOSITORY, ServiceMissing
from tests.services.slurm import Slurm
from tests.tiers import require_service

MPIRUNS = {"openmpi": "openmpi-bin", "mpich": "mpich"}
"""Debian's packages; `mpirun` alone is the one that came last."""


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A cluster of two nodes."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        try:
            cluster = Slurm(Path(folder))
        except ServiceMissing as missing:
            require_service(missing.name, False, missing.how_to_get)
            raise
        yield cluster
        cluster.close()


@pytest.fixture(scope="session")
def torch_bin() -> Path:
    """The folder with python and torchrun: torch for CPUs and this tree; 4 GB, made in half a minute, then kept."""
    try:
        return install(CACHE / "torch", REPOSITORY / "requirements" / "torch.txt", sources=True).parent
    except EnvironmentMissing as error:
        require_service("torch", False, f"a network that pip can install from ({error})")
        raise


@pytest.fixture(params=sorted(MPIRUNS))
def mpirun(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One MPI's mpirun under this name, in a folder of its own."""
    name: str = request.param
    found = shutil.which(f"mpirun.{name}")
    require_service(f"mpirun of {name}", found is not None, f"apt-get install {MPIRUNS[name]}")
    script = tmp_path / "bin" / "mpirun"  # no link: MPICH looks beside it for its other programs
    script.parent.mkdir()
    # Of two at once, Open MPI's one removes the folder of their user when the other has just found it or made it.
    # The names are short: names of sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="mpi-", ignore_cleanup_errors=True) as temporary:
        script.write_text(f'#!/bin/sh\nTMPDIR=$(mktemp -d {temporary}/XXXX) exec {found} "$@"\n')
        script.chmod(0o755)
        yield script


MPI_ON_FEW_CORES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}
"""What Open MPI needs to start four ranks as root of a small machine."""
