"""One virtual environment a tool, made from hash-pinned requirement files and kept in `.cache/bench/`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache" / "bench"
INSTALL_TIMEOUT_SECONDS = 600.0
_SOURCES = ("schemas", "producer", "consumer", "cli")


class EnvironmentMissing(Exception):
    """A tool's packages can't be installed here; the message is what the installer said last."""


def python_of(tool: str) -> Path:
    """Return the Python of a tool's environment, made or renewed first where need be.

    Raises:
        EnvironmentMissing: No network, or a package that doesn't install on this Python.
    """
    return install(CACHE / tool, _requirements(tool), sources=tool == "runwire")


def install(folder: Path, requirements: Path, *, sources: bool) -> Path:
    """Return the Python of an environment with just these packages, made or renewed first where need be.

    Args:
        folder: Where it lies.
        requirements: A hash-pinned file.
        sources: Whether it holds this tree as well, as an editable install does.

    Raises:
        EnvironmentMissing: As `python_of`.
    """
    wanted = f"{sys.version}\n{hashlib.sha256(requirements.read_bytes()).hexdigest()}\n"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        _install(folder, requirements)
        if sources:
            _add_sources(folder)
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def version_of(tool: str) -> str:
    """Return the version of a tool that its requirement file pins; "this tree" for Runwire."""
    if tool == "runwire":
        return "this tree"
    pins = (line.partition("==") for line in _requirements(tool).read_text().splitlines())
    return next((rest.split()[0] for name, _, rest in pins if name.lower() == tool.lower()), "unknown")


def _requirements(tool: str) -> Path:
    # Runwire is measured with what `pip install runwire` brings.
    if tool == "runwire":
        return REPOSITORY / "requirements" / "base.txt"
    return REPOSITORY / "bench" / "requirements" / f"{tool}.txt"


def _install(folder: Path, requirements: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    print(f"installing {requirements.relative_to(REPOSITORY)} into {folder.relative_to(REPOSITORY)}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    uv = _run(["tools/find-uv.sh"]).strip()
    _run([uv, "venv", "--quiet", "--no-python-downloads", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "sync", "--quiet", "--python", str(folder), "--require-hashes", str(requirements)])


def _add_sources(folder: Path) -> None:
    """Do what an editable install does: name the source roots in a .pth file."""
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "runwire-sources.pth").write_text("".join(f"{REPOSITORY / root}\n" for root in _SOURCES))


def _run(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentMissing(f"{Path(command[0]).name} took over {INSTALL_TIMEOUT_SECONDS:g} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EnvironmentMissing(" ".join(line.strip() for line in lines[-3:]))
    return done.stdout
