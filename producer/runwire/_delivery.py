"""Sending journals: a window of messages at a time, kept until acknowledged, a poison message set aside alone."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from runwire._batch import halve
from runwire._errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

    from runwire._batch import Message
    from runwire._segments import SegmentHeader
    from runwire._transport import Transport

WINDOW_MESSAGES = 16


class Origin(Protocol):
    """The journal that a message is from.

    Attributes:
        header: Its own, to make a refused message's halves with.
    """

    header: SegmentHeader

    def acknowledge(self, message: Message) -> None:
        """It is durable in the log, as all of the journal's before it."""

    def declare_loss(self, first_seq: int, count: int, reason: str) -> None:
        """The log will never take these rows."""


class Window:
    """What is on its way to one destination, from one journal or from many.

    1. A message leaves the window only when it is durable in the log.
    2. After an error the same messages go again, through the next transport; the ledger drops what was there already.
    3. A lifecycle record that the journal has copied forward meanwhile goes under its new number alone.
    4. When a message of a window is refused, the window goes one by one; the refused one is halved until a single
       row or record is left, and that one is declared lost.
    """

    def __init__(self, origin_of: Callable[[Message], Origin]) -> None:
        """`origin_of` tells whose a message is."""
        self._origin_of = origin_of
        self._moved: AbstractSet[int] = frozenset()
        self._on_acknowledged: Callable[[], None] = _nothing
        self._window: deque[Message] = deque()
        self._one_by_one = False
        self.rows_refused = 0

    @property
    def waiting(self) -> int:
        """Messages sent or read, and not acknowledged."""
        return len(self._window)

    async def send(self, transport: Transport, found: Iterator[Message]) -> None:
        """Send all that is found; on an error call again with the same iterator and another transport.

        Raises:
            TransportError: What was not acknowledged waits in the window.
        """
        while True:
            self._fill(found)
            if not self._window:
                return
            part = [self._window[0]] if self._one_by_one else list(self._window)
            try:
                await transport.send(part)
            except TransportError as error:
                self._settle(part[: error.delivered])
                if error.refused:
                    self._refuse(part[error.delivered :], str(error))
                raise
            self._settle(part)

    def _settle(self, part: list[Message]) -> None:
        """They are durable in the log."""
        for message in part:
            self._window.popleft()
            self._origin_of(message).acknowledge(message)
        if part:
            self._on_acknowledged()

    def _fill(self, found: Iterator[Message]) -> None:
        """Take the next messages into the window, and those out that need not arrive any more."""
        if self._moved:
            self._window = deque(one for one in self._window if one.envelope.first_seq not in self._moved)
        self._one_by_one = self._one_by_one and bool(self._window)
        while len(self._window) < WINDOW_MESSAGES and not self._one_by_one:
            message = next(found, None)
            if message is None:
                return
            if message.envelope.first_seq not in self._moved:
                self._window.append(message)

    def _refuse(self, part: list[Message], reason: str) -> None:
        self._one_by_one = True
        if len(part) > 1:
            return
        refused = self._window.popleft()
        origin = self._origin_of(refused)
        halves = halve(refused, origin.header)
        if halves:
            self._window.extendleft(reversed(halves))
            return
        envelope = refused.envelope
        self.rows_refused += envelope.count
        origin.declare_loss(envelope.first_seq, envelope.count, reason)


class Delivery(Window):
    """What is on its way from one emitter."""

    def __init__(
        self,
        header: SegmentHeader,
        declare_loss: Callable[[int, int, str], None],
        acknowledged_seq: int = 0,
        *,
        moved: AbstractSet[int] = frozenset(),
        on_acknowledged: Callable[[], None] | None = None,
    ) -> None:
        """Nothing is on its way yet.

        Args:
            header: The emitter's.
            declare_loss: Gets first_seq, count and reason of a refused row.
            acknowledged_seq: Rows before it are in the log already.
            moved: Numbers under which nothing has to arrive any more.
            on_acknowledged: Called after each window.
        """
        super().__init__(lambda _: self)
        self._moved = moved
        self._on_acknowledged = on_acknowledged or _nothing
        self.header = header
        self.declare_loss = declare_loss
        self.acknowledged_seq = acknowledged_seq

    def acknowledge(self, message: Message) -> None:
        """Everything up to here is durable."""
        self.acknowledged_seq = max(self.acknowledged_seq, message.end_seq)


def _nothing() -> None:
    """Nobody wants to know."""
