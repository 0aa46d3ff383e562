"""Setting up says in one line what it misses."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.repo.files import REPOSITORY

TOOLS = REPOSITORY / "tools"


@pytest.mark.parametrize("script", sorted(path.name for path in TOOLS.glob("*.sh")))
def test_scripts_are_executable_shell(script: str) -> None:
    """Make calls them by name."""
    assert os.access(TOOLS / script, os.X_OK)
    subprocess.run(["sh", "-n", TOOLS / script], check=True, timeout=10)


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_without_a_python_one_line_says_so(python: str) -> None:
    """No Python 3.11 or newer: one line on stderr, and a failure."""
    done = subprocess.run(
        [TOOLS / "find-python.sh"],
        env={"PATH": os.environ["PATH"], "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"runwire: needs Python 3.11 or newer, found none (tried {python}); name one:")


def test_the_wheel_holds_all_four_packages() -> None:
    """A `packages` entry that isn't there is left out silently by the build."""
    hatch = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    packages = hatch["wheel"]["packages"]
    assert [Path(package).name for package in packages] == [
        "runwire_schemas",
        "runwire",
        "runwire_consumer",
        "runwire_cli",
    ]
    assert [package for package in packages if not (REPOSITORY / package / "__init__.py").is_file()] == []
    assert [package for package in packages if f"/{package}" not in hatch["sdist"]["include"]] == []
