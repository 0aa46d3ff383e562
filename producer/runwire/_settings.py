"""Configuration, read once at the edge: keyword, else environment, else default.

    RUNWIRE_URL      where events go: kafka://HOST:PORT/TOPIC, kafkas://... (TLS) or dir:PATH (default: the home's
                     topic folder); users, passwords and certificates: see `runwire_schemas/security.py`
    RUNWIRE_HOME     folder of journal, topic folder and database (default: see `_home.py`)
    RUNWIRE_RUN_ID   what this run is called by all its ranks and restarts
    RUNWIRE_RESUME   true: continue this project's last run in this home; or the id of the run to continue
    RUNWIRE_PROJECT  project (default: the repository's or folder's name)
    RUNWIRE_NAME     name of the run (default: two words and a number)
    RUNWIRE_GROUP    group of runs
    RUNWIRE_TAGS     tags, separated by commas
    RUNWIRE_USER     who runs this (default: the login name)
    RUNWIRE_MODE     on, offline (journal only, to be sent later) or off (nothing is kept)
    RUNWIRE_AUTO_METRICS  on or off: metrics that nobody logs, `system/...` (default: on; off for `memory:`)
    RUNWIRE_PREEMPT_SIGNALS  signals that end the job, separated by commas, or none (default: TERM; inside a SLURM job
                     TERM,USR1,USR2)
    RUNWIRE_SENDER   thread (this process delivers) or relay (`runwire sync --follow` does; no thread, no network here)
    RUNWIRE_FSYNC    what survives power loss: none, interval (200 ms) or each (default: none; see `_fsync.py`)
    RUNWIRE_JOURNAL_BYTES  size that each process's journal keeps to: a number of bytes, or 512MiB, 8GiB (default: 8GiB)
    RUNWIRE_SERVER   address of the consumer that `runwire.query` asks (default: the one that runs in the home)
    RUNWIRE_TOKEN    its bearer token (default: what `runwire login` kept for it, else the home's file `token`)
    RUNWIRE_CA       certificates in PEM form that an https:// consumer is trusted by (default: the system's)

An empty variable is as good as absent. No other module of the producer looks into the process's environment:
those that read other programs' variables take `Settings.environ`.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from runwire._cap import JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN
from runwire._context.host import user_name
from runwire._context.identity import PROJECT_CHARACTERS_MAX, default_project, explicit_run_id, is_run_id, is_run_name
from runwire._context.worktree import find_root
from runwire._errors import SettingsError, UsageTypeError, UsageValueError
from runwire._home import Home, find_home
from runwire._resume import Memory
from runwire._values import checked_text, shown, unreadable, utf8
from runwire_schemas.errors import DestinationError
from runwire_schemas.topics import Destination, mask, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Word = TypeVar("Word", bound=str)
Mode = Literal["on", "offline", "off"]
Sender = Literal["thread", "relay"]
Fsync = Literal["none", "interval", "each"]

FSYNCS: tuple[Fsync, ...] = ("none", "interval", "each")
MODES: tuple[Mode, ...] = ("on", "offline", "off")
_SWITCH = {"on": True, "off": False}
SENDERS: tuple[Sender, ...] = ("thread", "relay")
NAME_CHARACTERS_MAX = 1_024
_SIZE = re.compile(r"(\d{1,18}) *(KiB|MiB|GiB|TiB|)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
TAGS_MAX = 100
_NEVER_CAUGHT = frozenset({"KILL", "STOP", "SEGV", "FPE", "ABRT", "BUS", "ILL"})
_COLLECTIONS = (list, tuple, set, frozenset)


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What a run is configured with; `repr` shows no secret.

    Attributes:
        resume: An earlier run is continued: `run_id`, or without one the last of the project in this home.
    """

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
    auto_metrics: bool = True
    resume: bool = False
    preempt_signals: tuple[int, ...] = ()
    sender: Sender = "thread"
    fsync: Fsync = "none"
    journal_bytes_max: int = JOURNAL_BYTES_MAX
    environ: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Settings({mask(str(self.destination))}, home={str(self.home.path)!r}, project={self.project!r}, "
            f"run_id={self.run_id!r}, name={self.name!r}, mode={self.mode!r}, sender={self.sender!r})"
        )


def read_settings(
    *,
    url: str | None = None,
    home: str | os.PathLike[str] | None = None,
    run_id: str | None = None,
    resume: bool | str | None = None,
    project: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] | None = None,
    user: str | None = None,
    mode: str | None = None,
    auto_metrics: bool | None = None,
    sender: str | None = None,
    fsync: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from keywords, the environment and the current folder.

    Raises:
        UsageTypeError: A keyword of a wrong type; the sentence names it.
        UsageValueError: `resume` beside `run_id`, or a run that it names by what only people call it.
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
        if chosen is not None and argument in {"home", "url"}:
            _need_folder_name(chosen, argument, _source(argument, keyword))
        return utf8(chosen)  # type: ignore[no-any-return]

    given_home = choose("home", _path_text(home))
    found = find_home(given_home, here or _in(given_home or ""), _source("home", home))
    git_root = None if here is None else find_root(here)
    destination = _destination(choose("url", url), _source("url", url), found, here, variables)
    chosen_project = choose("project", project, PROJECT_CHARACTERS_MAX) or default_project(git_root, here or Path("/"))
    chosen_run_id = choose("run_id", run_id)
    resumes, resumed = _resumed(resume, choose("resume", resume if issubclass(type(resume), str) else None))
    if resume and run_id:
        raise UsageValueError("resume", "names the run to continue, and so does run_id: give one of them")
    if resumed is not None:
        resumed = _by_name(resumed, chosen_project, Memory(found.runs))
        if not (resume or run_id) and chosen_run_id not in {None, resumed}:
            raise SettingsError("RUNWIRE_RESUME and RUNWIRE_RUN_ID name different runs: set one of them.")
    chosen_sender = _one_of(SENDERS, choose("sender", sender), _source("sender", sender))
    return Settings(
        destination=destination,
        home=found,
        project=chosen_project,
        git_root=git_root,
        run_id=(resumed if resume else None) or chosen_run_id or resumed,
        name=choose("name", name),
        group=choose("group", group),
        tags=_tags(tags, variables),
        user=choose("user", user) or utf8(user_name(variables)),
        mode=_one_of(MODES, choose("mode", mode), _source("mode", mode)),
        auto_metrics=_auto_metrics(auto_metrics, variables, destination),
        resume=resumes,
        preempt_signals=_preempt_signals(variables),
        sender=chosen_sender,
        fsync=_fsync(choose("fsync", fsync), _source("fsync", fsync), chosen_sender),
        journal_bytes_max=_journal_bytes_max(choose("journal_bytes", None)),
        environ=variables,
    )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Which consumer is asked.

    Attributes:
        address: http(s)://HOST:PORT that was named; None: the one that runs in the home.
        token: That was set.
        ca: File of authorities that it is trusted by.
        credentials: Where `runwire login` keeps tokens.
        home: Whose consumer and token count.
    """

    address: str | None
    token: str | None = field(repr=False)
    ca: Path | None
    credentials: Path
    home: Home


def read_server_settings(home: Path | None = None) -> ServerSettings:
    """The consumer of the environment, else of a home: by default the one that runs begun here would use.

    Raises:
        SettingsError: RUNWIRE_SERVER or RUNWIRE_TOKEN can't be used.
    """
    variables = os.environ
    token = variables.get("RUNWIRE_TOKEN") or None
    if token is not None and not all("!" <= character <= "~" for character in token):
        raise SettingsError("RUNWIRE_TOKEN may only hold visible ASCII characters and no spaces.")
    ca, folder = variables.get("RUNWIRE_CA"), variables.get("XDG_CONFIG_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path("~/.config").expanduser()
    return ServerSettings(
        address=_server_address(variables.get("RUNWIRE_SERVER") or None),
        token=token,
        ca=Path(ca).expanduser() if ca else None,
        credentials=base / "runwire" / "credentials.json",
        home=Home(home) if home else find_home(variables.get("RUNWIRE_HOME") or None, _current_folder() or Path("/")),
    )


def _server_address(text: str | None) -> str | None:
    """As it is asked, and as its token is kept: with a scheme, without a slash at the end."""
    if text is None:
        return None
    address = text.rstrip("/") if "://" in text else f"http://{text.rstrip('/')}"
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    if scheme not in {"http", "https"} or not rest or "@" in rest or " " in rest:
        raise SettingsError("RUNWIRE_SERVER can't be understood: set it to http://HOST:PORT of a consumer.")
    return f"{scheme}://{rest.lower()}" if "/" not in rest else address


def environment() -> Mapping[str, str]:
    """The process's environment, for what a journal's URL leaves out: users, passwords, certificates."""
    return os.environ


def _destination(
    url: str | None, source: str, home: Home, folder: Path | None, variables: Mapping[str, str]
) -> Destination:
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
    return destination.secured(variables)


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


def _auto_metrics(keyword: object, variables: Mapping[str, str], destination: Destination) -> bool:
    """Whether there are any; a test that captures finds what it logged and nothing else."""
    if keyword is not None:
        if type(keyword) is not bool:
            raise UsageTypeError("auto_metrics", f"must be True or False, not {shown(keyword)}")
        return keyword
    chosen = (variables.get("RUNWIRE_AUTO_METRICS") or ("off" if destination.kind == "memory" else "on")).lower()
    if chosen not in _SWITCH:
        raise SettingsError(f"RUNWIRE_AUTO_METRICS must be one of {', '.join(_SWITCH)}, not {chosen!r}.")
    return _SWITCH[chosen]


def _resumed(keyword: object, chosen: str | None) -> tuple[bool, str | None]:
    """Whether an earlier run is continued, and which one, where it is named.

    Args:
        keyword: Which wins where it is no text either.
        chosen: The keyword's text, else the variable's.
    """
    if type(keyword) is bool:
        return keyword, None
    if keyword is not None and not issubclass(type(keyword), str):
        raise UsageTypeError("resume", f"must be True or a run's id, not {shown(keyword)}")
    if chosen is None or chosen.lower() in {"false", "0"}:
        return False, None
    return True, None if chosen.lower() in {"true", "1"} else chosen


def _by_name(run: str, project: str, memory: Memory) -> str:
    """What names the run that is to be continued: an id, or a name that this home knows."""
    if is_run_id(run) or memory.run(project, explicit_run_id(project, run)):
        return run
    named = memory.named(project, run)
    if named is not None:
        return named.run_id
    if is_run_name(run):
        raise UsageValueError("resume", f"no run of this home is called {run!r}: give its id, `runwire runs` shows it")
    return run


def _preempt_signals(variables: Mapping[str, str]) -> tuple[int, ...]:
    """Numbers of the signals that say that the job ends."""
    default = "TERM,USR1,USR2" if variables.get("SLURM_JOB_ID") else "TERM"
    words = (variables.get("RUNWIRE_PREEMPT_SIGNALS") or default).upper().replace(" ", "").split(",")
    if words == ["NONE"]:
        return ()
    names = [word.removeprefix("SIG") for word in words if word]
    wrong = [name for name in names if f"SIG{name}" not in signal.Signals.__members__ or name in _NEVER_CAUGHT]
    if wrong:
        raise SettingsError(f"RUNWIRE_PREEMPT_SIGNALS must be signals such as TERM,USR1, or none, not {wrong[0]!r}.")
    return tuple(dict.fromkeys(int(signal.Signals[f"SIG{name}"]) for name in names))


def _need_folder_name(text: str, argument: str, source: str) -> None:
    """Refuse what can't be a folder's name; a home would be another one when its name was escaped."""
    if "\0" in text:
        raise SettingsError(f"{source} holds a NUL character, which no folder's name can.")
    if argument == "home" and utf8(text) != text:
        raise SettingsError(f"{source} is no UTF-8 text ({utf8(text)}): name a folder whose path is.")


def _path_text(home: object) -> object:
    """A path's text; anything else as it is."""
    if not issubclass(type(home), os.PathLike):
        return home
    try:
        return os.fspath(home)  # type: ignore[call-overload]
    except Exception as error:
        raise unreadable("home", error) from error


def _one_of(words: tuple[Word, ...], chosen: str | None, source: str) -> Word:
    """The word that was chosen; by default the first."""
    lower = (chosen or words[0]).lower()
    for word in words:
        if word == lower:
            return word
    raise SettingsError(f"{source} must be one of {', '.join(words)}, not {lower!r}.")


def _fsync(chosen: str | None, source: str, sender: Sender) -> Fsync:
    fsync = _one_of(FSYNCS, chosen, source)
    if fsync == "interval" and sender == "relay":
        raise SettingsError(
            f"{source} is interval, which needs a thread, and with a relay there is none: set each or none."
        )
    return fsync


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
