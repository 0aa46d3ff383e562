"""The in-memory twin of the other transports, for tests: `memory:NAME`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runwire._batch import Message
    from runwire_schemas.topics import Destination

# What was sent, by the URL's name, in order.
TOPICS: defaultdict[str, list[Message]] = defaultdict(list)
# Errors to raise instead of sending, by name, first one first: a test's broken network.
FAULTS: defaultdict[str, list[Exception]] = defaultdict(list)


class MemoryTransport:
    """Appends to a list in this process."""

    def __init__(self, destination: Destination) -> None:
        self._name = destination.path

    async def open(self) -> None:
        """Nothing to connect to."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Append, or raise the next planted fault after appending nothing."""
        if FAULTS[self._name]:
            raise FAULTS[self._name].pop(0)
        TOPICS[self._name].extend(messages)

    async def close(self) -> None:
        """Nothing to give back."""
