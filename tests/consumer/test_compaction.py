"""Compaction: whatever was moved when, relations say what the plain definitions say, and nothing is lost or twice."""

from __future__ import annotations

import asyncio
import math
import random
from itertools import pairwise
from typing import Any

import duckdb
import pytest

from runwire_consumer.compacting import CompactingLimits, Compactor
from runwire_consumer.compaction import Limits
from runwire_consumer.database import MEMORY
from runwire_consumer.doctor.audit import audit
from runwire_consumer.runstate import RunState
from runwire_consumer.service import Service
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from runwire_consumer.thinning import drop_full_resolution
from runwire_schemas import events
from tests.consumer.layouts import METRICS, RUN_IDS, History, everything, make_blocks_small, plain
from tests.consumer.plans import rows_scanned
from tests.consumer.telling import DAY_ONE, Emitter, play, store_all

SEEDS = range(5)
TURNS = 90


@pytest.mark.parametrize("seed", SEEDS)
def test_relations_say_what_the_plain_definitions_say(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment of a history, and when everything is settled; `curve` too, whatever is rolled up."""
    store = Store.open(MEMORY)
    make_blocks_small(store.cursor(), monkeypatch)
    history = History(store, seed)
    for _ in range(2):
        history.play(TURNS // 2)
        compare(store, random.Random(seed))
    history.settle()
    assert history.moved
    compare(store, random.Random(seed))
    assert store.compaction.hot_points == 0
    assert store.cursor().execute("SELECT count(*) FROM store.unsettled").fetchall() == [(0,)]
    store.close()


def compare(store: Store, chance: random.Random) -> None:
    """Relations, curves, and the audit."""
    oracle = plain(store)
    expected, found = everything(oracle), everything(store.cursor())
    for name, rows in expected.items():
        assert found[name] == rows, name
    for run in RUN_IDS[1:]:
        for metric in METRICS:
            compare_curve(store.cursor(), oracle, (run, metric), chance)
    facts = audit(store.cursor(), deep=True)
    assert facts.anomalies == ()
    assert facts.unchecked == ()
    oracle.close()


def compare_curve(
    cursor: duckdb.DuckDBPyConnection, oracle: duckdb.DuckDBPyConnection, what: tuple[str, str], chance: random.Random
) -> None:
    """Every bucket is what the visible points between its steps say; together they are all of them."""
    run, metric = what
    seen = oracle.execute(
        'SELECT step, epoch_us(time), value, "rank" FROM curves_by_rank WHERE run_id = ? AND metric = ? ORDER BY 1',
        [run, metric],
    ).fetchall()
    if not oracle.execute("SELECT 1 FROM runs WHERE run_id = ?", [run]).fetchall():
        return
    steps = sorted({point[0] for point in seen})
    middle = (steps[len(steps) // 4], steps[-1 - len(steps) // 4]) if steps else (0, 0)
    questions = [(b, *zoom) for b in (1, 3, 1_000) for zoom in ((None, None), middle, (middle[0], None))]
    for buckets, first, last in chance.sample(questions, 3):
        asked = [p for p in seen if (first is None or p[0] >= first) and (last is None or p[0] <= last)]
        rows = cursor.execute(
            "SELECT first_step, last_step, epoch_us(first_time), epoch_us(last_time), value, min, max, points, nan, "
            "infinite FROM curve(?, ?, ?, first_step := ?, last_step := ?)", [run, metric, buckets, first, last],
        ).fetchall()  # fmt: skip
        assert len(rows) <= buckets
        assert_buckets(rows, asked)
        if len({point[0] for point in asked}) <= buckets:
            assert [row[0] for row in rows] == sorted({point[0] for point in asked})


def assert_buckets(rows: list[tuple[Any, ...]], points: list[tuple[Any, ...]]) -> None:
    """Rows of `curve` over visible points."""
    assert [summed(rows, at) for at in (7, 8, 9)] == [
        len(points),
        sum(math.isnan(point[2]) for point in points),
        sum(math.isinf(point[2]) for point in points),
    ]
    if not points:
        return
    assert (min(row[0] for row in rows), max(row[1] for row in rows)) == (points[0][0], points[-1][0])
    assert (least([row[5] for row in rows]), most([row[6] for row in rows])) == (
        least([point[2] for point in points]),
        most([point[2] for point in points]),
    )
    alone = all(row[1] < following[0] for row, following in pairwise(rows))
    for first, last, first_time, last_time, value, low, high, count, nan, infinite in rows:
        inside = [point for point in points if first <= point[0] <= last]
        assert inside
        values = [point[2] for point in inside]
        finite = [one for one in values if math.isfinite(one)]
        if alone:
            mean = sum(finite) / len(finite) if finite else math.nan
            times = (min(p[1] for p in inside), max(p[1] for p in inside))
            assert (first_time, last_time, repr(value + 0.0)) == (*times, repr(mean + 0.0))
            assert (repr(low + 0.0), repr(high + 0.0)) == (least(values), most(values))
            assert (count, nan, infinite) == (
                len(values),
                sum(map(math.isnan, values)),
                sum(map(math.isinf, values)),
            )
        else:
            assert count <= len(values)


def summed(rows: list[tuple[Any, ...]], at: int) -> int:
    """A column's sum."""
    return sum(row[at] for row in rows)


def least(values: list[float]) -> str:
    """The least that is no NaN."""
    return repr(min((value for value in values if not math.isnan(value)), default=math.nan) + 0.0)


def most(values: list[float]) -> str:
    """The greatest that is no NaN."""
    return repr(max((value for value in values if not math.isnan(value)), default=math.nan) + 0.0)


def compacted_run(store: Store) -> Emitter:
    """One run of 40 steps, compacted and settled."""
    run = Emitter("a", RUN_IDS[1])
    store_all(store, [run.starts(), run.says(events.MetricDefined, metric="loss", best="min")])
    for first in range(0, 40, 10):
        store_all(store, [run.logs({step: {"loss": 100.0 - step} for step in range(first, first + 10)})])
    end(store)
    return run


def end(store: Store) -> None:
    """Every run has finished and is compacted."""
    store_all(store, [], {key: RunState("finished", 5, "It ended.") for key in store.catalog.run_keys.values()})
    store.compaction.finish(store.cursor())


def test_rollups_answer_when_the_points_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`curve` and `best` say the same of a thinned run; `full_resolution` says that it is one, the audit agrees."""
    store = Store.open(MEMORY)
    cursor = store.cursor()
    make_blocks_small(cursor, monkeypatch)
    run = compacted_run(store)
    curve = f"FROM curve('{run.run_id}', 'loss', 4)"
    before = cursor.execute(curve).fetchall()
    assert [row[-3:] for row in before] == [(12, 0, 0), (8, 0, 0), (12, 0, 0), (8, 0, 0)]
    gone = [drop_full_resolution(store, 0, points_max=30) for _ in range(3)]
    assert gone == [28, 12, 0]
    assert cursor.execute(curve).fetchall() == before
    assert cursor.execute("SELECT best['loss'], full_resolution, points FROM runs").fetchall() == [(61.0, False, 40)]
    assert cursor.execute("SELECT count(*) FROM metrics").fetchall() == [(0,)]
    assert audit(cursor, deep=True).anomalies == ()
    # It is described anew when it is touched, and more may come.
    store_all(store, [run.says(events.RunEdited, name="renamed"), run.logs({40: {"loss": 60.0}, 41: {"loss": 62.0}})])
    assert cursor.execute("SELECT name, best['loss'], points FROM runs").fetchall() == [("renamed", 60.0, 42)]
    assert drop_full_resolution(store, 0) == 0
    end(store)
    assert cursor.execute("SELECT sum(points), max(max), min(min) FROM curve('renamed', 'loss', 4)").fetchall() == [
        (42, 100.0, 60.0)
    ]
    assert cursor.execute("SELECT step FROM metrics ORDER BY 1").fetchall() == [(40,), (41,)]


def test_a_run_that_goes_on_keeps_its_points() -> None:
    """Only of a settled run anything is dropped."""
    store = Store.open(MEMORY)
    store_all(store, [Emitter("a").logs({step: {"loss": 1.0} for step in range(100)})])
    assert drop_full_resolution(store, 0) == 0


def test_filters_reach_the_pieces() -> None:
    """Of 40 compacted series, a query for one reads its points only, through the union of hot and cold."""
    store = Store.open(MEMORY)
    for number in range(4):
        run = Emitter("abcd"[number], run_id="abcd"[number] * 16, attempt=str(number))
        store_all(store, [run.logs({step: {f"m{k}": 1.0 for k in range(10)} for step in range(500)})])
    end(store)
    cursor = store.cursor()
    assert cursor.execute("SELECT count(*) FROM store.cold_points WHERE block >= 0").fetchall() == [(20_000,)]
    for relation in ("curves", "curves_by_rank", "metrics"):
        asked = f"SELECT * FROM {relation} WHERE run_id = repeat('b', 16) AND metric = 'm3'"  # noqa: S608 - ours
        assert len(cursor.execute(asked).fetchall()) == 500
        assert 500 <= rows_scanned(cursor, asked, "cold_points") <= 2_000
        assert 500 <= rows_scanned(cursor, asked, "cold_rows") <= 2_000


def test_curve_names_a_run_by_id_or_by_its_only_name() -> None:
    """Whoever asks for what isn't there, or is there twice, is told so."""
    store = Store.open(MEMORY)
    for letter in "abc":
        run = Emitter(letter, letter * 16, attempt=letter)
        store_all(store, [run.starts(name="calm" if letter == "c" else "rough"), run.logs({1: {"loss": 2.0}})])
    ask = store.cursor().execute
    for run_name in ("c" * 16, "calm", "a" * 16):
        assert ask("SELECT first_step, value, points FROM curve(?, 'loss', 9)", [run_name]).fetchall() == [(1, 2.0, 1)]
    assert ask("FROM curve(NULL, 'loss', 9)").fetchall() == []
    assert ask("FROM curve('calm', 'nothing', 9)").fetchall() == []
    for run_name, words in (("nobody", "There is no run nobody"), ("rough", "2 runs are called rough")):
        with pytest.raises(duckdb.InvalidInputException, match=words):
            ask("FROM curve(?, 'loss', 9)", [run_name])


def test_the_service_compacts_what_has_ended() -> None:
    """Beside ingest, until nothing is left to do."""
    store, log = Store.open(MEMORY), MemoryLog()
    service = Service(store, [MemorySource(log, 50)])
    compactor = Compactor(service, store, CompactingLimits(look_seconds=0.02))
    reader = store.cursor()
    run = Emitter("a")
    for message in (
        run.starts(),
        run.logs({step: {"loss": float(step)} for step in range(200)}),
        run.says(events.RunEnded, status="finished"),
        run.signals(events.EmitterEnded, next_seq=run.seq, how="finished"),
    ):
        log.append(message.headers, message.payload, appended_at=message.appended_at)  # type: ignore[arg-type]

    async def story() -> None:
        compacting = asyncio.create_task(compactor.run())
        async with asyncio.timeout(30):
            while reader.execute("SELECT count(*) FROM store.summaries").fetchall() != [(1,)]:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)
        assert reader.execute("SELECT count(*) FROM store.cold_points").fetchall() == [(200,)]
        assert reader.execute("SELECT count(*) FROM store.points").fetchall() == [(0,)]
        compacting.cancel()
        await compactor.close()

    play(service, story)
    reader.close()


class Standing(Emitter):
    """Its clock stands still."""

    @property
    def now(self) -> int:
        return DAY_ONE


def test_nonsense_numbers_make_few_slices() -> None:
    """A sequence number far from all others: slices are as large as ever."""
    store = Store.open(MEMORY)
    store.compaction.limits = Limits(slice_points_max=100, piece_points_min=100)
    run = Standing("a")
    store_all(store, [run.logs({step: {"loss": 1.0} for step in range(300)})])
    run.seq = 2**60
    store_all(store, [run.logs({step: {"loss": 1.0} for step in range(300, 400)})])
    slices = []
    while (done := store.compaction.step()) is not None:
        slices.append(done.points)
    assert sum(slices) > 300  # less than PIECE_POINTS_MIN stay
    assert len(slices) <= 9


FIRST, LAST = -(2**63), 2**63 - 1


def test_curve_reaches_to_the_ends_of_steps() -> None:
    """Of a run that logs at the first and the last step there can be, and of every other run beside it."""
    store = Store.open(MEMORY)
    for letter, rows in (
        ("c", {0: {"loss": 1.0}, 7: {"loss": 2.0}}),
        ("d", {FIRST: {"loss": 1.0}, LAST: {"loss": 2.0}}),
    ):
        run, again = (
            Emitter(letter, letter * 16),
            Emitter(chr(ord(letter) + 8), letter * 16, attempt="two", started=900),
        )
        store_all(store, [run.starts(), run.logs(rows), again.starts(restart_count=1), again.logs(rows)])
        for compacted in (False, True):
            if compacted:
                end(store)
            for buckets in ("1", "2", "100", "0", "-7", "1e300", "NULL", str(LAST)):
                for zoom in ("", f", first_step := {FIRST}, last_step := {LAST}"):
                    curve = f"curve('{run.run_id}', 'loss', {buckets}{zoom})"
                    asked = f"SELECT sum(points), min(first_step), max(last_step) FROM {curve}"  # noqa: S608 - ours
                    found = store.cursor().execute(asked).fetchall()
                    assert found == [(2, min(rows), max(rows))], (asked, compacted)
            assert store.cursor().execute("SELECT count(*) FROM curve(repeat('c', 16), 'loss', 9)").fetchall() == [(2,)]
    for run_key in store.catalog.run_keys.values():
        assert drop_full_resolution(store, run_key) == 0


def test_the_best_of_a_run_that_was_thinned_twice() -> None:
    """What a later attempt reached is remembered when its points go too."""
    store = Store.open(MEMORY)
    run, again = Emitter("a", RUN_IDS[1]), Emitter("b", RUN_IDS[1], attempt="two", started=900)
    store_all(store, [run.starts(), run.says(events.MetricDefined, metric="loss", best="min")])
    store_all(store, [run.logs({step: {"loss": 1_000.0 - step} for step in range(500)})])
    for best, more in ((501.0, [again.starts(restart_count=1, resumed_from_step=499)]), (101.0, [])):
        end(store)
        while drop_full_resolution(store, 0):
            pass
        rows = {step: {"loss": 1_000.0 - step} for step in range(500, 900)}
        store_all(store, [*more, again.logs(rows) if more else again.says(events.RunEdited, name="x")])
        now = min(best, 101.0)
        assert store.cursor().execute("SELECT best['loss'] FROM runs").fetchall() == [(now,)]
