"""What is known about machine and packages: true here, and never an error elsewhere."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from runwire._context.host import ancestor_identity, host_name, machine_identity, read_host, user_name
from runwire._context.packages import PACKAGES_MAX, read_packages

if TYPE_CHECKING:
    from pathlib import Path


def test_the_host_is_this_one() -> None:
    """Name, system, Python, and what this process may use."""
    host = read_host({})
    assert host.name == os.uname().nodename
    assert os.uname().sysname in host.os
    assert host.python == ".".join(map(str, sys.version_info[:3]))
    assert 1 <= host.cpus <= (os.cpu_count() or 1)
    assert host.memory_bytes > 2**26


def test_the_scheduler_names_the_node() -> None:
    """Inside of containers the system's own name says nothing."""
    assert host_name({"SLURMD_NODENAME": "gpu-07"}) == "gpu-07"


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("0", 1), ("0,1", 2), ("-1", 0), ("GPU-3a, GPU-4b", 2)])
def test_only_visible_gpus_count(visible: str, count: int) -> None:
    """As many as CUDA_VISIBLE_DEVICES grants, whatever they are called."""
    assert len(read_host({"CUDA_VISIBLE_DEVICES": visible}).gpus) == count


def test_the_user_has_a_name_where_there_is_one() -> None:
    """The login name first, then the account's."""
    assert user_name({"LOGNAME": "ada", "USER": "eve"}) == "ada"
    assert user_name({"USER": "eve"}) == "eve"
    assert user_name({}) is None or user_name({})


ASK = "from runwire._context.host import ancestor_identity; print(ancestor_identity(frozenset({'starter'})))"


def test_ranks_name_what_started_them_also_through_a_shell(tmp_path: Path) -> None:
    """Process id and start time of the nearest ancestor of that name: alike for its ranks, another for each launch."""
    starter = tmp_path / "starter"
    starter.write_text(
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {ASK!r}])\n"
        f"subprocess.run(['sh', '-c', '\"$@\"; true', 'sh', sys.executable, '-c', {ASK!r}])\n"
    )
    names = [
        subprocess.run([sys.executable, starter], capture_output=True, text=True, check=True).stdout.split()
        for _ in "12"
    ]
    assert [len(set(launch)) for launch in names] == [1, 1]
    assert len(names[0]) == len(names[1]) == 2
    assert names[0][0] != names[1][0]
    assert names[0][0].startswith(f"{machine_identity()}/")
    assert ancestor_identity(frozenset({"starter"})) is None


def test_packages_are_those_installed() -> None:
    """The same names and versions as importlib.metadata gives, sorted."""
    packages = read_packages(sys.path)
    assert packages["pytest"] == importlib.metadata.version("pytest")
    assert packages["numpy"] == importlib.metadata.version("numpy")
    assert list(packages) == sorted(packages)


def test_packages_in_every_form_are_read(tmp_path: Path) -> None:
    """Wheels, eggs with and without a version in the name; broken ones and foreign files are left out."""
    early, late = tmp_path / "early", tmp_path / "late"
    early.mkdir()
    late.mkdir()
    (early / "Scikit_Learn-1.5.0.dist-info").mkdir()
    (early / "old-2.1-py3.11.egg-info").write_text("")
    (early / "develop.egg-info").mkdir()
    (early / "develop.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: develop\nVersion: 0.3\n")
    (early / "broken.dist-info").mkdir()
    (early / "module.py").write_text("")
    (late / "scikit_learn-1.4.0.dist-info").mkdir()
    folders = [str(tmp_path / "gone"), str(early), str(late)]
    assert read_packages(folders) == {"develop": "0.3", "old": "2.1", "scikit-learn": "1.5.0"}


def test_packages_are_bounded_and_fast(tmp_path: Path) -> None:
    """Two thousand are listed in a moment, and a thousand kept."""
    for number in range(2 * PACKAGES_MAX):
        (tmp_path / f"package{number:04}-1.0.dist-info").mkdir()
    begin = time.process_time()
    assert len(read_packages([str(tmp_path)])) == PACKAGES_MAX
    assert time.process_time() - begin < 1
