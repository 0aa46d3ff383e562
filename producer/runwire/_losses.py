"""Losses: ranges of rows that will never come, until they are declared; those that touch become one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows that will never come."""

    first_seq: int
    count: int
    reason: str


class Losses:
    """Losses that wait to be declared, oldest first."""

    def __init__(self) -> None:
        """None yet."""
        self._waiting: list[Loss] = []

    def __bool__(self) -> bool:
        """Whether one waits."""
        return bool(self._waiting)

    def add(self, loss: Loss) -> None:
        """Remember a loss; at the journal's cap the declarations alone would fill the disk if none became one."""
        first, end = loss.first_seq, loss.first_seq + loss.count
        apart = []
        for other in self._waiting:
            other_end = other.first_seq + other.count
            if other.reason == loss.reason and other.first_seq <= end and first <= other_end:
                first, end = min(first, other.first_seq), max(end, other_end)
            else:
                apart.append(other)
        self._waiting = [*apart, Loss(first, end - first, loss.reason)]

    def oldest(self) -> Loss:
        """The one to be declared next."""
        return self._waiting[0]

    def take(self) -> Loss:
        """The same, taken away: it is declared."""
        return self._waiting.pop(0)

    def clear(self) -> None:
        """Forget them all."""
        self._waiting.clear()
