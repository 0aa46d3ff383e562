"""The home: the folder on this machine with journal, topic folder, database and token.

It is RUNWIRE_HOME, else the nearest `.runwire` upward that can be written, else `.runwire` in the repository's
root, else `./.runwire`. What is made here is the user's own (mode 0700) and keeps itself out of version control.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from runwire._context.worktree import find_root
from runwire._errors import SettingsError

FOLDER_NAME = ".runwire"
_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Home:
    """Where things are inside a home; nothing is made before `create`.

    Attributes:
        path: The folder.
        source: What a user sets to choose another: the variable or the argument.
    """

    path: Path
    source: str = field(default="RUNWIRE_HOME", compare=False)

    @property
    def journal(self) -> Path:
        """Folder of journals, one of each emitter."""
        return self.path / "journal"

    @property
    def topic(self) -> Path:
        """Topic folder of the default destination."""
        return self.path / "topic"

    @property
    def artifacts(self) -> Path:
        """Folder of files that runs keep."""
        return self.path / "artifacts"

    @property
    def runs(self) -> Path:
        """Folder of what `resume=True` continues."""
        return self.path / "runs"

    @property
    def database(self) -> Path:
        """The consumer's DuckDB file."""
        return self.path / "runwire.duckdb"

    @property
    def snapshots(self) -> Path:
        """Folder of the database's backups."""
        return self.path / "snapshots"

    @property
    def sampling(self) -> Path:
        """Lock file of the processes that sample system metrics."""
        return self.path / "sampling.lock"

    @property
    def token(self) -> Path:
        """File with the local consumer's token."""
        return self.path / "token"

    def read_token(self) -> str | None:
        """The local consumer's token; None where there is none to read."""
        try:
            return self.token.read_text(encoding="utf-8").strip() or None
        except (OSError, ValueError):
            return None

    def create(self) -> Home:
        """Make the home with its journal and topic folders; any number of processes may do so at once.

        Raises:
            SettingsError: It can't be made or written; the sentence says why and what to set.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.journal, self.topic):
                folder.mkdir(mode=_MODE, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(0, "it may not be written", str(folder))
            _ignore(self.path / ".gitignore")
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(
                f"{self.source}: can't write to the folder {str(error.filename or self.path)!r} ({reason}): "
                f"set {self.source} to a folder on a local disk that you can write to."
            ) from error
        return self


def find_home(given: str | None, folder: Path, source: str = "RUNWIRE_HOME") -> Home:
    """The home that a process started in `folder` uses.

    Args:
        given: RUNWIRE_HOME or the keyword, which wins; `~` is the user's folder.
        folder: Absolute path of the current folder.
        source: Where `given` comes from, for errors.
    """
    if given:
        return Home(folder / Path(given).expanduser(), source)
    for parent in (folder, *folder.parents):
        candidate = parent / FOLDER_NAME
        if candidate.is_dir() and os.access(candidate, os.W_OK | os.X_OK):
            return Home(candidate)
    return Home((find_root(folder) or folder) / FOLDER_NAME)


@dataclass(frozen=True, slots=True)
class Running:
    """A consumer, by what it says of itself in its home.

    Attributes:
        address: http://HOST:PORT as a client of this machine reaches it; https:// where it has a certificate.
        certificate: That certificate as PEM.
    """

    address: str
    certificate: str | None = field(default=None, repr=False)


def running_in(home: Path) -> Running | None:
    """The consumer that runs in a home, as `server.json` there says; None where none does."""
    import json  # noqa: PLC0415 - readers only, not trainers

    try:
        found = json.loads((home / "server.json").read_text(encoding="utf-8"))
        host, port, certificate = str(found["host"]), int(found["port"]), found.get("certificate")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - as a client reaches it
    scheme = "https" if certificate else "http"
    return Running(
        f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", str(certificate) if certificate else None
    )


def _ignore(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("*\n")
    except FileExistsError:
        pass
