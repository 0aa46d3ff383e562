"""Rows of the journal to messages for the wire: contiguous ranges of bounded size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runwire._segments import Rows, StoredEvent
from runwire_schemas.envelope import Envelope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runwire._segments import SegmentHeader

_ROW_OVERHEAD_BYTES = 16  # a step and a time


@dataclass(frozen=True, slots=True)
class Message:
    """What a transport carries: the rows `first_seq` .. `first_seq + count - 1` of its envelope.

    Attributes:
        rows: What the payload was made of, so that a refused message can be halved; empty for lifecycle records.
    """

    envelope: Envelope
    payload: bytes
    rows: tuple[Rows, ...] = ()

    @property
    def end_seq(self) -> int:
        """The sequence number behind its last row."""
        return self.envelope.first_seq + self.envelope.count


def messages(
    found: Iterable[Rows | StoredEvent], header: SegmentHeader, rows_max: int, bytes_max: int
) -> Iterator[Message]:
    """Cut what the journal hands out into messages of at most `rows_max` rows and about `bytes_max` bytes.

    Consecutive rows share a message; a lifecycle record, or a jump in the sequence, begins a new one.
    """
    waiting: list[Rows] = []
    count = size = 0
    for item in _cut(found, rows_max, bytes_max):
        is_event = isinstance(item, StoredEvent)
        cost = len(item.payload) if isinstance(item, StoredEvent) else _size_bytes(item)
        follows = not waiting or waiting[-1].first_seq + waiting[-1].count == item.first_seq
        if waiting and (is_event or not follows or count + item.count > rows_max or size + cost > bytes_max):
            yield batch_message(tuple(waiting), header)
            waiting, count, size = [], 0, 0
        if isinstance(item, StoredEvent):
            yield event_message(item, header)
        else:
            waiting.append(item)
            count += item.count
            size += cost
    if waiting:
        yield batch_message(tuple(waiting), header)


def batch_message(rows: tuple[Rows, ...], header: SegmentHeader) -> Message:
    """One MetricBatch of consecutive rows."""
    from runwire_schemas.columns import encode_batch  # noqa: PLC0415 - numpy: not before the sender needs it
    from runwire_schemas.events import Block, MetricBatch  # noqa: PLC0415 - with it

    blocks = tuple(Block(part.keys, part.steps, part.times, part.values.T.ravel()) for part in rows)  # type: ignore[arg-type]
    batch = MetricBatch(header.run_id, header.emitter_id, header.rank, rows[0].first_seq, blocks)
    return Message(Envelope.of(batch, header.project, header.attempt), encode_batch(batch), rows)


def halve(message: Message, header: SegmentHeader) -> tuple[Message, ...]:
    """Two messages with half of the rows each, or nothing where a single row or record is left."""
    if message.envelope.count <= 1 or not message.rows:
        return ()
    if len(message.rows) > 1:
        middle = len(message.rows) // 2
        return batch_message(message.rows[:middle], header), batch_message(message.rows[middle:], header)
    rows = message.rows[0]
    middle = rows.count // 2
    return (
        batch_message((_slice(rows, 0, middle),), header),
        batch_message((_slice(rows, middle, rows.count),), header),
    )


def _cut(found: Iterable[Rows | StoredEvent], rows_max: int, bytes_max: int) -> Iterator[Rows | StoredEvent]:
    """No stretch of rows longer or larger than a message."""
    for item in found:
        if isinstance(item, StoredEvent) or item.count == 1:
            yield item
            continue
        fit = max(1, min(rows_max, bytes_max // (_ROW_OVERHEAD_BYTES + 8 * len(item.keys))))
        for start in range(0, item.count, fit):
            yield item if fit >= item.count else _slice(item, start, min(start + fit, item.count))


def _size_bytes(rows: Rows) -> int:
    names = sum(map(len, rows.keys)) + 2 * len(rows.keys)
    return names + rows.count * (_ROW_OVERHEAD_BYTES + 8 * len(rows.keys))


def _slice(rows: Rows, start: int, end: int) -> Rows:
    part = slice(start, end)
    return Rows(rows.keys, rows.first_seq + start, rows.steps[part], rows.times[part], rows.values[part])


def event_message(event: StoredEvent, header: SegmentHeader) -> Message:
    """One lifecycle record."""
    from runwire_schemas.codec import payload_entry  # noqa: PLC0415 - fastavro: not before the sender needs it

    envelope = Envelope(
        payload_entry(event.payload).type,
        header.project,
        header.run_id,
        header.emitter_id,
        header.attempt,
        header.rank,
        event.seq,
        1,
    )
    return Message(envelope, event.payload)
