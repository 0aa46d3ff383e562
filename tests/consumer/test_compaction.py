"""Compaction: whatever was moved when, every relation says what the plain definitions say, and nothing is lost or twice."""

from __future__ import annotations

import math
import random
from typing import Any

import duckdb
import pytest

from runwire_consumer.database import MEMORY
from runwire_consumer.doctor.audit import audit
from runwire_consumer.store import Store
from tests.consumer.layouts import METRICS, RUN_IDS, History, everything, make_blocks_small, plain

SEEDS = range(8)
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
    alone = all(row[1] < following[0] for row, following in zip(rows, rows[1:], strict=False))
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
