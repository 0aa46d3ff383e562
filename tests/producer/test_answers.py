"""Which messages a bridge's acknowledgements cover, in any order and however often they come."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from runwire._answers import KEYS_MAX, Answer, Answers
from runwire_schemas.edge import Ack

ACKS = st.lists(st.builds(Ack, st.integers(0, 30), st.integers(1, 8), refused=st.booleans()), max_size=25)


def test_ranges() -> None:
    """Those that touch are one; a message is durable when one range covers it."""
    answers = Answers()
    for ack in (Ack(0, 3), Ack(5, 2), Ack(3, 1), Ack(9, 1)):
        answers.add(ack)
    assert answers.ranges == [(0, 4), (5, 7), (9, 10)]
    assert answers.of(Ack(1, 3)) is Answer.DURABLE
    assert answers.of(Ack(3, 3)) is Answer.NONE
    answers.add(Ack(4, 1))
    assert answers.of(Ack(3, 3)) is Answer.DURABLE


def test_refusals_hit_one_message() -> None:
    """Its halves are others, and what is durable stays so."""
    answers = Answers()
    answers.add(Ack(0, 10, refused=True))
    assert answers.of(Ack(0, 10)) is Answer.REFUSED
    assert answers.of(Ack(0, 5)) is Answer.NONE
    answers.add(Ack(0, 10))
    assert answers.of(Ack(0, 10)) is Answer.DURABLE


def test_records_outside_the_sequence() -> None:
    """By their key, and no more keys are kept than have to be."""
    answers = Answers()
    for number in range(KEYS_MAX + 1):
        answers.add(Ack(0, 0, f"k{number}"))
    assert answers.of(Ack(0, 0, f"k{KEYS_MAX}")) is Answer.DURABLE
    assert answers.of(Ack(0, 0, "k0")) is Answer.NONE
    assert answers.ranges == []


@given(ACKS)
def test_a_set_of_rows_says_the_same(acks: list[Ack]) -> None:
    """Random histories against a plain set; ranges stay disjoint, in order, and apart."""
    answers, rows = Answers(), set[int]()
    refused = set[tuple[int, int]]()
    for ack in acks:
        answers.add(ack)
        if ack.refused:
            refused.add((ack.first_seq, ack.count))
        else:
            rows |= set(range(ack.first_seq, ack.first_seq + ack.count))
        ranges = answers.ranges
        assert {seq for first, end in ranges for seq in range(first, end)} == rows
        assert all(end < following for (_, end), (following, _) in itertools.pairwise(ranges))
    for first in range(32):
        for count in (1, 3):
            wanted = (
                Answer.DURABLE
                if rows >= set(range(first, first + count))
                else (Answer.REFUSED if (first, count) in refused else Answer.NONE)
            )
            assert answers.of(Ack(first, count)) is wanted
