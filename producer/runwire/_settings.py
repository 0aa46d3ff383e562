"""Configuration, read once at the edge: keyword, else environment, else default.

    RUNWIRE_URL      where events go: kafka://HOST:PORT/TOPIC or dir:PATH (default: the home's topic folder)
    RUNWIRE_HOME     folder of journal, topic folder and database (default: see `_home.py`)
    RUNWIRE_RUN_ID   what this run is called by all its ranks and restarts
    RUNWIRE_PROJECT  project (default: the repository's or folder's name)
    RUNWIRE_NAME     name of the run (default: two words and a number)
    RUNWIRE_GROUP    group of runs
    RUNWIRE_TAGS     tags, separated by commas
    RUNWIRE_USER     who runs this (default: the login name)
    RUNWIRE_MODE     on, offline (journal only, to be sent later) or off (nothing is kept)
    RUNWIRE_FSYNC    what survives power loss: none, interval (200 ms) or each (default: none; see `_fsync.py`)
    RUNWIRE_JOURNAL_BYTES  size that each process's journal keeps to: a number of bytes, or 512MiB, 8GiB (default: 8GiB)

An empty variable is as good as absent. No other module of the producer looks into the process's environment:
those that read other programs' variables take `Settings.environ`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runwire._cap import JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN
from runwire._context.host import user_name
from runwire._context.identity import PROJECT_CHARACTERS_MAX, default_project
from runwire._context.worktree import find_root
from runwire._errors import SettingsError, UsageTypeError
from runwire._home import Home, find_home
from runwire._values import utf8
from runwire_schemas.errors import DestinationError
from runwire_schemas.topics import Destination, mask, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Mode = Literal["on", "offline", "off"]
Fsync = Literal["none", "interval", "each"]

FSYNCS: tuple[Fsync, ...] = ("none", "interval", "each")
MODES: tuple[Mode, ...] = ("on", "offline", "off")
NAME_CHARACTERS_MAX = 1_024
_SIZE = re.compile(r"(\d{1,18}) *(KiB|MiB|GiB|TiB|)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
TAGS_MAX = 100


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What a run is configured with; `repr` shows no secret."""

    destination: Destination
    home: Home
    project: str
    git_root: Path | None
    run_id: str | None = None
    name: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    mode: Mode = "on"
    fsync: Fsync = "none"
    journal_bytes_max: int = JOURNAL_BYTES_MAX
    environ: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Settings({mask(str(self.destination))}, home={str(self.home.path)!r}, project={self.project!r}, "
            f"run_id={self.run_id!r}, name={self.name!r}, mode={self.mode!r})"
        )


def read_settings(
    *,
    url: str | None = None,
    home: str | os.PathLike[str] | None = None,
    run_id: str | None = None,
    project: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] | None = None,
    user: str | None = None,
    mode: str | None = None,
    fsync: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from keywords, the environment and the current folder.

    Raises:
        UsageTypeError: A keyword of a wrong type; the sentence names it.
        SettingsError: A keyword or variable that can't be used; the sentence names it and what to do.
    """
    variables = dict(os.environ if environ is None else environ)
    here = folder or _current_folder()

    def choose(argument: str, keyword: object, characters_max: int = NAME_CHARACTERS_MAX) -> str | None:
        """The keyword, else the variable, else None."""
        if keyword is not None and not isinstance(keyword, str):
            raise UsageTypeError(argument, f"must be a string, not {type(keyword).__name__}")
        chosen = keyword or variables.get(f"RUNWIRE_{argument.upper()}") or None
        if chosen is not None and len(chosen) > characters_max:
            raise SettingsError(
                f"{_source(argument, keyword)} has {len(chosen):,} characters, at most {characters_max:,} are taken."
            )
        if chosen is not None and "\0" in chosen and argument in {"home", "url"}:
            raise SettingsError(f"{_source(argument, keyword)} holds a NUL character, which no folder's name can.")
        return utf8(chosen)  # type: ignore[no-any-return]

    given_home = choose("home", os.fspath(home) if isinstance(home, os.PathLike) else home)
    found = find_home(given_home, here or _in(given_home or ""), _source("home", home))
    git_root = None if here is None else find_root(here)
    chosen_mode = (choose("mode", mode) or "on").lower()
    if chosen_mode not in MODES:
        raise SettingsError(f"{_source('mode', mode)} must be one of {', '.join(MODES)}, not {chosen_mode!r}.")
    chosen_fsync = (choose("fsync", fsync) or "none").lower()
    if chosen_fsync not in FSYNCS:
        raise SettingsError(f"{_source('fsync', fsync)} must be one of {', '.join(FSYNCS)}, not {chosen_fsync!r}.")
    return Settings(
        destination=_destination(choose("url", url), _source("url", url), found, here),
        home=found,
        project=choose("project", project, PROJECT_CHARACTERS_MAX) or default_project(git_root, here or Path("/")),
        git_root=git_root,
        run_id=choose("run_id", run_id),
        name=choose("name", name),
        group=choose("group", group),
        tags=_tags(tags, variables),
        user=choose("user", user) or utf8(user_name(variables)),
        mode=chosen_mode,
        fsync=chosen_fsync,
        journal_bytes_max=_journal_bytes_max(choose("journal_bytes", None)),
        environ=variables,
    )


def _destination(url: str | None, source: str, home: Home, folder: Path | None) -> Destination:
    if url is None:
        return _written(Destination("dir", path=str(home.topic)), home.source)
    try:
        destination = parse_url(url)
    except DestinationError as error:
        raise SettingsError(f"{source}: {error}") from error
    if destination.kind == "dir":
        # Absolute, or a training that changes its folder would send elsewhere after a restart.
        path = (folder or _in(destination.path)) / Path(destination.path).expanduser()
        return _written(Destination("dir", path=str(path)), source)
    return destination


def _written(destination: Destination, source: str) -> Destination:
    """The destination, when the journal can keep its URL."""
    if utf8(destination.path) != destination.path:
        raise SettingsError(
            f"{source}: the folder {utf8(destination.path)!r} has a name that isn't UTF-8: set {source} to another."
        )
    return destination


def _tags(keyword: Sequence[str] | None, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Tags without repetition, in order."""
    if keyword is None:
        keyword = [tag.strip() for tag in variables.get("RUNWIRE_TAGS", "").split(",")]
    elif not isinstance(keyword, (list, tuple, set, frozenset)) or not all(isinstance(tag, str) for tag in keyword):
        raise UsageTypeError("tags", f"must be a list of strings, not {keyword!r:.80}")
    tags = tuple(dict.fromkeys(utf8(tag) for tag in keyword if tag))
    if len(tags) > TAGS_MAX:
        raise SettingsError(f"tags: {len(tags):,} are given, at most {TAGS_MAX} are taken.")
    return tags


def _journal_bytes_max(size: str | None) -> int:
    if size is None:
        return JOURNAL_BYTES_MAX
    found = _SIZE.fullmatch(size)
    if found is None:
        raise SettingsError(
            f"RUNWIRE_JOURNAL_BYTES must be a number of bytes, or such as 512MiB or 8GiB, not {size!r}."
        )
    size_bytes = int(found[1]) * _UNITS[(found[2] or "").lower()]
    if size_bytes < JOURNAL_BYTES_MIN:
        raise SettingsError(f"RUNWIRE_JOURNAL_BYTES must be at least {JOURNAL_BYTES_MIN // 2**20}MiB, not {size!r}.")
    return size_bytes


def _source(argument: str, keyword: object) -> str:
    return argument if keyword else f"RUNWIRE_{argument.upper()}"  # an empty keyword is as good as absent


def _current_folder() -> Path | None:
    """Where this process is; None where that folder was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _in(path: str) -> Path:
    """What a path begins at when the current folder was deleted: nothing but an absolute one can be used then."""
    if Path(path).expanduser().is_absolute():
        return Path("/")
    raise SettingsError("The current folder no longer exists: change to one that does, then start again.")
