"""The loop: states as time passes, outages, a full disk, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from prometheus_client import CollectorRegistry

from runwire_consumer import writing
from runwire_consumer.change import Change
from runwire_consumer.database import MEMORY, EngineOptions
from runwire_consumer.errors import SourceUnreachable, StoreCramped, StoreError, StoreFull
from runwire_consumer.runstate import RunState
from runwire_consumer.self_metrics import SelfMetrics
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources import Message
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, play
from tests.services.process import PATIENCE_SECONDS

LIMITS = ServiceLimits(
    batch_seconds=0.0,
    backlog_batch_seconds=0.0,
    poll_seconds=0.002,
    tick_seconds=0.0,
    full_retry_seconds=0.001,
    once_timeout_seconds=0.05,
    outage_seconds=0.0,
)


async def met(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads and files
            await asyncio.sleep(0.002)


@dataclass
class World:
    """A log, a clock that a test sets, a store that stays readable, and the service between them."""

    log: MemoryLog = field(default_factory=MemoryLog)
    now: int = DAY_ONE
    store: Store = field(default_factory=lambda: Store.open(MEMORY))

    def __post_init__(self) -> None:
        """Begin to serve; nothing runs yet."""
        self.reader = self.store.cursor()
        self.source = MemorySource(self.log)
        self.service = Service(self.store, [self.source], limits=LIMITS, clock=lambda: self.now)

    def append(self, *messages: Message) -> None:
        """The log gets messages."""
        for message in messages:
            self.log.append(message.headers, message.payload, appended_at=self.now)  # type: ignore[arg-type]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a reader beside the writer sees."""
        return self.reader.execute(sql).fetchall()

    async def until(self, sql: str, expected: list[tuple[Any, ...]]) -> None:
        """Wait for a query's answer."""
        await met(lambda: self.rows(sql) == expected)

    def play(self, story: Callable[[], Awaitable[None]]) -> None:
        """Run the service while a story is told, then stop it."""
        play(self.service, story)


STATE = "SELECT state FROM runs"


def test_a_silent_run_is_lost_and_revived() -> None:
    """12 s without a sign, on our clock at the tail; the next sign makes it run again."""
    world, run = World(), Emitter("a")

    async def story() -> None:
        world.append(run.starts())
        await world.until(STATE, [("running",)])
        world.now += 11 * SECOND
        world.append(Emitter("b", run_id="b" * 16).starts())
        await world.until("SELECT count(*) FROM runs WHERE state = 'running'", [(2,)])
        world.now += 2 * SECOND
        await world.until("SELECT state FROM runs ORDER BY run_id", [("lost",), ("running",)])
        world.append(run.signals(events.Heartbeat, next_in_seconds=5.0, next_seq=1))
        await world.until("SELECT count(*) FROM runs WHERE state = 'running'", [(2,)])
        world.append(run.says(events.RunEnded, status="finished"))
        await world.until("SELECT state FROM runs ORDER BY run_id", [("finished",), ("running",)])

    world.play(story)


def test_a_loop_past_its_promise_is_stuck_until_it_goes_on() -> None:
    """The emitter says so in its heartbeats; without one it is lost, and the next good one makes it run again."""
    world, run = World(), Emitter("a")

    def beats(overdue_seconds: float) -> Message:
        return run.signals(events.Heartbeat, next_in_seconds=5.0, next_seq=1, overdue_seconds=overdue_seconds)

    async def story() -> None:
        world.append(run.starts(), beats(0.0))
        await world.until(STATE, [("running",)])
        world.append(beats(0.3))
        await world.until(STATE, [("stuck",)])
        world.now += 13 * SECOND
        await world.until(STATE, [("lost",)])
        world.append(beats(13.3))
        await world.until(STATE, [("stuck",)])
        world.append(beats(float("nan")))
        await world.until("SELECT state, ended_at FROM runs", [("running", None)])
        world.append(beats(1.0), run.says(events.RunEnded, status="finished"))
        await world.until(STATE, [("finished",)])

    world.play(story)


def test_an_outage_of_the_log_makes_nobody_lost() -> None:
    """While the source is away states are frozen, /readyz says why, and afterwards everyone has a new promise."""
    world, run = World(), Emitter("a")

    async def story() -> None:
        world.append(run.starts())
        await world.until(STATE, [("running",)])
        world.log.reachable = False
        await met(lambda: world.service.unready() is not None)
        assert world.service.unready() == "The log is away."
        world.now += 600 * SECOND
        await asyncio.sleep(0.05)
        assert world.rows(STATE) == [("running",)]
        world.log.reachable = True
        await met(lambda: world.service.unready() is None)
        world.append(Emitter("b", run_id="b" * 16).starts())
        await world.until("SELECT count(*) FROM runs WHERE state = 'running'", [(2,)])
        world.now += 13 * SECOND
        await world.until("SELECT count(*) FROM runs WHERE state = 'lost'", [(2,)])

    world.play(story)


def test_an_outage_and_its_end_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Who looks at the consumer's log sees why nothing comes."""
    world = World(log=MemoryLog(reachable=False))

    async def story() -> None:
        await met(lambda: bool(caplog.messages))
        await asyncio.sleep(0.05)
        world.log.reachable = True
        await met(lambda: len(caplog.messages) > 1)

    with caplog.at_level("INFO"):
        world.play(story)
    assert caplog.messages == [
        "The log is away. Reading goes on when it answers.",
        "Everything that is read answers again.",
    ]


def test_a_backlog_is_judged_by_the_logs_clock() -> None:
    """A run that lived through a day's backlog is not lost while it is being read; a dead one is, at the end."""
    store, log = Store.open(MEMORY), MemoryLog()
    run, reader = Emitter("a"), store.cursor()
    for hour in range(24):
        message = run.signals(events.Heartbeat, next_in_seconds=5.0, next_seq=hour)
        log.append(message.headers, message.payload, appended_at=DAY_ONE + hour * 3600 * SECOND)  # type: ignore[arg-type]
    states: list[str] = []

    class Noting(Store):
        def write(self, change: Change, states_now: dict[int, RunState] | None = None) -> None:
            states.extend(state.state for state in (states_now or {}).values())
            super().write(change, states_now)

    noting = Noting(store.database)
    clock = DAY_ONE + 86_400 * SECOND
    asyncio.run(Service(noting, [MemorySource(log, 2)], limits=LIMITS, clock=lambda: clock).run_once())
    assert states == ["running", "lost"]
    reader.close()


class Full(Store):
    """A disk that is full for the first writes."""

    failures_left = 3

    def write(self, change: Change, states: dict[int, RunState] | None = None) -> None:
        """Fail as the engine does."""
        if self.failures_left:
            self.failures_left -= 1
            raise StoreFull("The disk of the database is full: planted.")
        super().write(change, states)


def test_a_full_disk_is_waited_for() -> None:
    """The same batch is tried again; nothing is lost or twice."""
    world = World(store=Full.open(MEMORY))

    async def story() -> None:
        world.append(Emitter("a").logs({step: {"loss": 1.0} for step in range(10)}))
        await world.until("SELECT count(*) FROM store.points", [(10,)])

    world.play(story)
    assert world.service.stats.points == 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run([umount, "-l", folder], check=True)


@pytest.mark.parametrize("sentence", ["almost full", "No space left"])
def test_a_disk_without_room_is_waited_for(
    sentence: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The floor stops in time, and so does the real thing, a COMMIT that finds no room; then all arrives once."""
    if sentence == "No space left":
        monkeypatch.setattr(writing, "check_floor", lambda *_: None)
    path = small_disk / "runwire.duckdb"
    world = World(store=Store.open(path))
    batches, rows = 60, 2_000
    run = Emitter("a")

    async def story() -> None:
        for batch in range(batches):
            world.append(run.logs({batch * rows + row: {"loss": float(row), "acc": 0.5} for row in range(rows)}))
        await met(lambda: sentence in (world.service.unready() or ""))
        ((before, distinct),) = world.rows("SELECT count(*), count(DISTINCT seq) FROM store.rows")
        assert before == distinct
        assert before < batches * rows
        grow = [shutil.which("mount") or "mount", "-o", "remount,size=256m", str(small_disk)]
        await asyncio.to_thread(lambda: subprocess.run(grow, check=True))
        await world.until("SELECT count(*) FROM store.rows", [(batches * rows,)])
        await met(lambda: world.service.unready() is None)
        said = [record.message for record in caplog.records if "until there is room" in record.message]
        assert len(said) == 1

    world.play(story)
    reopened = Store.open(path)
    counted = "SELECT count(*), count(DISTINCT (metric_key, seq)) FROM store.points"
    assert reopened.cursor().execute(counted).fetchall() == [(2 * batches * rows, 2 * batches * rows)]
    assert reopened.cursor().execute("SELECT first_seq, end_seq FROM store.ledger").fetchall() == [(0, batches * rows)]
    reopened.close()


def test_memory_that_queries_have_is_waited_for(tmp_path: Path) -> None:
    """Whoever asks for too much can't end the consumer: it goes on when they have ended, and all arrives once."""
    path = tmp_path / "runwire.duckdb"
    world = World(store=Store.open(path, EngineOptions(memory_mib_max=64, threads=1)))
    held: list[duckdb.DuckDBPyConnection] = []

    async def story() -> None:
        count = 4_000_000
        while count >= 1_000:  # ever smaller ones, until nothing is left
            cursor = world.store.cursor()
            try:
                cursor.execute("SELECT list(i) FROM range(?) AS t(i)", [count])
                held.append(cursor)
            except duckdb.OutOfMemoryException:
                count //= 2
        world.append(Emitter("a").logs({step: {"loss": float(step)} for step in range(2_000)}))
        await met(lambda: "no memory left" in (world.service.unready() or ""))
        for cursor in held:
            cursor.close()
        await world.until("SELECT count(*), count(DISTINCT seq) FROM store.rows", [(2_000, 2_000)])
        await met(lambda: world.service.unready() is None)

    world.play(story)


class Uncounted(Store):
    """A store that never has memory for a count."""

    counted = 0

    def gaps(self) -> tuple[int, int]:
        """Fail as the engine does."""
        self.counted += 1
        raise StoreCramped("The database has no memory left beside the queries that run: planted.")


def test_a_count_that_fails_ends_nothing() -> None:
    """Missing rows are counted for metrics alone: what is read goes on."""
    store = Uncounted.open(MEMORY)
    world = World(store=store)
    metrics, limits = SelfMetrics(CollectorRegistry()), replace(LIMITS, gaps_seconds=0.0)
    world.service = Service(store, [world.source], limits=limits, metrics=metrics, clock=lambda: world.now)

    async def story() -> None:
        await met(lambda: store.counted >= 2)
        world.append(Emitter("a").logs({1: {"loss": 1.0}}))
        await world.until("SELECT count(*) FROM store.rows", [(1,)])

    world.play(story)


class Unclosed(MemorySource):
    """A source whose end fails."""

    async def close(self) -> None:
        """Fail."""
        raise RuntimeError("planted")


def test_a_source_that_fails_to_close_leaves_the_store_closed(tmp_path: Path) -> None:
    """Its lock is free, so that the next consumer may begin."""
    path = tmp_path / "runwire.duckdb"
    service = Service(Store.open(path), [Unclosed(MemoryLog())], limits=LIMITS)
    with pytest.raises(RuntimeError, match="planted"):
        asyncio.run(service.run_once())
    Store.open(path).close()


class Slow(Store):
    """A store whose writes wait until it is told to go on."""

    go_on = threading.Event()

    def write(self, change: Change, states: dict[int, RunState] | None = None) -> None:
        """Wait, then write."""
        self.go_on.wait()
        super().write(change, states)


class Counting(MemorySource):
    """A source that counts what it handed out."""

    handed_out = 0

    async def poll(self, max_wait_seconds: float) -> list[Message]:
        """The next messages."""
        found = await super().poll(max_wait_seconds)
        self.handed_out += len(found)
        return found


def test_a_slow_store_holds_back_the_source() -> None:
    """While one batch is written at most one other is read, whatever waits."""
    log, store = MemoryLog(), Slow.open(MEMORY)
    source, reader = Counting(log, 7), store.cursor()
    limits = replace(LIMITS, batch_messages_max=20, batch_seconds=60.0, backlog_batch_seconds=60.0)
    for message in (Emitter("a", seq=seq).logs({seq: {"loss": 1.0}}) for seq in range(6 * 21)):
        log.append(message.headers, message.payload)  # type: ignore[arg-type]
    count = "SELECT count(*) FROM store.rows"

    async def story() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(Service(store, [source], limits=limits).run(stop))
        try:
            await met(lambda: source.handed_out >= 2 * limits.batch_messages_max)
            await asyncio.sleep(0.1)
            assert source.handed_out == 2 * 21  # three polls of seven fill a batch
        finally:
            store.go_on.set()
        await met(lambda: reader.execute(count).fetchall() == [(6 * 21,)])
        stop.set()
        await running

    asyncio.run(story())


def test_stopping_stores_what_was_polled_and_tells_the_source() -> None:
    """SIGTERM's way: the batch in progress is committed, the offsets are told, the file is closed."""
    world = World()

    async def story() -> None:
        world.append(Emitter("a").logs({step: {"loss": 1.0} for step in range(10)}))
        await world.until("SELECT count(*) FROM store.points", [(10,)])

    world.play(story)
    assert world.source.committed == {"0": (1, "0")}
    assert world.service.stats.lag == {("memory:log", "0"): 0}


def test_work_is_done_between_two_batches() -> None:
    """What is asked of a running service sees only whole batches; a closed one refuses in a sentence."""
    world = World()
    run = Emitter("a")
    count = "SELECT count(*) FROM store.rows"

    async def story() -> None:
        world.append(run.starts(), run.logs({1: {"loss": 0.5}}))
        await world.until(count, [(1,)])
        assert await world.service.do(lambda writer: writer.store.catalog.next_emitter_key) == 1
        with pytest.raises(ZeroDivisionError):
            await world.service.do(lambda _: 1 // 0)

    world.play(story)
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(world.service.do(lambda _: None))


def test_once_gives_up_on_a_log_that_is_away() -> None:
    """One sentence instead of waiting for ever."""
    world = World(log=MemoryLog(reachable=False))
    with pytest.raises(SourceUnreachable, match="The log is away"):
        asyncio.run(world.service.run_once())


def test_several_sources_keep_their_offsets_apart() -> None:
    """Two logs with the same partition names, one store."""
    store, logs = Store.open(MEMORY), [MemoryLog("memory:one"), MemoryLog("memory:two")]
    reader = store.cursor()
    for letter, log in zip("ab", logs, strict=True):
        message = Emitter(letter, run_id=letter * 16).logs({1: {"loss": 1.0}})
        log.append(message.headers, message.payload)  # type: ignore[arg-type]
    service = Service(store, [MemorySource(log) for log in logs], limits=LIMITS)
    seen: list[tuple[Any, ...]] = []

    async def once() -> None:
        await service.run_once()

    close, store.close = store.close, lambda: seen.extend(reader.execute("FROM store.offsets ORDER BY 1").fetchall())  # type: ignore[method-assign]
    asyncio.run(once())
    close()
    assert seen == [("memory:one", "0", 1, "0"), ("memory:two", "0", 1, "0")]


async def test_what_fails_while_a_batch_waits_for_room_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's error comes out; the batch that waits ends with the service, and nobody asks for its outcome."""
    world, stop = World(), asyncio.Event()
    world.append(Emitter("a").starts())
    waits = asyncio.Event()
    loop = asyncio.get_running_loop()

    def full(*_: object) -> None:
        loop.call_soon_threadsafe(waits.set)
        raise StoreFull("planted")

    async def poll(_: float) -> list[Message]:
        if waits.is_set():
            raise KeyError("planted, too")
        return await MemorySource.poll(world.source, 0.001)

    left: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: left.append(context))
    monkeypatch.setattr(world.service, "_write", full)
    monkeypatch.setattr(world.source, "poll", poll)
    with pytest.raises(KeyError, match="planted, too"):
        await world.service.run(stop)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
    assert left == []


@pytest.mark.parametrize("fails", [False, True])
async def test_who_else_uses_the_store_lets_go_before_it_closes(
    monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """Told to end, or by its own error: the store is open while `closing` runs."""
    world, stop = World(), asyncio.Event()
    seen = []

    async def closing() -> None:
        await asyncio.sleep(0.01)
        seen.append(world.store.cursor().execute("SELECT 1").fetchall())

    async def poll(_: float) -> list[Message]:
        raise KeyError("planted")

    if fails:
        monkeypatch.setattr(world.source, "poll", poll)
    else:
        stop.set()
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        await world.service.run(stop, closing)
    assert seen == [[(1,)]]
