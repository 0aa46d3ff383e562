"""Answers of a bridge: which rows of an emitter it has said to be durable, and which messages it refused.

1. Ranges that are durable are kept as disjoint ones in order; those that touch are one.
2. A message is durable when one range covers it, whichever messages its rows went in; a refusal hits the message alone
   whose range it names. What is durable stays so, whatever is said later.
3. Records outside the sequence are known by the key of their payload.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_schemas.edge import Ack

KEYS_MAX = 1_000


class Answer(Enum):
    """What is known of a message."""

    NONE = auto()
    DURABLE = auto()
    REFUSED = auto()


class Answers:
    """What was said of one emitter's messages."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self._refused: set[tuple[int, int, str]] = set()
        self._keys: dict[str, None] = {}

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(first, end) of the rows that are durable."""
        return list(zip(self._firsts, self._ends, strict=True))

    def add(self, ack: Ack) -> None:
        """Take an acknowledgement in, in whatever order and how often it comes."""
        if ack.refused:
            self._refused.add((ack.first_seq, ack.count, ack.key))
        elif ack.count:
            self._cover(ack.first_seq, ack.first_seq + ack.count)
        else:
            self._keys[ack.key] = None
            if len(self._keys) > KEYS_MAX:
                del self._keys[next(iter(self._keys))]

    def of(self, ack: Ack) -> Answer:
        """What is known of the message that `ack` would acknowledge."""
        if ack.key in self._keys if not ack.count else self._is_covered(ack.first_seq, ack.first_seq + ack.count):
            return Answer.DURABLE
        return Answer.REFUSED if (ack.first_seq, ack.count, ack.key) in self._refused else Answer.NONE

    def forget_refusals(self) -> None:
        """They are dealt with: what goes again, is asked again."""
        self._refused.clear()

    def _is_covered(self, first: int, end: int) -> bool:
        at = bisect_right(self._firsts, first) - 1
        return at >= 0 and self._ends[at] >= end

    def _cover(self, first: int, end: int) -> None:
        """Those from `low` up to `high` touch the new range, and become one with it."""
        low, high = bisect_left(self._ends, first), bisect_right(self._firsts, end)
        if low < high:
            first, end = min(first, self._firsts[low]), max(end, self._ends[high - 1])
        self._firsts[low:high] = [first]
        self._ends[low:high] = [end]
