"""The consumer's loop: poll, decode, admit, write, commit; whatever is polled next comes while the last is written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from runwire_consumer.change import Counts
from runwire_consumer.errors import SourceUnreachable, StoreEnding, StoreFull
from runwire_consumer.leaving import leave_if_invalidated, leaving_if_invalidated
from runwire_consumer.self_metrics import SelfMetrics
from runwire_consumer.sources import Message, Source
from runwire_consumer.stats import Stats
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer

_log = logging.getLogger(__name__)
_Writing = asyncio.Future[None]
_Made = TypeVar("_Made")

Closing = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """Nobody else uses the store."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Every limit of the loop, its unit last.

    Attributes:
        batch_seconds: How long messages gather for one transaction, which has a price of its own, some 25 ms of
            CPU, whatever it holds.
        backlog_batch_seconds: As above while what comes is older than `backlog_age_seconds`: then throughput counts.
        backlog_age_seconds: From a message's append.
        batch_messages_max: When a batch goes without waiting.
        batch_bytes_max: As above; bounds memory, since at most two batches exist.
        poll_seconds: The longest wait for a source.
        tick_seconds: How often silent runs are judged.
        commit_seconds: How often offsets are told to the sources.
        gaps_seconds: How often missing and lost rows are counted for metrics.
        full_retry_seconds: Pause before a full disk is tried again.
        once_timeout_seconds: How long `run_once` waits for a source that can't be reached.
        tell_seconds: How often metrics of the moment are set, also while the store takes nothing.
        outage_seconds: An outage that lasts this long is said in the log, once, and so is its end.
    """

    batch_seconds: float = 0.1
    backlog_batch_seconds: float = 0.5
    backlog_age_seconds: float = 2.0
    batch_messages_max: int = 20_000
    batch_bytes_max: int = 32 * 2**20
    poll_seconds: float = 0.1
    tick_seconds: float = 1.0
    commit_seconds: float = 5.0
    gaps_seconds: float = 10.0
    full_retry_seconds: float = 2.0
    once_timeout_seconds: float = 20.0
    tell_seconds: float = 1.0
    outage_seconds: float = 5.0


class Service:
    """Materializes sources into one store.

    Attributes:
        stats: What was done so far.
    """

    def __init__(
        self,
        store: Store,
        sources: Sequence[Source],
        *,
        metrics: SelfMetrics | None = None,
        limits: ServiceLimits | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """`clock` tells microseconds since the epoch; the service closes store and sources when it ends."""
        self.stats = Stats()
        self._store = store
        self._sources = tuple(sources)
        self._metrics = metrics
        self._limits = limits or ServiceLimits()
        self._clock = clock
        self._writer = Writer(store)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runwire-store")
        self._closed = False
        self._trouble: str | None = "The service has not begun to read."
        self._full: str | None = None
        self._at_tail = False
        self._reachable = True
        self._reachable_since = 0
        self._outage_began: float | None = None
        self._outage_told = False
        self._appended: dict[tuple[str, str], int] = {}
        self._polled: dict[tuple[str, str], tuple[int, int]] = {}  # [begin, end) of what may not be stored yet
        self._next_tick = self._next_commit = self._next_gaps = 0.0

    async def run(self, stop: asyncio.Event, closing: Closing = _nothing) -> None:
        """Read on until `stop` is set; the batch in progress is still committed, then everything is closed.

        Args:
            stop: Set to end.
            closing: Awaited however it ends, before the store closes: whoever else uses it lets go of it.

        Raises:
            Fenced: Another consumer writes to the same database.
            StoreError: The database can't be used.
        """
        await self._serve(stop.is_set, closing)

    async def run_once(self) -> None:
        """Store everything that waits now, judge every run, close.

        Raises:
            SourceUnreachable: A source couldn't be reached in time; what came from the others is stored.
        """
        deadline = time.monotonic() + self._limits.once_timeout_seconds

        def done() -> bool:
            states = [source.status() for source in self._sources]
            if all(state.at_tail for state in states):
                return True
            if not all(state.reachable and state.surveyed for state in states) and time.monotonic() > deadline:
                raise SourceUnreachable(
                    next((state.trouble for state in states if state.trouble), "A source didn't answer in time.")
                )
            return False

        await self._serve(done)

    def unready(self) -> str | None:
        """What keeps the service from following its sources, in a sentence; None when nothing does."""
        if self._closed:
            return "The consumer is ending."
        return self._full or self._trouble

    async def do(self, work: Callable[[Writer], _Made]) -> _Made:
        """Run `work` on the store's thread, between two batches; what it raises comes back.

        Raises:
            StoreEnding: The store has been closed.
        """
        if self._closed:
            raise StoreEnding("The consumer is ending: its database is closed.")
        with leaving_if_invalidated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._writer)

    async def _serve(self, done: Callable[[], bool], closing: Closing = _nothing) -> None:
        """The loop. At most one batch is written while at most one other gathers."""
        writing: _Writing | None = None
        telling = None if self._metrics is None else asyncio.create_task(self._keep_telling(self._metrics))
        try:
            for source in self._sources:
                await source.start(self._store.positions(source.name))
            while not done():
                at_tail = self._at_tail
                batch = await self._gather(writing, done)  # 1. poll
                if writing is not None:
                    await writing  # 3. the batch before is durable
                # 2. decode, admit and write on the store's thread, while the next batch gathers
                writing = asyncio.ensure_future(self._store_batch(batch, done, at_tail=at_tail))
                await self._commit()  # 4. tell the sources, as a courtesy
            if writing is not None:
                await writing
            self._next_tick = self._next_commit = 0.0
            await self._store_batch([], done, at_tail=True)
            await self._commit()
        except BaseException as error:
            leave_if_invalidated(error)
            raise
        finally:
            for task in (telling, writing):
                if task is not None:
                    task.cancel()
            if writing is not None:
                await asyncio.wait([writing])
                if not writing.cancelled():
                    writing.exception()  # known already, or not the first that failed
            await self._close(closing)

    async def _gather(self, writing: _Writing | None, done: Callable[[], bool]) -> list[Message]:
        """Messages for one transaction: those of `batch_seconds`, or as many as come while the store is busy."""
        limits = self._limits
        batch: list[Message] = []
        size_bytes = 0
        deadline = time.monotonic() + limits.poll_seconds
        while True:
            polls = await asyncio.gather(*(source.poll(limits.poll_seconds / 2) for source in self._sources))
            found = [message for poll in polls for message in poll]
            if found and not batch:
                age_seconds = (self._clock() - found[-1].appended_at) / 1e6
                behind = age_seconds > limits.backlog_age_seconds
                self.stats.behind = behind
                deadline = time.monotonic() + (limits.backlog_batch_seconds if behind else limits.batch_seconds)
            batch += found
            size_bytes += sum(len(message.payload) for message in found)
            self._look_around(found)
            busy = writing is not None and not writing.done()
            full = len(batch) >= limits.batch_messages_max or size_bytes >= limits.batch_bytes_max
            if full or (time.monotonic() >= deadline and not busy) or (not found and done()):
                return batch

    def _look_around(self, found: Sequence[Message]) -> None:
        """Note how far the sources are, and since when all of them can be reached."""
        for message in found:
            where = message.source, message.partition
            self._appended[where] = message.appended_at
            self._polled[where] = self._polled.get(where, (message.offset, 0))[0], message.next_offset
        states = {source.name: source.status() for source in self._sources}
        reachable = all(state.reachable for state in states.values())
        if reachable and not self._reachable:
            self._reachable_since = self._clock()
        self._reachable = reachable
        self._at_tail = all(state.at_tail for state in states.values())
        self.stats.behind = self.stats.behind and not self._at_tail
        away = (state.trouble or "A source can't be reached." for state in states.values() if not state.reachable)
        unseen = (
            state.trouble or f"{name} was not looked through yet."
            for name, state in states.items()
            if not state.surveyed
        )
        self._trouble = next(away, None) or next(unseen, None)
        self._tell_outage()
        self.stats.lag = {(name, part): count for name, state in states.items() for part, count in state.lag.items()}

    def _tell_outage(self) -> None:
        if self._reachable:
            if self._outage_told:
                _log.info("Everything that is read answers again.")
            self._outage_began, self._outage_told = None, False
            return
        now = time.monotonic()
        self._outage_began = self._outage_began or now
        if not self._outage_told and now - self._outage_began >= self._limits.outage_seconds:
            self._outage_told = True
            _log.warning("%s Reading goes on when it answers.", self._trouble)

    async def _store_batch(self, batch: list[Message], done: Callable[[], bool], *, at_tail: bool) -> None:
        """One batch on the store's thread, tried again while there is no room; nothing of it is lost meanwhile."""
        moment = self._moment(at_tail=at_tail)
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch, moment)
            except StoreFull as error:
                if self._full is None:
                    _log.warning("%s Reading waits until there is room.", error)
                self._full = str(error)
                if done():
                    raise
                await asyncio.sleep(self._limits.full_retry_seconds)
            else:
                if self._full is not None:
                    _log.info("There is room again: reading goes on.")
                self._full = None
                return

    def _moment(self, *, at_tail: bool) -> Moment:
        now = self._clock()
        judged_at: int | None = None
        if self._reachable:
            waiting = [self._appended.get(where, now) for where, count in self.stats.lag.items() if count]
            judged_at = min([now, *waiting])
        return Moment(now, at_tail, judged_at, self._reachable_since)

    def _write(self, batch: list[Message], moment: Moment) -> None:
        """On the store's thread: one transaction; without messages judge silent runs when it is time."""
        if batch:
            began = time.perf_counter()
            counts = self._writer.write(batch, moment)
            self._count(counts, batch, time.perf_counter() - began)
        elif time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + self._limits.tick_seconds
            self._writer.tick(moment)

    def _count(self, done: list[Counts], batch: list[Message], seconds: float) -> None:
        stats, now = self.stats, self._clock()
        stats.transaction_seconds = seconds
        for counts in done:
            stats.transactions += 1
            stats.messages += counts.messages
            stats.rows += counts.rows
            stats.points += counts.points
            stats.duplicates += counts.duplicates
            stats.dead_letters += counts.dead_letters
            if counts.oldest_row_time is not None:
                stats.freshness_seconds.append((now - counts.oldest_row_time) / 1e6)
        if self._metrics is not None:
            self._metrics.read(len(batch))
            for counts in done:
                self._metrics.stored(
                    points=counts.points, rows=counts.rows, duplicates=counts.duplicates, seconds=seconds
                )
                if counts.dead_letters:
                    self._metrics.dead_letters(counts.dead_letters)
            for message in (batch[0], batch[-1]):
                self._metrics.fresh((now - message.appended_at) / 1e6)

    async def _commit(self) -> None:
        """Every few seconds: offsets to the sources, the state of things to the metrics."""
        now = time.monotonic()
        if now >= self._next_commit:
            self._next_commit = now + self._limits.commit_seconds
            for source in self._sources:
                await source.commit(self._store.positions(source.name))
        if self._metrics is not None:
            self._tell(self._metrics)
            if now >= self._next_gaps:
                self._next_gaps = now + self._limits.gaps_seconds
                with contextlib.suppress(StoreFull):  # it is only told: the next time will do
                    missing, lost = await asyncio.to_thread(self._store.gaps)  # beside the writer, not in its way
                    self._metrics.gaps(missing=missing, lost=lost)
                    self._metrics.letters_waiting(await asyncio.to_thread(self._store.letters_waiting))

    async def _keep_telling(self, metrics: SelfMetrics) -> None:
        """What /metrics says of the moment stays true also while the store takes nothing."""
        while True:
            self._tell(metrics)
            await asyncio.sleep(self._limits.tell_seconds)

    def _tell(self, metrics: SelfMetrics) -> None:
        """Set the metrics of the moment; what was polled and isn't stored yet waits, too."""
        states = {source.name: source.status() for source in self._sources}
        lag = {(name, part): count for name, state in states.items() for part, count in state.lag.items()}
        for where, (begin, end) in list(self._polled.items()):
            stored = max(self._store.catalog.positions.get(where, (0, ""))[0], begin)
            if stored >= end:
                del self._polled[where]
            else:
                lag[where] = lag.get(where, 0) + end - stored
        metrics.lag(lag)
        metrics.source_up(up=all(state.reachable for state in states.values()))
        metrics.ready(self.unready())
        for name, state in states.items():
            metrics.anomalies(name, state.anomalies)
            metrics.retention_used(name, state.retention_used_ratio)

    async def _close(self, closing: Closing) -> None:
        self._closed = True
        if self._metrics is not None:
            self._tell(self._metrics)
        try:
            await closing()
            for source in self._sources:
                await source.close()
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.close)
            self._thread.shutdown()
