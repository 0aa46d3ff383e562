"""A run as training sees it: `log()` and its siblings, which never raise for our reasons and never wait."""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from runwire._clock import RowClock
from runwire._context.redaction import redact_params
from runwire._errors import UsageTypeError, UsageValueError
from runwire._params import flatten_params, printable
from runwire._values import PLAIN_TYPES, checked_key, metric_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from runwire._emitter import Emitter

ROW_KEYS_MAX = 1_000
ROW_NAMES_BYTES_MAX = 256 * 2**10
PARAMS_BYTES_MAX = 256 * 2**10
KEY_SETS_MAX = 10_000
COST_SAMPLE = 64  # one call in so many is timed

_LEVELS = ("info", "warning", "error")
_STATUSES = ("finished", "failed", "preempted")
_log = logging.getLogger("runwire")


class Run:
    """One process's part of a run; made by `runwire.init`, also a context manager that ends it.

    After an exception in the `with` block the run is failed, else finished. Methods may be called from any thread,
    from signal handlers, and in forked children, which become emitters of their own.

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
        self._emitter: Emitter | None = None
        self._append: Callable[..., None] | None = None
        self._ended = make_emitter is None
        self._is_worker = False
        self._clock = RowClock()
        self._step: int | None = None
        self._calls = 0
        self._points = 0
        self._sampled = self._sampled_ns = 0
        self._known_keys: set[tuple[str, ...]] = set()
        self._warned: set[str] = set()
        self._started_at = time.monotonic()
        if make_emitter is not None:
            self._attach(make_emitter())

    @property
    def step(self) -> int:
        """The step of `log()` calls that name none: what was set last, else the number of calls so far."""
        return self._calls if self._step is None else self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step = _checked_step(value)

    def log(self, metrics: Mapping[str, Any], *, step: int | None = None) -> None:
        """Keep one row: the values of some metrics at a step.

        Args:
            metrics: Names to numbers: Python's and numpy's, or tensors of one element. Nested mappings become
                `outer/inner`. NaN and infinities stay what they are. Any names, in any call.
            step: Any int64, in any order; by default `run.step`.

        Raises:
            UsageTypeError: A key that is no string, a value that is no number, a step that is no int.
            UsageValueError: An empty, overlong or repeated key; a step beyond 64 bits.
        """
        calls = self._calls
        self._calls = calls + 1
        start_ns = 0 if calls % COST_SAMPLE else time.perf_counter_ns()
        if step is None:
            step = calls if self._step is None else self._step
        elif type(step) is not int or not -(2**63) <= step < 2**63:
            step = _checked_step(step)
        append = self._append
        if type(metrics) is dict:
            keys = tuple(metrics)
            values = tuple(metrics.values())
            if append is not None and keys in self._known_keys and PLAIN_TYPES.issuperset(map(type, values)):
                try:
                    append(keys, step, self._clock.now_us(), values)
                    self._points += len(keys)
                except OverflowError:  # an int beyond float64
                    self._log_slowly(metrics, step)
                except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
                    self._switch_off(problem)
            else:
                self._log_slowly(metrics, step)
        else:
            self._log_slowly(metrics, step)
        if start_ns:
            self._sampled_ns += time.perf_counter_ns() - start_ns
            self._sampled += 1

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep parameters; a later value of a key replaces an earlier one, and both stay in the log.

        Args:
            params: Names to values. Nested mappings become `outer/inner`, lists JSON, other objects their `str()`;
                values whose names look like secrets are masked.

        Raises:
            UsageTypeError: No mapping (dataclasses and namespaces count as one), or a key that is no string.
            UsageValueError: An empty, overlong or repeated key.
        """
        from runwire_schemas.events import ParamsLogged  # noqa: PLC0415 - fastavro: not at import time

        for part in _parts(redact_params(flatten_params(params))):
            self._record(ParamsLogged, params=part)

    def define(self, metric: str, *, unit: str | None = None, best: str | None = None) -> None:
        """Say how a metric is to be read.

        Args:
            metric: Its name.
            unit: Unit of its values.
            best: "min" or "max": fills `best[metric]` in `runs`.

        Raises:
            UsageTypeError: `metric` is no string.
            UsageValueError: `best` is something else.
        """
        from runwire_schemas.events import MetricDefined  # noqa: PLC0415 - fastavro: not at import time

        if best not in (None, "min", "max"):
            raise UsageValueError("best", f'must be "min", "max" or None, not {best!r}')
        self._record(MetricDefined, metric=checked_key(metric, "metric"), unit=_text(unit), best=best)

    def alert(self, title: str, text: str = "", *, level: str = "warning", step: int | None = None) -> None:
        """Ask people for attention.

        Args:
            title: One line.
            text: Details.
            level: "info", "warning" or "error".
            step: Step it belongs to; by default `run.step`.

        Raises:
            UsageValueError: `level` is something else.
            UsageTypeError: `step` is no int.
        """
        from runwire_schemas.events import AlertRaised  # noqa: PLC0415 - fastavro: not at import time

        if level not in _LEVELS:
            raise UsageValueError("level", f"must be one of {', '.join(_LEVELS)}, not {level!r}")
        at = self.step if step is None else _checked_step(step)
        self._record(AlertRaised, title=_text(title) or "", text=_text(text) or "", level=level, step=at)

    def finish(self, status: str = "finished", *, exit_code: int | None = None, error: str | None = None) -> bool:
        """End this process's part of the run; waits at most 10 seconds for delivery.

        Args:
            status: "finished", "failed" or "preempted".
            exit_code: Of the process, where it is known.
            error: What went wrong.

        Returns:
            Whether everything was delivered; else the rest waits in the journal for `runwire sync`.

        Raises:
            UsageValueError: `status` is something else.
        """
        if status not in _STATUSES:
            raise UsageValueError("status", f"must be one of {', '.join(_STATUSES)}, not {status!r}")
        if self._ended:
            return True
        self._on_end(self)
        try:
            return self._finish(status, exit_code, error)
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._warn_once(f"Ending run {self.name} failed, its journal is kept: {problem!r}.")
            return False
        finally:
            self._ended = True
            self._append = None
            self._emitter = None

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish; an exception makes the run failed and goes on its way."""
        if isinstance(error, SystemExit) and error.code in (None, 0):
            self.finish(exit_code=0)
        elif error is None:
            self.finish()
        else:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Finish as failed, with the exception's type and text."""
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        self.finish("failed", exit_code=code, error=printable(f"{type(error).__name__}: {error}"))

    def __repr__(self) -> str:
        """Name, id and destination."""
        return f"<runwire.Run {self.name} ({self.id}) rank {self.rank} to {self.url}>"

    def after_fork_in_child(self) -> None:
        """Forget the parent's emitter: the first call here opens one of the child's own."""
        self._emitter = None
        self._append = None
        self._is_worker = True

    def _attach(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._append = emitter.journal.append_row

    def _log_slowly(self, metrics: object, step: int) -> None:
        """Everything that is not a plain dict of known keys and plain numbers."""
        keys, values = metric_row(metrics)
        if len(self._known_keys) >= KEY_SETS_MAX:
            self._known_keys.clear()
        emitter = self._revive()
        if emitter is None:
            return
        now = self._clock.now_us()
        try:
            # A call is one row, unsplittable, unless it has more keys than a row may have.
            for part in _slices(keys):
                emitter.journal.append_row(keys[part], step, now, values[part])
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._switch_off(problem)
            return
        self._points += len(keys)
        if type(metrics) is dict and keys == tuple(metrics) and len(keys) <= ROW_KEYS_MAX and not _is_long(keys):
            self._known_keys.add(keys)

    def _record(self, kind: Callable[..., Any], **fields: Any) -> None:
        emitter = self._revive()
        if emitter is None:
            return
        try:
            emitter.record(kind, **fields)
        except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
            self._switch_off(problem)

    def _revive(self) -> Emitter | None:
        """This process's emitter: in a forked child a new one; None when nothing is kept any more."""
        if self._emitter is None and not self._ended and self._make_emitter is not None:
            try:
                self._attach(self._make_emitter())
            except Exception as problem:  # noqa: BLE001 - nothing of ours may reach training
                self._switch_off(problem)
        elif self._ended and self._make_emitter is not None:
            self._warn_once(f"Run {self.name} has ended: what is logged now is not kept.")
        return self._emitter

    def _switch_off(self, problem: Exception) -> None:
        """An internal fault: say so once, keep the journal as it is, take every later call and keep nothing."""
        self._ended = True
        self._append = None
        self._warn_once(f"Tracking of run {self.name} is off in process {os.getpid()}: {problem!r}.")

    def _finish(self, status: str, exit_code: int | None, error: str | None) -> bool:
        from runwire_schemas.events import Cost, RunEnded  # noqa: PLC0415 - fastavro: not at import time

        emitter = self._emitter
        if emitter is None:
            return True
        journal, sender = emitter.journal, emitter.sender
        cost = Cost(
            wall_seconds=time.monotonic() - self._started_at,
            log_seconds=self._sampled_ns * 1e-9 * self._calls / self._sampled if self._sampled else 0.0,
            sender_cpu_seconds=sender.cpu_seconds if sender else 0.0,
            rows=self._calls,
            points=self._points,
            rows_dropped=journal.rows_lost,
        )
        if not self._is_worker:  # the run doesn't end with a worker process of it
            emitter.record(RunEnded, status=status, exit_code=exit_code, error=error, cost=cost)
        delivered = emitter.finish(self._finish_timeout_seconds)
        if not self._is_worker and (self.rank == 0 or not delivered):
            self._say_goodbye(emitter, cost, delivered=delivered)
        return delivered

    def _say_goodbye(self, emitter: Emitter, cost: Any, *, delivered: bool) -> None:
        share = (cost.log_seconds + cost.sender_cpu_seconds) / max(cost.wall_seconds, 1e-9)
        rest = f"all sent to {self.url}"
        if not delivered:
            waiting = emitter.journal.next_seq - (emitter.sender.acknowledged_seq if emitter.sender else 0)
            rest = f"{waiting:,} rows wait in {emitter.journal.folder}: `runwire sync` sends them"
        _say(
            f"runwire: {self.name} ({self.id}) {cost.points:,} points, {rest}; "
            f"tracking cost {100 * share:.2f} % of {cost.wall_seconds:.1f} s"
        )

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning(text)


def _say(line: str) -> None:
    """One line for people, to standard error."""
    with contextlib.suppress(Exception):  # a closed stderr is no reason to fail training
        print(line, file=sys.stderr)  # noqa: T201 - promised: the run's end says what tracking cost


def _checked_step(step: object) -> int:
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        raise UsageTypeError("step", f"must be an int, not {type(step).__name__} {step!r:.40}") from None
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
