"""Clocks that jump, of the broker and of the consumer: nothing is lost, states and times stay sane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from runwire_consumer.database import MEMORY
from runwire_consumer.decode import decode
from runwire_consumer.errors import Fenced
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources import Message, Position
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, SECOND, Emitter

DAY = 86_400 * SECOND
QUICK = ServiceLimits(batch_seconds=0.0, poll_seconds=0.01, tick_seconds=0.0)


def say(log: MemoryLog, message: Message, appended_at: int) -> None:
    """Append what an emitter says."""
    assert not isinstance(message.headers, Mapping)
    log.append(message.headers, message.payload, appended_at=appended_at)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the store's thread sets no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("appended", [0, -DAY, DAY_ONE - DAY, DAY_ONE + DAY, 2**62], ids=str)
@pytest.mark.parametrize("at_tail", [True, False])
def test_whatever_the_broker_says_the_time_is(appended: int, at_tail: bool) -> None:  # noqa: FBT001 - a parameter
    """1970, yesterday, tomorrow: all rows are stored, and nobody has been heard of in the future."""
    run = Emitter("a")
    told = [run.starts(), run.logs({step: {"loss": 1.0} for step in range(3)})]
    store = Store.open(MEMORY)
    messages = [
        decode(replace(one, appended_at=appended, offset=at, next_offset=at + 1)) for at, one in enumerate(told)
    ]
    store.write(store.admit(messages, DAY_ONE, at_tail=at_tail))
    found = store.cursor().execute("SELECT stored, epoch_us(seen_at) <= ? FROM emitters", [DAY_ONE]).fetchall()
    assert found == [(4, True)]


def test_a_consumer_whose_clock_jumps() -> None:
    """A day ahead and back while a run lives: every row once, and the end is the truth about the state."""
    log, clock = MemoryLog(), [DAY_ONE]
    run = Emitter("a")

    def says(message: Message) -> None:
        say(log, message, clock[0])

    store = Store.open(MEMORY)
    states: list[str] = []

    async def story() -> None:
        service = Service(store, [MemorySource(log)], limits=QUICK, clock=lambda: clock[0])
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(stop))

        async def state(rows: int) -> None:
            await until(lambda: service.stats.rows >= rows)
            states.append(store.cursor().execute("SELECT state FROM runs").fetchall()[0][0])

        says(run.starts())
        says(run.signals(events.Heartbeat, next_seq=1, next_in_seconds=2.0, journal_rows=0))
        await state(1)
        for jump in (DAY, -DAY, -DAY, DAY):
            clock[0] += jump
            says(run.logs({run.seq: {"loss": 1.0}}))
            await state(run.seq)
        says(run.says(events.RunEnded, status="finished"))
        says(run.signals(events.EmitterEnded, next_seq=run.seq, how="finished"))
        await state(run.seq)
        query = "SELECT complete FROM emitters"
        await until(lambda: store.cursor().execute(query).fetchall() == [(True,)])
        states.append(store.cursor().execute("SELECT state FROM runs").fetchall()[0][0])
        stop.set()
        await running

    asyncio.run(story())
    assert states[0] == "running"
    assert states[-1] == "finished"


def test_a_service_whose_offsets_were_moved_stops_and_doubles_nothing() -> None:
    """What a woken consumer meets when another one went on with its database: Fenced, and not one row of the batch."""
    log, run = MemoryLog(), Emitter("a")
    store = Store.open(MEMORY)
    cursor = store.cursor()

    def says(message: Message) -> None:
        say(log, message, DAY_ONE)

    async def story() -> None:
        service = Service(store, [MemorySource(log)], limits=QUICK, clock=lambda: DAY_ONE)
        running = asyncio.create_task(service.run(asyncio.Event()))
        says(run.starts())
        await until(lambda: service.stats.rows == 1)
        cursor.execute("UPDATE store.offsets SET next_offset = 7")
        says(run.logs({1: {"loss": 1.0}}))
        with pytest.raises(Fenced, match=r"another one writes to the same database\. This one stops"):
            await running
        assert service.stats.rows == 1

    asyncio.run(story())


def test_a_source_that_cannot_begin_ends_the_service_and_nothing_is_read() -> None:
    """Offsets that can't be taken up: no poll, no row, the error comes out."""
    polls: list[float] = []

    class Unable(MemorySource):
        async def start(self, positions: Mapping[str, Position]) -> None:  # noqa: ARG002 - the Protocol's
            raise OSError("the offsets can't be read")

        async def poll(self, max_wait_seconds: float) -> list[Message]:
            polls.append(max_wait_seconds)
            return []

    service = Service(Store.open(MEMORY), [Unable(MemoryLog())], limits=QUICK)
    with pytest.raises(OSError, match="can't be read"):
        asyncio.run(service.run(asyncio.Event()))
    assert polls == []
