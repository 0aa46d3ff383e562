"""The process's end is the run's: failed after an uncaught exception or `sys.exit(3)`, else finished or preempted."""

from __future__ import annotations

import atexit
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from runwire._preemption import PREEMPTION

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from runwire._run import Run

# Last of all finalizers of a multiprocessing child: those of queues and locks have -5 at the lowest.
_LAST = -100


class _Watch:
    """What is known of this process's end."""

    def __init__(self) -> None:
        self.current: Callable[[], Run | None] = lambda: None
        self.at_exit_set = False
        self.exit: Callable[..., NoReturn] = sys.exit
        self.exit_called: tuple[Any, int] | None = None  # with what, and after how many `log` calls


_watch = _Watch()


def watch_exit(current: Callable[[], Run | None]) -> None:
    """End the current run when the process ends."""
    _watch.current = current
    if not _watch.at_exit_set:
        _watch.at_exit_set = True
        atexit.register(_at_exit)
    if sys.exit is not _exit:
        _watch.exit, sys.exit = sys.exit, _exit


def watch_end_of_child() -> None:
    """Children of multiprocessing end by `os._exit`, after finalizers of multiprocessing's own and no others."""
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _at_exit, exitpriority=_LAST)


def unwatch_exit() -> None:
    """No run is current any more."""
    if sys.exit is _exit:
        sys.exit = _watch.exit


def after_fork_in_child() -> None:
    """What the parent's `sys.exit` was called with is not the child's."""
    _watch.exit_called = None


def _exit(status: Any = None, /) -> NoReturn:
    """`sys.exit` while a run is tracked: Python tells nobody else with what it was called."""
    run = _watch.current()
    _watch.exit_called = None if run is None else (status, run.calls)
    _watch.exit(status)


def _at_exit() -> None:
    PREEMPTION.hold()
    run = _watch.current()
    if run is None:
        return
    error = _uncaught(run)
    if error is None:
        run.finish()
    else:
        run.fail(error)
    if type(error) is KeyboardInterrupt:
        # Python dies of SIGINT, as a shell expects, when the code it ran last ended so; what was imported since
        # (dataclasses run code they make) was run last, and would make that exit code 1.
        with contextlib.suppress(KeyboardInterrupt):
            exec("raise KeyboardInterrupt")  # noqa: S102 - see above


def _uncaught(run: Run) -> BaseException | None:
    """What ends this process, as far as Python tells."""
    # multiprocessing's finalizers run while the exception is on its way.
    error = sys.exc_info()[1]
    # Python's main program leaves it here before it calls sys.excepthook, which is thereby everybody else's to replace.
    # Where a person types, or in a notebook, it is just the last one of many.
    if error is None and not hasattr(sys, "ps1"):
        error = getattr(sys, "last_value", None)
    if error is None and _watch.exit_called is not None and not _is_notebook():
        status, calls = _watch.exit_called
        if calls == run.calls:  # else somebody caught it, and training went on
            error = SystemExit(status)
    return None if isinstance(error, SystemExit) and error.code in (None, 0) else error


def _is_notebook() -> bool:
    """Whether IPython runs the code: a cell's `sys.exit(3)` ends the cell, and nothing else."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and get_shell() is not None
