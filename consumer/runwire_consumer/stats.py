"""What one consumer process did so far, for live views and benches; plain numbers that any thread may read."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

FRESHNESS_SAMPLES_MAX = 4_096


@dataclass(slots=True)
class Stats:
    """Counters since the start; the writer's thread alone adds to them.

    Attributes:
        messages: Messages committed.
        rows: Rows committed that were new.
        points: Values committed that were new.
        duplicates: Rows that came again and were left out.
        dead_letters: Messages set aside.
        transactions: Commits with at least one message.
        transaction_seconds: Of the last commit: decode, admit and write.
        freshness_seconds: Of the last commits: its time minus the oldest row's time, one a commit.
        behind: What came last had waited so long that there is a backlog.
        lag: Messages (Kafka) or bytes (`dir:`) that wait, by (source, partition).
    """

    messages: int = 0
    rows: int = 0
    points: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    transactions: int = 0
    transaction_seconds: float = 0.0
    freshness_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=FRESHNESS_SAMPLES_MAX))
    behind: bool = False
    lag: Mapping[tuple[str, str], int] = field(default_factory=dict)
