"""Time of rows: the wall clock read once, then the clock that no one sets, so that times never jump back."""

from __future__ import annotations

import time

# Counts suspended time too, where there is such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_time_us() -> int:
    """Microseconds since the epoch, by the wall clock."""
    return time.time_ns() // 1000


class RowClock:
    """Wall time at its creation plus what has passed since."""

    __slots__ = ("_anchor_ns",)

    def __init__(self) -> None:
        self._anchor_ns = time.time_ns() - time.clock_gettime_ns(_CLOCK)

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return (self._anchor_ns + time.clock_gettime_ns(_CLOCK)) // 1000
