"""Time of rows: the wall clock read once, then the clock that no one sets, so that times never jump back."""

from __future__ import annotations

import time

# Counts suspended time too, where there is such a clock.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_time_us() -> int:
    """Microseconds since the epoch, by the wall clock; never negative, which no consumer takes."""
    return max(0, time.time_ns() // 1000)


def wall_anchor_ns() -> int:
    """What, added to `time.clock_gettime_ns(CLOCK)`, gives nanoseconds since the epoch; never negative ones."""
    return max(0, time.time_ns()) - time.clock_gettime_ns(CLOCK)
