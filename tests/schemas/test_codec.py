"""Every event survives the wire, version 1 decodes for ever, and bad bytes are a DecodeError, never anything else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form
from hypothesis import given
from hypothesis import strategies as st

from runwire_schemas import codec
from runwire_schemas.catalog import entries, entry_of, schema_text
from runwire_schemas.errors import DecodeError, UnknownFingerprint
from runwire_schemas.events import Event, MetricBatch
from tests.schemas.samples import SAMPLES

GOLDEN = Path(__file__).parent / "golden" / "v1"
IDS = [f"{at}-{type(sample).__name__}" for at, sample in enumerate(SAMPLES)]


@pytest.mark.parametrize("event", SAMPLES, ids=IDS)
def test_event_survives_the_wire(event: Event) -> None:
    assert codec.decode(codec.encode(event)) == _with_lists(event)


@pytest.mark.parametrize(("at", "event"), list(enumerate(SAMPLES)), ids=IDS)
def test_version_1_decodes_for_ever(at: int, event: Event) -> None:
    """The bytes that version 1 wrote are in the repository; today's code reads the same events in them."""
    golden = (GOLDEN / f"{IDS[at]}.avro").read_bytes()
    assert codec.decode(golden) == _with_lists(event)
    assert codec.encode(event) == golden, "a changed encoding needs a new golden version beside this one"


def test_every_event_type_has_a_golden_file() -> None:
    assert {type(sample) for sample in SAMPLES} == {entry.cls for entry in entries()}


def test_schemas_of_version_1_are_frozen() -> None:
    """A changed schema is a new version: its old text stays readable (and its fingerprint known) beside it."""
    frozen = json.loads((GOLDEN / "fingerprints.json").read_text())
    now = {entry.type: entry.fingerprint.hex() for entry in entries()}
    missing = {name: value for name, value in frozen.items() if now.get(name) != value}
    assert not missing, "these fingerprints of version 1 are known no more: an incompatible change"


def test_fingerprint_is_the_one_of_the_avsc_file() -> None:
    """Times lose their logical type for fastavro only; what other Avro tools compute stays the same."""
    for path in sorted((Path(codec.__file__).parent / "avro").glob("*.avsc")):
        schema: Any = parse_schema(json.loads(schema_text(path.stem)))
        name = schema["name"].rpartition(".")[2]
        expected = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
        assert next(entry for entry in entries() if entry.type == name).fingerprint.hex() == expected


def test_union_keeps_int_and_bool_apart_from_double() -> None:
    """`[null, boolean, long, double, string]`: the order decides what fastavro picks."""
    params = next(sample for sample in SAMPLES if type(sample).__name__ == "ParamsLogged")
    decoded: Any = codec.decode(codec.encode(params))
    assert {key: type(value) for key, value in decoded.params.items()} == {
        "lr": float,
        "layers": int,
        "amp": bool,
        "note": str,
        "none": type(None),
    }


@pytest.mark.parametrize(
    ("payload", "error", "words"),
    [
        (b"", DecodeError, "Avro marker"),
        (b"\xc3\x01short", DecodeError, "Avro marker"),
        (b"{}" * 20, DecodeError, "Avro marker"),
        (b"\xc3\x01" + bytes(8) + b"x", UnknownFingerprint, "0000000000000000"),
        (codec.encode(SAMPLES[0])[:-1], DecodeError, "MetricBatch"),
        (codec.encode(SAMPLES[0]) + b"\0", DecodeError, "behind its end"),
    ],
)
def test_bad_payload_is_a_sentence(payload: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        codec.decode(payload)


@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_payload_decodes_or_raises_decode_error(event: Event, data: st.DataObject) -> None:
    """Flipped, cut and grown bytes: either an event or a DecodeError."""
    raw = bytearray(codec.encode(event))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for payload in (bytes(raw), cut):
        with contextlib.suppress(DecodeError):
            codec.decode(payload)


def _with_lists(event: Event) -> Event:
    """The event with lists for tuples, as fastavro hands them out."""
    if isinstance(event, MetricBatch):
        return event
    entry = entry_of(event)
    values = {name: getattr(event, name) for name in event.__dataclass_fields__}
    lists: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if "host" in lists:
        host = lists["host"]
        lists["host"] = type(host)(host.name, host.os, host.python, host.cpus, host.memory_bytes, list(host.gpus))
    made: Event = entry.build(lists | {name: _mapping(lists[name]) for name in lists.keys() & {"host", "git", "cost"}})
    return made


def _mapping(value: Any) -> Any:
    return None if value is None else {name: getattr(value, name) for name in value.__dataclass_fields__}
