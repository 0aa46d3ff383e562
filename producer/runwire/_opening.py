"""Opening: a process's journal comes with its first call, and a forked child's may find no room for it yet."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from runwire._errors import JournalError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runwire._emitter import Emitter

RETRY_SECONDS = 1.0


class Opening:
    """Of one process: any thread may open, signal handlers too, also one that interrupts another's opening.

    Attributes:
        unkept: Rows that came while there was no room; declared lost once there is.
    """

    def __init__(self) -> None:
        """Nothing is open."""
        self.unkept = 0
        self._lock = threading.RLock()
        self._is_opening = False
        self._later: deque[Callable[[Emitter], None]] = deque()
        self._retry_at = 0.0

    def open(
        self,
        make: Callable[[], Emitter | None],
        write: Callable[[Emitter], None],
        on_no_room: Callable[[object], None],
    ) -> Emitter | None:
        """The emitter; None when `write` waits for the call that is opening it, or is lost.

        Args:
            make: Gives the one that is there, or makes it; None when the run has ended.
            write: What the emitter is wanted for.
            on_no_room: Gets the reason.
        """
        with self._lock:
            if self._is_opening:  # this is a signal handler, in the middle of the lines below
                self._later.append(write)
                return None
            if time.monotonic() < self._retry_at:
                self.unkept += 1
                return None
            self._is_opening = True
            try:
                emitter = make()
            except (JournalError, SettingsError) as problem:
                self.unkept += 1 + len(self._later)
                self._later.clear()
                self._retry_at = time.monotonic() + RETRY_SECONDS
                on_no_room(getattr(problem.__cause__, "strerror", None) or problem)  # each try has a folder of its own
                return None
            finally:
                self._is_opening = False
            if emitter is not None and self.unkept:
                emitter.journal.lose(self.unkept, "there was no room for a journal")
                self.unkept = 0
            while emitter is not None and self._later:
                self._later.popleft()(emitter)
            return emitter
