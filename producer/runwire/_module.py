"""The run's calls for code that has no run at hand: `runwire.log(...)` goes to the current run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runwire._notices import NOTICES
from runwire._pace import Section
from runwire._start import current_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import EllipsisType

    from runwire._run import Run

_noticed = False


def log(metrics: Mapping[str, Any], *, step: int | None = None) -> None:
    """`Run.log` of the current run; without one nothing is kept, which is said once."""
    run = _current()
    if run is not None:
        run.log(metrics, step=step)


def log_params(params: object) -> None:
    """`Run.log_params` of the current run."""
    run = _current()
    if run is not None:
        run.log_params(params)


def define(metric: str, *, unit: str | None = None, best: str | None = None) -> None:
    """`Run.define` of the current run: a metric's unit, and whether "min" or "max" is best."""
    run = _current()
    if run is not None:
        run.define(metric, unit=unit, best=best)


def time(name: str) -> Section:
    """`Run.time` of the current run: `with runwire.time("data"): ...`; without one nothing is kept."""
    run = _current()
    return Section(name, _drop) if run is None else run.time(name)


def alert(title: str, text: str = "", *, level: str = "warning", step: int | None = None) -> None:
    """`Run.alert` of the current run; `level` is "info", "warning" or "error"."""
    run = _current()
    if run is not None:
        run.alert(title, text, level=level, step=step)


def progress(*, expect_next_in: float | EllipsisType | None = ...) -> None:
    """`Run.progress` of the current run: its loop is alive, and will be heard of again in so many seconds."""
    run = _current()
    if run is not None:
        run.progress(expect_next_in=expect_next_in)


def finish(status: str | None = None, *, exit_code: int | None = None, error: str | None = None) -> bool:
    """`Run.finish` of the current run: whether everything was delivered within 10 seconds; True without a run."""
    run = current_run()
    return True if run is None else run.finish(status, exit_code=exit_code, error=error)


def _drop(_name: str, _taken_ns: int) -> None:
    """Keep nothing."""


def _current() -> Run | None:
    global _noticed  # noqa: PLW0603 - one notice a process
    run = current_run()
    if run is None and not _noticed:
        _noticed = True
        NOTICES.say("no run", "There is no current run: call runwire.init first. What is logged now is not kept.")
    return run
