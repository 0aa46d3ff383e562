"""docs/guides/distributed.md is true: its files are those beside it, its commands and queries run as written."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.pipeline.tracked import EXAMPLES, Tracked, ended
from tests.services.launchers import MPI_ON_FEW_CORES
from tests.services.process import REPOSITORY
from tests.services.slurm import Slurm

PAGE = REPOSITORY / "docs" / "guides" / "distributed.md"
SHOWN = re.compile(r"<!-- file: (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)```\n", re.DOTALL)
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```\n", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)#]+)\)")

RANKS = "SELECT list(rank ORDER BY rank) FROM emitters GROUP BY run_id"


def commands(section: str) -> list[str]:
    """The shell blocks of a section, but for files that it shows."""
    text = SHOWN.sub("", PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0])
    return [match["text"] for match in BLOCK.finditer(text) if match["language"] == "sh"]


def queries() -> list[str]:
    """The page's SQL."""
    text = PAGE.read_text(encoding="utf-8")
    return [match["text"] for match in BLOCK.finditer(text) if match["language"] == "sql"]


@pytest.fixture
def tracked(tmp_path: Path) -> Tracked:
    """A folder with the examples in it."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    return Tracked(tmp_path)


def test_the_files_it_shows_are_those_beside_it() -> None:
    """Word for word, and none is left out."""
    shown = {match["name"]: match["text"] for match in SHOWN.finditer(PAGE.read_text(encoding="utf-8"))}
    files = {f"examples/{path.name}": path.read_text() for path in EXAMPLES.iterdir() if path.is_file()}
    assert shown == files


def test_its_links_lead_somewhere() -> None:
    """Inside of this repository."""
    targets = {match["target"] for match in LINK.finditer(PAGE.read_text(encoding="utf-8"))}
    assert {name for name in targets if not (PAGE.parent / name).exists()} == set()


def test_its_queries_run(tracked: Tracked) -> None:
    """On a run of one rank."""
    ended(tracked.start([sys.executable, "train.py", "--steps", "3"]))
    assert [len(tracked.query(query)) for query in queries()] == [1, 3, 3, 1]


@pytest.mark.long
def test_its_slurm_examples_run(slurm: Slurm, tracked: Tracked) -> None:
    """Each a run of four ranks."""
    blocks = commands("SLURM")
    assert len(blocks) == 2
    for block in blocks:
        environment = {**slurm.environment, "PATH": f"{tracked.environment['PATH']}:{slurm.environment['PATH']}"}
        ended(tracked.start(["sh", "-ec", block], **environment))
    assert tracked.query(RANKS) == [([0, 1, 2, 3],), ([0, 1, 2, 3],)]


@pytest.mark.long
def test_its_mpi_example_runs(mpirun: Path, tracked: Tracked) -> None:
    """With each MPI's mpirun: a run of four ranks."""
    (block,) = commands("MPI")
    path = f"{mpirun.parent}:{tracked.environment['PATH']}"
    ended(tracked.start(["sh", "-ec", block], **MPI_ON_FEW_CORES, PATH=path))
    assert tracked.query(RANKS) == [([0, 1, 2, 3],)]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_its_torchrun_example_runs(torch_bin: Path, tracked: Tracked) -> None:
    """A run of four ranks."""
    (block,) = commands("torchrun")
    path = f"{torch_bin}:{tracked.environment['PATH']}"
    ended(tracked.start(["sh", "-ec", block], PATH=path, OMP_NUM_THREADS="1"))
    assert tracked.query(RANKS) == [([0, 1, 2, 3],)]
