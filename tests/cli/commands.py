"""Commands as tests give them: in a process of their own, or in this one where the process isn't the point.

A process costs a second of imports; what it prints and how it exits is the same (test_entry.py compares).
"""

from __future__ import annotations

import functools
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from runwire_cli.entry import run

RUNWIRE = [sys.executable, "-m", "runwire_cli"]
TRAIN = """
import sys, time
import runwire
from runwire import _start
_start.FINISH_TIMEOUT_SECONDS = 50  # nobody sends what a busy machine leaves
with runwire.init(project="digits", name=sys.argv[1], params={"lr": 0.1}) as run:
    run.define("val/acc", best="max")
    for step in range(100):
        run.log({"train/loss": 1.0 / (step + 1)}, step=step)
    run.log({"val/acc": 0.9}, step=99)
    if len(sys.argv) > 2:
        print("logged", flush=True)
        time.sleep(60)
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Exit code and what was printed."""

    returncode: int
    stdout: str
    stderr: str


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment without Runwire's own variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
    return {**inherited, "RUNWIRE_HOME": str(home), "RUNWIRE_AUTO_METRICS": "off", "COLUMNS": "200"}


def call(command: list[str], home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [*command, *arguments],
        env=clean_environment(home), cwd=home.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def ask(home: Path, *arguments: str, token: str = "") -> Answer:
    """A command in this process, with a RUNWIRE_TOKEN where one is given."""
    printed, said = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    log = logging.getLogger("runwire")
    level = log.level
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RUNWIRE_")]:
            patch.delenv(name)
        for name, value in {**clean_environment(home), "RUNWIRE_TOKEN": token}.items():
            patch.setenv(name, value)
        patch.chdir(home.parent)
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "stderr", said)
        code = run(arguments)
    log.setLevel(level)  # `up` sets its own
    return Answer(code, *(stream.buffer.getvalue().decode() for stream in (printed, said)))


def train(home: Path, name: str, url: str = "", mode: str = "") -> None:
    """A short training in a process, logged into the home's topic folder where no URL says otherwise."""
    subprocess.run(
        [sys.executable, "-c", TRAIN, name],
        env={**clean_environment(home), "RUNWIRE_URL": url, "RUNWIRE_MODE": mode},
        cwd=home.parent, check=True, timeout=60, capture_output=True,
    )  # fmt: skip


def have_trained(home: Path, name: str) -> None:
    """What `train` leaves in a home's topic folder."""
    topic = home / "topic"
    topic.mkdir(parents=True, exist_ok=True)
    draft = topic / ".draft"
    draft.write_bytes(_trained(name))
    draft.rename(topic / f"{name}.avro")


@functools.cache
def _trained(name: str) -> bytes:
    """The topic file of a training, which takes place once."""
    folder = Path(tempfile.mkdtemp(prefix="runwire-trained-"))
    try:
        train(folder / "home", name)
        (file,) = (folder / "home" / "topic").glob("*.avro")
        return file.read_bytes()
    finally:
        shutil.rmtree(folder)
