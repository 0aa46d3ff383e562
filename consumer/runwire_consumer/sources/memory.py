"""The in-memory twin of the other sources: a log in this process, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runwire_consumer.sources import Message, Position, SourceStatus


@dataclass(slots=True)
class MemoryLog:
    """Partitions of messages; it outlives the sources that read it.

    Attributes:
        name: What its sources are called.
        reachable: Set to False to play an outage.
    """

    name: str = "memory:log"
    partitions: dict[str, list[Message]] = field(default_factory=dict)
    reachable: bool = True

    def append(
        self,
        headers: Sequence[tuple[str, bytes | None]],
        payload: bytes,
        *,
        appended_at: int = 0,
        partition: str = "0",
    ) -> Message:
        """Add a message at the end of a partition."""
        messages = self.partitions.setdefault(partition, [])
        at = len(messages)
        message = Message(self.name, partition, at, at + 1, appended_at, tuple(headers), payload, anchor=str(at))
        messages.append(message)
        return message


class MemorySource:
    """Reads a `MemoryLog`; a poll hands out at most `poll_messages_max` messages."""

    def __init__(self, log: MemoryLog, poll_messages_max: int = 1_000) -> None:
        """Read nothing before `start`."""
        self._log = log
        self._poll_messages_max = poll_messages_max
        self._offsets: dict[str, int] = {}
        self.committed: dict[str, Position] = {}

    @property
    def name(self) -> str:
        """The log's name."""
        return self._log.name

    async def start(self, positions: Mapping[str, Position]) -> None:
        """Begin behind these positions."""
        self._offsets = {partition: offset for partition, (offset, _) in positions.items()}

    async def poll(self, max_wait_seconds: float) -> list[Message]:
        """The next messages."""
        found: list[Message] = []
        if self._log.reachable:
            for partition, messages in self._log.partitions.items():
                at = self._offsets.get(partition, 0)
                taken = messages[at : at + self._poll_messages_max - len(found)]
                self._offsets[partition] = at + len(taken)
                found += taken
        if not found:
            await asyncio.sleep(min(max_wait_seconds, 0.001))
        return found

    async def commit(self, positions: Mapping[str, Position]) -> None:
        """Remember what was said."""
        self.committed.update(positions)

    def status(self) -> SourceStatus:
        """How much waits."""
        lag = {
            partition: len(messages) - self._offsets.get(partition, 0)
            for partition, messages in self._log.partitions.items()
        }
        return SourceStatus(self._log.reachable, lag, "" if self._log.reachable else "The log is away.")

    async def close(self) -> None:
        """Nothing to let go of."""
