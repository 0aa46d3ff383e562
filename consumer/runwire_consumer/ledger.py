"""The ledger: which rows of an emitter are stored, dead or lost, range by range, so that each is stored once.

Laws, for the rows 0, 1, 2, ... of one emitter:

1. Ranges [first, end) never overlap; neighbours of one disposition are one range.
2. A row is stored at most once: `admit` hands out only what is not stored yet, in any order of arrival.
3. Stored is for good. Dead (undecodable) and lost (declared) rows become stored when they arrive after all.
4. What no range names is missing. An emitter is complete when its end is known and nothing below it is
   missing.
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
    """The rows of one emitter; changed in place, `copy` before a transaction that may fail."""

    __slots__ = ("_ends", "_firsts", "_whats")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        """Start from ranges that were read back; ValueError where they overlap."""
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self._whats: list[Disposition] = []
        for first, end, what in sorted(ranges):
            if first >= end or first < 0 or (self._ends and first < self._ends[-1]):
                raise ValueError(f"ledger range [{first}, {end}) is empty or overlaps its predecessor")
            self._firsts.append(first)
            self._ends.append(end)
            self._whats.append(what)

    def copy(self) -> Self:
        """An independent ledger with the same ranges."""
        return type(self)(self.ranges())

    def ranges(self) -> list[Range]:
        """All ranges in order."""
        return [Range(*row) for row in zip(self._firsts, self._ends, self._whats, strict=True)]

    def admit(self, first_seq: int, count: int) -> list[tuple[int, int]]:
        """Mark rows as stored; hands out the sub-ranges (first, end) that were not: store them now."""
        end_seq = first_seq + count
        if count > 0 and self._ends and first_seq == self._ends[-1] and self._whats[-1] is Disposition.STORED:
            self._ends[-1] = end_seq
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
        for first, end in zip(self._firsts, self._ends, strict=True):
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
        return next_seq is not None and not self.missing(next_seq)

    def receipt(self, next_seq: int | None) -> Receipt:
        """Rows by what became of them; without a known end, missing are the holes before the last range."""
        totals = dict.fromkeys(Disposition, 0)
        for first, end, what in self.ranges():
            totals[what] += end - first
        known_end = max(next_seq or 0, self._ends[-1] if self._ends else 0)
        return Receipt(
            stored=totals[Disposition.STORED],
            dead=totals[Disposition.DEAD],
            lost=totals[Disposition.LOST],
            missing=sum(end - first for first, end in self.missing(known_end)),
            complete=self.is_complete(next_seq),
        )

    def _not_stored(self, first_seq: int, end_seq: int) -> list[tuple[int, int]]:
        found = []
        at = first_seq
        index = bisect_right(self._ends, first_seq)
        while at < end_seq and index < len(self._firsts) and self._firsts[index] < end_seq:
            if self._whats[index] is Disposition.STORED:
                if at < self._firsts[index]:
                    found.append((at, self._firsts[index]))
                at = self._ends[index]
            index += 1
        if at < end_seq:
            found.append((at, end_seq))
        return found

    def _paint(self, first_seq: int, end_seq: int, what: Disposition) -> None:
        """Give [first_seq, end_seq) one disposition, whatever it had; law 1 holds after."""
        left = bisect_left(self._ends, first_seq)  # also a neighbour that ends where we begin
        right = bisect_right(self._firsts, end_seq)  # also a neighbour that begins where we end
        painted: list[Range] = []
        for index in range(left, right):
            old = Range(self._firsts[index], self._ends[index], self._whats[index])
            if old.disposition is what:
                first_seq, end_seq = min(first_seq, old.first_seq), max(end_seq, old.end_seq)
            else:
                if old.first_seq < first_seq:
                    painted.append(Range(old.first_seq, min(old.end_seq, first_seq), old.disposition))
                if old.end_seq > end_seq:
                    painted.append(Range(max(old.first_seq, end_seq), old.end_seq, old.disposition))
        painted.append(Range(first_seq, end_seq, what))
        painted.sort()
        self._firsts[left:right] = [old.first_seq for old in painted]
        self._ends[left:right] = [old.end_seq for old in painted]
        self._whats[left:right] = [old.disposition for old in painted]
