"""Which run a project last had in this home: what `resume=True` continues.

    HOME/runs/last-PROJECT      the run of a project that last trained here; replaced whole by each start
    HOME/runs/run-PROJECT-ID    every run that trained here: a name that was given once stays the run's
    HOME/runs/launch-DIGEST     of a launch that resumes: the run that its first process found; never changed

Ranks of one launch start at different moments, and so do its restarts, while other launches come and go: the first
one settles what all of them continue. Each file is JSON, {"run_id", "name"}; PROJECT is a digest. Nothing here is
needed to log: what can't be read is as good as absent, what can't be written is left.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runwire._context.identity import digest, is_run_id

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Remembered:
    """A run's id and name."""

    run_id: str
    name: str


class Memory:
    """The runs that a home remembers."""

    def __init__(self, folder: Path) -> None:
        """`folder` is HOME/runs; it is made by the first write."""
        self._folder = folder

    def last(self, project: str) -> Remembered | None:
        """The run that the project last had here."""
        return self._read(self._folder / f"last-{digest(project)}")

    def run(self, project: str, run_id: str) -> Remembered | None:
        """A run of the project that trained here."""
        return self._read(self._folder / f"run-{digest(project)}-{run_id}")

    def named(self, project: str, name: str) -> Remembered | None:
        """A run of the project that trained here under this name; of several the one that did so last."""
        paths = self._folder.glob(f"run-{digest(project)}-*")
        found = [(path.stat().st_mtime_ns, run) for path in paths if (run := self._read(path)) and run.name == name]
        return max(found, key=operator.itemgetter(0))[1] if found else None

    def remember(self, project: str, run: Remembered) -> None:
        """From now on that is the project's last run."""
        for name in (f"run-{digest(project)}-{run.run_id}", f"last-{digest(project)}"):
            with contextlib.suppress(OSError):
                self._write(run).replace(self._folder / name)

    def settle(self, project: str, launch: str, found: Remembered) -> Remembered:
        """What the launch continues: what its first process found."""
        path = self._folder / f"launch-{digest(project, launch)}"
        with contextlib.suppress(OSError):
            written = self._write(found)
            try:
                os.link(written, path)  # never over another's, and whole from the start
            finally:
                written.unlink()
        return self._read(path) or found

    def _write(self, run: Remembered) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f".{secrets.token_hex(8)}"
        path.write_text(json.dumps({"run_id": run.run_id, "name": run.name}), encoding="utf-8")
        return path

    @staticmethod
    def _read(path: Path) -> Remembered | None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            run = Remembered(str(found["run_id"]), str(found["name"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return run if is_run_id(run.run_id) else None
