"""Virtual time: an event loop whose clock moves only when everybody waits, and the processes that live on it.

No thread, no sleep, no wall clock: what runs when depends on the seed alone. A process is a context that its tasks
inherit; killed, it does nothing any more, not even in `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

START_SECONDS = 1_000.0
CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)


class Stalled(Exception):
    """Nobody runs and nobody waits for a time: the history can't go on."""


class Killed(BaseException):
    """Raised inside of a process that dies now."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic; executors run on the loop itself, after a delay that `executor_delay` gives."""

    def __init__(self, executor_delay: Callable[[], float]) -> None:
        self._now = START_SECONDS
        super().__init__()
        self._clock_resolution = 1e-6
        self._selector = self
        self._executor_delay = executor_delay
        self.events = 0

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> tuple[()]:
        """In the place of waiting for sockets: time passes."""
        if timeout is None:
            raise Stalled("Nobody runs and nobody waits for a time.")
        self._now += timeout
        self.events += 1
        return ()

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, _: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """The other thread's work, in one piece, a little later; that of a dead process never."""
        done: asyncio.Future[Any] = self.create_future()
        process = CURRENT.get()
        if process is not None and not process.alive:
            done.cancel()
            return done

        def work() -> None:
            if done.done() or (process is not None and not process.alive):
                return
            try:
                result = func(*args)
            except StopIteration:
                raise
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for it
                if not done.done():
                    done.set_exception(error)
                    done.exception()  # a waiter that was killed retrieves nothing: no complaint
            else:
                done.set_result(result)

        self.call_later(self._executor_delay(), work)
        return done


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """Every task belongs to the process that made it."""
    process = CURRENT.get() if context is None else context.get(CURRENT)
    task = asyncio.Task(coro, loop=loop, context=context)
    if process is not None:
        process.tasks.append(task)
        task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


class Process:
    """One simulated process.

    Attributes:
        folders: The journals' folders that it holds, as `_journal_files._OURS` would.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.folders: dict[str, object] = {}
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, self)

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this process."""
        return self.loop.create_task(coro, context=self.context.copy())

    def run(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call something as this process."""
        return self.context.copy().run(func, *args)

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()
