"""The whole consumer over random histories: batches re-cut, repeated, out of order, damaged; the consumer restarted.

The model is a dictionary with an entry a row. After every history each row is stored once, or dead, or lost, or
missing, exactly as the model has it, and the values are those of the trainer.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import Emitter

LIMITS = ServiceLimits(batch_seconds=0.0, backlog_batch_seconds=0.0, poll_seconds=0.001, tick_seconds=0.0)

SEND = st.tuples(st.just("send"), st.sampled_from("ab"), st.integers(0, 40), st.integers(1, 12))
GARBLE = st.tuples(st.just("garble"), st.sampled_from("ab"), st.integers(0, 40), st.integers(1, 12))
LOSE = st.tuples(st.just("lose"), st.sampled_from("ab"), st.integers(0, 40), st.integers(1, 12))
CONSUME = st.tuples(st.just("consume"), st.integers(1, 3))
HISTORIES = st.lists(st.one_of(SEND, SEND, SEND, GARBLE, LOSE, CONSUME), max_size=25)


@dataclass
class World:
    """A log, a database file, and what should be in it."""

    path: Path
    log: MemoryLog = field(default_factory=MemoryLog)
    model: dict[tuple[str, int], str] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=lambda: {"a": 1_000, "b": 1_000})

    waiting: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {"a": [], "b": []})

    def do(self, action: tuple[Any, ...]) -> None:
        """One step of the history."""
        kind, *rest = action
        if kind == "consume":
            self.consume(rest[0])
        else:
            getattr(self, kind)(*rest)

    def send(self, letter: str, first: int, count: int) -> None:
        """Rows first .. first + count - 1, whose values tell their sequence number."""
        self._append(letter, first, count, garbled=False)
        self._meet(letter)
        self.model.update({(letter, seq): "stored" for seq in range(first, first + count)})

    def garble(self, letter: str, first: int, count: int) -> None:
        """The same, undecodable; it makes no emitter: its rows count as dead once a good message has."""
        self._append(letter, first, count, garbled=True)
        self.waiting[letter].append((first, count))
        if any(known == letter for known, _ in self.model):
            self._meet(letter)

    def lose(self, letter: str, first: int, count: int) -> None:
        """Declare a loss, by a record of its own."""
        seq = self.declared[letter]
        self.declared[letter] += 1
        message = Emitter(letter, seq=seq).says(events.RowsLost, first_seq=first, count=count, reason="cap")
        self.log.append(message.headers, message.payload)  # type: ignore[arg-type]
        self._meet(letter)
        self.model[letter, seq] = "stored"
        self._declare(letter, first, count, "lost")

    def _meet(self, letter: str) -> None:
        """The emitter is known from now on."""
        for first, count in self.waiting[letter]:
            self._declare(letter, first, count, "dead")
        self.waiting[letter].clear()

    def consume(self, poll_messages: int = 100) -> None:
        """A consumer lives, reads everything, and dies."""
        store = Store.open(self.path)
        asyncio.run(Service(store, [MemorySource(self.log, poll_messages)], limits=LIMITS).run_once())

    def _append(self, letter: str, first: int, count: int, *, garbled: bool) -> None:
        emitter = Emitter(letter, seq=first)
        # The keys change within a batch, so that blocks are cut as well.
        rows = {seq: {"odd" if seq % 3 else "loss": float(seq)} for seq in range(first, first + count)}
        message = emitter.logs(rows)
        payload = message.payload[:-3] if garbled else message.payload
        self.log.append(message.headers, payload)  # type: ignore[arg-type]

    def _declare(self, letter: str, first: int, count: int, what: str) -> None:
        for seq in range(first, first + count):
            if self.model.get((letter, seq)) != "stored":
                self.model[letter, seq] = what


@given(HISTORIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_is_stored_exactly_once(history: list[tuple[Any, ...]]) -> None:
    """Law 2: stored once, dead, lost or missing, and offsets at the log's end."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "runwire.duckdb")
        for action in history:
            world.do(action)
        world.consume()
        store = Store.open(world.path)
        cursor = store.cursor()
        ledger = cursor.execute(
            "SELECT left(emitter_id, 1), first_seq, end_seq, disposition FROM store.ledger "
            "JOIN store.emitters USING (emitter_key)"
        ).fetchall()
        found = {(letter, seq): what for letter, first, end, what in ledger for seq in range(first, end)}
        assert sum(end - first for _, first, end, _ in ledger) == len(found)
        assert found == world.model
        points = cursor.execute("SELECT left(emitter_id, 1), seq, step, value FROM metrics ORDER BY ALL").fetchall()
        stored = {key for key, what in world.model.items() if what == "stored" and key[1] < 1_000}
        assert points == [(letter, seq, seq, float(seq)) for letter, seq in sorted(stored)]
        series = cursor.execute("SELECT coalesce(sum(points), 0) FROM store.series").fetchall()
        assert series == [(len(stored),)]
        offsets = cursor.execute("SELECT next_offset FROM store.offsets").fetchall()
        assert offsets == [(len(messages),) for messages in world.log.partitions.values()]
        store.close()
