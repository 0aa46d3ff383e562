"""What tracking costs the training thread: the time of some calls of `log`, for all of them."""

from __future__ import annotations

COST_SAMPLE = 64  # one call in so many is timed
TYPICAL_NS_MAX = 1_000_000


class Meter:
    """Times of one process's calls."""

    def __init__(self) -> None:
        """None yet."""
        self._sampled = self._sampled_ns = self._once_ns = 0

    def sample(self, calls: int, taken_ns: int) -> None:
        """One call took so long; `calls` came before it."""
        if calls == 0:  # opens what is not open yet: no example for others
            self._once_ns += taken_ns
        else:
            self._sampled += 1
            # A call that the system held up for long was held up once, and stands for no others.
            self._sampled_ns += min(taken_ns, TYPICAL_NS_MAX)
            self._once_ns += max(0, taken_ns - TYPICAL_NS_MAX)

    def log_seconds(self, calls: int) -> float:
        """What so many calls took in all, judged by those that were timed."""
        others_ns = self._sampled_ns * (calls - 1) / self._sampled if self._sampled else 0
        return 1e-9 * (self._once_ns + others_ns)
