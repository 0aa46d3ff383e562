"""Pace: what a step and the timed sections take, as metrics beside those that are logged.

    time/step                seconds a step, over the last interval
    time/steps_per_second    its inverse
    time/NAME                seconds in `run.time(NAME)` since the `log()` before

Nothing runs in the background for it: `log()` asks when a moment is due, and knows step and clock anyway.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PACE_INTERVAL_SECONDS = 5.0
STEP, STEPS_PER_SECOND = "time/step", "time/steps_per_second"
NEVER_NS = 2**63
_INTERVAL_NS = int(PACE_INTERVAL_SECONDS * 1e9)


class Pace:
    """One process's pace; clock readings are arguments, in nanoseconds.

    Attributes:
        due_ns: From when on `take` is to be called with the next step.
    """

    def __init__(self, *, is_automatic: bool) -> None:
        """Without `is_automatic` only sections are timed."""
        self._is_automatic = is_automatic
        self._sections: dict[str, int] = {}
        # A step, when it was, and the keys of its row: others may count steps of another kind, such as episodes.
        self._from: tuple[int, int, object] | None = None
        self.due_ns = 0 if is_automatic else NEVER_NS

    def add(self, name: str, taken_ns: int) -> None:
        """A section has ended: its time belongs to the next step that is logged."""
        self._sections[name] = self._sections.get(name, 0) + taken_ns
        self.due_ns = 0

    def take(self, step: int, now_ns: int, keys: object = None, *, is_last: bool = False) -> dict[str, float]:
        """Metrics that are due at this step, names to values; often none.

        Args:
            step: The step that was just logged.
            now_ns: When.
            keys: What was logged there: an interval ends with the keys that it began with.
            is_last: No other step follows: an interval that has begun counts as it is.
        """
        sections, self._sections = self._sections, {}
        found = self._pace(step, now_ns, keys, is_last=is_last) if self._is_automatic else {}
        found |= {f"time/{name}": taken_ns / 1e9 for name, taken_ns in sections.items()}
        self.due_ns = NEVER_NS if self._from is None else self._from[1] + _INTERVAL_NS
        return found

    def _pace(self, step: int, now_ns: int, keys: object, *, is_last: bool) -> dict[str, float]:
        if self._from is None:
            self._from = step, now_ns, keys
            return {}
        from_step, from_ns, from_keys = self._from
        if not is_last and now_ns < from_ns + _INTERVAL_NS:
            return {}
        if keys != from_keys:
            if now_ns >= from_ns + 2 * _INTERVAL_NS:  # they come no more
                self._from = step, now_ns, keys
            return {}
        if step == from_step:  # a long one: it isn't over
            return {}
        self._from = step, now_ns, keys
        if step < from_step or now_ns <= from_ns:  # counted anew
            return {}
        seconds = (now_ns - from_ns) / 1e9 / (step - from_step)
        return {STEP: seconds, STEPS_PER_SECOND: 1 / seconds}


def unit_of(metric: str) -> str:
    """The unit of one of these metrics."""
    return "1/s" if metric == STEPS_PER_SECOND else "s"


class Section:
    """A timed part of the loop, of `Run.time`; the time counts whatever ends it."""

    __slots__ = ("_add", "_began_ns", "_name")

    def __init__(self, name: str, add: Callable[[str, int], None]) -> None:
        """`add` gets the name and nanoseconds."""
        self._name = name
        self._add = add
        self._began_ns = 0

    def __enter__(self) -> None:
        """Begin."""
        self._began_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        """End."""
        self._add(self._name, time.perf_counter_ns() - self._began_ns)
