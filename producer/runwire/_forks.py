"""A lock that a fork waits for: a child inherits nothing that a thread of ours was in the middle of.

A child has its parent's memory but not its threads: a lock that one of them held is held for ever in the child, also
a module's import lock or a library's own. So a thread of ours does what takes such locks while it holds a `ForkLock`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Self


class ForkLock:
    """Held as a context manager; make one a module, it lives as long as the process."""

    def __init__(self, wait_seconds: float) -> None:
        """A fork waits for at most so long: what holds the lock may itself be stuck."""
        self._lock = threading.RLock()
        self._wait_seconds = wait_seconds
        os.register_at_fork(
            before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
        )

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it isn't ours: the wait took too long, or this is a child by now
            self._lock.release()

    def _before(self) -> None:
        self._lock.acquire(timeout=self._wait_seconds)

    def _after_in_parent(self) -> None:
        self._release()

    def _after_in_child(self) -> None:
        self._lock = threading.RLock()
