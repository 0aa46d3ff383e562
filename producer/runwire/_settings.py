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

An empty variable is as good as absent. No other module of the producer looks into the process's environment:
those that read other programs' variables take `Settings.environ`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runwire._context.host import user_name
from runwire._context.identity import PROJECT_CHARACTERS_MAX, default_project
from runwire._context.worktree import find_root
from runwire._errors import SettingsError, UsageTypeError
from runwire._home import Home, find_home
from runwire._values import checked_text, shown, unreadable, utf8
from runwire_schemas.errors import DestinationError
from runwire_schemas.topics import Destination, mask, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Mode = Literal["on", "offline", "off"]

MODES: tuple[Mode, ...] = ("on", "offline", "off")
NAME_CHARACTERS_MAX = 1_024
TAGS_MAX = 100
_COLLECTIONS = (list, tuple, set, frozenset)


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
        given = "" if keyword is None else checked_text(argument, keyword)
        chosen = given or variables.get(f"RUNWIRE_{argument.upper()}") or None
        if chosen is not None and len(chosen) > characters_max:
            raise SettingsError(
                f"{_source(argument, keyword)} has {len(chosen):,} characters, at most {characters_max:,} are taken."
            )
        if chosen is not None and "\0" in chosen and argument in {"home", "url"}:
            raise SettingsError(f"{_source(argument, keyword)} holds a NUL character, which no folder's name can.")
        return utf8(chosen)  # type: ignore[no-any-return]

    given_home = choose("home", _path_text(home))
    found = find_home(given_home, here or _in(given_home or ""), _source("home", home))
    git_root = None if here is None else find_root(here)
    chosen_mode = (choose("mode", mode) or "on").lower()
    if chosen_mode not in MODES:
        raise SettingsError(f"{_source('mode', mode)} must be one of {', '.join(MODES)}, not {chosen_mode!r}.")
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
    elif not issubclass(type(keyword), (list, tuple, set, frozenset)) or not all(
        issubclass(type(tag), str) for tag in keyword
    ):
        raise UsageTypeError("tags", f"must be a list of strings, not {shown(keyword)}")
    tags = tuple(dict.fromkeys(tag for tag in map(utf8, keyword) if tag))
    if len(tags) > TAGS_MAX:
        raise SettingsError(f"tags: {len(tags):,} are given, at most {TAGS_MAX} are taken.")
    return tags


def _path_text(home: object) -> object:
    """A path's text; anything else as it is."""
    if not issubclass(type(home), os.PathLike):
        return home
    try:
        return os.fspath(home)  # type: ignore[call-overload]
    except Exception as error:
        raise unreadable("home", error) from error


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
