"""MQTT's part of the contract: topics of ids, the envelope as user properties, acknowledgements there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_schemas.edge import (
    Ack,
    ack_of,
    ack_topic,
    decode_ack,
    emitter_of,
    encode_ack,
    event_topic,
    events_filter,
    from_properties,
    joined,
    record_key,
    to_properties,
)
from runwire_schemas.envelope import SEQ_MAX, Envelope, NoEnvelope
from runwire_schemas.errors import DecodeError, EnvelopeError

ENVELOPE = Envelope("MetricBatch", "vision team/β", "a+b#", "e1", "t\x00\ufeff", 3, 40, 2)


def test_topics_of_ids() -> None:
    """An id is one level, whatever is in it, and no pattern."""
    assert event_topic("site/a", ENVELOPE) == "site/a/vision%20team%2F%CE%B2/a%2Bb%23/e1"
    assert events_filter("site/a") == "site/a/#"
    assert ack_topic("site/a", "e/1") == "site/a-ack/e%2F1"
    assert emitter_of("site/a", "site/a-ack/e%2F1") == "e/1"
    assert emitter_of("site/a", "site/a/p/r/e1") is None


def test_the_envelope_as_user_properties() -> None:
    """All of it is ASCII without control characters, and comes back."""
    properties = to_properties(ENVELOPE)
    assert all(value.isascii() and value.isprintable() for _, value in properties)
    assert Envelope.from_headers(from_properties(properties)) == ENVELOPE
    assert from_properties([("odd", "\ufeff 100% %ff"), ("", "")]) == [
        ("odd", "\ufeff 100% \ufffd".encode()),
        ("", b""),
    ]


@pytest.mark.parametrize(
    ("ack", "text"),
    [
        (Ack(0, 5), b'{"first_seq": 0, "count": 5, "state": "ok"}'),
        (Ack(7, 1, refused=True), b'{"first_seq": 7, "count": 1, "state": "refused"}'),
        (Ack(0, 0, "ab"), b'{"first_seq": 0, "count": 0, "state": "ok", "key": "ab"}'),
    ],
)
def test_acknowledgements(ack: Ack, text: bytes) -> None:
    assert encode_ack(ack) == text
    assert decode_ack(text) == ack


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"first_seq": 0, "count": 5, "state": "maybe"}',
        b'{"first_seq": "0", "count": 5, "state": "ok"}',
        b'{"first_seq": true, "count": 5, "state": "ok"}',
        b'{"first_seq": -1, "count": 5, "state": "ok"}',
        b'{"first_seq": 0, "count": 0, "state": "ok"}',
        b'{"first_seq": 0, "count": 5, "state": "ok", "key": "ab"}',
        b'{"first_seq": 0, "count": %d, "state": "ok"}' % (SEQ_MAX + 1),
        b"[" * 100_000,
    ],
)
def test_what_is_no_acknowledgement(text: bytes) -> None:
    with pytest.raises(DecodeError, match="acknowledgement of a bridge"):
        decode_ack(text)


def test_what_a_message_is_acknowledged_by() -> None:
    """Rows by their range, what lies outside the sequence by its payload."""
    outside = Envelope("EmitterEnded", "p", "r", "e", "t", 0, 0, 0)
    assert ack_of(ENVELOPE, b"x") == Ack(40, 2)
    assert ack_of(outside, b"x", refused=True) == Ack(0, 0, record_key(b"x"), refused=True)
    assert record_key(b"x") != record_key(b"y")


def test_joined() -> None:
    """Neighbours become one; nothing is joined over a hole, a refusal or a record."""
    acks = [Ack(0, 2), Ack(2, 3), Ack(6, 1), Ack(7, 1, refused=True), Ack(8, 1), Ack(0, 0, "k"), Ack(9, 1)]
    assert joined(acks) == [Ack(0, 5), *acks[2:]]


@given(st.lists(st.builds(Ack, st.integers(0, 20), st.integers(1, 5), refused=st.booleans())))
def test_joined_says_the_same(acks: list[Ack]) -> None:
    """Whatever comes: the same rows, and the same refusals."""

    def rows(some: list[Ack]) -> set[int]:
        return {seq for one in some if not one.refused for seq in range(one.first_seq, one.first_seq + one.count)}

    assert rows(joined(acks)) == rows(acks)
    assert [one for one in joined(acks) if one.refused] == [one for one in acks if one.refused]


def test_no_envelope() -> None:
    """What came instead is passed on, and is no envelope to whoever reads it."""
    bare = NoEnvelope.beside(None, [("a", b"b")])
    assert bare.to_headers() == [("a", b"b")]
    with pytest.raises(EnvelopeError):
        Envelope.from_headers(bare.to_headers())
    with pytest.raises(EnvelopeError):
        Envelope.from_fields({name: getattr(bare, name) for name in Envelope.__dataclass_fields__})
    named = NoEnvelope.beside(ENVELOPE, [])
    assert Envelope.from_fields({name: getattr(named, name) for name in Envelope.__dataclass_fields__}) == ENVELOPE
