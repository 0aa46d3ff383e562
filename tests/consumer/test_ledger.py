"""The ledger against tables of values, and against a dictionary of rows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumer.ledger import Disposition, Ledger, Range, Receipt

Rows = list[tuple[int, int, Disposition]]

STORED, DEAD, LOST = Disposition.STORED, Disposition.DEAD, Disposition.LOST

ADMITTED = [
    # (ranges before, first_seq, count, handed out, ranges after)
    ([], 0, 3, [(0, 3)], [(0, 3, STORED)]),
    ([(0, 3, STORED)], 3, 2, [(3, 5)], [(0, 5, STORED)]),
    ([(0, 3, STORED)], 0, 3, [], [(0, 3, STORED)]),
    ([(0, 3, STORED)], 1, 4, [(3, 5)], [(0, 5, STORED)]),
    ([(0, 3, STORED)], 5, 2, [(5, 7)], [(0, 3, STORED), (5, 7, STORED)]),
    ([(0, 3, STORED), (5, 7, STORED)], 2, 4, [(3, 5)], [(0, 7, STORED)]),
    ([(2, 3, STORED), (5, 6, STORED)], 0, 9, [(0, 2), (3, 5), (6, 9)], [(0, 9, STORED)]),
    ([(0, 9, DEAD)], 3, 2, [(3, 5)], [(0, 3, DEAD), (3, 5, STORED), (5, 9, DEAD)]),
    ([(0, 4, LOST), (4, 8, DEAD)], 2, 4, [(2, 6)], [(0, 2, LOST), (2, 6, STORED), (6, 8, DEAD)]),
    ([(0, 3, STORED)], 3, 0, [], [(0, 3, STORED)]),
    ([(0, 3, DEAD)], 3, 2, [(3, 5)], [(0, 3, DEAD), (3, 5, STORED)]),
]

DECLARED = [
    # (ranges before, (first_seq, count, disposition), handed out, ranges after)
    ([], (0, 3, DEAD), [(0, 3)], [(0, 3, DEAD)]),
    ([(0, 3, STORED)], (0, 5, LOST), [(3, 5)], [(0, 3, STORED), (3, 5, LOST)]),
    ([(1, 2, STORED)], (0, 3, DEAD), [(0, 1), (2, 3)], [(0, 1, DEAD), (1, 2, STORED), (2, 3, DEAD)]),
    ([(0, 3, DEAD)], (1, 1, LOST), [(1, 2)], [(0, 1, DEAD), (1, 2, LOST), (2, 3, DEAD)]),
    ([(0, 3, STORED)], (0, 3, LOST), [], [(0, 3, STORED)]),
]


def ledger_of(rows: Rows) -> Ledger:
    """A ledger with these ranges."""
    return Ledger(Range(*row) for row in rows)


@pytest.mark.parametrize(("before", "first", "count", "handed_out", "after"), ADMITTED)
def test_admit(before: Rows, first: int, count: int, handed_out: list[tuple[int, int]], after: Rows) -> None:
    """Only rows that are not stored yet are handed out, and all of them are stored afterwards."""
    ledger = ledger_of(before)
    assert ledger.admit(first, count) == handed_out
    assert ledger.ranges() == after


@pytest.mark.parametrize(("before", "declared", "handed_out", "after"), DECLARED)
def test_declare(
    before: Rows, declared: tuple[int, int, Disposition], handed_out: list[tuple[int, int]], after: Rows
) -> None:
    """A declaration fills what isn't stored and never touches what is."""
    ledger = ledger_of(before)
    assert ledger.declare(*declared) == handed_out
    assert ledger.ranges() == after


def test_receipt_needs_an_end_to_be_complete() -> None:
    """Without a known end an emitter is open, however tidy its ranges are."""
    ledger = ledger_of([(0, 4, STORED), (4, 5, LOST), (7, 9, DEAD)])
    assert ledger.receipt(None) == Receipt(stored=4, dead=2, lost=1, missing=2, complete=False)
    assert ledger.receipt(9) == Receipt(stored=4, dead=2, lost=1, missing=2, complete=False)
    assert ledger.missing(12) == [(5, 7), (9, 12)]
    ledger.admit(5, 2)
    assert ledger.receipt(9) == Receipt(stored=6, dead=2, lost=1, missing=0, complete=True)
    assert not Ledger().is_complete(None)
    assert Ledger().is_complete(0)
    # Rows above a declared end prove those below them.
    assert not ledger_of([(3, 8, STORED)]).is_complete(5)
    assert not ledger_of([(0, 5, STORED), (7, 8, STORED)]).is_complete(5)
    assert ledger_of([(0, 8, STORED)]).is_complete(5)


@pytest.mark.parametrize("rows", [[(0, 3, STORED), (2, 5, DEAD)], [(3, 3, STORED)], [(-1, 2, STORED)]])
def test_impossible_ranges_are_refused(rows: list[tuple[int, int, Disposition]]) -> None:
    """Ranges that overlap or are empty can't become a ledger."""
    with pytest.raises(ValueError, match="ledger range"):
        ledger_of(rows)


def test_copy_is_independent() -> None:
    """What a failed transaction did to a copy is not in the original."""
    ledger = ledger_of([(0, 4, STORED)])
    ledger.copy().admit(4, 4)
    assert ledger.ranges() == [(0, 4, STORED)]


ACTIONS = st.lists(
    st.tuples(st.sampled_from([STORED, DEAD, LOST]), st.integers(0, 30), st.integers(0, 12)), max_size=40
)


@given(ACTIONS, st.integers(0, 45))
def test_any_history_agrees_with_a_dictionary_of_rows(
    actions: list[tuple[Disposition, int, int]], next_seq: int
) -> None:
    """Ranges, what is handed out and what is missing are those of a dictionary with an entry a row."""
    ledger, model, table = Ledger(), dict[int, Disposition](), dict[int, Range]()
    for what, first, count in actions:
        before = ledger.copy()
        fresh = [seq for seq in range(first, first + count) if model.get(seq) is not STORED]
        out = ledger.admit(first, count) if what is STORED else ledger.declare(first, count, what)
        model.update(dict.fromkeys(fresh, what))
        assert [seq for start, end in out for seq in range(start, end)] == fresh
        ranges = ledger.ranges()
        assert {seq: old.disposition for old in ranges for seq in range(old[0], old[1])} == model
        for left, right in itertools.pairwise(ranges):
            assert left.end_seq < right.first_seq or (
                left.end_seq == right.first_seq and left.disposition is not right.disposition
            )
        assert Ledger(ranges).ranges() == ranges
        # A table that is changed as `changes_since` says holds the ranges.
        changed, gone = ledger.changes_since(before)
        table = {start: old for start, old in table.items() if start not in gone} | {old[0]: old for old in changed}
        assert sorted(table.values()) == ranges
    missing = [seq for start, end in ledger.missing(next_seq) for seq in range(start, end)]
    assert missing == [seq for seq in range(next_seq) if seq not in model]
    end = max([next_seq, *(seq + 1 for seq in model)])
    assert ledger.is_complete(next_seq) is all(seq in model for seq in range(end))
    assert ledger.receipt(next_seq).missing == end - len(model)
    assert not ledger.is_complete(None)
