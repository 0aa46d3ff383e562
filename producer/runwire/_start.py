"""`init`: from keywords, environment and launcher to a run that is being tracked."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sys
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from runwire._context.identity import attempt_token, run_id, run_name
from runwire._context.launch import Launch, Process
from runwire._context.process_group import process_group
from runwire._context.ranks import detect
from runwire._display import first_line, say
from runwire._errors import SettingsError, UsageValueError
from runwire._exit import after_fork_in_child, unwatch_exit, watch_end_of_child, watch_exit
from runwire._home import running_in
from runwire._notices import NOTICES
from runwire._params import flat_params
from runwire._preemption import PREEMPTION
from runwire._resume import Memory, Remembered
from runwire._run import FINISH_TIMEOUT_SECONDS, Run
from runwire._settings import Settings, read_settings
from runwire._values import check_choice, checked_int64, checked_text, shown, utf8
from runwire._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runwire._emitter import Emitter
    from runwire._system import Sampler

TEXT_CHARACTERS_MAX = 65_536
_ROLES = ("train", "eval")


class _Process:
    """What this process tracks: at most one current run."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.ending: Run | None = None
        self.lock = threading.RLock()
        self.nth_init = itertools.count(1)

    def after_fork_in_child(self) -> None:
        """The lock may be held by a thread that the child doesn't have."""
        self.lock = threading.RLock()
        after_fork_in_child()
        if self.run is not None:
            self.run.after_fork_in_child()


_process = _Process()
os.register_at_fork(after_in_child=_process.after_fork_in_child)


def init(
    project: str | None = None,
    *,
    params: object = None,
    config: object = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] | None = None,
    notes: str | None = None,
    user: str | None = None,
    run_id: str | None = None,
    resume: bool | str | None = None,
    role: str = "train",
    resumed_from_step: int | None = None,
    forked_from: str | None = None,
    url: str | None = None,
    home: str | os.PathLike[str] | None = None,
    mode: str | None = None,
    auto_metrics: bool | None = None,
    sender: str | None = None,
    fsync: str | None = None,
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
        notes: Free text, at most 65,536 characters.
        user: By default the login name.
        run_id: What all ranks and restarts of this run call it; by default the launcher's job, else random.
        resume: True continues the run that this project last had in this home, as a new attempt; where there is none, a
            new run begins. A text names the run to continue: its id, what `run_id` was when it began, or in this
            home its name. Ranks on several nodes have to name it.
        role: "train", or "eval" for a process that joins a run without superseding its points.
        resumed_from_step: Last step of the checkpoint that this attempt starts from: what earlier attempts logged
            above it is superseded.
        forked_from: "RUN@STEP": a run's id and the step that this run branches off from.
        url: `kafka://HOST:PORT/TOPIC` or `dir:PATH`; by default a folder in the home.
        home: Folder of journal, topic folder and database; by default the nearest `.runwire` upward.
        mode: "on", "offline" (journal only; `runwire sync` sends it) or "off" (nothing is kept).
        auto_metrics: Whether there are metrics that nobody logs: `system/...`, of one process a node, every 5 s. On by
            default, but for tests that capture.
        sender: "thread" (this process delivers, in a thread of ours) or "relay": `runwire sync --follow` delivers for
            all processes of the node, and this one starts no thread and opens no connection.
        fsync: What survives power loss of this machine: "none" (by default), "interval" (all but the last 200 ms;
            costs `log` nothing) or "each" (all that returned; every call waits for the disk).

    Returns:
        The run, also usable as a context manager. A run that was current before is finished, with a notice.

    Raises:
        UsageError: An argument that can't be used; the sentence names it.
        SettingsError: A setting that can't be used: an unknown URL, a folder that can't be written, several ranks
            that nothing unites.
        JournalError: The home's disk takes no journal: it is full.
    """
    role = check_choice("role", role, _ROLES)
    if params is not None and config is not None:
        raise UsageValueError("config", "is another name for params: give one of them")
    # All of it before a run is opened, or the current one finished: a wrong call changes nothing.
    given = {"params": params} if config is None else {"config": config}
    flat = [flat_params(value, name) for name, value in given.items() if value is not None]
    described = {
        "notes": _checked_text("notes", notes),
        "resumed_from_step": None
        if resumed_from_step is None
        else checked_int64("resumed_from_step", resumed_from_step),
        "forked_from": _checked_fork(forked_from),
    }
    settings = read_settings(
        url=url,
        home=home,
        run_id=run_id,
        resume=resume,
        project=project,
        name=name,
        group=group,
        tags=tags,
        user=user,
        mode=mode,
        auto_metrics=auto_metrics,
        sender=sender,
        fsync=fsync,
    )
    with _process.lock:
        finish_current("a new one begins")
        if settings.mode != "off":
            may_start_thread = settings.sender == "thread"
            PREEMPTION.begin(settings.preempt_signals, _end_by_signal, may_start_thread=may_start_thread)
        try:
            _process.run = run = _open(settings, role, described)
        except BaseException:
            PREEMPTION.stop()
            raise
        watch_exit(current_run)
    for part in flat:
        run.log_flat_params(part)
    return run


def current_run() -> Run | None:
    """The run that `init` returned last, until it is finished."""
    return _process.run


def finish_current(reason: str | None = None) -> None:
    """Finish the current run, where there is one; with a reason it is logged."""
    run = _process.run
    if run is not None:
        # A forked child that never logged only knows its parent's run, and ends nothing.
        if reason is not None and run.has_emitter:
            NOTICES.say("second init", f"Run {run.name} is finished, because {reason}.")
        run.finish()


def _open(settings: Settings, role: str, described: Mapping[str, Any]) -> Run:
    """The run of these settings, its emitter open."""
    from runwire._context.host import ancestor_identity, machine_identity  # noqa: PLC0415 - needed once

    folder = ""
    with contextlib.suppress(OSError):  # it may be deleted
        folder = os.getcwd()  # noqa: PTH109 - a string is wanted
    command = (folder, *sys.argv)
    process = Process(settings.environ, command, machine_identity, ancestor_identity, process_group)
    launch = detect(process, united=settings.run_id is not None)
    if settings.mode == "off":
        launch = replace(launch, problem=None, notice=None)  # nothing is kept that ranks could share
    if launch.notice:
        NOTICES.say("launch", launch.notice)
    memory = Memory(settings.home.runs)
    found = _find(settings, launch, memory)
    maker = _EmitterMaker(settings, launch, found.run_id, found.name, role=role, described=described)
    run = Run(
        run_id=found.run_id,
        name=found.name,
        project=settings.project,
        rank=launch.rank,
        url=str(settings.destination),
        make_emitter=None if settings.mode == "off" else maker,
        finish_timeout_seconds=FINISH_TIMEOUT_SECONDS,
        on_end=_forget,
        auto_metrics=settings.auto_metrics and role == "train",  # an evaluation's steps are none of the training's
        on_finished=_let_go,
    )
    if role == "train" and launch.local_rank == 0 and settings.mode != "off":
        memory.remember(settings.project, found)
        if settings.auto_metrics and settings.sender == "thread":
            run.accompany(_sampler(run, settings, launch, resumed_from_step=described["resumed_from_step"]))
    if role == "train" and launch.rank == 0 and settings.mode != "off":
        _say_where(run, settings)
    return run


def _say_where(run: Run, settings: Settings) -> None:
    """The run's link, where a consumer is known to show it."""
    local = running_in(settings.home.path)
    server = settings.environ.get("RUNWIRE_SERVER") or (None if local is None else local.address)
    line = first_line(run.name, run.id, server)
    if line is not None:
        say(line)


def _sampler(run: Run, settings: Settings, launch: Launch, *, resumed_from_step: int | None) -> Sampler:
    """The thread that measures this node for the run."""
    from runwire._context.host import host_name  # noqa: PLC0415 - needed once
    from runwire._system import Sampler, Turn  # noqa: PLC0415 - not at import time

    # What nothing names has never been started before.
    is_new = settings.run_id is None and launch.job is None and not settings.resume
    return Sampler(
        run,
        Turn(settings.home.sampling, run.id, host_name(settings.environ)),
        folder=settings.home.path,
        visible_gpus=settings.environ.get("CUDA_VISIBLE_DEVICES"),
        ranks=launch.local_world_size,
        first_step=0 if is_new and resumed_from_step is None else resumed_from_step,
    )


def _find(settings: Settings, launch: Launch, memory: Memory) -> Remembered:
    """The run that this process belongs to."""
    nth_init = next(_process.nth_init)
    last = memory.last(settings.project) if settings.resume else None
    named = settings.run_id
    if settings.resume and named is None and launch.local_world_size < launch.world_size:
        raise SettingsError(
            "resume=True continues what one node's home remembers, and this launch has several nodes: "
            'name the run that all of them continue, by resume="RUN" or RUNWIRE_RUN_ID.'
        )
    if settings.resume and named is None and last is not None:
        named = last.run_id
    identifier = run_id(settings.project, launch, explicit=named, nth_init=nth_init, entropy=secrets.token_bytes(16))
    known = memory.run(settings.project, identifier) if settings.resume else None
    found = Remembered(identifier, settings.name or (known.name if known else run_name(identifier)))
    if settings.resume and settings.run_id is None and settings.mode != "off":
        if launch.job is not None:
            settings.home.create()
            settled = memory.settle(settings.project, f"{launch.job}#{nth_init}", found)
            found = Remembered(settled.run_id, settings.name or settled.name)
        if last is None and launch.local_rank == 0:
            home = settings.home.path
            text = f"No run of project {settings.project} is remembered in {home} to be resumed: {found.name} begins."
            NOTICES.say("resume", text)
    return found


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
        self._attempt: str | None = (
            attempt_token(launch, explicit=settings.run_id, emitter_id="", resumes=settings.resume) or None
        )

    @property
    def home(self) -> Path:
        """Where the run's consumer is looked for."""
        return self._settings.home.path

    def __call__(self) -> Emitter:
        """Open a journal, say who it is, start to deliver.

        Raises:
            SettingsError: The home can't be written.
        """
        from runwire._emitter import Emitter, Identity  # noqa: PLC0415 - fastavro, asyncio: not at import time
        from runwire._filesystem import warning_about  # noqa: PLC0415 - with it
        from runwire._journal_files import last_word_path  # noqa: PLC0415 - mmap: as above

        settings = self._settings
        home = settings.home.create()
        identity = Identity(settings.project, self._run_id, self._attempt, self._launch.rank)
        emitter = Emitter(
            identity,
            home.journal,
            settings.destination,
            sender="none" if settings.mode == "offline" else settings.sender,
            describe=None if self._is_worker else self._describe,  # the parent says it
            on_elsewhere=self._elsewhere,
            journal_bytes_max=settings.journal_bytes_max,
            fsync=settings.fsync,
        )
        # A forked child belongs to its parent's attempt, also where nothing but the parent named it.
        self._attempt = emitter.attempt
        try:
            self._record(emitter, slow=False)
            emitter.start()
        except BaseException:
            emitter.finish(0)
            raise
        watch_end_of_child()
        if not self._is_worker:
            PREEMPTION.leave_word(partial(last_word_path, emitter.journal.folder))
        warning = warning_about(emitter.journal.place)
        if warning is not None and not self._is_worker and not self._launch.local_rank:
            NOTICES.say("filesystem", warning)
        return emitter

    @property
    def _is_worker(self) -> bool:
        return os.getpid() != self._pid

    def _describe(self, emitter: Emitter) -> None:
        self._record(emitter, slow=True)

    def _record(self, emitter: Emitter, *, slow: bool) -> None:
        """Journal `RunStarted`: at once what is known, and again, from the sender's thread, what takes long to find."""
        from runwire._context import git, host, packages, redaction  # noqa: PLC0415 - not at import time
        from runwire_schemas.events import Host, RunStarted  # noqa: PLC0415 - as above

        settings, launch = self._settings, self._launch
        said = dict(
            project=settings.project,
            name=self._name,
            attempt=emitter.attempt,
            host=host.read_host(settings.environ) if slow else Host(host.host_name(settings.environ)),
            group=settings.group,
            user=settings.user,
            tags=settings.tags,
            role="worker" if self._is_worker else self._role,
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
        emitter.record(RunStarted, **utf8(said))  # arguments, variables and names of files may be any bytes

    def _elsewhere(self, url: str) -> None:
        NOTICES.say(
            "elsewhere",
            f"A journal in {self._settings.home.journal} waits for {url}, this run sends to "
            f"{self._settings.destination}: `runwire sync` sends it where it belongs.",
        )


def _checked_text(argument: str, text: object) -> str | None:
    if text is None:
        return None
    text = checked_text(argument, text)
    if len(text) > TEXT_CHARACTERS_MAX:
        raise UsageValueError(argument, f"has {len(text):,} characters, at most {TEXT_CHARACTERS_MAX:,} are taken")
    checked: str = utf8(text)
    return checked


def _checked_fork(text: object) -> str | None:
    """`RUN@STEP`, or None."""
    checked = _checked_text("forked_from", text)
    if checked is None:
        return None
    run, at, step = checked.rpartition("@")
    try:
        checked_int64("forked_from", int(step))
    except ValueError:
        at = ""
    if not (run and at):
        raise UsageValueError("forked_from", f"must be RUN@STEP, a run's id and a whole step, not {shown(text)}")
    return checked


def _forget(run: Run) -> None:
    if _process.run is run:
        _process.run, _process.ending = None, run
        unwatch_exit()


def _let_go(run: Run) -> None:
    if _process.ending is run:
        _process.ending = None
        PREEMPTION.stop()


def _end_by_signal(signum: int) -> None:
    """In a thread of ours: a signal that nobody handles is about to kill this process."""
    if _process.lock.acquire(timeout=FINISH_TIMEOUT_SECONDS):  # `init` holds it until there is a run
        try:
            run = _process.run or _process.ending
        finally:
            _process.lock.release()
        if run is not None:
            run.end_by_signal(signum)
