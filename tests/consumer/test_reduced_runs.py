"""A reduced run: its full resolution goes, its curves answer as before, receipt, audit and export stay true."""

from __future__ import annotations

import asyncio
from typing import Any

from runwire_consumer import purging, run_files, run_pages
from runwire_consumer.database import MEMORY
from runwire_consumer.doctor.audit import audit
from runwire_consumer.reduction import DAY_MICROS, Retention
from runwire_consumer.replay import Directly
from runwire_consumer.results import read_arrow
from runwire_consumer.run_files import RunSource
from runwire_consumer.runstate import RunState
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.store import Store
from runwire_consumer.sweeping import Sweeper, SweepingLimits
from runwire_consumer.writing import Writer
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, Emitter, store_all

ROWS = 3_000
CURVE = "SELECT first_step, last_step, value, min, max, points, nan, infinite FROM curve('{}', 'loss', 20) ORDER BY 1"


def settled_store() -> tuple[Store, Emitter]:
    """One long run that ended, compacted; another that lives."""
    store = Store.open(MEMORY)
    run, other = Emitter("a"), Emitter("b", "b" * 16)
    store_all(store, [run.starts(), run.says(events.MetricDefined, metric="loss", best="min")])
    store_all(store, [run.logs({step: {"loss": float(step % 7)} for step in range(ROWS)})])
    store_all(store, [run.says(events.RunEnded, status="finished")])
    store_all(store, [run.signals(events.EmitterEnded, next_seq=run.seq, how="finished"), other.starts()])
    store_all(
        store, [other.logs({0: {"loss": 1.0}})], {0: RunState("finished", 5, "x"), 1: RunState("running", 5, "x")}
    )
    while store.compaction.step() is not None:
        pass
    store.compaction.finish(store.cursor())
    return store, run


def asked(store: Store, sql: str) -> list[Any]:
    """Of the store."""
    return store.cursor().execute(sql).fetchall()


def test_a_reduced_run_answers() -> None:
    """Of its points those go that rollups stand for; nothing else changes, but `full_resolution` and `removals`."""
    store, run = settled_store()
    before = asked(store, CURVE.format(run.run_id))
    told = "SELECT name, last, best, points, state, full_resolution FROM runs WHERE run_id = 'aaaaaaaaaaaaaaaa'"
    ((*said, whole),) = asked(store, told)
    sweeper = Sweeper(
        Directly(Writer(store)), store, Retention({}, 30), limits=SweepingLimits(pause_seconds=0.0),
        clock=lambda: DAY_ONE + 40 * DAY_MICROS,
    )  # fmt: skip
    assert asyncio.run(sweeper.reduce()) == 1
    after = asked(store, CURVE.format(run.run_id))
    assert 1 < len(after) <= len(before)
    for at, total in ((3, min), (4, max), (5, sum), (6, sum)):
        assert total(row[at] for row in after) == total(row[at] for row in before)
    assert asked(store, told) == [(*said, False)]
    assert whole is True
    ((left,),) = asked(store, "SELECT count(*) FROM metrics WHERE run_id = 'aaaaaaaaaaaaaaaa'")
    assert left < ROWS // 10
    told = "SELECT kind, points, reason FROM removals"
    assert asked(store, told) == [("reduced", ROWS - left, "full resolution is kept for 30 days")]
    assert asyncio.run(sweeper.reduce()) == 0
    assert asked(store, "SELECT stored, missing, complete FROM emitters WHERE rank = 0 AND run_id LIKE 'a%'") == [
        (ROWS + 3, 0, True)
    ]
    assert audit(store.cursor(), deep=True).anomalies == ()
    store.close()


def test_a_deleted_run_leaves_the_pieces_too() -> None:
    """Its sorted pieces, rollups and summary; compaction goes on with the others."""
    store, run = settled_store()
    store_all(store, [Emitter("e", run.run_id, attempt="edit").says(events.RunDeleted)])
    for run_key in purging.waiting(store):
        purge = purging.plan(store, run_key)
        for part in purge.slices:
            purging.drop(store, part)
        purging.finish(store, purge, DAY_ONE)
    while store.compaction.step() is not None:
        pass
    store.compaction.finish(store.cursor())
    for table in ("cold_points", "cold_rows", "rollups", "summaries"):
        assert asked(store, f"SELECT count(*) FROM store.{table}") == [(0,)], table  # noqa: S608 - names of ours
    assert asked(store, "SELECT run_id FROM runs") == [("b" * 16,)]
    assert audit(store.cursor(), deep=True).anomalies == ()
    store.close()


def test_a_reduced_run_is_exported_in_buckets() -> None:
    """What is left of its points, and the curves as far as they are kept."""
    store, run = settled_store()
    sweeper = Sweeper(
        Directly(Writer(store)), store, Retention({}, 30), limits=SweepingLimits(pause_seconds=0.0),
        clock=lambda: DAY_ONE + 40 * DAY_MICROS,
    )  # fmt: skip
    asyncio.run(sweeper.reduce())
    sandbox = Sandbox(store.cursor)
    source = RunSource(
        lambda sql, params: list(sandbox.run(sql, params).objects()),
        lambda sql, params: read_arrow(sandbox.run(sql, params).to_arrow()),
    )
    about = run_files.describe(source, run.run_id)
    assert about.run["full_resolution"] is False
    names = [name for name, *_ in run_files.tables(source, about)]
    assert names == ["points", "params", "events", "run", "buckets"]
    (buckets,) = run_pages.buckets(source.columns, run.run_id)
    assert sum(buckets.column("points").to_pylist()) == ROWS
    assert (min(buckets.column("min").to_pylist()), max(buckets.column("max").to_pylist())) == (0.0, 6.0)
    store.close()


def test_a_run_that_is_not_compacted_yet_waits() -> None:
    """Nothing of it goes, and nothing says that it went."""
    store, _ = settled_store()
    store.cursor().execute("DELETE FROM store.summaries")
    sweeper = Sweeper(
        Directly(Writer(store)), store, Retention({}, 30), limits=SweepingLimits(pause_seconds=0.0),
        clock=lambda: DAY_ONE + 40 * DAY_MICROS,
    )  # fmt: skip
    asyncio.run(sweeper.reduce())
    assert asked(store, "SELECT count(*) FROM removals") == [(0,)]
    assert asked(store, "SELECT count(*) FROM store.all_points") == [(ROWS + 1,)]
    store.close()
