"""What followers hear: everything once, then what is new, from one read for all of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runwire_consumer.live import Live, LiveMetric, LiveRun
from runwire_consumer.page import feed as feeds
from runwire_consumer.page.feed import FOLLOWERS_MAX, Following, LiveFeed, Told


class Runs:
    """What lives, and how often that was read."""

    def __init__(self) -> None:
        self.reads = 0
        self.version = 0
        self.runs = {key: run(key) for key in (1, 2)}
        self.metrics = {(key, 7): metric(key, 1.0, 0) for key in (1, 2)}

    def read(self) -> Live:
        self.reads += 1
        return Live(frozenset(self.runs), tuple(self.runs.values()), tuple(self.metrics.values()), len(self.metrics))

    def write(self, key: int, value: float, step: int) -> None:
        self.metrics[key, 7] = metric(key, value, step)
        self.version += 1


def run(key: int, state: str = "running") -> LiveRun:
    return LiveRun(key, f"project-{key}", f"id-{key}", f"name-{key}", "", "", "", state, None, None, 0)


def metric(key: int, value: float, step: int) -> LiveMetric:
    return LiveMetric(key, 7, "loss", value, value, value, 1, None, None, step, step * 1_000_000)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(feeds, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(feeds, "READ_SHARE", 0)


@pytest.fixture
async def place() -> AsyncIterator[tuple[LiveFeed, Runs]]:
    runs = Runs()
    feed = LiveFeed(runs.read, lambda: runs.version)
    yield feed, runs
    await feed.stop()


async def hear(heard: AsyncIterator[Told]) -> Told:
    return await asyncio.wait_for(anext(heard), 60)


async def test_everything_then_only_what_changed(place: tuple[LiveFeed, Runs]) -> None:
    """A value, a state; what isn't new isn't told, NaN after NaN neither."""
    feed, runs = place
    heard = feed.follow(Following(frozenset({"id-1", "id-2"})))
    first = await hear(heard)
    assert [told["run_id"] for told in first["runs"]] == ["id-1", "id-2"]
    assert [(told["run_id"], told["value"]) for told in first["metrics"]] == [("id-1", 1.0), ("id-2", 1.0)]
    runs.write(1, 0.5, 3)
    assert await hear(heard) == {
        "metrics": [{"run_id": "id-1", "metric": "loss", "step": 3, "time": 3.0, "value": 0.5, "min": 0.5, "max": 0.5}]
    }
    runs.runs[2] = run(2, "finished")
    runs.version += 1
    assert [(told["run_id"], told["state"]) for told in (await hear(heard))["runs"]] == [("id-2", "finished")]
    runs.write(1, math.nan, 4)
    assert (await hear(heard))["metrics"][0]["value"] is None
    runs.metrics[1, 7] = metric(1, math.nan, 4)
    runs.write(2, 9.0, 1)
    assert [told["run_id"] for told in (await hear(heard))["metrics"]] == ["id-2"]


async def test_one_slow_read_delays_nothing(place: tuple[LiveFeed, Runs], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stood still is no slow store: by its cost the next would come after minutes."""
    monkeypatch.setattr(feeds, "READ_SHARE", 1_000)
    feed, runs = place
    read = runs.read

    def slow() -> Live:
        if runs.reads == 0:
            time.sleep(0.1)
        return read()

    monkeypatch.setattr(feed, "_read", slow)
    heard = feed.follow(Following())
    await hear(heard)
    runs.runs[1] = run(1, "finished")
    runs.version += 1
    assert [told["run_id"] for told in (await hear(heard))["runs"]] == ["id-1"]


@pytest.mark.parametrize(
    ("following", "runs", "metrics"),
    [
        (Following(), ["id-1", "id-2"], []),
        (Following(metrics=frozenset({"loss"})), ["id-1", "id-2"], ["id-1", "id-2"]),
        (Following(metrics=frozenset({"other"})), ["id-1", "id-2"], []),
        (Following(frozenset({"id-2"})), ["id-2"], ["id-2"]),
        (Following(projects=frozenset({"project-1"})), ["id-1"], []),
        (Following(frozenset({"id-1", "id-2"}), projects=frozenset({"project-1"})), ["id-1"], ["id-1"]),
    ],
)
async def test_each_hears_what_it_follows_and_may_see(
    place: tuple[LiveFeed, Runs], following: Following, runs: list[str], metrics: list[str]
) -> None:
    told = await hear(place[0].follow(following))
    assert [one["run_id"] for one in told.get("runs", [])] == runs
    assert [one["run_id"] for one in told.get("metrics", [])] == metrics


async def test_one_read_serves_all_and_nobody_costs_nothing(
    place: tuple[LiveFeed, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten followers hear of a change by one read; without any nothing is read, however much is written."""
    monkeypatch.setattr(feeds, "UNCHANGED_SECONDS", 1e9)
    feed, runs = place
    everybody: list[Any] = [feed.follow(Following(frozenset({"id-1"}))) for _ in range(10)]
    assert runs.reads == 0
    await asyncio.gather(*map(hear, everybody))
    assert runs.reads == 1
    runs.write(1, 0.25, 1)
    told = await asyncio.gather(*map(hear, everybody))
    assert runs.reads == 2
    assert all(one["metrics"][0]["value"] == 0.25 for one in told)
    for one in everybody:
        await one.aclose()
    await asyncio.wait_for(feed._reading or asyncio.sleep(0), 10)
    assert runs.reads == 2


async def test_followers_are_bounded_and_let_go_at_the_end(place: tuple[LiveFeed, Runs]) -> None:
    feed, _ = place
    everybody: list[Any] = [feed.follow(Following()) for _ in range(FOLLOWERS_MAX)]
    await asyncio.gather(*map(hear, everybody))
    assert feed.is_full
    await everybody[0].aclose()
    assert feed._followers == FOLLOWERS_MAX - 1
    waiting = asyncio.gather(*map(hear, everybody[1:]), return_exceptions=True)
    await asyncio.sleep(0)
    await feed.stop()
    assert all(isinstance(end, StopAsyncIteration) for end in await waiting)


async def test_silence_is_a_sign_of_life(place: tuple[LiveFeed, Runs], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing changes, an empty word comes now and then: who has gone, and whose session has ended, is seen."""
    monkeypatch.setattr(feeds, "QUIET_SECONDS", 0.01)
    heard = place[0].follow(Following())
    await hear(heard)
    assert await hear(heard) == {}
