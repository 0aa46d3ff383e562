"""Losses are merged, named in bounded room, and read back; what is no such record reads as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._losses import REST_BYTES, Loss, Losses, pack_rest, unpack_rest


def test_losses_that_touch_become_one() -> None:
    losses = Losses()
    for first, count, reason in ((5, 1, "full"), (6, 2, "full"), (20, 1, "full"), (3, 2, "full"), (8, 1, "cap")):
        losses.add(Loss(first, count, reason))
    assert list(losses) == [Loss(20, 1, "full"), Loss(3, 5, "full"), Loss(8, 1, "cap")]
    assert len(losses) == 3


@given(st.integers(0, 2**62), st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**20)), max_size=20))
def test_a_few_losses_are_read_back_as_they_are(next_seq: int, ranges: list[tuple[int, int]]) -> None:
    losses = sorted((Loss(first, count, "disk full") for first, count in ranges), key=lambda loss: loss.first_seq)
    assert unpack_rest(pack_rest(next_seq, losses).ljust(REST_BYTES, b"\0")) == (next_seq, losses)


@given(st.integers(65, 3000), st.integers(0, 400))
def test_many_losses_fit_their_room_and_name_every_row(count: int, reason_characters: int) -> None:
    """Where there are too many ranges, the last ones become one that covers them all."""
    losses = [Loss(10 * at, 3, "x" * reason_characters) for at in range(count)]
    packed = pack_rest(10 * count, losses)
    assert len(packed) <= REST_BYTES
    next_seq, read = unpack_rest(packed)
    assert next_seq == 10 * count
    named = [(loss.first_seq, loss.first_seq + loss.count) for loss in read]
    assert all(any(first <= loss.first_seq and loss.first_seq + 3 <= end for first, end in named) for loss in losses)


@pytest.mark.parametrize("data", [b"", bytes(REST_BYTES), b"\1\0\0\0junkjunk", pack_rest(5, [])[:-1] + b"!"])
def test_anything_else_is_no_loss(data: bytes) -> None:
    assert unpack_rest(data) == (0, [])
