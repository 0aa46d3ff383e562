"""What a broker says of one topic when `doctor/broker.py` asks it; needs no client of brokers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TIMEOUT_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition.

    Attributes:
        number: Its number.
        has_leader: It can be written and read.
        replicas: How many there are.
        in_sync: How many of them are in sync.
        begin: Offset of the first record that is kept.
        end: Offset behind the last record.
        half_kept: Offset of the first record younger than half of the retention; None where nothing expires.
    """

    number: int
    has_leader: bool
    replicas: int
    in_sync: int
    begin: int = 0
    end: int = 0
    half_kept: int | None = None


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """A broker and the topic that was asked for.

    Attributes:
        topic: Its name.
        trouble: Why nothing could be asked, a sentence; "" where it could.
        exists: The topic is there.
        brokers: How many are up.
        partitions: Of the topic.
        config: Its settings, by Kafka's names; empty where the broker doesn't tell them.
        newest_append: Newest time that the broker gave a record, microseconds; None where it gives none.
    """

    topic: str
    trouble: str = ""
    exists: bool = False
    brokers: int = 0
    partitions: tuple[PartitionFacts, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    newest_append: int | None = None

    @property
    def replicas(self) -> int:
        """Of the partition that has least."""
        return min((one.replicas for one in self.partitions), default=0)

    @property
    def retention_seconds(self) -> float | None:
        """How long records are kept; None for ever, or where it isn't known."""
        milliseconds = self.number("retention.ms")
        return None if milliseconds is None or milliseconds < 0 else milliseconds / 1_000

    @property
    def is_whole(self) -> bool:
        """Nothing has expired yet."""
        return self.exists and all(one.begin == 0 for one in self.partitions)

    def number(self, name: str) -> int | None:
        """A setting that is a number; None where the broker doesn't tell it."""
        try:
            return int(self.config[name])
        except (KeyError, ValueError):
            return None
