"""Messages that a sender or a recovery makes itself: signs of life, the end, and a declared loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runwire._batch import Message
from runwire_schemas.codec import decode, encode
from runwire_schemas.envelope import Envelope
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import EmitterEnded, Heartbeat, Lifecycle, RowsLost, RunEnded, Signal

if TYPE_CHECKING:
    from runwire._segments import SegmentHeader


def heartbeat(  # noqa: PLR0917 - the record has these fields
    header: SegmentHeader,
    time_us: int,
    next_in_seconds: float,
    next_seq: int,
    rows_waiting: int,
    overdue_seconds: float = 0.0,
) -> Message:
    """The emitter lives; the next sign is due in `next_in_seconds`.

    Who speaks for another process can't see its loop, and leaves `overdue_seconds` at 0.
    """
    event = Heartbeat(
        header.run_id,
        header.emitter_id,
        header.rank,
        time_us,
        next_in_seconds=next_in_seconds,
        next_seq=next_seq,
        journal_rows=rows_waiting,
        overdue_seconds=overdue_seconds,
    )
    return _message(header, event)


def ended(header: SegmentHeader, time_us: int, next_seq: int, how: str) -> Message:
    """No row comes after `next_seq`; `how` is finished or crashed."""
    event = EmitterEnded(header.run_id, header.emitter_id, header.rank, time_us, next_seq=next_seq, how=how)
    return _message(header, event)


def rows_lost(  # noqa: PLR0917 - the record has these fields
    header: SegmentHeader, time_us: int, seq: int, first_seq: int, count: int, reason: str
) -> bytes:
    """Payload of the record, itself number `seq`, that declares rows lost."""
    lost = RowsLost(header.run_id, header.emitter_id, header.rank, seq, time_us, first_seq, count, reason)
    return encode(lost)


def preempted(header: SegmentHeader, time_us: int, seq: int, signum: int) -> bytes:
    """Payload of the record, itself number `seq`, that a signal ended the process and with it its part of the run."""
    ended = RunEnded(header.run_id, header.emitter_id, header.rank, seq, time_us, "preempted", 128 + signum)
    return encode(ended)


def renumbered(payload: bytes, seq: int) -> bytes:
    """A lifecycle record's payload with another sequence number.

    Raises:
        DecodeError: It is no such record.
    """
    event = decode(payload)
    if not isinstance(event, Lifecycle):
        raise DecodeError(f"{type(event).__name__} has no sequence number.")
    return encode(replace(event, seq=seq))


def _message(header: SegmentHeader, event: Signal) -> Message:
    return Message(Envelope.of(event, header.project, header.attempt), encode(event))
