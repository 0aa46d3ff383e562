"""The keeper of a running consumer: when a snapshot is due, what failure does, and that stopping waits for nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest
from prometheus_client import CollectorRegistry

from runwire_consumer import floor, keeping, snapshots
from runwire_consumer.errors import StoreEnding, StoreFull
from runwire_consumer.keeping import Keeper, KeepingLimits
from runwire_consumer.self_metrics import KeepingMetrics
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.snapshot_files import Snapshot, listed
from runwire_consumer.snapshots import options_for
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from tests.consumer.telling import DAY_ONE, SECOND, Emitter
from tests.services.process import PATIENCE_SECONDS

LIMITS = KeepingLimits(snapshot_seconds=100.0, first_snapshot_seconds=0.0, retry_seconds=0.0, look_seconds=0.005)


@dataclass
class World:
    """A service and its keeper; the clock of snapshots is set by the test."""

    folder: Path
    limits: KeepingLimits = LIMITS
    now: int = DAY_ONE
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    run: Emitter = field(default_factory=lambda: Emitter("a"))

    def __post_init__(self) -> None:
        """Open; nothing runs yet."""
        self.log = MemoryLog()
        self.store = Store.open(self.folder / "runwire.duckdb", options_for(self.snapshots, 0.0))
        limits = ServiceLimits(batch_seconds=0.0, poll_seconds=0.002)
        self.service = Service(self.store, [MemorySource(self.log)], limits=limits, clock=lambda: self.now)
        metrics = KeepingMetrics(self.registry, lambda: self.now)
        self.keeper = Keeper(
            self.service, self.store, self.snapshots, metrics, limits=self.limits, clock=lambda: self.now
        )

    @property
    def snapshots(self) -> Path:
        """Their folder."""
        return self.folder / "snapshots"

    def logs(self) -> None:
        """One more row."""
        message = self.run.logs({self.run.seq: {"loss": 1.0}})
        self.log.append(message.headers, message.payload)  # type: ignore[arg-type]

    def value(self, name: str) -> float:
        """A sample."""
        found = self.registry.get_sample_value(name)
        assert found is not None
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads and files
                await asyncio.sleep(0.005)

    async def until_looked(self) -> None:
        """Wait until the keeper has looked twice more."""
        looks = 0
        kept = self.keeper._metrics.kept

        def counting(newest: int | None, count: int, size_bytes: int) -> None:
            nonlocal looks
            looks += 1
            kept(newest, count, size_bytes)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.keeper._metrics, "kept", counting)
            await self.until(lambda: looks >= 2)

    async def play(self) -> tuple[asyncio.Task[None], asyncio.Task[None], asyncio.Event]:
        """Begin."""
        stop = asyncio.Event()
        return asyncio.create_task(self.service.run(stop)), asyncio.create_task(self.keeper.run()), stop

    async def end(self, running: asyncio.Task[None], keeping: asyncio.Task[None], stop: asyncio.Event) -> None:
        """As `up` ends."""
        keeping.cancel()
        await self.keeper.close()
        stop.set()
        await running


async def test_when_one_is_due(tmp_path: Path) -> None:
    """None without data; the first soon; the next when it is old *and* something has come."""
    world = World(tmp_path)
    playing = await world.play()
    await world.until_looked()
    assert listed(world.snapshots) == []
    assert math.isnan(world.value("runwire_snapshot_age_seconds"))
    world.logs()
    await world.until(lambda: len(listed(world.snapshots)) == 1 and world.value("runwire_snapshots") == 1)
    world.now += 99 * SECOND
    world.logs()
    await world.until(lambda: world.service.stats.rows == 2)
    await world.until_looked()
    assert len(listed(world.snapshots)) == 1
    assert world.value("runwire_snapshot_age_seconds") == 99.0
    world.now += SECOND
    await world.until(lambda: len(listed(world.snapshots)) == 2 and world.value("runwire_snapshots") == 2)
    world.now += 1_000 * SECOND
    await world.until_looked()
    assert len(listed(world.snapshots)) == 2
    await world.end(*playing)


async def test_a_failure_is_said_once_counted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest doesn't notice; with room the snapshot comes by itself."""
    world = World(tmp_path)
    free = floor.free_bytes
    monkeypatch.setattr(snapshots, "free_bytes", lambda _: 0)
    playing = await world.play()
    world.logs()
    await world.until(lambda: world.value("runwire_snapshot_failures_total") >= 3)
    world.logs()
    await world.until(lambda: world.service.stats.rows == 2)
    with pytest.raises(StoreFull):
        await world.keeper.order({})
    said = [record.message for record in caplog.records if "no room for a snapshot" in record.message]
    assert len(said) == 1
    monkeypatch.setattr(snapshots, "free_bytes", free)
    await world.until(lambda: len(listed(world.snapshots)) == 1)
    await world.end(*playing)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), duckdb.InterruptException("INTERRUPT")])
async def test_whatever_fails_is_said_once_counted_and_tried_again(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that can't be read, an engine that says something else than ever before: the keeper lives on."""
    world = World(tmp_path)

    def fail(_: Path) -> list[Snapshot]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "listed", fail)
        playing = await world.play()
        world.logs()
        await world.until(lambda: world.value("runwire_snapshot_failures_total") >= 3)
        assert len([record for record in caplog.records if str(error) in record.message]) == 1
    await world.until(lambda: len(listed(world.snapshots)) == 1)
    await world.end(*playing)


async def test_two_orders_at_once_are_two_snapshots(tmp_path: Path) -> None:
    """One after the other; each is what it says."""
    world = World(tmp_path)
    playing = await world.play()
    world.logs()
    await world.until(lambda: world.service.stats.rows == 1)
    first, second = await asyncio.gather(world.keeper.order({}), world.keeper.order({}))
    assert first["path"] != second["path"]
    assert {one["path"] for one in (first, second)} <= {str(one.path) for one in listed(world.snapshots)}
    await world.end(*playing)


@pytest.mark.parametrize("is_ordered", [True, False])
async def test_stopping_interrupts_a_snapshot(tmp_path: Path, *, is_ordered: bool) -> None:
    """SIGTERM doesn't wait for a long copy: it fails, its draft goes, the store closes and opens again."""
    world = World(tmp_path, KeepingLimits(first_snapshot_seconds=1e9) if is_ordered else LIMITS)
    world.store.cursor().execute("INSERT INTO store.points SELECT i % 9, i % 7, i, random() FROM range(5_000_000) t(i)")
    playing = await world.play()
    world.logs()
    ordered = asyncio.create_task(world.keeper.snapshot()) if is_ordered else None
    await world.until(lambda: any(world.snapshots.glob(".runwire-*")))
    await world.end(*playing)
    if ordered is not None:
        with pytest.raises(StoreEnding):
            await ordered
    assert list(world.snapshots.iterdir()) == []
    Store.open(tmp_path / "runwire.duckdb").close()


async def test_a_name_from_the_future_keeps_no_snapshot_from_being_taken(tmp_path: Path) -> None:
    """The clock was set back, or somebody put a file there."""
    world = World(tmp_path)
    world.snapshots.mkdir()
    (world.snapshots / "runwire-99990101T000000Z.duckdb").write_bytes(b"")
    playing = await world.play()
    world.logs()
    await world.until(lambda: len(listed(world.snapshots)) == 2)
    world.logs()
    await world.until(lambda: world.service.stats.rows == 2)
    await world.until_looked()
    assert len(listed(world.snapshots)) == 2  # the one of now is young
    world.now += 101 * SECOND
    await world.until(lambda: len(listed(world.snapshots)) == 3)
    await world.end(*playing)


async def test_orders_that_meet_the_end_are_refused(tmp_path: Path) -> None:
    """However many wait: nobody hangs, nobody gets a failure that is none; what was taken is one."""
    world = World(tmp_path, KeepingLimits(first_snapshot_seconds=1e9))
    playing = await world.play()
    world.logs()
    await world.until(lambda: world.service.stats.rows == 1)
    orders = [asyncio.create_task(world.keeper.order({})) for _ in range(100)]
    await asyncio.sleep(0)
    await world.end(*playing)
    answers = await asyncio.gather(*orders, return_exceptions=True)
    refused = [one for one in answers if isinstance(one, StoreEnding)]
    assert {str(one) for one in refused} == {"The consumer is ending: no snapshot is taken any more."}
    assert len(answers) - len(refused) == len([one for one in answers if isinstance(one, dict)]) <= 1
    assert world.value("runwire_snapshot_failures_total") == 0


async def test_a_folder_that_is_a_file_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And when it has gone, snapshots are taken."""
    world = World(tmp_path)
    world.snapshots.write_text("no folder")
    playing = await world.play()
    world.logs()
    await world.until(lambda: world.value("runwire_snapshot_failures_total") >= 3)
    assert len([record for record in caplog.records if "is a file where the folder" in record.message]) == 1
    world.snapshots.unlink()
    await world.until(lambda: len(listed(world.snapshots)) == 1)
    await world.end(*playing)
