"""What tracking costs the training thread: the time of some calls of `log`, for all of them."""

from __future__ import annotations

COST_SAMPLE = 64  # one call in so many is timed


class Meter:
    """Times of one process's calls."""

    def __init__(self) -> None:
        """None yet."""
        self._sampled = self._sampled_ns = self._first_ns = 0

    def sample(self, calls: int, taken_ns: int) -> None:
        """One call took so long; `calls` came before it."""
        if calls == 0:  # opens what is not open yet: no example for others
            self._first_ns = taken_ns
        else:
            self._sampled += 1
            self._sampled_ns += taken_ns

    def log_seconds(self, calls: int) -> float:
        """What so many calls took in all, judged by those that were timed."""
        others_ns = self._sampled_ns * (calls - 1) / self._sampled if self._sampled else 0
        return 1e-9 * (self._first_ns + others_ns)
