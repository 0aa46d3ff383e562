"""The envelope that travels beside every payload, so that even undecodable bytes name the rows they stand for.

The same eight fields on each transport: Kafka headers, MQTT 5 user properties, fields of a `dir:` record.
`count == 0` marks a record outside the sequence (Heartbeat, EmitterEnded).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runwire_schemas.errors import EnvelopeError
from runwire_schemas.events import Event, Lifecycle, MetricBatch

ID_CHARACTERS_MAX = 128
SEQ_MAX = 2**62


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who sent a message, for which run, and which rows it holds.

    Raises:
        EnvelopeError: On construction, when an id is empty or too long or a range is impossible.
    """

    type: str
    project: str
    run_id: str
    emitter_id: str
    attempt: str
    rank: int
    first_seq: int
    count: int

    def __post_init__(self) -> None:
        """Turn away what could not have come from an emitter."""
        for name in ("type", "run_id", "emitter_id", "attempt"):
            value = getattr(self, name)
            if not 0 < len(value) <= ID_CHARACTERS_MAX:
                raise EnvelopeError(f"Envelope field {name} must have 1 to {ID_CHARACTERS_MAX} characters.")
        if not -(2**31) <= self.rank < 2**31:
            raise EnvelopeError(f"Envelope field rank is out of range: {self.rank}.")
        if self.first_seq < 0 or self.count < 0 or self.first_seq + self.count > SEQ_MAX:
            raise EnvelopeError(f"Envelope range is impossible: first_seq {self.first_seq}, count {self.count}.")

    def to_headers(self) -> list[tuple[str, bytes]]:
        """As Kafka headers; numbers are decimal text."""
        return [(name, str(getattr(self, name)).encode()) for name in _FIELDS]

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes | None]]) -> Envelope:
        """Read Kafka headers; unknown names are passed over, the last of a repeated name counts.

        Raises:
            EnvelopeError: A field is missing or garbled.
        """
        found: dict[str, Any] = {}
        for name, value in headers:
            if name in _FIELDS and value is not None:
                try:
                    text = value.decode()
                    found[name] = int(text) if name in _NUMBERS else text
                except ValueError:
                    raise EnvelopeError(f"Envelope header {name} is garbled: {value[:40]!r}.") from None
        return cls.from_fields(found)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Envelope:
        """Read the fields of a `dir:` record.

        Raises:
            EnvelopeError: A field is missing or garbled.
        """
        missing = [name for name in _FIELDS if name not in fields]
        if missing:
            raise EnvelopeError(f"Envelope lacks {', '.join(missing)}.")
        return cls(**{name: fields[name] for name in _FIELDS})

    @classmethod
    def of(cls, event: Event, project: str, attempt: str) -> Envelope:
        """The envelope of an event."""
        if isinstance(event, MetricBatch):
            first_seq, count = event.first_seq, event.count
        elif isinstance(event, Lifecycle):
            first_seq, count = event.seq, 1
        else:
            first_seq, count = 0, 0
        return cls(
            type(event).__name__,
            project,
            event.run_id,
            event.emitter_id,
            attempt,
            event.rank,
            first_seq,
            count,
        )


_FIELDS = tuple(Envelope.__dataclass_fields__)
_NUMBERS = frozenset({"rank", "first_seq", "count"})


@dataclass(frozen=True, slots=True)
class NoEnvelope(Envelope):
    """What stands in an envelope's place beside a payload that came without a readable one, to be passed on as it is.

    Whoever reads it there makes a dead letter of it, for it has no type and names no run.
    """

    headers: tuple[tuple[str, bytes], ...] = ()

    def __post_init__(self) -> None:
        """Whatever came."""

    def to_headers(self) -> list[tuple[str, bytes]]:
        """What came."""
        return list(self.headers)

    @classmethod
    def beside(cls, envelope: Envelope | None, headers: Iterable[tuple[str, bytes]]) -> NoEnvelope:
        """With these headers; with the fields of an envelope where one is known, but its payload isn't whole."""
        fields = {name: getattr(envelope, name) for name in _FIELDS} if envelope else dict(_NOBODY)
        return cls(**fields, headers=tuple(headers))


_NOBODY: dict[str, Any] = {name: 0 if name in _NUMBERS else "" for name in _FIELDS}
