"""What the consumer says about itself to Prometheus; the service calls one method for each thing that happened.

Counters begin at 0 with every process, as Prometheus expects; the store knows the totals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FRESHNESS_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_TRANSACTION_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class SelfMetrics:
    """Counters, gauges and histograms of one consumer process, thread-safe.

    Args:
        registry: Where they are registered; never the global one.
        version: Version of this consumer.
    """

    def __init__(self, registry: CollectorRegistry, version: str = "") -> None:
        """Register everything; each metric stands at 0."""
        self._lag = Gauge(
            "runwire_consumer_lag_messages",
            "Messages of the source that are not stored yet.",
            ["source", "partition"],
            registry=registry,
        )
        self._freshness = Histogram(
            "runwire_freshness_seconds",
            "From a message's append to its commit in the store.",
            buckets=_FRESHNESS_BUCKETS,
            registry=registry,
        )
        self._transaction = Histogram(
            "runwire_transaction_seconds",
            "Duration of the store's transactions.",
            buckets=_TRANSACTION_BUCKETS,
            registry=registry,
        )
        self._points = Counter("runwire_points_stored", "Points stored.", registry=registry)
        self._rows = Counter("runwire_rows_stored", "Rows stored.", registry=registry)
        self._messages = Counter("runwire_messages_read", "Messages read from the source.", registry=registry)
        self._duplicates = Counter(
            "runwire_duplicate_rows", "Rows that came again and were left out.", registry=registry
        )
        self._dead_letters = Counter(
            "runwire_dead_letters", "Messages that could not be read and were set aside.", registry=registry
        )
        self._letters_waiting = Gauge(
            "runwire_dead_letters_waiting", "Dead letters neither replayed nor discarded.", registry=registry
        )
        self._missing = Gauge(
            "runwire_missing_rows", "Rows of ended processes that nothing explains.", registry=registry
        )
        self._lost = Gauge("runwire_lost_rows", "Rows whose loss was declared.", registry=registry)
        self._source_up = Gauge(
            "runwire_source_up", "1 while the source can be read, 0 while it can't.", registry=registry
        )
        self._ready = Gauge(
            "runwire_consumer_ready",
            "1 while everything that comes is stored, 0 while something stands in the way: /readyz says what.",
            registry=registry,
        )
        self._anomalies = Gauge(
            "runwire_source_anomalies",
            "What had to be put right in the source since the start of this consumer.",
            ["source", "kind"],
            registry=registry,
        )
        self._retention_used = Gauge(
            "runwire_source_retention_used_ratio",
            "Of the source's retention, how much the oldest message that waits has used up; from 1 on it may be gone.",
            ["source"],
            registry=registry,
        )
        info = Gauge("runwire_consumer_info", "What this consumer is; always 1.", ["version"], registry=registry)
        info.labels(version).set(1)

    def stored(self, *, points: int, rows: int, duplicates: int, seconds: float) -> None:
        """One transaction is committed."""
        self._points.inc(points)
        self._rows.inc(rows)
        self._duplicates.inc(duplicates)
        self._transaction.observe(seconds)

    def read(self, messages: int) -> None:
        """Messages came from the source."""
        self._messages.inc(messages)

    def fresh(self, seconds: float) -> None:
        """A message of this age, from its append, is committed."""
        self._freshness.observe(max(0.0, seconds))

    def dead_letters(self, count: int) -> None:
        """Messages were set aside."""
        self._dead_letters.inc(count)

    def letters_waiting(self, count: int) -> None:
        """So many dead letters are neither replayed nor discarded."""
        self._letters_waiting.set(count)

    def replayed(self, *, points: int, rows: int, duplicates: int) -> None:
        """Dead letters were stored after all: no message was read for it, and no age is known."""
        self._points.inc(points)
        self._rows.inc(rows)
        self._duplicates.inc(duplicates)

    def lag(self, messages: Mapping[tuple[str, str], int]) -> None:
        """The lag of each (source, partition); partitions that are gone leave."""
        self._lag.clear()
        for (source, partition), count in messages.items():
            self._lag.labels(source, partition).set(count)

    def gaps(self, *, missing: int, lost: int) -> None:
        """Rows that are not there, by whether anybody declared it."""
        self._missing.set(missing)
        self._lost.set(lost)

    def source_up(self, *, up: bool) -> None:
        """Whether the source can be read now."""
        self._source_up.set(1 if up else 0)

    def ready(self, reason: str | None) -> None:
        """What stands in the way now, None when nothing does."""
        self._ready.set(1 if reason is None else 0)

    def anomalies(self, source: str, counts: Mapping[str, int]) -> None:
        """What a source had to put right so far, by kind."""
        for kind, count in counts.items():
            self._anomalies.labels(source, kind).set(count)

    def retention_used(self, source: str, ratio: float | None) -> None:
        """How near the oldest message that waits is to being removed; nothing where it isn't known."""
        if ratio is not None:
            self._retention_used.labels(source).set(ratio)


class KeepingMetrics:
    """Snapshots, repairs and pruning of one consumer process.

    Args:
        registry: Where they are registered; never the global one.
        clock: Microseconds since the epoch.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        """No snapshot yet: its age is NaN."""
        self._taken_at: int | None = None
        self._clock = clock
        age = Gauge("runwire_snapshot_age_seconds", "Age of the newest snapshot; NaN without one.", registry=registry)
        age.set_function(self._age)
        self._count = Gauge("runwire_snapshots", "Snapshots that are kept.", registry=registry)
        self._bytes = Gauge("runwire_snapshots_bytes", "Bytes of the snapshots that are kept.", registry=registry)
        self._failures = Counter("runwire_snapshot_failures", "Snapshots that failed.", registry=registry)
        self._repairs = Counter(
            "runwire_store_repairs", "Database files that were set aside and replaced.", registry=registry
        )
        self._pruned = Counter("runwire_topic_files_pruned", "Topic files removed behind snapshots.", registry=registry)

    def kept(self, newest_taken_at: int | None, count: int, size_bytes: int) -> None:
        """The snapshots there are; None without one."""
        self._taken_at = newest_taken_at
        self._count.set(count)
        self._bytes.set(size_bytes)

    def failed(self) -> None:
        """A snapshot failed."""
        self._failures.inc()

    def repaired(self, count: int) -> None:
        """The start replaced the file."""
        self._repairs.inc(count)

    def pruned(self, count: int) -> None:
        """Topic files went."""
        self._pruned.inc(count)

    def _age(self) -> float:
        return float("nan") if self._taken_at is None else max(0.0, (self._clock() - self._taken_at) / 1e6)
