"""Rows to messages: contiguous, bounded, and halved without losing one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._batch import Message, batch_message, halve, messages
from runwire._segments import Rows, StoredEvent
from runwire_schemas.codec import encode
from runwire_schemas.events import TextLogged
from tests.producer.journals import HEADER, tell


def rows(first_seq: int, count: int, keys: tuple[str, ...] = ("a",)) -> Rows:
    """Rows whose step is their number."""
    seqs = np.arange(first_seq, first_seq + count)
    return Rows(keys, first_seq, seqs, seqs, np.repeat(seqs[:, None], len(keys), 1).astype(float))


def text(seq: int) -> StoredEvent:
    """A record."""
    return StoredEvent(seq, encode(TextLogged(HEADER.run_id, HEADER.emitter_id, 0, seq, 0, "key", "text")))


def ranges(found: list[Message]) -> list[tuple[str, int, int]]:
    """(type, first_seq, count) of each envelope."""
    return [(message.envelope.type, message.envelope.first_seq, message.envelope.count) for message in found]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([rows(0, 3)], [("MetricBatch", 0, 3)]),
        ([rows(0, 3), rows(3, 2, ("b",))], [("MetricBatch", 0, 5)]),
        ([rows(0, 25)], [("MetricBatch", 0, 10), ("MetricBatch", 10, 10), ("MetricBatch", 20, 5)]),
        ([rows(0, 6), rows(6, 6)], [("MetricBatch", 0, 6), ("MetricBatch", 6, 6)]),
        ([rows(0, 2), text(2), rows(3, 1)], [("MetricBatch", 0, 2), ("TextLogged", 2, 1), ("MetricBatch", 3, 1)]),
        ([rows(0, 2), rows(7, 2)], [("MetricBatch", 0, 2), ("MetricBatch", 7, 2)]),
        ([rows(0, 2, ())], [("MetricBatch", 0, 2)]),
    ],
    ids=["nothing", "one", "two key sets", "too many rows", "two stretches", "a record between", "a jump", "no keys"],
)
def test_envelopes_cover_what_was_found(found: list[Rows | StoredEvent], expected: list[tuple[str, int, int]]) -> None:
    """At most 10 rows a message; a record or a jump begins a new one."""
    assert ranges(list(messages(found, HEADER, 10, 2**20))) == expected


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=12), st.integers(1, 50), st.integers(1, 2000)
)
def test_every_row_is_in_one_message(parts: list[tuple[int, int]], rows_max: int, bytes_max: int) -> None:
    """Whatever the limits, no row is lost, doubled or moved."""
    found, seq = [], 0
    for count, keys in parts:
        found.append(rows(seq, count, tuple("abc"[:keys])))
        seq += count
    made = list(messages(found, HEADER, rows_max, bytes_max))
    assert all(message.envelope.count <= rows_max for message in made)
    assert [row[0] for row in tell(made).rows] == list(range(seq))
    assert all(row[0] == row[2] and set(row[3]) <= {float(row[0])} for row in tell(made).rows)


def test_messages_are_made_one_by_one() -> None:
    """A backlog isn't read into memory to send its front."""

    def endless() -> Iterator[Rows]:
        seq = 0
        while True:
            yield rows(seq, 10)
            seq += 10

    assert next(messages(endless(), HEADER, 10, 2**20)).envelope.count == 10


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=5))
def test_halving_ends_at_single_rows(parts: list[tuple[int, bool]]) -> None:
    """Halves of halves of a message are its rows, one by one, in order."""
    found, seq = [], 0
    for count, other in parts:
        found.append(rows(seq, count, ("b", "c") if other else ("a",)))
        seq += count

    def leaves(message: Message) -> list[Message]:
        halves = halve(message, HEADER)
        return [leaf for half in halves for leaf in leaves(half)] or [message]

    assert ranges(leaves(batch_message(tuple(found), HEADER))) == [("MetricBatch", at, 1) for at in range(seq)]


def test_a_record_is_not_halved() -> None:
    """It is one."""
    (message,) = messages([text(0)], HEADER, 10, 2**20)
    assert halve(message, HEADER) == ()
