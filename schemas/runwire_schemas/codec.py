"""Events to bytes and back, by fastavro: Avro single-object encoding, `C3 01`, fingerprint, body.

This is the reference that the vectorised way of `columns.py` is tested against.
(https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from runwire_schemas.catalog import Entry, entry_by_fingerprint, entry_of
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import Event

MARKER = b"\xc3\x01"
HEADER_BYTES = len(MARKER) + 8


def encode(event: Event) -> bytes:
    """The event's payload."""
    entry = entry_of(event)
    out = io.BytesIO()
    out.write(MARKER + entry.fingerprint)
    schemaless_writer(out, entry.schema, _plain(event))
    return out.getvalue()


def decode(payload: bytes) -> Event:
    """The event in a payload; the whole payload must be consumed.

    Raises:
        DecodeError: No record of ours; UnknownFingerprint when only the schema is unknown.
    """
    entry = payload_entry(payload)
    body = io.BytesIO(payload)
    body.seek(HEADER_BYTES)
    try:
        event = entry.build(schemaless_reader(body, entry.schema, entry.reader))  # type: ignore[arg-type]
    # fastavro trusts its input and fails with whatever Python raised: IndexError, MemoryError, EOFError, ...
    except Exception as error:
        reason = str(error).replace(f" from {body!r}", "")  # an address, another one each time
        raise DecodeError(f"{entry.type} is no valid Avro: {type(error).__name__}: {reason}.") from error
    if body.tell() != len(payload):
        raise DecodeError(f"{entry.type} has {len(payload) - body.tell()} bytes behind its end.")
    return event


def payload_entry(payload: bytes) -> Entry:
    """The event type that a payload names.

    Raises:
        DecodeError: Marker or fingerprint are missing or unknown.
    """
    if len(payload) < HEADER_BYTES or payload[: len(MARKER)] != MARKER:
        raise DecodeError(f"Payload of {len(payload)} bytes doesn't begin with the Avro marker c301.")
    return entry_by_fingerprint(payload[len(MARKER) : HEADER_BYTES])


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, deeply, for fastavro."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        return value
    if value and is_dataclass(value[0]):
        return [_plain(item) for item in value]
    return list(value)
