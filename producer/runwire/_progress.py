"""The promise of progress: a loop that says when it will be heard of next is told, when overdue, from a dead one.

Each `log()` and each `progress()` is progress. The sender looks a few times a second at how many there were, so a
promise costs the training nothing; time is that of a clock which nobody sets.
"""

from __future__ import annotations

import itertools
import math
from types import EllipsisType
from typing import TYPE_CHECKING, Protocol

from runwire._errors import UsageTypeError, UsageValueError
from runwire._values import shown

if TYPE_CHECKING:
    from collections.abc import Callable


class Worker(Protocol):
    """Whose progress it is."""

    @property
    def calls(self) -> int:
        """`log()` calls so far."""


class Progress:
    """What one process promised, and when its sender last saw something of it."""

    def __init__(self, worker: Worker) -> None:
        """Nothing is promised: never overdue."""
        self._worker = worker
        self._number: Callable[[], int] = itertools.count(1).__next__  # no two threads get the same
        self._said: tuple[int, float | None] = (0, None)
        self._seen: object = None
        self._seen_at = 0.0

    def say(self, expect_next_in_seconds: float | EllipsisType | None = ...) -> None:
        """The loop is alive; the promise is renewed, changed, or taken back by None."""
        promise = self._said[1] if isinstance(expect_next_in_seconds, EllipsisType) else expect_next_in_seconds
        self._said = (self._number(), promise)

    def overdue_seconds(self, now: float) -> float:
        """How long the loop is past its promise; 0 while it isn't.

        Args:
            now: Seconds of a clock that never jumps; asked a few times a second, always by the same thread.
        """
        said = self._said
        signs = (said, self._worker.calls)
        if signs != self._seen:
            self._seen, self._seen_at = signs, now
        promise = said[1]
        return 0.0 if promise is None else max(0.0, now - self._seen_at - promise)


def checked_promise(seconds: object) -> float | None:
    """A promise as it is kept: a positive number of seconds, or None.

    Raises:
        UsageTypeError: It is no number.
        UsageValueError: It is not above 0, or not finite.
    """
    if seconds is None:
        return None
    if isinstance(seconds, (bool, str, bytes)):
        raise UsageTypeError("expect_next_in", f"must be a number of seconds, not {shown(seconds)}")
    try:
        number = float(seconds)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageTypeError("expect_next_in", f"must be a number of seconds, not {shown(seconds)}") from None
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise UsageValueError("expect_next_in", f"must be above 0 and finite, not {shown(seconds)}")
    return number
