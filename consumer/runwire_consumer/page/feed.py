"""What changes, as it happens: one read of the live runs for all who follow, and to each what is new for them.

A read costs the store something, so there is one for everybody, only while somebody follows and something was
committed, and never more than a fifth of the time goes into them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb

from runwire_consumer.leaving import leaving_if_invalidated
from runwire_consumer.live import GaugeOptions, Live, LiveMetric, LiveRun, read_live
from runwire_consumer.stats import Stats

FOLLOWERS_MAX = 64
RUNS_FOLLOWED_MAX = 60
METRICS_FOLLOWED_MAX = 20
INTERVAL_SECONDS = 0.25
LOOK_SECONDS = 0.05
UNCHANGED_SECONDS = 2.0
QUIET_SECONDS = 10.0
READ_SHARE = 5

_log = logging.getLogger(__name__)

Told = dict[str, Any]
"""What has changed: {"runs": [...], "metrics": [...]}; empty: nothing, the line is alive."""


@dataclass(frozen=True, slots=True)
class Following:
    """What one follower wants to hear of.

    Attributes:
        run_ids: These runs with all their metrics; none: every run, with `metrics` only.
        metrics: Names.
        projects: Those that may be seen; None: all.
    """

    run_ids: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    projects: frozenset[str] | None = None

    def wants_run(self, run: LiveRun) -> bool:
        """Whether it is among them."""
        return (not self.run_ids or run.run_id in self.run_ids) and (
            self.projects is None or run.project in self.projects
        )

    def wants_metric(self, metric: LiveMetric) -> bool:
        """Whether it is, where its run is."""
        return bool(self.run_ids) or metric.metric in self.metrics


class LiveFeed:
    """Reads while somebody follows.

    Args:
        read: Reads what lives, in a thread.
        version: Changes with every commit; asked from the loop.
    """

    def __init__(self, read: Callable[[], Live], version: Callable[[], object]) -> None:
        """Nobody follows yet."""
        self._read = read
        self._version = version
        self._live = Live()
        self._reads = 0
        self._followers = 0
        self._changed = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def is_full(self) -> bool:
        """Nobody else may follow now."""
        return self._followers >= FOLLOWERS_MAX

    async def follow(self, following: Following) -> AsyncGenerator[Told]:
        """What is there, then what changes; at least every QUIET_SECONDS something, until the feed stops."""
        known, heard, silent_since = _Known(), 0, time.monotonic()
        with self._followed():
            while await self._goes_on(heard):
                told = known.news(self._live, following) if self._reads != heard else {}
                heard = self._reads
                if told or time.monotonic() - silent_since >= QUIET_SECONDS:
                    silent_since = time.monotonic()
                    yield told

    async def stop(self) -> None:
        """The database is about to close: everybody is let go."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        async with self._changed:
            self._changed.notify_all()

    @contextlib.contextmanager
    def _followed(self) -> Iterator[None]:
        self._followers += 1
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_on())
        try:
            yield
        finally:
            self._followers -= 1

    async def _goes_on(self, heard: int) -> bool:
        """Wait for another read than `heard`, not for ever; False: the feed has stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._stopped or self._reads != heard)
        return not self._stopped

    async def _read_on(self) -> None:
        """Read again and again, until nobody follows."""
        version: object = None
        read_at = -math.inf
        took_seconds = 0.0
        while self._followers and not self._stopped:
            now, newest = time.monotonic(), self._version()
            pause_seconds = LOOK_SECONDS
            if newest != version or now - read_at >= UNCHANGED_SECONDS:
                version, read_at = newest, now
                try:
                    self._live = await asyncio.to_thread(self._read_once)
                except duckdb.Error as error:
                    _log.warning("The live runs can't be read now: %s", str(error).splitlines()[0][:200])
                else:
                    async with self._changed:
                        self._reads += 1
                        self._changed.notify_all()
                # One read alone that took long costs nothing: this machine stood still.
                before_seconds, took_seconds = took_seconds, time.monotonic() - now
                pause_seconds = max(INTERVAL_SECONDS, READ_SHARE * min(before_seconds, took_seconds))
            await asyncio.sleep(pause_seconds)

    def _read_once(self) -> Live:
        with leaving_if_invalidated():
            return self._read()


@dataclass(slots=True)
class _Known:
    """What a follower has been told."""

    runs: dict[int, LiveRun] = field(default_factory=dict)
    metrics: dict[tuple[int, int], LiveMetric] = field(default_factory=dict)

    def news(self, live: Live, following: Following) -> Told:
        """What is not as they know it; they know it from now on."""
        runs = {run.run_key: run for run in live.runs if following.wants_run(run)}
        metrics = {
            (metric.run_key, metric.metric_key): metric
            for metric in live.metrics
            if metric.run_key in runs and following.wants_metric(metric)
        }
        new_runs = [run for key, run in runs.items() if self.runs.get(key) != run]
        new_metrics = [
            metric for key, metric in metrics.items() if key not in self.metrics or not _same(self.metrics[key], metric)
        ]
        self.runs, self.metrics = runs, metrics
        told: Told = {}
        if new_runs:
            told["runs"] = [_told_run(run) for run in new_runs]
        if new_metrics:
            told["metrics"] = [_told_metric(runs[metric.run_key], metric) for metric in new_metrics]
        return told


def _same(known: LiveMetric, found: LiveMetric) -> bool:
    """NaN is no news."""
    return known.step == found.step and known.time_us == found.time_us and known.mean.hex() == found.mean.hex()


def _told_run(run: LiveRun) -> Told:
    return {
        "run_id": run.run_id, "project": run.project, "name": run.name, "group": run.group, "user": run.user,
        "state": run.state, "step": run.step,
    }  # fmt: skip


def _told_metric(run: LiveRun, metric: LiveMetric) -> Told:
    return {
        "run_id": run.run_id, "metric": metric.metric, "step": metric.step, "time": metric.time_us / 1e6,
        "value": _finite(metric.mean), "min": _finite(metric.low), "max": _finite(metric.high),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def live_feed(cursors: Callable[[], duckdb.DuckDBPyConnection], stats: Stats) -> LiveFeed:
    """The feed of a store that a service writes to."""
    return LiveFeed(lambda: read_live(cursors, GaugeOptions(), time.time_ns() // 1_000), lambda: stats.transactions)
