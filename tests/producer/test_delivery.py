"""One journal's way out: what leaves the window, what is sent again, and what is set aside alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire._batch import Message, messages
from runwire._delivery import WINDOW_MESSAGES, Delivery
from runwire._errors import TransportError
from runwire._recovery import DeadJournal
from tests.producer.journals import EMITTER, HEADER, died, log_text, open_journal, recovered, tell

Refuses = Callable[[Message], bool]
ROWS = 40


@dataclass
class Log:
    """A transport of a table: per send how many messages arrive before it breaks; beyond the table all arrive."""

    arriving: list[int] = field(default_factory=list)
    refuses: Refuses = lambda _: False
    messages: list[Message] = field(default_factory=list)
    sends: int = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, messages: Sequence[Message]) -> None:
        self.sends += 1
        arriving = self.arriving.pop(0) if self.arriving else None
        for message in messages[:arriving]:
            if self.refuses(message):
                raise TransportError("too large", refused=True)
            self.messages.append(message)
        if arriving is not None:
            raise TransportError("broken by the table")


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of 40 rows, two key sets and two records."""
    folder = tmp_path_factory.mktemp("journals")
    journal = open_journal(folder / EMITTER, segment_bytes=2048)
    for step in range(ROWS):
        if step in {7, 31}:
            log_text(journal, f"text {step}")
        journal.append_row(("a",) if step % 10 < 8 else ("b", "c"), step, 0, [1.0] if step % 10 < 8 else [2.0, 3.0])
    copy = died(journal, folder / "dead")
    journal.close(delete=True)
    return copy


def deliver(folder: Path, log: Log, *, rows_max: int = 5) -> list[tuple[int, int, str]]:
    """Send the journal, over as many transports as it takes; the losses that were declared."""
    losses: list[tuple[int, int, str]] = []
    delivery = Delivery(HEADER, lambda *loss: losses.append(loss))
    found = messages(DeadJournal(folder, HEADER)._read(), HEADER, rows_max, 2**20)
    for _ in range(1000):
        try:
            asyncio.run(delivery.send(log, found))
        except TransportError:
            continue
        assert delivery.waiting == 0
        assert delivery.rows_refused == sum(count for _, count, _ in losses)
        return losses
    raise AssertionError("it goes on for ever")


def holds(*steps: int) -> Refuses:
    """Whether a message has one of the rows of these steps."""

    def refuses(message: Message) -> bool:
        return any(step in part.steps for part in message.rows for step in steps)

    return refuses


def too_large(bytes_max: int) -> Refuses:
    """What a broker's limit does."""
    return lambda message: len(message.payload) > bytes_max


@given(st.lists(st.integers(0, WINDOW_MESSAGES), max_size=12), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_errors_repeat_and_lose_nothing(dead: Path, arriving: list[int], rows_max: int) -> None:
    """Broken before, in or behind a send: every row arrives, in order but for repetitions that begin further back."""
    expected = recovered(dead)
    log = Log(list(arriving))
    assert deliver(dead, log, rows_max=rows_max) == []
    story = tell(log.messages)
    assert list(dict.fromkeys(story.rows)) == expected.rows
    assert list(dict.fromkeys(story.texts)) == expected.texts


@pytest.mark.parametrize(
    ("refuses", "steps_lost", "texts_lost"),
    [
        (holds(0), {0}, 0),
        (holds(39), {39}, 0),
        (holds(13, 14, 29), {13, 14, 29}, 0),
        (lambda message: not message.rows, set(), 2),
        (lambda message: message.envelope.count > 1, set(), 0),
        (lambda _: True, set(range(ROWS)), 2),
    ],
    ids=["first", "last", "three", "records", "only single rows pass", "everything"],
)
@pytest.mark.parametrize("arriving", [[], [0, 3, 0]])
def test_a_refused_row_is_set_aside_alone(
    dead: Path, refuses: Refuses, steps_lost: set[int], texts_lost: int, arriving: list[int]
) -> None:
    """Messages are halved down to the one row that is never taken: it is declared, all others arrive in order."""
    expected = recovered(dead)
    log = Log(list(arriving), refuses)
    losses = deliver(dead, log)
    story = tell(log.messages)
    assert expected.steps - story.steps == steps_lost
    assert len(expected.texts) - len(set(story.texts)) == texts_lost
    assert all((count, reason) == (1, "too large") for _, count, reason in losses)
    assert {first for first, _, _ in losses} == set(expected.seqs) - set(story.seqs)
    assert list(dict.fromkeys(story.rows)) == [row for row in expected.rows if row[2] not in steps_lost]


def test_a_low_limit_of_the_broker_costs_no_row(dead: Path) -> None:
    """Messages become as small as the limit wants, and only the one at fault is sent alone."""
    log = Log(refuses=too_large(160))
    assert deliver(dead, log, rows_max=1000) == []
    assert list(dict.fromkeys(tell(log.messages).rows)) == recovered(dead).rows
    assert log.sends < 40


def test_acknowledged_moves_with_durable_messages_only(dead: Path) -> None:
    """What is trimmed is in the log."""
    delivery = Delivery(HEADER, lambda *_: None)
    found = messages(DeadJournal(dead, HEADER)._read(), HEADER, 5, 2**20)
    with pytest.raises(TransportError):
        asyncio.run(delivery.send(Log([4]), found))
    assert delivery.acknowledged_seq == 0
    asyncio.run(delivery.send(Log(), found))
    assert delivery.acknowledged_seq == ROWS + 2


def test_an_error_tells_what_arrived_for_all_that(dead: Path) -> None:
    """The first messages that are durable leave the window: a link that breaks every time gets on."""
    log, acknowledged = Log(arriving=[3] * 1000), []

    class Counting(Log):
        async def send(self, messages: Sequence[Message]) -> None:
            try:
                await log.send(messages)
            except TransportError as error:
                raise TransportError(str(error), delivered=min(3, len(messages))) from error

    delivery = Delivery(HEADER, lambda *_: None, on_acknowledged=lambda: acknowledged.append(delivery.acknowledged_seq))
    found = messages(DeadJournal(dead, HEADER)._read(), HEADER, 5, 2**20)
    for _ in range(100):
        with contextlib.suppress(TransportError):
            asyncio.run(delivery.send(Counting(), found))
    assert delivery.waiting == 0
    seqs = [message.envelope.first_seq for message in log.messages]
    assert seqs == sorted(set(seqs))  # nothing went twice
    assert delivery.acknowledged_seq == log.messages[-1].end_seq
    assert acknowledged == sorted(acknowledged)
