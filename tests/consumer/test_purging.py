"""Deleted runs leave the store, slice by slice, whatever comes late or again; nobody else loses anything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer import purging, sweeping
from runwire_consumer.compaction import Limits
from runwire_consumer.database import MEMORY
from runwire_consumer.doctor.audit import audit
from runwire_consumer.errors import StoreFull
from runwire_consumer.live import GaugeOptions, read_live
from runwire_consumer.purging import Slice
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources import Message
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from runwire_consumer.sweeping import Sweeper, SweepingLimits
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, play, store_all

OTHER = "b" * 16
NOW = DAY_ONE + 10**6 * SECOND
WITH_EMITTER = (
    "all_rows", "all_points", "series", "starts", "costs", "lifecycle", "params", "definitions", "edits", "losses",
)  # fmt: skip


def everything(run: Emitter, rows: int = 4) -> list[Message]:
    """One of each kind of record."""
    return [
        run.starts(tags=["a"]),
        run.says(events.ParamsLogged, params={"lr": 0.1}),
        run.says(events.MetricDefined, metric="loss", unit="nat"),
        run.logs({step: {"loss": 1.0 * step, "acc": 2.0} for step in range(rows)}),
        run.says(events.RowsLost, first_seq=90, count=1, reason="full"),
        run.says(events.RunEdited, name="x"),
        run.says(events.RunEnded, status="finished"),
        run.signals(events.EmitterEnded, next_seq=run.seq, how="finished"),
    ]


def deletion(run_id: str, letter: str = "e", reason: str | None = None) -> Message:
    """The order."""
    return Emitter(letter, run_id, attempt="edit").says(events.RunDeleted, reason=reason)


def purge_all(store: Store, steps: int = 10**9) -> bool:
    """Purge, but die after so many transactions; returns whether it came to its end."""
    for run_key in purging.waiting(store):
        purge = purging.plan(store, run_key)
        for part in purge.slices:
            if not (steps := steps - 1):
                return False
            purging.drop(store, part)
        if not (steps := steps - 1):
            return False
        purging.finish(store, purge, NOW)
    return True


def left_of(store: Store, run_id: str) -> dict[str, int]:
    """Lines of a run in each table."""
    cursor = store.cursor()
    counts: dict[str, int] = {}
    for table in WITH_EMITTER:
        sql = (
            f"SELECT count(*) FROM store.{table} JOIN store.emitters USING (emitter_key) "  # noqa: S608 - names of ours
            "JOIN store.runs USING (run_key) WHERE run_id = ?"
        )
        ((counts[table],),) = cursor.execute(sql, [run_id]).fetchall()
    return {table: count for table, count in counts.items() if count}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10**9])
def test_everything_of_a_deleted_run_goes(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Also where the first purge was killed after so many transactions. Tombstone, ledger and the order itself stay."""
    monkeypatch.setattr(purging, "SLICE_POINTS_MAX", 4)
    store = Store.open(MEMORY)
    store_all(store, [*everything(Emitter("a")), *everything(Emitter("b", rank=1)), *everything(Emitter("c", OTHER))])
    before = left_of(store, OTHER)
    assert set(before) == set(WITH_EMITTER)
    store_all(store, [deletion("a" * 16, reason="why")])
    purge_all(store, steps)
    assert purge_all(store)
    assert left_of(store, "a" * 16) == {"lifecycle": 1}
    assert left_of(store, OTHER) == before
    assert purging.waiting(store) == []
    told = "SELECT run_id, project, kind, ordered_at IS NOT NULL, time, points, reason FROM removals"
    ((*said, time, points, reason),) = store.cursor().execute(told).fetchall()
    assert said == ["a" * 16, "digits", "deleted", True]
    assert (time.year, points, reason) == (2023, 16, "why")
    assert store.cursor().execute("SELECT DISTINCT disposition FROM store.ledger").fetchall() == [
        ("stored",),
        ("lost",),
    ]
    assert audit(store.cursor(), deep=True).anomalies == ()


def test_what_comes_late_or_again_stays_away() -> None:
    """Rows of a process that goes on, duplicates, and a second order; they count as stored, and nothing is there."""
    store, run = Store.open(MEMORY), Emitter("a")
    first = [run.starts(), run.logs({0: {"loss": 1.0}})]
    late = [run.logs({1: {"loss": 2.0, "acc": 1.0}}), run.says(events.ParamsLogged, params={"lr": 1})]
    store_all(store, [*first, deletion(run.run_id)])
    late += [Emitter("d", rank=1).starts(), Emitter("f", run_id="late").logs({0: {"loss": 1.0}})]
    for _ in range(2):
        purge_all(store)
        store_all(store, [*first, *late, deletion(run.run_id, "g")])
        assert left_of(store, run.run_id) == {"lifecycle": 1}
    assert left_of(store, "late") == {"all_rows": 1, "all_points": 1, "series": 1}
    ledger = store.cursor().execute("SELECT sum(end_seq - first_seq) FROM store.ledger").fetchall()
    assert ledger == [(4 + 1 + 1 + 1 + 1,)]
    assert audit(store.cursor(), deep=True).anomalies == ()
    reopened = Store(store.database)
    store_all(reopened, [run.logs({9: {"loss": 1.0}})])
    assert left_of(reopened, run.run_id) == {"lifecycle": 1}


def test_a_run_may_be_deleted_before_anything_of_it_comes() -> None:
    """Its order stands in another file of the topic folder, which was read first."""
    store = Store.open(MEMORY)
    store_all(store, [deletion("a" * 16)])
    store_all(store, everything(Emitter("a")))
    purge_all(store)
    assert left_of(store, "a" * 16) == {"lifecycle": 1}
    assert store.cursor().execute("SELECT count(*) FROM runs").fetchall() == [(0,)]


STEPS = st.lists(
    st.tuples(st.sampled_from(("logs", "again", "deletes", "purges", "dies", "opens", "moves")), st.sampled_from("ab")),
    max_size=25,
)


@settings(max_examples=10, deadline=None)
@given(STEPS)
def test_any_history(steps: list[tuple[str, str]]) -> None:
    """At its end the store has of a deleted run nothing, of the others each row once; a replay comes to the same."""
    runs = {letter: Emitter(letter, letter * 16) for letter in "ab"}
    log: list[Message] = []
    rows = dict.fromkeys(runs, 0)
    deleted: set[str] = set()
    store = Store.open(MEMORY)
    for step, letter in steps:
        fresh: list[Message] = []
        if step == "logs":
            fresh = [runs[letter].logs({rows[letter]: {"loss": 1.0}})]
            rows[letter] += 1
        elif step == "again":
            fresh = [one for one in log if ("emitter_id", (letter * 32).encode()) in [*one.headers]][-1:]
        elif step == "deletes":
            deleted.add(letter)
            fresh = [deletion(letter * 16, chr(ord("c") + len(log) % 20))]
        elif step == "opens":
            store = Store(store.database)
            store.compaction.limits = Limits(piece_points_min=2, loose_pieces_max=2, hot_points_max=1)
        elif step == "moves":
            store.compaction.step()
        else:
            purge_all(store, 10**9 if step == "purges" else 1 + len(log) % 3)
        log += fresh
        store_all(store, fresh)
    replayed = Store.open(MEMORY)
    store_all(replayed, log)
    for one in (store, replayed):
        purge_all(one)
        assert audit(one.cursor(), deep=True).anomalies == ()
        found = one.cursor().execute("SELECT run_id, count(*) FROM metrics GROUP BY run_id").fetchall()
        assert dict(found) == {letter * 16: count for letter, count in rows.items() if count and letter not in deleted}
        for letter in deleted:
            assert set(left_of(one, letter * 16)) <= {"lifecycle"}
        one.close()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([(1, 0, 0)], [Slice((1,))]),
        ([(1, 5, 5), (2, 5, 5), (3, 1, 1)], [Slice((1, 2)), Slice((3,))]),
        ([(1, 10, 10), (2, 11, 11)], [Slice((2,), 0, 9), Slice((2,), 10, 2**62), Slice((1,))]),
        ([(7, 40, 4)], [Slice((7,), 0, 0), Slice((7,), 1, 1), Slice((7,), 2, 2), Slice((7,), 3, 2**62)]),
    ],
)
def test_slices(monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int, int]], expected: list[Slice]) -> None:
    """Of at most 10 points here; small emitters together, a large one by its rows, of which one is never split."""
    monkeypatch.setattr(purging, "SLICE_POINTS_MAX", 10)
    assert list(purging.cut(sizes)) == expected


def test_nonsense_numbers_make_few_slices() -> None:
    """A hostile emitter numbers its rows far apart."""
    assert len(list(purging.cut([(1, 10**9, 2**61)]))) <= purging.EMITTER_SLICES_MAX + 1


def test_a_running_consumer_purges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its gauges lose the run at once, its file what it had; a full disk is said, and waited for."""
    log, store = MemoryLog(), Store.open(tmp_path / "runwire.duckdb")
    service = Service(store, [MemorySource(log)], limits=ServiceLimits(batch_seconds=0.0, poll_seconds=0.002))
    sweeper = Sweeper(service.do, store, limits=SweepingLimits(look_seconds=0.005, pause_seconds=0.0))
    run = Emitter("a")

    def full(*_: object) -> None:
        raise StoreFull("There is no room.")

    def send(*messages: Message) -> None:
        for message in messages:
            log.append(message.headers, message.payload, appended_at=DAY_ONE)  # type: ignore[arg-type]

    async def until(sql: str, expected: Any) -> None:
        async with asyncio.timeout(20):
            while store.cursor().execute(sql).fetchall() != [(expected,)]:  # noqa: ASYNC110 - another thread's work
                await asyncio.sleep(0.005)

    async def story() -> None:
        sweep = asyncio.create_task(sweeper.run())
        send(run.starts(), run.logs({step: {"loss": 1.0} for step in range(50)}))
        await until("SELECT count(*) FROM store.points", 50)
        assert [one.run_id for one in live(store)] == [run.run_id]
        monkeypatch.setattr(sweeping, "check_floor", full)
        send(deletion(run.run_id))
        await until("SELECT count(*) FROM runs", 0)
        assert live(store) == []
        while "It is tried again." not in caplog.text:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        assert store.cursor().execute("SELECT count(*) FROM store.points").fetchall() == [(50,)]
        monkeypatch.setattr(sweeping, "check_floor", lambda *_: None)
        await until("SELECT count(*) FROM store.all_points", 0)
        await until("SELECT count(*) FROM removals WHERE time IS NOT NULL", 1)
        sweep.cancel()

    play(service, story)


def live(store: Store) -> list[Any]:
    """The runs that gauges show."""
    return list(read_live(store.cursor, GaugeOptions(), DAY_ONE).runs)
