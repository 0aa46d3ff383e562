"""`init`: from keywords, environment and launcher to a run that is being tracked."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import secrets
import sys
import threading
from typing import TYPE_CHECKING, Any

from runwire._context.identity import attempt_token, run_id, run_name
from runwire._context.ranks import Launch, detect
from runwire._errors import UsageTypeError, UsageValueError
from runwire._run import Run
from runwire._settings import Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from runwire._emitter import Emitter

__version__ = "0.1.0"
_ROLES = ("train", "eval")
_log = logging.getLogger("runwire")


class _Process:
    """What this process tracks: at most one current run."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.lock = threading.Lock()
        self.nth_init = itertools.count(1)
        self.hooks_set = False
        self.failure: BaseException | None = None


_process = _Process()


def init(
    project: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] | None = None,
    notes: str | None = None,
    user: str | None = None,
    run_id: str | None = None,
    role: str = "train",
    resumed_from_step: int | None = None,
    forked_from: str | None = None,
    url: str | None = None,
    home: str | os.PathLike[str] | None = None,
    mode: str | None = None,
) -> Run:
    """Start tracking this process's part of a run.

    All ranks of a launch (torchrun, MPI, SLURM) become one run without being told. What is not given comes from
    the environment (`RUNWIRE_URL`, `RUNWIRE_HOME`, ...), then from defaults. No broker is needed for it to succeed:
    until there is one, the journal waits.

    Args:
        project: By default the repository's or folder's name.
        params: Parameters of the run, as `Run.log_params` takes them; `config` is another name for it.
        config: See `params`.
        name: By default two words and a number, made of the run's id.
        group: Runs that belong together.
        tags: Free labels.
        notes: Free text.
        user: By default the login name.
        run_id: What all ranks and restarts of this run call it; by default the launcher's job, else random.
        role: "train", or "eval" for a process that joins a run without superseding its points.
        resumed_from_step: Last step of the checkpoint that this attempt starts from: what earlier attempts logged
            above it is superseded.
        forked_from: "RUN@STEP" that this run branches from.
        url: `kafka://HOST:PORT/TOPIC` or `dir:PATH`; by default a folder in the home.
        home: Folder of journal, topic folder and database; by default the nearest `.runwire` upward.
        mode: "on", "offline" (journal only; `runwire sync` sends it) or "off" (nothing is kept).

    Returns:
        The run, also usable as a context manager. A run that was current before is finished, with a notice.

    Raises:
        UsageError: An argument that can't be used; the sentence names it.
        SettingsError: A setting that can't be used: an unknown URL, a folder that can't be written, several ranks
            that nothing unites.
    """
    if role not in _ROLES:
        raise UsageValueError("role", f"must be one of {', '.join(_ROLES)}, not {role!r}")
    if params is not None and config is not None:
        raise UsageValueError("config", "is another name for params: give one of them")
    if resumed_from_step is not None and type(resumed_from_step) is not int:
        raise UsageTypeError("resumed_from_step", f"must be an int, not {type(resumed_from_step).__name__}")
    settings = read_settings(
        url=url, home=home, run_id=run_id, project=project, name=name, group=group, tags=tags, user=user, mode=mode
    )
    finish_current("a new one begins")
    described = {"notes": notes, "resumed_from_step": resumed_from_step, "forked_from": forked_from}
    run = _open(settings, role, described)
    _process.run = run
    try:
        given = params if params is not None else config
        if given is not None:
            run.log_params(given)
    except Exception:
        run.finish("failed", error="the parameters couldn't be read")
        raise
    _set_hooks()
    return run


def current_run() -> Run | None:
    """The run that `init` returned last, until it is finished."""
    return _process.run


def finish_current(reason: str | None = None) -> None:
    """Finish the current run, where there is one; with a reason it is logged."""
    run = _process.run
    if run is not None:
        if reason is not None:
            _log.warning("Run %s is finished, because %s.", run.name, reason)
        run.finish()


def _open(settings: Settings, role: str, described: Mapping[str, Any]) -> Run:
    """The run of these settings, its emitter open."""
    from runwire._context.host import parent_identity  # noqa: PLC0415 - needed once

    command = (os.getcwd(), *sys.argv)  # noqa: PTH109 - a string is wanted
    launch = detect(settings.environ, agent=parent_identity, command=command)
    identifier = run_id(
        settings.project,
        launch,
        explicit=settings.run_id,
        nth_init=next(_process.nth_init),
        entropy=secrets.token_bytes(16),
    )
    name = settings.name or run_name(identifier)
    maker = _EmitterMaker(settings, launch, identifier, name, role=role, described=described)
    run = Run(
        run_id=identifier,
        name=name,
        project=settings.project,
        rank=launch.rank,
        url=str(settings.destination),
        make_emitter=None if settings.mode == "off" else maker,
        finish_timeout_seconds=settings.limits.finish_timeout_seconds,
        on_end=_forget,
    )
    os.register_at_fork(after_in_child=run.after_fork_in_child)
    return run


class _EmitterMaker:
    """Makes this process's emitter, and after a fork the child's."""

    def __init__(
        self, settings: Settings, launch: Launch, run_id: str, name: str, *, role: str, described: Mapping[str, Any]
    ) -> None:
        """Keep what every emitter of this run says of itself."""
        self._settings = settings
        self._launch = launch
        self._run_id = run_id
        self._name = name
        self._role = role
        self._described = dict(described)
        self._pid = os.getpid()
        self._attempt: str | None = attempt_token(launch, explicit=settings.run_id, emitter_id="") or None

    def __call__(self) -> Emitter:
        """Open a journal, say who it is, start to deliver.

        Raises:
            SettingsError: The home can't be written.
        """
        from runwire._emitter import Emitter, Identity  # noqa: PLC0415 - fastavro, asyncio: not at import time

        settings = self._settings
        home = settings.home.create()
        identity = Identity(settings.project, self._run_id, self._attempt, self._launch.rank)
        emitter = Emitter(
            identity, home.journal, settings.destination, describe=self._describe, on_elsewhere=self._elsewhere
        )
        # A forked child belongs to its parent's attempt, also where nothing but the parent named it.
        self._attempt = emitter.attempt
        self._record(emitter, slow=False)
        if settings.mode == "on":
            emitter.start_sender()
        return emitter

    def _describe(self, emitter: Emitter) -> None:
        self._record(emitter, slow=True)

    def _record(self, emitter: Emitter, *, slow: bool) -> None:
        """Journal `RunStarted`: at once what is known, and again, from the sender's thread, what takes long to find."""
        from runwire._context import git, host, packages, redaction  # noqa: PLC0415 - not at import time
        from runwire_schemas.events import Host, RunStarted  # noqa: PLC0415 - as above

        settings, launch = self._settings, self._launch
        emitter.record(
            RunStarted,
            project=settings.project,
            name=self._name,
            attempt=emitter.attempt,
            host=host.read_host(settings.environ) if slow else Host(host.host_name(settings.environ)),
            group=settings.group,
            user=settings.user,
            tags=settings.tags,
            role=self._role if os.getpid() == self._pid else "worker",
            restart_count=launch.restart_count,
            launched_by="explicit" if settings.run_id else launch.launcher,
            launch_id=settings.run_id or launch.job,
            world_size=launch.world_size,
            local_rank=launch.local_rank,
            pid=os.getpid(),
            git=git.read_git(settings.git_root, settings.environ) if slow else None,
            command=redaction.redact_argv([sys.executable, *sys.argv]),
            packages=packages.read_packages(sys.path) if slow else {},
            sdk_version=__version__,
            **self._described,
        )

    def _elsewhere(self, url: str) -> None:
        _log.warning(
            "A journal in %s waits for %s, this run sends to %s: `runwire sync` sends it where it belongs.",
            self._settings.home.journal,
            url,
            self._settings.destination,
        )


def _forget(run: Run) -> None:
    if _process.run is run:
        _process.run = None


def _set_hooks() -> None:
    """At the process's end the run ends too: failed after an uncaught exception, else finished."""
    if _process.hooks_set:
        return
    _process.hooks_set = True
    atexit.register(_at_exit)
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _process.failure = error
        previous(kind, error, trace)

    # In a notebook a cell's exception goes another way, and doesn't end the run.
    sys.excepthook = hook


def _at_exit() -> None:
    run, failure = _process.run, _process.failure
    if run is None:
        return
    if failure is None:
        run.finish()
    else:
        run.fail(failure)
