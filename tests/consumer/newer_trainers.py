"""Trainers one version ahead: schemas with a field more, and a catalog that has come to know them."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from runwire_consumer.sources import Message
from runwire_schemas import catalog, codec, events

MORE = {"name": "mood", "type": ["null", "string"], "default": None}
STEMS = {"RunStarted": "run_started", "MetricBatch": "metric_batch", "ParamsLogged": "params_logged"}


@dataclass(frozen=True)
class Newer:
    """How a coming version writes an event: as today, and one field more."""

    type: str

    @property
    def entry(self) -> catalog.Entry:
        """What the catalog of the upgraded consumer says of it."""
        today = next(entry for entry in catalog.entries() if entry.type == self.type)
        return dataclasses.replace(
            today, schema=self._schema, fingerprint=catalog.schema_fingerprint(self._schema), reader=today.schema
        )

    @property
    def _schema(self) -> catalog.Schema:
        plain: Any = catalog._plain_times(json.loads(catalog.schema_text(STEMS[self.type])))
        parsed: Any = parse_schema({**plain, "fields": [*plain["fields"], MORE]})
        return parsed  # type: ignore[no-any-return]

    def encode(self, event: events.Event) -> bytes:
        """The event's payload, with the field."""
        out = io.BytesIO()
        out.write(codec.MARKER + self.entry.fingerprint)
        schemaless_writer(out, self._schema, {**codec._plain(event), "mood": "hopeful"})
        return out.getvalue()


def from_newer(message: Message) -> Message:
    """The message as a newer trainer would have sent it."""
    event = codec.decode(message.payload)
    return replace(message, payload=Newer(type(event).__name__).encode(event))


def upgrade(patch: pytest.MonkeyPatch, types: Iterable[str] = tuple(STEMS)) -> None:
    """From now on these newer versions are known."""
    known = {**catalog._by_fingerprint(), **{Newer(one).entry.fingerprint: Newer(one).entry for one in types}}
    patch.setattr(catalog, "_by_fingerprint", lambda: known)
