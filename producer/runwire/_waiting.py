"""What waits for room in the journal: lifecycle records, first come first out, and behind them losses to be declared.

A record's sequence number is known only when it is written, so what waits is the maker of its payload. Memory is
bounded: of records by HELD_BYTES_MAX, of losses by their becoming one where they touch.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from runwire._losses import Loss, Losses, pack_rest
from runwire._segments import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Callable

HELD_BYTES_MAX = 8 * 2**20
_NO_ROOM = "records for which there was no room"


class Waiting:
    """Records and losses in the order in which they are to be written."""

    def __init__(self) -> None:
        """Nothing waits; without `make_loss`, losses aren't written."""
        self.make_loss: Callable[[int, int, int, str], bytes] | None = None
        # Makers of payloads, with their sizes.
        self.records: deque[tuple[Callable[[int], bytes], int]] = deque()
        self._bytes = 0  # of them, and of some that are written
        self._losses = Losses()
        self._taken: list[Loss] = []  # what `take` gave away may never arrive either

    def __len__(self) -> int:
        """How many there are."""
        return len(self.records) + len(self._losses)

    def has_room_for(self, payload_bytes: int) -> bool:
        """Whether memory takes a record of this size too."""
        if self._bytes + payload_bytes > HELD_BYTES_MAX:
            self._bytes = sum(size for _, size in self.records)  # some have been written since
        return self._bytes + payload_bytes <= HELD_BYTES_MAX

    def add_record(self, make_payload: Callable[[int], bytes], payload_bytes: int) -> None:
        """One more; `make_payload` gets its sequence number, perhaps more than once."""
        self.records.append((make_payload, payload_bytes))
        self._bytes += payload_bytes

    def add_loss(self, loss: Loss) -> None:
        """Rows that will never come."""
        self._losses.add(loss)

    def add_lost_row(self, seq: int, reason: str) -> None:
        """One row that will never come."""
        self._losses.add_row(seq, reason)

    def payload(self, seq: int) -> bytes | None:
        """The first one's, as number `seq`; None where nothing can be written."""
        if self.records:
            return self.records[0][0](seq)
        if not self._losses or self.make_loss is None:
            return None
        loss = self._losses.oldest()
        return self.make_loss(seq, loss.first_seq, loss.count, loss.reason)

    def take_loss(self) -> Loss:
        """The loss that comes first, which is declared now."""
        return self._losses.take()

    def take(self, next_seq: int) -> list[StoredEvent]:
        """All of it as records numbered from `next_seq` on."""
        taken: list[StoredEvent] = []
        while (payload := self.payload(next_seq + len(taken))) is not None:
            if self.records:
                self.records.popleft()
            else:
                self._taken.append(self._losses.take())
            taken.append(StoredEvent(next_seq + len(taken), payload))
        if taken:
            self._taken.append(Loss(next_seq, len(taken), _NO_ROOM))
        return taken

    def pack(self, next_seq: int) -> bytes:
        """As numbers that are lost unless they arrive (`_losses.pack_rest`), those that `take` gives included."""
        count = len(self)
        losses = [*self._taken, *self._losses, Loss(next_seq, count, _NO_ROOM)]
        return pack_rest(next_seq + count, losses)

    def clear(self) -> None:
        """Forget it all."""
        self.records.clear()
        self._losses.clear()
