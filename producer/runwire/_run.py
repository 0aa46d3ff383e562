"""A run as training sees it: `log()` and its siblings, which never raise for our reasons and never wait."""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from runwire._clock import CLOCK
from runwire._context.redaction import redact_params, redact_text
from runwire._device import Remote
from runwire._errors import JournalError, SettingsError, UsageError, UsageTypeError, UsageValueError
from runwire._pace import Pace, unit_of
from runwire._params import flatten_params, printable
from runwire._preemption import PREEMPTION
from runwire._progress import Progress, checked_promise
from runwire._values import PLAIN_TYPES, checked_key, metric_row, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import EllipsisType, TracebackType

    from runwire._emitter import Emitter
    from runwire._system import Sampler

FINISH_TIMEOUT_SECONDS = 10.0
OPEN_RETRY_SECONDS = 1.0
ROW_KEYS_MAX = 1_000
ROW_NAMES_BYTES_MAX = 256 * 2**10
PARAMS_BYTES_MAX = 256 * 2**10
KEY_SETS_MAX = 10_000
COST_SAMPLE = 64  # one call in so many is timed
EXIT_CODE_MAX = 2**31 - 1
_NO_STEP = -(2**63) - 1

_LEVELS = ("info", "warning", "error")
_STATUSES = ("finished", "failed", "preempted")
_log = logging.getLogger("runwire")
# Looked up once: `log` runs millions of times.
_sum = sum
_clock_gettime_ns = time.clock_gettime_ns
_perf_counter_ns = time.perf_counter_ns


def _nothing(*_: object) -> None:
    """Keep nothing, do nothing."""


class Run:
    """One process's part of a run; made by `runwire.init`, also a context manager that ends it.

    After an exception in the `with` block the run is failed, else finished. Methods may be called from any thread,
    from signal handlers, and in forked children, which become emitters of their own.
    What is logged after the end is not kept, which is said once.

    Attributes:
        id: 16 characters; the same on all ranks.
        name: What people call it.
        project: Project it belongs to.
        rank: This process's global rank.
        url: Where its events go.
    """

    def __init__(
        self,
        *,
        run_id: str,
        name: str,
        project: str,
        rank: int,
        url: str,
        make_emitter: Callable[[], Emitter] | None,
        finish_timeout_seconds: float,
        on_end: Callable[[Run], None],
        auto_metrics: bool = False,
        on_finished: Callable[[Run], None] = _nothing,
    ) -> None:
        """Use `runwire.init`; without `make_emitter` every call is taken and nothing is kept (mode off)."""
        self.id = run_id
        self.name = name
        self.project = project
        self.rank = rank
        self.url = url
        self._make_emitter = make_emitter
        self._finish_timeout_seconds = finish_timeout_seconds
        self._on_end = on_end
        self._on_finished = on_finished
        self._started_at = time.monotonic()
        self._step: int | None = None
        self._ended = False
        self._delivered = True
        self._warned: set[str] = set()
        self._auto_metrics = auto_metrics and make_emitter is not None
        self._is_worker = False
        self._begin()
        if make_emitter is not None:
            self._attach(make_emitter())

    def _begin(self) -> None:
        """What each process has for itself: at the start, and again in a forked child."""
        self._emitter: Emitter | None = None
        self._sampler: Sampler | None = None
        self._append: Callable[..., None] = _nothing
        self._is_off = False
        self._calls = 0
        self._pace = Pace(is_automatic=self._auto_metrics and not self._is_worker)
        self._pace_due_ns = self._pace.due_ns
        self._defined: set[str] = set()
        self._points = 0
        self._highest_step = _NO_STEP
        self._sampled = self._sampled_ns = self._first_ns = 0
        # Key tuples that are good as they are, while there is a journal to write to (or none at all is wanted); each
        # stands for its equals, so that the journal knows it by identity.
        self._known_keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._last: tuple[list[str], tuple[str, ...] | None] = [], None
        self._progress = Progress(self)
        self._has_finished = threading.Event()
        self._lock = threading.RLock()
        self._is_opening = False
        self._later: deque[Callable[[Emitter], None]] = deque()
        self._open_at = 0.0
        self._unkept = 0

    @property
    def step(self) -> int:
        """The step of `log()` calls that name none: what was set last, else the number of calls so far."""
        return self._calls if self._step is None else self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step = _checked_step(value)

    def log(self, metrics: Mapping[str, Any], *, step: int | None = None) -> None:  # noqa: C901 - one piece: calls cost
        """Keep one row: the values of some metrics at a step.

        Args:
            metrics: Names to numbers: Python's and numpy's, or tensors of one element. Nested mappings become
                `outer/inner`. NaN and infinities stay what they are. Any names, in any call; none at all keeps no row.
            step: Any int64, in any order; by default `run.step`.

        Raises:
            UsageTypeError: No mapping, a key that is no string, a value that is no number, a step that is no int.
            UsageValueError: An empty, overlong or repeated key; a step beyond 64 bits.
        """
        # Between reading and writing a counter stands no call: no other thread and no signal handler comes between.
        calls = self._calls
        self._calls = calls + 1
        start_ns = 0 if calls % COST_SAMPLE else _perf_counter_ns()
        if step is None:
            step = calls if self._step is None else self._step
        elif type(step) is not int:
            step = _checked_step(step)
        known, values = None, []
        try:
            if type(metrics) is dict:
                keys, values = [*metrics], [*metrics.values()]
                # Mostly the keys of the call before: comparing lists costs a fraction of hashing tuples.
                last_keys, known = self._last
                if keys != last_keys:
                    known = self._known_keys.get(tuple(keys))
                    if known:
                        self._last = keys, known
            # Exactly a float is what floats, ints and bools add up to; a tensor or a NumPy number in between makes the
            # sum one of its own kind. That takes a third of the time of looking at each one's type.
            if known and type(_sum(values, 0.0)) is float:
                now_ns = _clock_gettime_ns(CLOCK)
                self._append(known, step, now_ns, values)
                self._points += len(values)
                if step > self._highest_step:  # noqa: PLR1730 - max() takes three times as long
                    self._highest_step = step
                if now_ns >= self._pace_due_ns:
                    self._log_pace(step, now_ns)
            else:
                self._log_slowly(metrics, step)
        except UsageError:
            raise
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._log_again(metrics, step, problem)
        if start_ns:
            self._sample(calls, _perf_counter_ns() - start_ns)

    def log_params(self, params: object) -> None:
        """Keep parameters; a later value of a key replaces an earlier one, and both stay in the log.

        Args:
            params: Names to values: a mapping, dataclass, named tuple, `argparse.Namespace`, a configuration of
                OmegaConf, attrs or pydantic. Nested ones become `outer/inner`, lists JSON, other objects their `str()`;
                values whose names look like secrets are masked.

        Raises:
            UsageTypeError: No such thing, or a key that is no string.
            UsageValueError: An empty, overlong or repeated key; nesting deeper than 16 levels.
        """
        self.log_flat_params(flat_params(params))

    def log_flat_params(self, flat: Mapping[str, Any]) -> None:
        """`log_params` of parameters that are flat, plain and masked already."""
        from runwire_schemas.events import ParamsLogged  # noqa: PLC0415 - fastavro: not at import time

        for part in _parts(flat):
            self._record(ParamsLogged, params=part)

    def define(self, metric: str, *, unit: str | None = None, best: str | None = None) -> None:
        """Say how a metric is to be read.

        Args:
            metric: Its name, as `log()` gets it; for a nested mapping `outer/inner`.
            unit: Unit of its values, any text.
            best: "min" or "max": fills `best[metric]` in `runs`.

        Raises:
            UsageTypeError: `metric` is no string.
            UsageValueError: `metric` is empty or overlong; `best` is something else.
        """
        from runwire_schemas.events import MetricDefined  # noqa: PLC0415 - fastavro: not at import time

        if best is not None:
            check_choice("best", best, ("min", "max"))
        self._record(MetricDefined, metric=checked_key(metric, "metric"), unit=_text(unit), best=best)

    def time(self, name: str) -> Section:
        """Time a part of the loop: `with run.time("data"): batch = next(batches)`.

        What it took, in seconds, is kept as `time/NAME` at the step of the next `log()`; sections of the same name are
        added up until then. It is the host's time: work that a device still does is not waited for.

        Args:
            name: What the section is called.

        Raises:
            UsageTypeError: `name` is no string.
            UsageValueError: `name` is empty or overlong.
        """
        return Section(checked_key(f"time/{checked_key(name, 'name')}", "name")[5:], self._add_time)

    def alert(self, title: str, text: str = "", *, level: str = "warning", step: int | None = None) -> None:
        """Ask people for attention.

        Args:
            title: One line; as `text` cut at 16 KiB.
            text: Details.
            level: "info", "warning" or "error".
            step: Step it belongs to; by default `run.step`.

        Raises:
            UsageValueError: `level` is something else.
            UsageTypeError: `step` is no int.
        """
        from runwire_schemas.events import AlertRaised  # noqa: PLC0415 - fastavro: not at import time

        check_choice("level", level, _LEVELS)
        at = self.step if step is None else _checked_step(step)
        self._record(AlertRaised, title=_text(title) or "", text=_text(text) or "", level=level, step=at)

    def progress(self, *, expect_next_in: float | EllipsisType | None = ...) -> None:
        """Say that the loop is alive, and when to expect the next sign of it: a `log()` or another `progress()`.

        A run whose process lives, but whose promise is overdue, is shown as stuck until its loop goes on. The promise
        holds from call to call; without one a run is never stuck.

        Args:
            expect_next_in: Seconds; None takes the promise back; by default it stays as it is.

        Raises:
            UsageTypeError: `expect_next_in` is no number.
            UsageValueError: `expect_next_in` is not above 0, or not finite.
        """
        self._progress.say(expect_next_in if expect_next_in is ... else checked_promise(expect_next_in))

    def finish(self, status: str | None = None, *, exit_code: int | None = None, error: str | None = None) -> bool:
        """End this process's part of the run; waits at most 10 seconds for delivery.

        Args:
            status: "finished", "failed" or "preempted"; by default finished, or preempted where a signal said that the
                job ends (SIGTERM; inside SLURM also SIGUSR1 and SIGUSR2).
            exit_code: Of the process, where it is known.
            error: What went wrong; secrets that can be recognised in it are masked.

        Returns:
            Whether everything was delivered; else the rest waits in the journal for `runwire sync`, or for the
            relay: with `sender="relay"` this is always False, at once.
            A second call changes nothing and returns the same.

        Raises:
            UsageValueError: `status` is something else.
            UsageTypeError: `exit_code` is no int.
        """
        if status is not None:
            check_choice("status", status, _STATUSES)
        code = None if exit_code is None else _checked_exit_code(exit_code)
        return self._end(status or _unless_preempted("finished"), code, None if error is None else _safe_text(error))

    def fail(self, error: BaseException) -> bool:
        """Finish as failed, with the exception's type and text; as preempted where a signal said that the job ends.

        Returns what `finish` does.
        """
        return self.finish(_unless_preempted("failed"), exit_code=_exit_code(error), error=_error_text(error))

    def end_by_signal(self, signum: int) -> None:
        """Finish as preempted, in a thread of ours, before the process dies of a signal; done within 12 seconds.

        A row whose `log()` returns is kept: calls that are under way are waited for, later ones are held.
        """
        self._end("preempted", 128 + signum, None, before=lambda: PREEMPTION.wait_until_left(__name__))
        self._has_finished.wait(self._finish_timeout_seconds)  # where another thread had begun to

    def _end(
        self, status: str, exit_code: int | None, error: str | None, before: Callable[[], None] = lambda: None
    ) -> bool:
        # No call stands between: of two threads one goes on.
        if self._ended:
            PREEMPTION.hold()
            return self._delivered
        self._ended = True
        self._leave_fast_path()
        self._delivered = False
        self._on_end(self)
        try:
            before()
            self._delivered = self._finish(status, exit_code, error)
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._warn_once(f"Ending run {self.name} failed, its journal is kept: {problem!r}.")
        finally:
            self._emitter = None
            self._has_finished.set()
            self._on_finished(self)
        return self._delivered

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish; an exception makes the run failed and goes on its way."""
        if error is None or isinstance(error, GeneratorExit):  # a generator that its user closed early
            self.finish()
        elif isinstance(error, SystemExit) and not _exit_code(error):
            self.finish(exit_code=0)
        else:
            self.fail(error)

    def __repr__(self) -> str:
        """Name, id and destination."""
        return f"<runwire.Run {self.name} ({self.id}) rank {self.rank} to {self.url}>"

    def after_fork_in_child(self) -> None:
        """Forget the parent's emitter, locks and counts: the first call here opens an emitter of the child's own."""
        self._is_worker = True
        self._begin()

    @property
    def calls(self) -> int:
        """`log()` calls of this process that were taken."""
        return self._calls

    @property
    def highest_step(self) -> int | None:
        """The highest step of all `log()` calls so far, else the one that was set; None before both."""
        return self._step if self._highest_step == _NO_STEP else self._highest_step

    def log_automatic(self, metrics: Mapping[str, float], step: int, units: Mapping[str, str | None]) -> None:
        """Keep a row that we measured ourselves: no call of `log`, and nothing after the end.

        Args:
            metrics: Good keys, at most ROW_KEYS_MAX of them, to floats.
            step: Where it belongs.
            units: Metrics to be defined, with their units.
        """
        if not self._ended:
            self._log_measured(metrics, step, _clock_gettime_ns(CLOCK), units)

    def accompany(self, sampler: Sampler) -> None:
        """Start the thread that measures the machine; it ends with the run, and no child has it."""
        try:
            sampler.start()
            self._sampler = sampler
        except RuntimeError as problem:  # no thread can be started
            self._warn_once(f"System metrics are off: {problem}.")

    @property
    def has_emitter(self) -> bool:
        """Whether this process has kept anything yet: a forked child begins without."""
        return self._emitter is not None

    def _attach(self, emitter: Emitter) -> None:
        self._emitter = emitter
        emitter.progress = self._progress
        self._append = emitter.journal.append_row

    def _log_slowly(self, metrics: object, step: int) -> None:
        """Everything that is not a plain dict of known keys and plain numbers."""
        try:
            _checked_step(step)
            if type(metrics) is dict:
                metrics = metrics.copy()  # at once: another thread may be changing it
            keys, values = metric_row(metrics)
        except UsageError:
            self._calls -= 1
            raise
        if not keys:
            return
        now_ns = _clock_gettime_ns(CLOCK)

        def write(emitter: Emitter) -> None:
            # A call is one row, unsplittable, unless it has more keys than a row may have.
            for part in _slices(keys):
                emitter.append_row(keys[part], step, now_ns, values[part])
            self._points += len(keys)

        if not self._keep(write):
            return
        self._highest_step = max(self._highest_step, step)
        if now_ns >= self._pace_due_ns:
            self._log_pace(step, now_ns)
        is_plain = type(metrics) is dict and keys == tuple(metrics) and Remote not in map(type, values)
        if is_plain and len(keys) <= ROW_KEYS_MAX and not _is_long(keys) and not self._ended:
            if len(self._known_keys) >= KEY_SETS_MAX:
                self._known_keys.clear()
            self._known_keys[keys] = keys

    def _log_again(self, metrics: Mapping[str, Any], step: int, problem: Exception) -> None:
        """A row that failed on the fast path: what it holds is odd, or another thread changed it; else our fault."""
        if isinstance(problem, OverflowError) or not PLAIN_TYPES.issuperset(map(type, dict(metrics).values())):
            self._log_slowly(metrics, step)
        else:
            self._switch_off(problem)

    def _log_pace(self, step: int, now_ns: int, *, is_last: bool = False) -> None:
        """What a step and the sections took, as a row beside the one that was just logged."""
        found = self._pace.take(step, now_ns, is_last=is_last)
        self._pace_due_ns = self._pace.due_ns
        if found:
            units = {name: unit_of(name) for name in found.keys() - self._defined}
            self._defined |= found.keys()
            self._log_measured(found, step, now_ns, units)

    def _log_measured(
        self, metrics: Mapping[str, float], step: int, now_ns: int, units: Mapping[str, str | None]
    ) -> None:
        from runwire_schemas.events import MetricDefined  # noqa: PLC0415 - fastavro: not at import time

        emitter = self._emitter
        if emitter is None or self._is_off:
            return
        try:
            for metric, unit in units.items():
                emitter.record(MetricDefined, metric=metric, unit=unit, best=None)
            emitter.journal.append_row(tuple(metrics), step, now_ns, tuple(metrics.values()))
            self._points += len(metrics)
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._switch_off(problem)

    def _leave_fast_path(self) -> None:
        """From now on each call looks first whether there is somebody to keep it."""
        self._known_keys = {}
        self._last = [], None

    def _add_time(self, name: str, taken_ns: int) -> None:
        self._pace.add(name, taken_ns)
        self._pace_due_ns = 0

    def _sample(self, calls: int, taken_ns: int) -> None:
        if calls == 0:  # opens what is not open yet: no example for others
            self._first_ns = taken_ns
        else:
            self._sampled += 1
            self._sampled_ns += taken_ns

    def _record(self, kind: Callable[..., Any], **fields: Any) -> None:
        self._keep(lambda emitter: emitter.record(kind, **fields))

    def _keep(self, write: Callable[[Emitter], None]) -> bool:
        """Let this process's emitter write something; False when tracking is off or over. Never raises for us."""
        if self._is_off:
            return False
        if self._ended:
            PREEMPTION.hold()
            self._warn_once(f"Run {self.name} has ended: what is logged now is not kept.")
            return False
        if self._make_emitter is None:
            return True
        try:
            emitter = self._emitter or self._open(self._make_emitter, write)
            if emitter is None:
                return False
            write(emitter)
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._switch_off(problem)
            return False
        return True

    def _open(self, make_emitter: Callable[[], Emitter], write: Callable[[Emitter], None]) -> Emitter | None:
        """A forked child's own emitter; None when `write` waits for the call that is opening it, or is lost."""
        with self._lock:
            if self._is_opening:  # this is a signal handler, in the middle of the lines below
                self._later.append(write)
                return None
            if self._emitter is None and not self._ended:
                if time.monotonic() < self._open_at:
                    self._unkept += 1
                    return None
                self._is_opening = True
                try:
                    self._attach(make_emitter())
                except (JournalError, SettingsError) as problem:
                    self._wait_for_room(problem)
                    return None
                finally:
                    self._is_opening = False
            emitter = self._emitter
            if emitter is not None and self._unkept:
                emitter.journal.lose(self._unkept, "there was no room for a journal")
                self._unkept = 0
            while emitter is not None and self._later:
                self._later.popleft()(emitter)
            return emitter

    def _wait_for_room(self, problem: Exception) -> None:
        """A forked child finds no room for its journal: it tries again now and then, and counts what is lost."""
        self._unkept += 1 + len(self._later)
        self._later.clear()
        self._open_at = time.monotonic() + OPEN_RETRY_SECONDS
        reason = getattr(problem.__cause__, "strerror", None) or problem  # each try has a folder of its own
        self._warn_once(f"Process {os.getpid()} can't keep a journal of run {self.name} yet, and loses rows: {reason}.")

    def _switch_off(self, problem: Exception) -> None:
        """An internal fault: say so once, keep the journal as it is, take every later call and keep nothing."""
        self._is_off = True
        self._leave_fast_path()
        self._warn_once(f"Tracking of run {self.name} is off in process {os.getpid()}: {problem!r}.")

    def _finish(self, status: str, exit_code: int | None, error: str | None) -> bool:
        from runwire_schemas.events import Cost, RunEnded  # noqa: PLC0415 - fastavro: not at import time

        emitter, sampler = self._emitter, self._sampler
        if sampler is not None:
            sampler.stop()
            self._sampler = None
        if emitter is None:
            if self._unkept:
                self._warn_once(f"{self._unkept:,} rows of process {os.getpid()} are lost: it found no room for them.")
            return not self._unkept
        if self._highest_step != _NO_STEP:
            self._log_pace(self._highest_step, _clock_gettime_ns(CLOCK), is_last=True)
        ends_at = time.monotonic() + self._finish_timeout_seconds
        emitter.wait_until_described(self._finish_timeout_seconds / 2)
        sender = emitter.sender
        others = self._calls - 1
        cost = Cost(
            wall_seconds=time.monotonic() - self._started_at,
            log_seconds=1e-9 * (self._first_ns + (self._sampled_ns * others / self._sampled if self._sampled else 0)),
            sender_cpu_seconds=sum(thread.cpu_seconds for thread in (sender, sampler) if thread),
            rows=self._calls,
            points=self._points,
            rows_dropped=emitter.journal.rows_lost,
        )
        if not self._is_worker:  # the run doesn't end with a worker process of it
            try:
                emitter.record(RunEnded, status=status, exit_code=exit_code, error=error, cost=cost)
            except Exception as problem:  # noqa: BLE001 - rows that are there are delivered all the same
                self._switch_off(problem)
        delivered = emitter.finish(max(0.0, ends_at - time.monotonic()))
        # That the relay has a rest to deliver is how it should be: one rank says so for all.
        if not self._is_worker and (self.rank == 0 or not (delivered or emitter.is_relayed)):
            self._say_goodbye(emitter, cost, delivered=delivered)
        return delivered

    def _say_goodbye(self, emitter: Emitter, cost: Any, *, delivered: bool) -> None:
        share = (cost.log_seconds + cost.sender_cpu_seconds) / max(cost.wall_seconds, 1e-9)
        rest = f"all sent to {self.url}"
        if not delivered:
            waiting = max(0, emitter.journal.next_seq - emitter.acknowledged_seq - cost.rows_dropped)
            where, how = ("for the relay in", " --follow") if emitter.is_relayed else ("in", "")
            rest = f"{waiting:,} rows wait {where} {emitter.journal.folder}: `runwire sync{how}` sends them"
        if cost.rows_dropped:
            rest += f"; {cost.rows_dropped:,} rows are lost, for the journal couldn't be written"
        _say(
            f"runwire: {self.name} ({self.id}) {cost.points:,} points, {rest}; "
            f"tracking cost {100 * share:.2f} % of {cost.wall_seconds:.1f} s"
        )

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            with contextlib.suppress(Exception):  # of a handler that training brought along
                _log.warning(text)


class Section:
    """A timed part of the loop, of `Run.time`; the time counts whatever ends it."""

    __slots__ = ("_add", "_began_ns", "_name")

    def __init__(self, name: str, add: Callable[[str, int], None]) -> None:
        """`add` gets the name and nanoseconds."""
        self._name = name
        self._add = add
        self._began_ns = 0

    def __enter__(self) -> None:
        """Begin."""
        self._began_ns = _perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        """End."""
        self._add(self._name, _perf_counter_ns() - self._began_ns)


def _say(line: str) -> None:
    """One line for people, to standard error; broken or closed it is no reason to fail training."""
    stream, original = sys.stderr, sys.__stderr__
    with contextlib.suppress(Exception):
        if original is not None and stream is original:
            # Past its buffer: what stays in there makes Python's own last flush fail, and so the exit code another.
            original.flush()
            os.write(original.fileno(), f"{line}\n".encode())
        elif stream is not None:  # a notebook's, a test's
            stream.write(f"{line}\n")


def _unless_preempted(status: str) -> str:
    return status if PREEMPTION.noted() is None else "preempted"


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise UsageValueError for what is none of the words."""
    if not isinstance(value, str) or value not in choices:
        raise UsageValueError(argument, f"must be one of {', '.join(choices)}, not {shown(value)}")


def _checked_exit_code(code: object) -> int:
    try:
        return max(-EXIT_CODE_MAX, min(EXIT_CODE_MAX, operator.index(code)))  # type: ignore[arg-type]
    except TypeError:
        raise UsageTypeError("exit_code", f"must be an int, not {shown(code)}") from None


def _exit_code(error: BaseException) -> int:
    """What Python makes the exit code after this exception, as a shell shows it."""
    if isinstance(error, SystemExit):
        code = error.code
        return 0 if code is None else int(code) if isinstance(code, int) else 1
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def _error_text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception that can't be shown is an exception all the same
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _safe_text(error: object) -> str:
    """What went wrong, without secrets, and no longer than a record should be."""
    # Cut before it is searched: an assertion may quote megabytes.
    return printable(redact_text(printable(str(error))))


def _checked_step(step: object) -> int:
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        raise UsageTypeError("step", f"must be an int, not {shown(step)}") from None
    if not -(2**63) <= number < 2**63:
        raise UsageValueError("step", "must fit into 64 bits")
    return number


def _text(value: object) -> str | None:
    return None if value is None else printable(str(value))


def _is_long(keys: tuple[str, ...]) -> bool:
    return sum(map(len, keys)) * 4 > ROW_NAMES_BYTES_MAX


def _slices(keys: tuple[str, ...]) -> Iterator[slice]:
    """Parts of at most ROW_KEYS_MAX keys and ROW_NAMES_BYTES_MAX bytes of names."""
    if len(keys) <= ROW_KEYS_MAX and not _is_long(keys):
        yield slice(0, len(keys))
        return
    start = size = 0
    for at, key in enumerate(keys):
        key_bytes = len(key.encode())
        if at - start >= ROW_KEYS_MAX or size + key_bytes > ROW_NAMES_BYTES_MAX:
            yield slice(start, at)
            start, size = at, 0
        size += key_bytes
    yield slice(start, len(keys))


def flat_params(params: object, argument: str = "params") -> dict[str, Any]:
    """Parameters as they are sent: flat, plain, secrets masked.

    Raises:
        UsageTypeError: No mapping, or a key that is no string.
        UsageValueError: An empty, overlong or repeated key; nesting too deep.
    """
    return redact_params(flatten_params(params, argument))


def _parts(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters in records of bounded size."""
    part: dict[str, Any] = {}
    size = 0
    for key, value in params.items():
        cost = len(key) * 4 + (len(value) * 4 if isinstance(value, str) else 16)
        if part and size + cost > PARAMS_BYTES_MAX:
            yield part
            part, size = {}, 0
        part[key] = value
        size += cost
    if part:
        yield part
