"""Metric batches made beforehand: only the sequence number is put in when one is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runwire_schemas.codec import encode
from runwire_schemas.columns import encode_batch, encode_longs
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import Block, EmitterEnded, Event, Host, MetricBatch, RunStarted

PROJECT = "bench"
BODIES_DIFFERENT = 16
EMITTERS_OF_A_RUN = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """How a stream of messages looks.

    Attributes:
        emitters: how many processes send; each sends in turn.
        rows: rows a message.
        keys: values a row.
        lead_points: how far the generator may be ahead of the database.
    """

    emitters: int
    rows: int
    keys: int
    lead_points: int

    @property
    def points(self) -> int:
        """Points a message."""
        return self.rows * self.keys


SHAPES = {
    "thousand_points": Shape(emitters=100, rows=100, keys=10, lead_points=2_000_000),
    "bulk": Shape(emitters=8, rows=1_000, keys=10, lead_points=4_000_000),
    "small_messages": Shape(emitters=1_000, rows=1, keys=10, lead_points=400_000),
}

Encoded = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""Kafka's key, value and headers."""


class EmitterStream:
    """The messages of one emitter, in order: RunStarted, batches without end, EmitterEnded."""

    def __init__(self, number: int, shape: Shape, bodies: list[bytes], now_us: int) -> None:
        self._run_id = f"bench{number // EMITTERS_OF_A_RUN:011d}".translate(str.maketrans("0189", "abcd"))
        self._emitter_id = f"{number:032x}"
        self._rank = number % EMITTERS_OF_A_RUN
        self._now_us = now_us
        self._rows = shape.rows
        self._bodies = bodies
        self._next_seq = 0
        empty = MetricBatch(self._run_id, self._emitter_id, self._rank, 0, ())
        self._prefix = encode(empty)[:-2]  # first_seq 0 and the end of no blocks are a byte each
        envelope = Envelope.of(replace(empty, blocks=_blocks(shape, 0, now_us)), PROJECT, self._emitter_id)
        self._headers = [header for header in envelope.to_headers() if header[0] != "first_seq"]

    def start(self) -> Encoded:
        """Say that the process joined its run."""
        self._next_seq = 1
        return self._lifecycle(
            RunStarted(
                self._run_id,
                self._emitter_id,
                self._rank,
                0,
                self._now_us,
                project=PROJECT,
                name=self._run_id,
                attempt=self._emitter_id,
                host=Host("bench"),
            )
        )

    def batch(self, turn: int) -> Encoded:
        """The next rows."""
        seq = self._next_seq
        self._next_seq += self._rows
        first_seq = encode_longs(np.array([seq], np.int64))
        value = self._prefix + first_seq + self._bodies[turn % len(self._bodies)]
        return self._run_id.encode(), value, [*self._headers, ("first_seq", str(seq).encode())]

    def end(self) -> Encoded:
        """Say that no row comes any more."""
        return self._lifecycle(
            EmitterEnded(self._run_id, self._emitter_id, self._rank, self._now_us, self._next_seq, "finished")
        )

    def _lifecycle(self, event: Event) -> Encoded:
        envelope = Envelope.of(event, PROJECT, self._emitter_id)
        return self._run_id.encode(), encode(event), envelope.to_headers()


def make_bodies(shape: Shape, now_us: int) -> list[bytes]:
    """What follows the sequence number in a batch, with different steps and values."""
    empty_length = len(encode(MetricBatch("r", "e", 0, 0, ()))) - 1
    return [
        encode_batch(MetricBatch("r", "e", 0, 0, _blocks(shape, turn, now_us)))[empty_length:]
        for turn in range(BODIES_DIFFERENT)
    ]


def _blocks(shape: Shape, turn: int, now_us: int) -> tuple[Block, ...]:
    numbers = np.random.default_rng(turn)
    first = turn * shape.rows
    return (
        Block(
            tuple(f"train/metric_{key:03d}" for key in range(shape.keys)),
            range(first, first + shape.rows),
            range(now_us + first, now_us + first + shape.rows),
            tuple(numbers.random(shape.rows * shape.keys).tolist()),
        ),
    )
