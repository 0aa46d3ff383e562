"""Every event survives the wire, every version decodes for ever, and bad bytes are a DecodeError, nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form
from fastavro.utils import generate_one
from hypothesis import given
from hypothesis import strategies as st

from runwire_schemas import codec
from runwire_schemas.catalog import Entry, earlier_entries, entries, entry_by_fingerprint, entry_of, schema_text
from runwire_schemas.errors import DecodeError, UnknownFingerprint
from runwire_schemas.events import Event, MetricBatch
from tests.schemas.samples import SAMPLES

GOLDEN = Path(__file__).parent / "golden"
IDS = [f"{at}-{type(sample).__name__}" for at, sample in enumerate(SAMPLES)]
# What each version's files hold is that version's part of the sample: what came later is at its default.
UNKNOWN_THEN: dict[str, dict[str, tuple[str, ...]]] = {"v1": {"Heartbeat": ("overdue_seconds",)}, "v2": {}}
GOLDEN_FILES = sorted(GOLDEN.glob("*/*.avro"))


@pytest.mark.parametrize("event", SAMPLES, ids=IDS)
def test_event_survives_the_wire(event: Event) -> None:
    assert codec.decode(codec.encode(event)) == _with_lists(event)


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_version_decodes_for_ever(path: Path) -> None:
    """The bytes that each version wrote are in the repository; today's code reads the same events in them."""
    event = SAMPLES[int(path.stem.partition("-")[0])]
    unknown = UNKNOWN_THEN[path.parent.name].get(type(event).__name__, ())
    defaults: dict[str, Any] = {field.name: field.default for field in fields(event) if field.name in unknown}
    assert codec.decode(path.read_bytes()) == _with_lists(replace(event, **defaults))


@pytest.mark.parametrize(("at", "event"), list(enumerate(SAMPLES)), ids=IDS)
def test_the_newest_golden_file_is_what_is_written_today(at: int, event: Event) -> None:
    newest = max(path for path in GOLDEN_FILES if path.stem == IDS[at])
    assert codec.encode(event) == newest.read_bytes(), "a changed encoding needs a new golden version beside this one"


def test_every_event_type_has_a_golden_file() -> None:
    assert {type(sample) for sample in SAMPLES} == {entry.cls for entry in entries()}


def test_schemas_of_every_version_are_frozen() -> None:
    """A changed schema is a new version: its old text stays readable (and its fingerprint known) beside it."""
    for path in sorted(GOLDEN.glob("*/fingerprints.json")):
        for name, value in json.loads(path.read_text()).items():
            assert entry_by_fingerprint(bytes.fromhex(value)).type == name, f"{name} of {path.parent.name} has changed"
    known = {entry.fingerprint.hex() for entry in (*entries(), *earlier_entries())}
    recorded = [json.loads(path.read_text()).values() for path in GOLDEN.glob("*/fingerprints.json")]
    assert known == set().union(*recorded), "a schema that no version of golden/ has recorded"


@pytest.mark.parametrize("entry", earlier_entries(), ids=lambda entry: f"{entry.type}-{entry.fingerprint.hex()}")
def test_an_earlier_schema_differs_by_fields_with_defaults(entry: Entry) -> None:
    """Names, types and order of its fields are today's; a field that came since has a default, the class's own."""
    then = {field["name"]: field for field in entry.schema["fields"]}
    now = {field["name"]: field for field in next(one for one in entries() if one.cls is entry.cls).schema["fields"]}
    assert [(name, then[name]["type"]) for name in then] == [(name, now[name]["type"]) for name in now if name in then]
    defaults = {field.name: field.default for field in fields(entry.cls)}
    for name in now.keys() - then.keys():
        assert now[name]["default"] == defaults[name], name


PAIRS = [
    (then, now)
    for cls in dict.fromkeys(entry.cls for entry in entries())
    for versions in [[entry for entry in (*earlier_entries(), *entries()) if entry.cls is cls]]
    for at, then in enumerate(versions)
    for now in versions[at:]
]


@pytest.mark.parametrize(
    ("then", "now"), PAIRS, ids=lambda entry: f"{entry.type}-{entry.fingerprint.hex()[:4]}" if entry else ""
)
def test_every_version_reads_every_earlier_one(then: Entry, now: Entry) -> None:
    """What a version wrote is read by each later one: the same values, new fields at their defaults, to the last byte.

    A change that Avro calls incompatible fails here, whichever two versions it lies between.
    """
    defaults = {field["name"]: field.get("default") for field in now.schema["fields"]}
    for seed in range(20):
        random.seed(seed)
        value: Any = generate_one(then.schema)
        out = io.BytesIO()
        schemaless_writer(out, then.schema, value)
        raw = io.BytesIO(out.getvalue())
        read: Any = schemaless_reader(raw, then.schema, now.schema)
        assert raw.read() == b""
        again: Any = schemaless_reader(io.BytesIO(out.getvalue()), then.schema)
        later = {name: defaults[name] for name in defaults.keys() - again.keys()}
        assert repr(read) == repr({name: {**again, **later}[name] for name in read})
        assert again.keys() <= read.keys()


def test_fingerprint_is_the_one_of_the_avsc_file() -> None:
    """Times lose their logical type for fastavro only; what other Avro tools compute stays the same."""
    folder = Path(codec.__file__).parent / "avro"
    paths = sorted(folder.rglob("*.avsc"))
    assert len(paths) == len(entries()) + len(earlier_entries())
    for path in paths:
        schema: Any = parse_schema(json.loads(schema_text(str(path.relative_to(folder).with_suffix("")))))
        expected = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
        assert entry_by_fingerprint(bytes.fromhex(expected)).type == schema["name"].rpartition(".")[2]


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


@pytest.mark.parametrize("event", SAMPLES, ids=IDS)
def test_the_same_bytes_give_the_same_reason(event: Event) -> None:
    """A dead letter that is read again says why it is dead in the same words: no address of an object is in them."""
    payload = codec.encode(event)
    for end in range(len(payload)):
        with contextlib.suppress(DecodeError):
            codec.decode(payload[:end])
            continue
        with pytest.raises(DecodeError) as raised:
            codec.decode(payload[:end])
        assert " object at 0x" not in str(raised.value)


@given(st.sampled_from([path.read_bytes() for path in GOLDEN_FILES]), st.data())
def test_mutated_payload_decodes_or_raises_decode_error(payload: bytes, data: st.DataObject) -> None:
    """Flipped, cut and grown bytes of any version: either an event or a DecodeError."""
    raw = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for mutated in (bytes(raw), cut):
        with contextlib.suppress(DecodeError):
            codec.decode(mutated)


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
