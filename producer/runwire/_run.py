"""A run as training sees it: `log()` and its siblings, which never raise for our reasons and never wait."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from runwire._clock import CLOCK
from runwire._device import Remote
from runwire._display import balance_of, card, last_line, say
from runwire._endings import checked_exit_code, error_text, exit_code_of, is_of_a_signal_handler, safe_text
from runwire._errors import UsageError
from runwire._known_keys import KnownKeys
from runwire._meter import COST_SAMPLE, Meter
from runwire._notices import NOTICES
from runwire._opening import Opening
from runwire._pace import Pace, Section, unit_of
from runwire._params import flat_params, parts, text_of
from runwire._preemption import PREEMPTION
from runwire._progress import Progress, checked_promise
from runwire._query import curve
from runwire._values import (
    PLAIN_TYPES,
    check_choice,
    checked_int64,
    checked_key,
    metric_row,
    row_slices,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import EllipsisType, TracebackType

    from runwire._emitter import Emitter
    from runwire._system import Sampler

FINISH_TIMEOUT_SECONDS = 10.0
_NO_STEP = -(2**63) - 1
_ARRIVAL_NS = 100_000_000  # how often a process without a sender looks for values from devices
_LEVELS = ("info", "warning", "error")
_STATUSES = ("finished", "failed", "preempted")
# Looked up once: `log` runs millions of times.
_sum = sum
_are_strings = frozenset({str}).issuperset
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
        self._status = ""
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
        self._calls_off = 0  # how many there were when tracking was switched off
        self._calls = 0
        self._pace = Pace(is_automatic=self._auto_metrics and not self._is_worker)
        self._pace_due_ns = self._pace.due_ns
        self._defined: set[str] = set()
        self._points = 0
        self._highest_step = self._last_step = _NO_STEP
        self._meter = Meter()
        # Empty where nobody keeps what is logged: each call says so then.
        self._known_keys = KnownKeys()
        self._last: tuple[list[str], tuple[str, ...] | None] = [], None
        self._progress = Progress(self)
        self._has_finished = threading.Event()
        self._opening = Opening()

    @property
    def step(self) -> int:
        """The step of `log()` calls that name none: what was set last, else the number of calls so far."""
        return self._calls if self._step is None else self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step = checked_int64("step", value)

    def log(self, metrics: Mapping[str, Any], *, step: int | None = None) -> None:  # noqa: C901, PLR0912 - one piece: calls cost
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
        elif type(step) is not int or not -(2**63) <= step < 2**63:
            step = checked_int64("step", step)
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
                self._last_step = step
                if now_ns >= self._pace_due_ns:
                    self._log_pace(step, now_ns, known)
            else:
                self._log_slowly(metrics, step)
        except RecursionError:  # the caller is too deep, and we are not broken
            raise
        except UsageError as problem:
            cause = problem.__cause__
            if cause is not None and is_of_a_signal_handler(cause):  # the value was good: its reading was interrupted
                raise cause from None
            raise
        except Exception as problem:
            if is_of_a_signal_handler(problem):
                raise
            self._log_again(metrics, step, problem)
        if start_ns:
            self._meter.sample(calls, _perf_counter_ns() - start_ns)

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

        for part in parts(flat):
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
            best = check_choice("best", best, ("min", "max"))
        self._record(
            MetricDefined, metric=checked_key(metric, "metric"), unit=None if unit is None else text_of(unit), best=best
        )

    def time(self, name: str) -> Section:
        """Time a part of the loop: `with run.time("data"): batch = next(batches)`.

        What it took, in seconds, is kept as `time/NAME` at the step of the next `log()`; sections of the same name are
        added up until then. It is the host's time: work that a device still does is not waited for.

        Args:
            name: What the section is called.

        Returns:
            A context manager; sections may lie inside of one another.

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

        level = check_choice("level", level, _LEVELS)
        at = self.step if step is None else checked_int64("step", step)
        self._record(AlertRaised, title=text_of(title), text=text_of(text), level=level, step=at)

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

    curve = curve

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
            status = check_choice("status", status, _STATUSES)
        code = None if exit_code is None else checked_exit_code(exit_code)
        return self._end(status or PREEMPTION.status_or("finished"), code, None if error is None else safe_text(error))

    def fail(self, error: BaseException) -> bool:
        """Finish as failed; as preempted where a signal said that the job ends.

        Args:
            error: Its type and text are kept, without secrets that can be recognised; of SystemExit the code, too.

        Returns:
            What `finish` does.
        """
        return self.finish(PREEMPTION.status_or("failed"), exit_code=exit_code_of(error), error=error_text(error))

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
        self._status = status
        last_keys = self._last[1]
        self._leave_fast_path()
        self._delivered = False
        self._on_end(self)
        try:
            before()
            if self._last_step != _NO_STEP:
                self._log_pace(self._last_step, _clock_gettime_ns(CLOCK), last_keys, is_last=True)
            self._delivered = self._finish(status, exit_code, error)
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._warn_once("end", f"Ending run {self.name} failed, its journal is kept: {problem!r}.")
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
        elif isinstance(error, SystemExit) and not exit_code_of(error):
            self.finish(exit_code=0)
        else:
            self.fail(error)

    def __repr__(self) -> str:
        """Name, id, state and destination."""
        return f"<runwire.Run {self.name} ({self.id}) rank {self.rank}, {self._state}, to {self.url}>"

    def _repr_html_(self) -> str:
        """A notebook's cell shows this: who the run is, how it is, and how to look at it."""
        fields = {"run": self.name, "id": self.id, "project": self.project, "state": self._state, "to": self.url}
        return card({**fields, "look at it": f"runwire show {self.id}"})

    @property
    def _state(self) -> str:
        if self._make_emitter is None:
            return "not tracked (mode off)"
        if self._ended:
            return self._status
        return "tracking is off after a fault" if self._is_off else "running"

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
            self._warn_once("system", f"System metrics are off: {problem}.")

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
            if type(metrics) is dict:
                metrics = metrics.copy()  # at once: another thread may be changing it
            keys, values = metric_row(metrics)
        except UsageError:
            self._calls -= 1
            raise
        if not keys:
            return
        now_ns = _clock_gettime_ns(CLOCK)
        if not self._keep(partial(self._write_row, keys, step, now_ns, values)):
            return
        self._highest_step = max(self._highest_step, step)
        self._last_step = step
        if Remote in map(type, values):
            self._pace_due_ns = min(self._pace_due_ns, now_ns + _ARRIVAL_NS)
            if self._known_keys.pop(keys, None):  # or each call would add them up, on their device
                self._last = [], None
        elif type(metrics) is dict and _are_strings(map(type, metrics)) and keys == tuple(metrics) and not self._ended:
            self._known_keys.remember(keys)
        if now_ns >= self._pace_due_ns:
            self._log_pace(step, now_ns, keys)

    def _write_row(
        self, keys: tuple[str, ...], step: int, now_ns: int, values: tuple[float | Remote, ...], emitter: Emitter
    ) -> None:
        # A call is one row, unsplittable, unless it has more keys than a row may have.
        for part in row_slices(keys):
            emitter.append_row(keys[part], step, now_ns, values[part])
        self._points += len(keys)

    def _log_again(self, metrics: Mapping[str, Any], step: int, problem: Exception) -> None:
        """A row that failed on the fast path: what it holds is odd, or another thread changed it; else our fault."""
        row = metrics.copy() if type(metrics) is dict else {}  # at once: another thread may be changing it
        is_plain = _are_strings(map(type, row)) and PLAIN_TYPES.issuperset(map(type, row.values()))
        if isinstance(problem, OverflowError) or not is_plain:
            self._log_slowly(metrics, step)
        else:
            self._switch_off(problem)

    def _log_pace(self, step: int, now_ns: int, keys: object, *, is_last: bool = False) -> None:
        """What is due beside the row that was just logged: what a step and the sections took, values from devices."""
        found = self._pace.take(step, now_ns, keys, is_last=is_last)
        self._pace_due_ns = self._pace.due_ns
        if self._emitter is not None and self._emitter.settle_alone():
            self._pace_due_ns = min(self._pace_due_ns, now_ns + _ARRIVAL_NS)
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
        except Exception as problem:
            if is_of_a_signal_handler(problem):
                raise
            self._switch_off(problem)

    def _leave_fast_path(self) -> None:
        """From now on each call looks first whether there is somebody to keep it."""
        self._known_keys = KnownKeys()
        self._last = [], None

    def _add_time(self, name: str, taken_ns: int) -> None:
        self._pace.add(name, taken_ns)
        self._pace_due_ns = 0

    def _record(self, kind: Callable[..., Any], **fields: Any) -> None:
        self._keep(lambda emitter: emitter.record(kind, **fields))

    def _keep(self, write: Callable[[Emitter], None]) -> bool:
        """Let this process's emitter write something; False when tracking is off or over. Never raises for us."""
        if self._is_off:
            return False
        if self._ended:
            PREEMPTION.hold()
            self._warn_once("ended", f"Run {self.name} has ended: what is logged now is not kept.")
            return False
        if self._make_emitter is None:
            return True
        try:
            emitter = self._emitter or self._opening.open(self._opened, write, self._say_no_room)
            if emitter is None:
                return False
            write(emitter)
        except RecursionError:
            raise  # the caller is too deep, and we are not broken
        except Exception as problem:
            if is_of_a_signal_handler(problem):
                raise
            self._switch_off(problem)
            return False
        return True

    def _opened(self) -> Emitter | None:
        """This process's emitter: the one that is there, or one that is made; none after the end."""
        if self._emitter is None and self._make_emitter is not None and not self._ended:
            self._attach(self._make_emitter())
        return self._emitter

    def _say_no_room(self, reason: object) -> None:
        text = f"Process {os.getpid()} can't keep a journal of run {self.name} yet, and loses rows: {reason}."
        self._warn_once("room", text)

    def _switch_off(self, problem: Exception) -> None:
        """An internal fault: say so once, keep the journal as it is, take every later call and keep nothing."""
        if not self._is_off:
            self._calls_off = self._calls
        self._is_off = True
        self._leave_fast_path()
        self._warn_once("fault", f"Tracking of run {self.name} is off in process {os.getpid()}: {problem!r}.")

    def _finish(self, status: str, exit_code: int | None, error: str | None) -> bool:
        from runwire_schemas.events import Cost, RunEnded  # noqa: PLC0415 - fastavro: not at import time

        emitter, sampler = self._emitter, self._sampler
        if sampler is not None:
            sampler.stop()
            self._sampler = None
        if emitter is None:
            unkept = self._opening.unkept
            if unkept:
                self._warn_once(
                    "lost", f"{unkept:,} rows of process {os.getpid()} are lost: it found no room for them."
                )
            return not unkept
        if self._is_off and self._calls > self._calls_off:
            emitter.journal.lose(self._calls - self._calls_off, "tracking was off after a fault")
        ends_at = time.monotonic() + self._finish_timeout_seconds
        emitter.wait_until_described(self._finish_timeout_seconds / 2)
        sender = emitter.sender
        cost = Cost(
            wall_seconds=time.monotonic() - self._started_at,
            log_seconds=self._meter.log_seconds(self._calls),
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
            say(last_line(self.name, self.id, self.url, balance_of(emitter, cost, delivered=delivered)))
        return delivered

    def _warn_once(self, cause: str, text: str) -> None:
        if cause not in self._warned:
            self._warned.add(cause)
            NOTICES.say(cause, text)
