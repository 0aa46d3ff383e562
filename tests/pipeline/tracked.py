"""Real launches that track into one folder, and SQL on all that arrived from them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from runwire._recovery import sync
from runwire_consumer.service import Service
from runwire_consumer.sources.directory import DirectorySource
from runwire_consumer.store import Store
from tests.services.process import REPOSITORY

EXAMPLES = REPOSITORY / "docs" / "guides" / "examples"
TRAIN = EXAMPLES / "train.py"
TRAIN_DDP = EXAMPLES / "train_ddp.py"

_LAUNCHERS = ("RUNWIRE_", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")


class Tracked:
    """A home, a topic folder and a folder to run in.

    Args:
        folder: Gets all three.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._home = folder / "home"
        self._topic = folder / "topic"

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that tracks here, with this tree's Python in front and no launcher's variable."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RUNWIRE_HOME": str(self._home),
            "RUNWIRE_URL": f"dir:{self._topic}",
            "RUNWIRE_AUTO_METRICS": "off",
        }

    def start(self, command: list[str | Path], **variables: str) -> subprocess.Popen[str]:
        """Start a program; its output is kept until `ended`."""
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query, after what the dead left was sent and all of it was consumed."""
        sync(self._home / "journal", None, lambda _: None)
        path = self.folder / "runwire.duckdb"
        source = DirectorySource(self._topic, f"dir:{self._topic}")
        asyncio.run(Service(Store.open(path), [source]).run_once())
        store = Store.open(path)
        try:
            return store.cursor().execute(sql).fetchall()
        finally:
            store.close()


def ended(*programs: subprocess.Popen[str], timeout_seconds: float = 100.0) -> list[str]:
    """What programs printed until their end, which must be a good one."""
    outputs: list[str] = []
    try:
        for program in programs:
            output, _ = program.communicate(timeout=timeout_seconds)
            assert program.returncode == 0, output
            outputs.append(output)
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    return outputs
