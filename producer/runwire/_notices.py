"""Notices: what people are told through `logging`; one line a minute a cause, and no error of a handler."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_SECONDS = 60.0
CAUSES_MAX = 1_000  # of those that an interval has passed since, no more are remembered

_log = logging.getLogger("runwire")


class Notices:
    """Says what there is to say about each cause, once an interval; may be used from any thread and signal handler."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._said_at: dict[str, float] = {}

    def say(self, cause: str, text: str) -> None:
        """Log a warning, unless there was one of the same cause within the last INTERVAL_SECONDS; never raises.

        Args:
            cause: One word of a few.
            text: Whole sentences: what, where, what to do.
        """
        now = self._clock()
        # Before it is said: a handler may itself log to the run.
        if now - self._said_at.get(cause, now - INTERVAL_SECONDS) >= INTERVAL_SECONDS:
            if len(self._said_at) >= CAUSES_MAX:
                self._said_at = {old: at for old, at in self._said_at.items() if now - at < INTERVAL_SECONDS}
            self._said_at[cause] = now
            with contextlib.suppress(Exception):  # of a handler that training brought along, or of a closed stream
                # Unsigned lines in a job's output are nobody's.
                _log.warning("%s%s", "" if _log.hasHandlers() else "runwire: ", text)


# Of this process: a thousand short runs have the same few causes. A forked child goes on where its parent was.
NOTICES = Notices()
