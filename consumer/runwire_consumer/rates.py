"""How often somebody may ask: a bucket a client, which fills again as time passes; time is an argument."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

CLIENTS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, then so many a second."""

    burst: int
    per_second: float


REQUESTS = Rate(burst=1_000, per_second=500.0)
"""Of one token, or of one address where no token is needed: above what pages, dashboards and scripts ask."""
FAILURES = Rate(burst=10, per_second=0.2)
"""Requests with a wrong token, and logins, of one address."""


class Buckets:
    """Bounded: of too many clients, those not heard of for longest begin anew."""

    def __init__(self, rate: Rate) -> None:
        """Everybody's bucket is full."""
        self._rate = rate
        self._left: OrderedDict[object, tuple[float, float]] = OrderedDict()  # client -> (left, at)

    def take(self, client: object, now: float) -> int:
        """Take one; 0 when there was one, else in how many seconds there will be."""
        left, at = self._left.pop(client, (float(self._rate.burst), now))
        left = min(float(self._rate.burst), left + max(0.0, now - at) * self._rate.per_second)
        taken = left >= 1
        self._left[client] = (left - 1 if taken else left, now)
        if len(self._left) > CLIENTS_MAX:
            self._left.popitem(last=False)
        return 0 if taken else max(1, math.ceil((1 - left) / self._rate.per_second))
