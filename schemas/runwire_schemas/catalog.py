"""Which `.avsc` file, event class and fingerprint belong together, of this and every earlier version.

`avro/NAME.avsc` is how an event is written today. How earlier versions wrote it stays for ever as
`avro/earlier/NAME_N.avsc`: what they wrote is read into today's class, new fields at their defaults.

A fingerprint is CRC-64-AVRO of the schema's parsing canonical form
(https://avro.apache.org/docs/1.12.0/specification/#schema-fingerprints), 8 bytes little-endian as on the wire.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from fastavro import parse_schema
from fastavro.schema import fingerprint, to_parsing_canonical_form

from runwire_schemas import events
from runwire_schemas.errors import UnknownFingerprint

Schema = dict[str, Any]
EventClass = type[Any]

_CLASSES: dict[str, EventClass] = {
    "metric_batch": events.MetricBatch,
    "run_started": events.RunStarted,
    "params_logged": events.ParamsLogged,
    "metric_defined": events.MetricDefined,
    "artifact_logged": events.ArtifactLogged,
    "text_logged": events.TextLogged,
    "alert_raised": events.AlertRaised,
    "rows_lost": events.RowsLost,
    "run_edited": events.RunEdited,
    "run_deleted": events.RunDeleted,
    "run_ended": events.RunEnded,
    "heartbeat": events.Heartbeat,
    "emitter_ended": events.EmitterEnded,
}


_EARLIER = ("heartbeat_1",)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One event type, as one version writes it.

    Attributes:
        type: The type's name in envelopes: `MetricBatch`, `RunStarted`, ...
        cls: Its class in `events`.
        schema: How it is written, parsed for fastavro.
        fingerprint: 8 bytes, little-endian.
        build: Makes the event of the mapping that fastavro reads.
        reader: Today's schema, where `schema` is an earlier one.
    """

    type: str
    cls: EventClass
    schema: Schema
    fingerprint: bytes
    build: Callable[[Mapping[str, Any]], events.Event]
    reader: Schema | None = None


def schema_text(stem: str) -> str:
    """The `.avsc` file's text; `stem` is its name without the ending, with `earlier/` in front of an earlier one's."""
    return (resources.files("runwire_schemas") / "avro" / f"{stem}.avsc").read_text("utf-8")


def schema_fingerprint(schema: Schema) -> bytes:
    """CRC-64-AVRO of the canonical form, 8 bytes little-endian."""
    # fastavro prints the little-endian bytes as hex, as the specification's single-object encoding wants them.
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def _builder(cls: EventClass) -> Callable[[Mapping[str, Any]], events.Event]:
    if cls is events.MetricBatch:
        return _build_batch
    if cls is events.RunStarted:
        return _build_run_started
    if cls is events.RunEnded:
        return _build_run_ended
    return lambda body: cls(**body)


def _build_batch(body: Mapping[str, Any]) -> events.Event:
    blocks = tuple(
        events.Block(tuple(block["keys"]), block["steps"], block["times"], block["values"]) for block in body["blocks"]
    )
    return events.MetricBatch(**{**body, "blocks": blocks})


def _build_run_started(body: Mapping[str, Any]) -> events.Event:
    git = body["git"]
    return events.RunStarted(
        **{**body, "host": events.Host(**body["host"]), "git": None if git is None else events.Git(**git)}
    )


def _build_run_ended(body: Mapping[str, Any]) -> events.Event:
    return events.RunEnded(**{**body, "cost": events.Cost(**body["cost"])})


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All event types as they are written today, MetricBatch first."""
    made = []
    for stem, cls in _CLASSES.items():
        schema = _parsed(stem)
        made.append(Entry(cls.__name__, cls, schema, schema_fingerprint(schema), _builder(cls)))
    return tuple(made)


@functools.cache
def earlier_entries() -> tuple[Entry, ...]:
    """Event types as earlier versions wrote them."""
    made = []
    for stem in _EARLIER:
        schema = _parsed(f"earlier/{stem}")
        today = _by_class()[_CLASSES[stem.rpartition("_")[0]]]
        made.append(
            dataclasses.replace(today, schema=schema, fingerprint=schema_fingerprint(schema), reader=today.schema)
        )
    return tuple(made)


def _parsed(stem: str) -> Schema:
    schema: Any = parse_schema(_plain_times(json.loads(schema_text(stem))))
    return schema  # type: ignore[no-any-return]


def _plain_times(node: Any) -> Any:
    """The schema with times as plain longs, so that fastavro hands out integers instead of datetimes.

    Canonical forms leave logical types out: the fingerprint stays that of the `.avsc` file.
    """
    if isinstance(node, dict):
        return {key: _plain_times(child) for key, child in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_plain_times(child) for child in node]
    return node


@functools.cache
def _by_class() -> dict[EventClass, Entry]:
    return {entry.cls: entry for entry in entries()}


@functools.cache
def _by_fingerprint() -> dict[bytes, Entry]:
    return {entry.fingerprint: entry for entry in (*entries(), *earlier_entries())}


def entry_of(event: events.Event) -> Entry:
    """The entry of an event's class; KeyError for a class that is no event."""
    return _by_class()[type(event)]


def entry_by_fingerprint(fingerprint_bytes: bytes) -> Entry:
    """The entry that the wire names.

    Raises:
        UnknownFingerprint: No version of ours wrote that.
    """
    try:
        return _by_fingerprint()[fingerprint_bytes]
    except KeyError:
        raise UnknownFingerprint(fingerprint_bytes) from None
