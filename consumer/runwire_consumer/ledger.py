"""The ledger: which rows of an emitter are stored, dead or lost, range by range, so that each is stored once.

Laws, for the rows 0, 1, 2, ... of one emitter:

1. Ranges [first, end) never overlap; neighbours of one disposition are one range.
2. A row is stored at most once: `admit` hands out only what is not stored yet, in any order of arrival.
3. Stored is for good. Dead (undecodable) and lost (declared) rows become stored when they arrive after all.
4. What no range names is missing. An emitter is complete when its end is known and nothing below it is
   missing. A row that came proves those below it, also above the end that was declared: the greater of both is the
   end (`tables/0005_ends.sql` says the same of what is stored).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self


class Disposition(StrEnum):
    """What became of a row."""

    STORED = "stored"
    DEAD = "dead"
    LOST = "lost"


class Range(NamedTuple):
    """Rows first_seq .. end_seq - 1."""

    first_seq: int
    end_seq: int
    disposition: Disposition


@dataclass(frozen=True, slots=True)
class Receipt:
    """Rows of one emitter by what became of them; `complete` needs a known end."""

    stored: int
    dead: int
    lost: int
    missing: int
    complete: bool


class Ledger:
    """The rows of one emitter; changed in place, `copy` before a transaction that may fail.

    Attributes:
        firsts: Where each range begins, in order; `ends` and `whats` (dispositions) run beside it.
    """

    __slots__ = ("ends", "firsts", "whats")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        """Start from ranges that were read back; ValueError where they overlap."""
        self.firsts: list[int] = []
        self.ends: list[int] = []
        self.whats: list[Disposition] = []
        for first, end, what in sorted(ranges):
            if first >= end or first < 0 or (self.ends and first < self.ends[-1]):
                raise ValueError(f"ledger range [{first}, {end}) is empty or overlaps its predecessor")
            self.firsts.append(first)
            self.ends.append(end)
            self.whats.append(what)

    @classmethod
    def _of(cls, firsts: list[int], ends: list[int], whats: list[Disposition]) -> Self:
        made = cls.__new__(cls)
        made.firsts, made.ends, made.whats = firsts, ends, whats
        return made

    def copy(self) -> Self:
        """An independent ledger with the same ranges."""
        return self._of(self.firsts[:], self.ends[:], self.whats[:])

    def changes_since(self, before: Self | None) -> tuple[list[Range], list[int]]:
        """(ranges that `before` had not, or not like this; first_seq of those that begin nowhere any more)."""
        if before is None or not before.firsts:
            return self.ranges(), []
        # In the usual case one range grew.
        if len(self.firsts) == 1 and self.firsts == before.firsts:
            same = self.ends == before.ends and self.whats == before.whats
            return [] if same else self.ranges(), []
        known = {one.first_seq: one for one in before.ranges()}
        now = {one.first_seq: one for one in self.ranges()}
        return [one for first, one in now.items() if known.get(first) != one], [*(known.keys() - now.keys())]

    def ranges(self) -> list[Range]:
        """All ranges in order."""
        return [Range(*row) for row in zip(self.firsts, self.ends, self.whats, strict=True)]

    def admit(self, first_seq: int, count: int) -> list[tuple[int, int]]:
        """Mark rows as stored; hands out the sub-ranges (first, end) that were not: store them now."""
        end_seq = first_seq + count
        if count > 0 and self.ends and first_seq == self.ends[-1] and self.whats[-1] is Disposition.STORED:
            self.ends[-1] = end_seq
            return [(first_seq, end_seq)]
        fresh = self._not_stored(first_seq, end_seq)
        if fresh:
            self._paint(first_seq, end_seq, Disposition.STORED)
        return fresh

    def declare(self, first_seq: int, count: int, disposition: Disposition) -> list[tuple[int, int]]:
        """Mark what is not stored as dead or lost, and hand it out; the last declaration counts."""
        fresh = self._not_stored(first_seq, first_seq + count)
        for first, end in fresh:
            self._paint(first, end, disposition)
        return fresh

    def missing(self, next_seq: int) -> list[tuple[int, int]]:
        """Sub-ranges of [0, next_seq) that nothing accounts for."""
        holes = []
        at = 0
        for first, end in zip(self.firsts, self.ends, strict=True):
            if first >= next_seq:
                break
            if at < first:
                holes.append((at, first))
            at = end
        if at < next_seq:
            holes.append((at, next_seq))
        return holes

    def is_complete(self, next_seq: int | None) -> bool:
        """The end is known and every row below it is stored, dead or lost."""
        return next_seq is not None and not self.missing(self._end(next_seq))

    def receipt(self, next_seq: int | None) -> Receipt:
        """Rows by what became of them; without a known end, missing are the holes before the last range."""
        totals = dict.fromkeys(Disposition, 0)
        for first, end, what in self.ranges():
            totals[what] += end - first
        return Receipt(
            stored=totals[Disposition.STORED],
            dead=totals[Disposition.DEAD],
            lost=totals[Disposition.LOST],
            missing=sum(end - first for first, end in self.missing(self._end(next_seq))),
            complete=self.is_complete(next_seq),
        )

    def _end(self, next_seq: int | None) -> int:
        return max(next_seq or 0, self.ends[-1] if self.ends else 0)

    def _not_stored(self, first_seq: int, end_seq: int) -> list[tuple[int, int]]:
        found = []
        at = first_seq
        index = bisect_right(self.ends, first_seq)
        while at < end_seq and index < len(self.firsts) and self.firsts[index] < end_seq:
            if self.whats[index] is Disposition.STORED:
                if at < self.firsts[index]:
                    found.append((at, self.firsts[index]))
                at = self.ends[index]
            index += 1
        if at < end_seq:
            found.append((at, end_seq))
        return found

    def _paint(self, first_seq: int, end_seq: int, what: Disposition) -> None:
        """Give [first_seq, end_seq) one disposition, whatever it had; law 1 holds after."""
        left = bisect_left(self.ends, first_seq)  # also a neighbour that ends where we begin
        right = bisect_right(self.firsts, end_seq)  # also a neighbour that begins where we end
        painted: list[Range] = []
        for index in range(left, right):
            old = Range(self.firsts[index], self.ends[index], self.whats[index])
            if old.disposition is what:
                first_seq, end_seq = min(first_seq, old.first_seq), max(end_seq, old.end_seq)
            else:
                if old.first_seq < first_seq:
                    painted.append(Range(old.first_seq, min(old.end_seq, first_seq), old.disposition))
                if old.end_seq > end_seq:
                    painted.append(Range(max(old.first_seq, end_seq), old.end_seq, old.disposition))
        painted.append(Range(first_seq, end_seq, what))
        painted.sort()
        self.firsts[left:right] = [old.first_seq for old in painted]
        self.ends[left:right] = [old.end_seq for old in painted]
        self.whats[left:right] = [old.disposition for old in painted]
