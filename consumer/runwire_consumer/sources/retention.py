"""Retention: how near the oldest unread record is to being removed, said before it happens.

Kafka removes by age and by size, whole segments at a time, so both ratios say when the first may go, not when it goes.
The size of what waits isn't told by brokers to everybody: it is the smaller of two estimates that are both too high,
the unread share of the log, and unread records of the mean size read so far, as if nothing were compressed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from runwire_consumer.sources.anchors import Anchor
from runwire_consumer.sources.topic_facts import Retention

USED_RATIO_WARNED = 0.5
USED_RATIO_CALM = 0.25
RECORD_OVERHEAD_BYTES = 300  # headers, key and batch, about

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Unread:
    """What waits in one partition.

    Attributes:
        oldest: Timestamp of the first record that waits, milliseconds; None where it isn't known.
        records: How many wait.
        share: Of what the log holds, how much waits.
        record_bytes: Mean size of a record, from those that were read; 0 before the first.
    """

    oldest: int | None = None
    records: int = 0
    share: float = 0.0
    record_bytes: float = 0.0
    _last: int = -1

    def read(self, records: int, value_bytes: int, timestamp: int) -> None:
        """Records of this partition came, the last of them with this timestamp."""
        self.record_bytes = value_bytes / records + RECORD_OVERHEAD_BYTES
        self._last = timestamp

    def asks_for(self, anchor: Anchor) -> int:
        """The first record of this timestamp or a later one is the first that waits, but for those of the same ms."""
        last = anchor.timestamp if anchor.offset is not None else self._last
        return max(last, -1) + 1

    def is_now(self, oldest: int | None, next_offset: int, end: int, begin: int) -> None:
        """What the broker says."""
        self.oldest = oldest
        self.records = end - next_offset
        self.share = self.records / max(end - begin, 1)

    def used_ratio(self, retention: Retention, now: int) -> float:
        """Of the retention, how much is used up; by age or by size, whichever is more."""
        by_age = 0.0 if self.oldest is None else max(now - self.oldest, 0) / 1000 / max(retention.seconds, 1e-3)
        by_size = min(self.share, self.records * self.record_bytes / max(retention.bytes, 1.0))
        return max(by_age, by_size if math.isfinite(retention.bytes) else 0.0)


class RetentionWatch:
    """One topic's retention against what waits in it; says once when half of it is used up.

    Attributes:
        used_ratio: As last judged; None where it can't be known.
    """

    def __init__(self, name: str) -> None:
        """`name` is what the sentence calls the topic."""
        self._name = name
        self._retention: Retention | None = None
        self._warned = False
        self._compaction_told = False
        self.used_ratio: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long the topic keeps records; None where it isn't known."""
        return None if self._retention is None else self._retention.seconds

    @property
    def bytes_max(self) -> float:
        """How much a partition keeps; 0 where nothing or no limit is known."""
        limit = math.inf if self._retention is None else self._retention.bytes
        return limit if math.isfinite(limit) else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether records are ever removed, as far as known."""
        return self._retention is not None and (bool(self.bytes_max) or math.isfinite(self._retention.seconds))

    def learn(self, retention: Retention | None) -> None:
        """What the broker says; None where it won't say."""
        self._retention = retention
        if retention is not None and retention.compacted and not self._compaction_told:
            self._compaction_told = True
            _log.warning(
                "Topic %s has cleanup.policy=compact: Kafka keeps one record a run and removes the others, "
                "also before they are read. Set it to delete.",
                self._name,
            )

    def judge(self, waiting: Iterable[Unread], now: int) -> None:
        """How much is used up; `now` is this machine's clock, milliseconds."""
        if self._retention is None:
            self.used_ratio = None
            return
        retention = self._retention
        self.used_ratio = max((one.used_ratio(retention, now) for one in waiting), default=0.0)
        if self.used_ratio > USED_RATIO_WARNED and not self._warned:
            self._warned = True
            _log.warning(
                "What waits unread in %s has used up %d %% of the topic's retention (%s): what isn't read before "
                "that is removed, and lost. Find out why the consumer falls behind, or raise retention.ms.",
                self._name,
                round(100 * self.used_ratio),
                _span(retention),
            )
        elif self.used_ratio < USED_RATIO_CALM:
            self._warned = False


def _span(retention: Retention) -> str:
    parts = []
    if math.isfinite(retention.seconds):
        hours = retention.seconds / 3600
        parts.append(f"{hours:.3g} hours" if hours >= 1 else f"{retention.seconds:.3g} s")
    if math.isfinite(retention.bytes):
        parts.append(f"{retention.bytes / 2**20:.3g} MiB a partition")
    return " or ".join(parts)
