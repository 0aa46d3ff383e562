"""Lines about trouble that lasts: at most one a minute for each cause, and none that can hurt who says it."""

from __future__ import annotations

import contextlib
import logging
import time

NOTICE_INTERVAL_SECONDS = 60.0
_log = logging.getLogger("runwire")


class Notices:
    """What was said last about something, and when."""

    def __init__(self, about: object) -> None:
        """Nothing yet."""
        self._about = about
        self._said_at: dict[str, float] = {}

    def is_due(self, cause: str) -> bool:
        """Whether this cause may be named now; asked and answered yes, it counts as said."""
        now = time.monotonic()
        if now - self._said_at.get(cause, -NOTICE_INTERVAL_SECONDS) < NOTICE_INTERVAL_SECONDS:
            return False
        self._said_at[cause] = now
        return True

    def say(self, cause: str, consequence: str) -> None:
        """Say it. Hold no lock of ours: a handler of the log may itself call `Run.log`."""
        with contextlib.suppress(Exception):  # of a handler that training brought along
            _log.warning("%s: %s. %s", self._about, cause, consequence)
