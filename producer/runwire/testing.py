"""For tests of code that logs: an in-memory destination, and what arrived there as events.

with runwire.testing.capture() as captured:
with runwire.init(project="p", url=captured.url, home=tmp_path) as run:
run.log({"loss": 0.5}, step=3)
assert captured.points() == [("loss", 3, 0.5)]
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runwire._memory import FAULTS, TOPICS
from runwire_schemas.codec import decode
from runwire_schemas.events import Event, MetricBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runwire._batch import Message


@dataclass(frozen=True, slots=True)
class Captured:
    """What was sent to one in-memory destination.

    Attributes:
        url: Give this to `runwire.init`.
    """

    url: str

    @property
    def messages(self) -> list[Message]:
        """Envelopes and payloads in the order of their arrival; a message sent twice is there twice.

        All of a run's are there when its `finish` returned True.
        """
        return list(TOPICS.get(self._name, ()))

    def events(self) -> list[Event]:
        """The decoded events, heartbeats and ends of emitters included; times in microseconds since the epoch."""
        return [decode(message.payload) for message in self.messages]

    def points(self) -> list[tuple[str, int, float]]:
        """(metric, step, value) of every value, row by row in the order of their arrival."""
        return [
            (key, block.steps[row], block.values[at * len(block.steps) + row])
            for event in self.events()
            if isinstance(event, MetricBatch)
            for block in event.blocks
            for row in range(len(block.steps))
            for at, key in enumerate(block.keys)
        ]

    def fail_next(self, *errors: Exception) -> None:
        """Let the next sends raise these errors, best `runwire.TransportError`: a broken network."""
        FAULTS[self._name].extend(errors)

    @property
    def _name(self) -> str:
        return self.url.partition(":")[2]


@contextlib.contextmanager
def capture() -> Iterator[Captured]:
    """An in-memory destination of its own, forgotten at the end."""
    captured = Captured(f"memory:{secrets.token_hex(8)}")
    try:
        yield captured
    finally:
        for kept in (TOPICS, FAULTS):
            kept.pop(captured.url.partition(":")[2], None)
