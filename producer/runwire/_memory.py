"""The in-memory twin of the other transports, for tests: `memory:NAME`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runwire._errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runwire._batch import Message
    from runwire_schemas.topics import Destination


@dataclass(frozen=True, slots=True)
class Fault:
    """What one send does: the first `appended` messages arrive, then `error` is raised; without one, all is well."""

    error: Exception | None = None
    appended: int = 0


# What was sent, by the URL's name, in order.
TOPICS: defaultdict[str, list[Message]] = defaultdict(list)
# What the next sends do, by name, first one first: a test's broken network. An error alone comes before anything.
FAULTS: defaultdict[str, list[Fault | Exception]] = defaultdict(list)
# Which messages are refused for ever, by name.
REFUSES: dict[str, Callable[[Message], bool]] = {}


class MemoryTransport:
    """Appends to a list in this process."""

    def __init__(self, destination: Destination) -> None:
        self._name = destination.path

    async def open(self) -> None:
        """Nothing to connect to."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Append, unless the next planted fault or refusal says otherwise."""
        topic = TOPICS[self._name]
        if FAULTS[self._name]:
            fault = FAULTS[self._name].pop(0)
            if not isinstance(fault, Fault):
                raise fault
            if fault.error is not None:
                topic.extend(messages[: fault.appended])
                raise fault.error
        refuses = REFUSES.get(self._name)
        for message in messages:
            if refuses is not None and refuses(message):
                raise TransportError("refused by the test", refused=True)
            topic.append(message)

    async def close(self) -> None:
        """Nothing to give back."""
