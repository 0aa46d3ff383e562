"""From a message to an event or to a dead letter: total, never raises, and bounded by the message's own size.

A message is good when its envelope is readable, its payload decodes to the last byte, both agree about who sent
which rows, and every time lies in the years 1970 to 9999 (later ones can't be shown as a timestamp).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runwire_consumer.sources import Message
from runwire_schemas import codec, columns
from runwire_schemas.catalog import Entry
from runwire_schemas.envelope import SEQ_MAX, Envelope
from runwire_schemas.errors import SchemaError
from runwire_schemas.events import EmitterEnded, Event, Lifecycle, MetricBatch, RowsLost, RunEnded, RunStarted

HEAD_BYTES_MAX = 1024
TIME_MICROS_MAX = 253_402_300_799_999_999
REASON_CHARACTERS_MAX = 500
# Several times what our senders write; bounds what a message costs, some 50 ms and 64 MiB.
BATCH_BYTES_MAX = 2 * 2**20
RECORD_BYTES_MAX = 384 * 2**10
FEW_ROWS = 10
INT_MIN, INT_MAX = -(2**31), 2**31 - 1

HOWS = frozenset({"finished", "crashed"})
STATUSES = frozenset({"finished", "failed", "preempted"})
# Avro says int, which no reader makes sure of.
_INTS = ("restart_count", "world_size", "local_rank", "pid")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A good message."""

    message: Message
    envelope: Envelope
    event: Event


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that can't be stored; its envelope, where readable, names the rows it stood for."""

    message: Message
    envelope: Envelope | None
    reason: str

    @property
    def head(self) -> bytes:
        """The first bytes of the payload."""
        return self.message.payload[:HEAD_BYTES_MAX]


def decode(message: Message) -> Decoded | DeadLetter:
    """Read one message."""
    envelope = None
    try:
        envelope = _envelope(message)
        event = _event(message.payload)
        _agree(envelope, event)
        _check(event)
        return Decoded(message, envelope, event)
    except (SchemaError, _Refused) as error:
        return DeadLetter(message, envelope, str(error)[:REASON_CHARACTERS_MAX])
    # What comes here is a hole in our own checks; the partition still has to go on.
    except Exception as error:  # noqa: BLE001
        return DeadLetter(message, envelope, f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX])


class _Refused(Exception):
    """Decodable, but not to be believed."""


def _envelope(message: Message) -> Envelope:
    if message.damage:
        raise _Refused(message.damage)
    if isinstance(message.headers, Mapping):
        return Envelope.from_fields(message.headers)
    return Envelope.from_headers(message.headers)


def _event(payload: bytes) -> Event:
    entry: Entry = codec.payload_entry(payload)
    bytes_max = BATCH_BYTES_MAX if entry.cls is MetricBatch else RECORD_BYTES_MAX
    if len(payload) > bytes_max:
        raise _Refused(f"{entry.type} of {len(payload):,} bytes is larger than any sender's: at most {bytes_max:,}.")
    return columns.decode_batch(payload) if entry.cls is MetricBatch else codec.decode(payload)


def _agree(envelope: Envelope, event: Event) -> None:
    """Both name the same sender and the same rows."""
    if isinstance(event, MetricBatch):
        first_seq, count = event.first_seq, event.count
    elif isinstance(event, Lifecycle):
        first_seq, count = event.seq, 1
    else:
        first_seq, count = 0, 0
    for name, said, found in (
        ("type", envelope.type, type(event).__name__),
        ("run_id", envelope.run_id, event.run_id),
        ("emitter_id", envelope.emitter_id, event.emitter_id),
        ("rank", envelope.rank, event.rank),
        ("first_seq", envelope.first_seq, first_seq),
        ("count", envelope.count, count),
    ):
        if said != found:
            raise _Refused(f"Envelope and payload disagree about {name}: {said!r} and {found!r}.")


def _check(event: Event) -> None:
    """What the schema can't say."""
    if isinstance(event, MetricBatch):
        for block in event.blocks:
            times: Any = np.asarray(block.times)
            # Of few rows in Python: most messages have one, and numpy's two calls cost more than all else here.
            ends = times.tolist() if len(times) <= FEW_ROWS else [times.min(), times.max()]
            if ends and not (min(ends) >= 0 and max(ends) <= TIME_MICROS_MAX):
                raise _Refused("A row's time is outside the years 1970 to 9999.")
        return
    if not 0 <= event.time <= TIME_MICROS_MAX:
        raise _Refused("The time is outside the years 1970 to 9999.")
    if isinstance(event, RunStarted):
        _check_ints(event)
    if isinstance(event, RowsLost) and not (
        event.first_seq >= 0 and event.count >= 0 and event.first_seq + event.count <= SEQ_MAX
    ):
        raise _Refused(f"RowsLost declares an impossible range: {event.first_seq}, {event.count} rows.")
    if isinstance(event, EmitterEnded) and (event.how not in HOWS or not 0 <= event.next_seq <= SEQ_MAX):
        raise _Refused(f"EmitterEnded is impossible: how {event.how!r}, next_seq {event.next_seq}.")
    if isinstance(event, RunEnded) and event.status not in STATUSES:
        raise _Refused(f"RunEnded has an unknown status: {event.status!r}.")


def _check_ints(event: RunStarted) -> None:
    for name, value in (*((name, getattr(event, name)) for name in _INTS), ("host.cpus", event.host.cpus)):
        if not INT_MIN <= value <= INT_MAX:
            raise _Refused(f"RunStarted.{name} is no 32-bit number: {value}.")
