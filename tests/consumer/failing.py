"""A store that fails where a test says so."""

from __future__ import annotations

from typing import Any

from runwire_consumer.change import Change
from runwire_consumer.runstate import RunState
from runwire_consumer.store import Store


class Failing(Store):
    """Fails, where asked to, at the effect of the name `fails_at`."""

    fails_at = ""

    def write(self, change: Change, states: dict[int, RunState] | None = None) -> None:
        """Fail at the method of that name."""
        if self.fails_at:
            setattr(self, self.fails_at, self._fail)
        super().write(change, states)

    def _fail(self, *_: Any) -> None:
        raise OSError("planted")
