"""The seam to the log: what a source is, and the messages it hands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Position = tuple[int, str]
"""Where to read on in a partition, and the anchor: a fingerprint of the last record before it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One record of a log.

    Attributes:
        source: Name of the source, its URL.
        partition: Number of a Kafka partition, name of a file.
        offset: Where it stands; with source and partition it names the message for ever.
        next_offset: Where the source reads on after it.
        appended_at: When the log got it, microseconds: the broker's clock, or the writer's where there is no broker.
        headers: The envelope as Kafka headers, or as the fields of a `dir:` record.
        payload: Single-object encoded event.
        anchor: Fingerprint of this record, to be found again after a restart; "" where the source needs none.
        damage: Why the source itself could not make a record of the bytes; they are in `payload`.
    """

    source: str
    partition: str
    offset: int
    next_offset: int
    appended_at: int
    headers: Sequence[tuple[str, bytes | None]] | Mapping[str, Any]
    payload: bytes
    anchor: str = ""
    damage: str = ""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How far a source is.

    Attributes:
        reachable: False while the broker or folder can't be reached.
        lag: Per partition what is known to wait there: messages (Kafka) or bytes (`dir:`).
        trouble: What is wrong, in a sentence; "" when nothing is.
        anomalies: What had to be put right since the start, counted by kind (a recreated topic, ...).
        surveyed: False until the first look at everything that waits.
        retention_seconds: How long the log keeps messages; infinite for ever, None where it isn't known.
        retention_used_ratio: Of it, how much the oldest message that waits has used up: from 1 on it may be gone.
    """

    reachable: bool
    lag: Mapping[str, int]
    trouble: str = ""
    anomalies: Mapping[str, int] = field(default_factory=dict)
    surveyed: bool = True
    retention_seconds: float | None = None
    retention_used_ratio: float | None = None

    @property
    def at_tail(self) -> bool:
        """Nothing waits that we know of."""
        return self.reachable and self.surveyed and not any(self.lag.values())


class Source(Protocol):
    """A log that is read from given offsets on.

    What is durable when: a source keeps no position of its own. Messages of a partition come in order, each at least
    once from the offset given to `start` on; exactly-once is made by the store, which keeps the offsets beside the
    rows and compares them. `commit` only tells lag tools where we are.
    """

    @property
    def name(self) -> str:
        """Its URL; the key of its offsets in the store."""

    async def start(self, positions: Mapping[str, Position]) -> None:
        """Begin behind these positions, in other partitions at their start; doesn't wait for a broker."""

    async def poll(self, max_wait_seconds: float) -> list[Message]:
        """The next messages, [] when none came in time or the log can't be reached; never raises for the latter."""

    async def commit(self, positions: Mapping[str, Position]) -> None:
        """Tell the log, as a courtesy, that everything before these positions is stored."""

    def status(self) -> SourceStatus:
        """Reachable or not, and how much waits."""

    async def close(self) -> None:
        """Let go of everything."""
