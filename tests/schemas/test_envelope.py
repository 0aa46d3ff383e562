"""The envelope names rows on every transport, and what no emitter can have written is turned away."""

from __future__ import annotations

from typing import Any

import pytest

from runwire_schemas.envelope import Envelope
from runwire_schemas.errors import EnvelopeError
from tests.schemas.samples import SAMPLES

GOOD: dict[str, Any] = {
    "type": "MetricBatch",
    "project": "digits",
    "run_id": "r",
    "emitter_id": "e",
    "attempt": "a",
    "rank": 3,
    "first_seq": 7,
    "count": 2,
}
HEADERS = Envelope(**GOOD).to_headers()


def test_headers_survive() -> None:
    envelope = Envelope(**GOOD)
    assert envelope.to_headers()[0] == ("type", b"MetricBatch")
    assert Envelope.from_headers(envelope.to_headers()) == envelope
    assert Envelope.from_fields(GOOD) == envelope


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_envelope_of_an_event_names_its_rows(event: Any) -> None:
    envelope = Envelope.of(event, "digits", "attempt")
    expected = {"MetricBatch": None, "Heartbeat": (0, 0), "EmitterEnded": (0, 0)}.get(type(event).__name__, (7, 1))
    if expected is not None:
        assert (envelope.first_seq, envelope.count) == expected
    else:
        assert envelope.count == sum(len(block.steps) for block in event.blocks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run_id": ""}, "run_id"),
        ({"emitter_id": "e" * 129}, "emitter_id"),
        ({"first_seq": -1}, "impossible"),
        ({"count": -1}, "impossible"),
        ({"first_seq": 2**62, "count": 1}, "impossible"),
        ({"rank": 2**31}, "rank"),
    ],
)
def test_impossible_envelopes_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeError, match=words):
        Envelope(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([], "lacks type"),
        ([("rank", b"three")], "rank is garbled"),
        ([("project", b"\xff\xfe")], "project is garbled"),
        ([("type", None)], "lacks type"),
        ([*HEADERS[:-1], ("count", None)], "lacks count"),
        ([*HEADERS[:-1], ("count", b"many"), ("count", b"2")], "count is garbled"),
    ],
)
def test_garbled_headers_are_a_sentence(headers: list[tuple[str, bytes | None]], words: str) -> None:
    with pytest.raises(EnvelopeError, match=words):
        Envelope.from_headers(headers)


def test_a_null_header_beside_a_good_one_is_passed_over() -> None:
    assert Envelope.from_headers([*HEADERS, ("count", None)]) == Envelope(**GOOD)
