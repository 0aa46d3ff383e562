"""Tells runs in events: emitters whose records become messages of a log, and a store that has read them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from runwire_consumer.database import MEMORY
from runwire_consumer.decode import decode
from runwire_consumer.runstate import RunState
from runwire_consumer.service import Service
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import codec, columns, events
from runwire_schemas.envelope import Envelope

RUN = "aaaaaaaaaaaaaaaa"
SECOND = 1_000_000
DAY_ONE = 1_700_000_000 * SECOND


@dataclass
class Emitter:
    """A process start that speaks; every record takes the next sequence number.

    Attributes:
        letter: Its id is this letter, 32 times.
        started: Seconds after DAY_ONE.
    """

    letter: str
    run_id: str = RUN
    rank: int = 0
    attempt: str = "first"
    started: float = 0.0
    project: str = "digits"
    seq: int = 0

    @property
    def emitter_id(self) -> str:
        """Its id."""
        return self.letter * 32

    @property
    def now(self) -> int:
        """A second a sequence number."""
        return DAY_ONE + int((self.started + self.seq) * SECOND)

    def starts(self, **fields: Any) -> Message:
        """RunStarted."""
        given = {"project": self.project, "name": "calm-river-1", "attempt": self.attempt, "host": events.Host("node")}
        return self.says(events.RunStarted, **{**given, **fields})

    def says(self, kind: type[events.Lifecycle], /, **fields: Any) -> Message:
        """A lifecycle record."""
        event = kind(self.run_id, self.emitter_id, self.rank, self.seq, self.now, **fields)
        self.seq += 1
        return self.message(event)

    def signals(self, kind: type[events.Signal], /, **fields: Any) -> Message:
        """A record outside the sequence."""
        return self.message(kind(self.run_id, self.emitter_id, self.rank, self.now, **fields))

    def logs(self, rows: Mapping[int, Mapping[str, float]]) -> Message:
        """One batch: step to values, rows of the same keys together in a block."""
        blocks: list[tuple[tuple[str, ...], list[int], list[int], list[list[float]]]] = []
        first_seq = self.seq
        for step, values in rows.items():
            keys = tuple(values)
            if not blocks or blocks[-1][0] != keys:
                blocks.append((keys, [], [], []))
            _, steps, times, columns_ = blocks[-1]
            steps.append(step)
            times.append(self.now)
            columns_.append(list(values.values()))
            self.seq += 1
        return self.message(
            events.MetricBatch(
                self.run_id,
                self.emitter_id,
                self.rank,
                first_seq,
                tuple(
                    events.Block(keys, steps, times, [row[k] for k in range(len(keys)) for row in values])
                    for keys, steps, times, values in blocks
                ),
            )
        )

    def message(self, event: events.Event) -> Message:
        """Any event as a message, not yet in a log."""
        payload = columns.encode_batch(event) if isinstance(event, events.MetricBatch) else codec.encode(event)
        headers = Envelope.of(event, self.project, self.attempt).to_headers()
        return Message("memory:log", "0", 0, 1, self.now, headers, payload)


def in_log(messages: Iterable[Message], first_offset: int = 0) -> list[Message]:
    """The messages with offsets, one behind the other."""
    return [replace(message, offset=at, next_offset=at + 1) for at, message in enumerate(messages, start=first_offset)]


def store_all(store: Store, messages: Iterable[Message], states: dict[int, RunState] | None = None) -> None:
    """Store messages behind what the store has already."""
    offset = store.positions("memory:log").get("0", (0, ""))[0]
    items = [decode(message) for message in in_log(messages, offset)]
    store.write(store.admit(items, DAY_ONE + 86_400 * SECOND, at_tail=False), states)


def told(*messages: Message) -> duckdb.DuckDBPyConnection:
    """A cursor on a store that has read these messages, one transaction each."""
    store = Store.open(MEMORY)
    for message in messages:
        store_all(store, [message])
    return store.cursor()


def play(service: Service, story: Callable[[], Awaitable[None]]) -> None:
    """Run the service while a story is told, then stop it."""

    async def serve() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(stop))
        try:
            await story()
        finally:
            stop.set()
            await running

    asyncio.run(serve())
