"""Axes, smoothing, spread, stragglers and comparison: tables of cases, and random histories against plain Python."""
# ruff: noqa: S608 - queries of our own

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import count
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer.database import MEMORY
from runwire_consumer.errors import QueryError
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer import meaning_models as models
from tests.consumer.plans import rows_scanned
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, store_all, told

NAN, INF = math.nan, math.inf


@dataclass
class Numbered(Emitter):
    """An emitter of one of many runs in one store."""

    number: int = 0

    @property
    def emitter_id(self) -> str:
        """Its id."""
        return f"{self.number:032x}"


class Stage:
    """One store for many small stories; each run takes ids that nobody had."""

    def __init__(self) -> None:
        """Nothing is told yet."""
        self.store = Store.open(MEMORY)
        self.cursor = self.store.cursor()
        self._numbers = count(1)

    def emitter(self, run_id: str, **fields: Any) -> Numbered:
        """A process of a run."""
        return Numbered("-", run_id=run_id, number=next(self._numbers), **fields)

    def run_id(self) -> str:
        """Of a run that nobody told of yet."""
        return f"{next(self._numbers):016x}"

    def tell(self, *messages: Any) -> None:
        """Store them."""
        store_all(self.store, messages)

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """A query's rows."""
        return self.cursor.execute(sql, list(params)).fetchall()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.store.close()


def rows(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """A query's rows."""
    return cursor.execute(sql).fetchall()


def curve(values: list[float], *, first: int = 0) -> dict[int, dict[str, float]]:
    """One value a step."""
    return {step: {"loss": value} for step, value in enumerate(values, first)}


def is_same(found: Any, expected: Any, *, scale: float = 1.0) -> bool:
    """Equal, NaN to NaN, numbers up to rounding."""
    if isinstance(expected, float) and isinstance(found, float):
        both_nan = math.isnan(found) and math.isnan(expected)
        return both_nan or math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9 * scale)
    return bool(found == expected)


# -- axes ------------------------------------------------------------------------------------------------------

AXES = [
    # (attempts as (start, steps), [(step, relative, active)])
    ([(0, [0, 1, 2])], [(0, 1, 1), (1, 2, 2), (2, 3, 3)]),
    # the second waits 96 seconds in a queue: its first row comes a second after its start
    ([(0, [0, 1, 2]), (99, [3, 4])], [(0, 1, 1), (1, 2, 2), (2, 3, 3), (3, 100, 4), (4, 101, 5)]),
    # what an attempt did in vain is time too: steps 1 and 2 were done twice
    ([(0, [0, 1, 2]), (100, [1, 2])], [(0, 1, 1), (1, 101, 4), (2, 102, 5)]),
    # attempts that overlap count once
    ([(0, [0, 1, 2]), (2, [3, 4])], [(0, 1, 1), (1, 2, 2), (2, 3, 3), (3, 3, 3), (4, 4, 4)]),
]


@pytest.mark.parametrize(("attempts", "expected"), AXES)
def test_axes(attempts: list[tuple[int, list[int]]], expected: list[tuple[int, int, int]]) -> None:
    """Seconds since the run's start, and without the gaps between attempts."""
    messages = []
    for number, (start, steps) in enumerate(attempts):
        one = Emitter("abcd"[number], attempt=f"job.{number}", started=start)
        messages += [one.starts(restart_count=number), one.logs({step: {"loss": 1.0} for step in steps})]
    cursor = told(*messages)
    asked = "SELECT step, relative_seconds(run_id, time), active_seconds(run_id, time) FROM {} ORDER BY step"
    for relation in ("curves", "curves_by_rank"):
        assert rows(cursor, asked.format(relation)) == expected
    assert (
        rows(cursor, f"SELECT step, relative_seconds, active_seconds FROM smoothed('{'a' * 16}', 'loss')") == expected
    )


def test_an_evaluator_between_attempts_stands_still_on_the_active_axis() -> None:
    """A moment at which no attempt lives has the active time of the last one's end; behind all it goes no further."""
    one, two = Emitter("a", attempt="one"), Emitter("b", attempt="two", started=100)
    judge = Emitter("c", attempt="judge", started=50)
    cursor = told(
        one.starts(), one.logs({0: {"loss": 1.0}}), judge.starts(role="eval"), judge.logs({0: {"acc": 1.0}}),
        two.starts(), two.logs({1: {"loss": 1.0}}),
    )  # fmt: skip
    asked = "SELECT metric, relative_seconds(run_id, time), active_seconds(run_id, time) FROM metrics ORDER BY time"
    assert rows(cursor, asked) == [("loss", 1, 1), ("acc", 51, 1), ("loss", 101, 2)]
    assert rows(cursor, "SELECT active_seconds(run_id, TIMESTAMP '2100-01-01') FROM runs") == [(2,)]


def test_a_run_without_trainers_has_one_axis() -> None:
    """Where there is no attempt, nothing is left out."""
    judge = Emitter("a", attempt="judge")
    cursor = told(judge.starts(role="eval"), judge.logs({0: {"acc": 1.0}, 1: {"acc": 1.0}}))
    asked = "SELECT relative_seconds(run_id, time), active_seconds(run_id, time) FROM curves ORDER BY step"
    assert rows(cursor, asked) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("call", ["relative_seconds({})", "active_seconds({})"])
@pytest.mark.parametrize(
    "arguments", ["'nobody', now()", "NULL, now()", "'aaaaaaaaaaaaaaaa', NULL", "(SELECT run_id FROM runs), NULL"]
)
def test_an_axis_of_nothing_is_null(stage: Stage, call: str, arguments: str) -> None:
    assert stage.rows(f"SELECT {call.format(arguments.replace('FROM runs', 'FROM runs LIMIT 1'))}") == [(None,)]


# -- smoothing -------------------------------------------------------------------------------------------------

SMOOTHED = [
    # (values of steps 0, 1, ..., weight, smoothed)
    ([1.0, 2.0, 3.0], 0.5, [1.0, 5 / 3, 17 / 7]),  # (1*0.5 + 2) / 1.5, then (1*0.25 + 2*0.5 + 3) / 1.75
    ([1.0, 2.0, 3.0], 0.0, [1.0, 2.0, 3.0]),
    ([4.0, 4.0, 4.0], 0.99, [4.0, 4.0, 4.0]),
    ([1.0, NAN, 3.0], 0.5, [1.0, NAN, 7 / 3]),  # as if the NaN weren't there
    ([INF, 1.0, -INF, 3.0], 0.5, [INF, 1.0, -INF, 7 / 3]),
    ([NAN, NAN], 0.5, [NAN, NAN]),
    ([1e308, 1e308], 0.5, [1e308, 1e308]),
    ([5e-324, 5e-324], 0.5, [5e-324, 5e-324]),
    ([0.0, 0.0], 0.9, [0.0, 0.0]),
    ([1e30, *[0.0] * 200], 0.5, [1e30, *(1e30 * 0.5**k / (2 - 0.5**k) for k in range(1, 201))]),
]


@pytest.mark.parametrize(("values", "weight", "expected"), SMOOTHED)
def test_smoothing(stage: Stage, values: list[float], weight: float, expected: list[float]) -> None:
    """TensorBoard's: debiased, NaN and infinities stand for themselves."""
    run = stage.emitter(stage.run_id())
    stage.tell(run.starts(), run.logs(curve(values)))
    found = stage.rows("SELECT value, smoothed FROM smoothed(?, 'loss', weight := ?) ORDER BY step", run.run_id, weight)
    assert repr([value for value, _ in found]) == repr(values)
    assert all(
        is_same(mine, theirs, scale=0) or abs(mine - theirs) < 1e-320
        for (_, mine), theirs in zip(found, expected, strict=True)
    )


def test_smoothing_knows_how_far_points_lie_apart(stage: Stage) -> None:
    """At step 3 the value of step 0 counts an eighth, that of step 1 a quarter; a second of time is a unit too."""
    run = stage.emitter(stage.run_id())
    stage.tell(run.starts(), run.logs({0: {"loss": 1.0}, 1: {"loss": 2.0}, 3: {"loss": 3.0}}))
    asked = "SELECT smoothed FROM smoothed(?, 'loss', weight := 0.5, axis := ?) ORDER BY step"
    by_step = [1.0, 2.5 / 1.5, (0.125 * 1 + 0.25 * 2 + 3) / 1.375]
    even = [1.0, 5 / 3, 17 / 7]
    for axis, expected in [("step", by_step), ("relative_seconds", even), ("active_seconds", even), ("points", even)]:
        assert [row[0] for row in stage.rows(asked, run.run_id, axis)] == pytest.approx(expected, rel=1e-12)


def test_smoothing_on_an_axis_that_goes_back(stage: Stage) -> None:
    """Steps that were logged late are later in time: on the axis of time they come behind."""
    run = stage.emitter(stage.run_id())
    stage.tell(run.starts(), run.logs({5: {"loss": 1.0}, 2: {"loss": 2.0}}))
    asked = "SELECT smoothed FROM smoothed(?, 'loss', weight := 0.5, axis := 'relative_seconds') ORDER BY step"
    assert stage.rows(asked, run.run_id) == [(pytest.approx(5 / 3),), (1.0,)]


# -- spread over ranks -----------------------------------------------------------------------------------------

SPREADS = [
    # (value of each rank, (ranks, min, min_rank, median, mean, max, max_rank, stddev, nonfinite))
    ([1.0, 3.0], (2, 1.0, 0, 2.0, 2.0, 3.0, 1, 1.0, 0)),
    ([2.0], (1, 2.0, 0, 2.0, 2.0, 2.0, 0, 0.0, 0)),
    ([5.0, 1.0, 1.0, 5.0], (4, 1.0, 1, 3.0, 3.0, 5.0, 0, 2.0, 0)),
    ([1.0, NAN, 4.0], (3, 1.0, 0, 2.5, NAN, 4.0, 2, NAN, 1)),
    ([NAN, NAN], (2, NAN, None, NAN, NAN, NAN, None, NAN, 2)),
    ([1.0, 2.0, INF], (3, 1.0, 0, 2.0, INF, INF, 2, NAN, 1)),
    ([-INF, INF], (2, -INF, 0, NAN, NAN, INF, 1, NAN, 2)),
    ([1e308, -1e308], (2, -1e308, 1, 0.0, 0.0, 1e308, 0, INF, 0)),  # its square is beyond what a double holds
]


@pytest.mark.parametrize(("values", "expected"), SPREADS)
def test_rank_spread(stage: Stage, values: list[float], expected: tuple[Any, ...]) -> None:
    """As in curves NaN goes through the mean, min and max leave it out."""
    run_id = stage.run_id()
    for rank, value in enumerate(values):
        stage.tell(stage.emitter(run_id, rank=rank).logs(curve([value], first=7)))
    found = stage.rows("SELECT * EXCLUDE (run_id, time) FROM rank_spread(?, 'loss')", run_id)
    assert repr(found) == repr([(7, *expected)])


# -- stragglers ------------------------------------------------------------------------------------------------

STRAGGLERS = [
    # (name of the case, values of each rank, ranks that are called stragglers)
    ("all alike", [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], []),
    ("one of four", [[1.0], [1.02], [1.5], [0.99]], [2]),
    ("one of two", [[1.0], [1.5]], [1]),
    ("slower, but less than a tenth", [[1.0], [1.0], [1.09]], []),
    ("two of six", [[1.0], [1.0], [2.0], [1.0], [3.0], [1.0]], [2, 4]),
    ("no rank is like another", [[1.0], [1.5], [2.0], [2.5], [3.0]], []),
    ("one slow step is none", [[1.0, 1.0, 1.0], [1.0, 9.0, 1.0], [1.0, 1.0, 1.0]], []),
    ("alone", [[5.0]], []),
    ("NaN is no duration", [[1.0, NAN], [1.0, 1.0], [2.0, INF, 2.0]], [2]),
    ("rank 1 has none", [[1.0], [], [1.0], [4.0]], [3]),
]


@pytest.mark.parametrize(
    ("values", "expected"), [case[1:] for case in STRAGGLERS], ids=[case[0] for case in STRAGGLERS]
)
def test_stragglers(stage: Stage, values: list[list[float]], expected: list[int]) -> None:
    """Slower than the median of the others by a tenth, and by more than they differ among themselves."""
    run_id = stage.run_id()
    for rank, mine in enumerate(values):
        one = stage.emitter(run_id, rank=rank)
        stage.tell(one.starts(world_size=len(values), host=events.Host(f"node-{rank}")))
        stage.tell(one.logs({step: {"time/step": value} for step, value in enumerate(mine)}))
    found = stage.rows("SELECT rank, host, straggler FROM stragglers(?) ORDER BY rank", run_id)
    assert [(rank, host) for rank, host, _ in found] == [(rank, f"node-{rank}") for rank in range(len(values))]
    assert [rank for rank, _, slow in found if slow] == expected


def test_how_much_slower_and_how_often(stage: Stage) -> None:
    """Medians 1, 1.2 and 2; rank 2 was the slowest at both steps that it shares with others, rank 1 at one of three."""
    run_id = stage.run_id()
    for rank, mine in enumerate([{0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.2, 1: 1.2, 2: 1.2}, {0: 2.0, 1: 2.0, 9: 2.0}]):
        one = stage.emitter(run_id, rank=rank)
        stage.tell(one.starts(world_size=4), one.logs({step: {"time/data": value} for step, value in mine.items()}))
    asked = (
        "SELECT rank, host, points, median, others_median, slowdown, slowest_share, straggler "
        "FROM stragglers(?, metric := 'time/data', slowdown_min := 1.5)"
    )
    assert stage.rows(asked, run_id) == [
        (2, "node", 3, 2.0, 1.1, pytest.approx(2 / 1.1), 1.0, True),
        (1, "node", 3, 1.2, 1.5, pytest.approx(0.8), pytest.approx(1 / 3), False),
        (0, "node", 3, 1.0, 1.6, pytest.approx(1 / 1.6), 0.0, False),
        (3, None, 0, None, None, None, None, None),
    ]


def test_stragglers_are_those_of_the_newest_attempt_that_has_the_metric(stage: Stage) -> None:
    """Rank 1 was slow before the restart; a third attempt that hasn't measured yet changes nothing."""
    run_id = stage.run_id()
    for number, slow in enumerate([9.0, 1.0, None]):
        for rank in range(2):
            one = stage.emitter(run_id, rank=rank, attempt=f"job.{number}", started=100 * number)
            stage.tell(one.starts(restart_count=number, world_size=2, host=events.Host(f"host-{number}-{rank}")))
            if slow is not None:
                stage.tell(one.logs({10 * number + step: {"time/step": slow if rank else 1.0} for step in range(3)}))
    found = stage.rows("SELECT attempt, rank, host, straggler FROM stragglers(?) ORDER BY rank", run_id)
    assert found == [(2, 0, "host-1-0", False), (2, 1, "host-1-1", False)]


def test_a_world_size_that_cannot_be_costs_nothing(stage: Stage) -> None:
    """Whoever says that there are two thousand million ranks gets a list that ends."""
    one = stage.emitter(stage.run_id())
    stage.tell(one.starts(world_size=2**31 - 1), one.logs({0: {"time/step": 1.0}}))
    assert stage.rows("SELECT count(*) FROM stragglers(?)", one.run_id) == [(100_000,)]


# -- comparison ------------------------------------------------------------------------------------------------


def test_compare() -> None:
    """One row a run; only parameters that differ, a null apart from a missing one."""
    alike = {"depth": 3, "amp": True}
    told_runs = []
    for letter, values, params in [
        ("a", [3.0, 1.0, 2.0], {**alike, "lr": 0.1, "note": None}),
        ("b", [4.0, NAN, 0.5, 0.5], {**alike, "lr": 0.2, "note": None, "warm": 5}),
        ("c", [], {**alike, "lr": 0.1}),
    ]:
        run = Emitter(letter, run_id=letter * 16)
        told_runs += [
            run.starts(name=f"run-{letter}"),
            run.says(events.ParamsLogged, params=params),
            run.says(events.MetricDefined, metric="loss", best="min"),
            run.logs(curve(values)),
        ]
    cursor = told(*told_runs)
    asked = "SELECT run, steps, last_step, last, best, best_step, max, max_step, nonfinite, params FROM "
    found = rows(cursor, f"{asked} compare(['run-a', 'run-b', 'run-c', 'run-a'], 'loss') ORDER BY run")
    assert found == [
        ("run-a", 3, 2, 2.0, 1.0, 1, 3.0, 0, 0, {"lr": "0.1", "note": None}),
        ("run-b", 4, 3, 0.5, 0.5, 2, 4.0, 0, 1, {"lr": "0.2", "note": None, "warm": "5"}),
        ("run-c", 0, None, None, None, None, None, None, 0, {"lr": "0.1"}),
    ]
    found = rows(cursor, f"{asked} compare(['run-a', 'run-b'], 'loss', best := 'max', until_step := 1) ORDER BY run")
    assert found == [
        ("run-a", 2, 1, 1.0, 3.0, 0, 3.0, 0, 0, {"lr": "0.1"}),
        ("run-b", 2, 1, pytest.approx(NAN, nan_ok=True), 4.0, 0, 4.0, 0, 1, {"lr": "0.2", "warm": "5"}),
    ]
    durations = "SELECT duration_seconds, active_seconds, state FROM compare(['run-a'], 'loss')"
    assert rows(cursor, durations) == [(5.0, 5.0, "running")]


# -- what is asked for -----------------------------------------------------------------------------------------

CALLS = ["smoothed({}, {})", "rank_spread({}, {})", "stragglers({}, metric := {})", "compare([{}], {})"]


@pytest.mark.parametrize("call", CALLS)
def test_a_run_is_named_by_id_or_by_a_name_of_its_own(call: str) -> None:
    """An unknown and an ambiguous one are said; NULL is nobody."""
    messages = []
    for letter, name in [("a", "swift-owl"), ("b", "both"), ("c", "both"), ("d", "a" * 16)]:
        run = Emitter(letter, run_id=letter * 16)
        messages += [run.starts(name=name), run.logs({0: {"loss": 1.0}})]
    cursor = told(*messages)

    def named(text: str) -> list[tuple[Any, ...]]:
        return rows(cursor, f"SELECT DISTINCT run_id FROM {call.format(text, chr(39) + 'loss' + chr(39))}")

    assert named("'bbbbbbbbbbbbbbbb'") == [("b" * 16,)]
    assert named("'swift-owl'") == [("a" * 16,)]
    assert named("'aaaaaaaaaaaaaaaa'") == [("a" * 16,)]  # an id comes before the name of another
    assert named("NULL") == []
    for text, sentence in [("'owl'", "There is no run with the id or the name 'owl'"), ("'both'", "2 runs are called")]:
        with pytest.raises(duckdb.InvalidInputException, match=sentence):
            named(text)


REFUSED = [
    ("smoothed('a', 'loss', weight := 1)", "weight is 1.0: it must be at least 0 and below 1."),
    ("smoothed('a', 'loss', weight := -0.1)", "weight is -0.1: it must be at least 0 and below 1."),
    ("smoothed('a', 'loss', weight := 'nan'::DOUBLE)", "weight is nan: it must be at least 0 and below 1."),
    ("smoothed('a', 'loss', axis := 'time')", "axis is 'time': it must be 'points', 'step', 'relative_seconds' or"),
    ("smoothed('a', 'loss', axis := NULL)", "axis is NULL: it must be"),
    ("smoothed('a', 'loss', wieght := 1)", "It is called as smoothed(run, metric, weight := 0.6, axis := 'points')."),
    ("smoothed('a')", "It is called as smoothed(run, metric, weight := 0.6, axis := 'points')."),
    ("stragglers('a', metric := 'loss', slowdown_min := 0.5)", "slowdown_min is 0.5: it must be a number from 1 on."),
    ("stragglers('a', metric := 'loss', slowdown_min := NULL)", "slowdown_min is NULL: it must be a number from 1"),
    ("compare(['a'], 'loss', best := 'most')", "best is 'most': it must be 'min' or 'max'."),
    ("compare(['a', 'nobody'], 'loss')", "There is no run with the id or the name 'nobody'"),
    ("smoothed(3, 'loss')", "There is no run with the id or the name '3'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    store, run = Store.open(MEMORY), Emitter("a")
    store_all(store, [run.starts(name="a"), run.logs({step: {"loss": 1.0} for step in range(3)})])
    yield Sandbox(store.cursor)
    store.close()


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_an_argument_that_cannot_be_is_said(sandbox: Sandbox, call: str, sentence: str) -> None:
    with pytest.raises(QueryError) as error:
        sandbox.run(f"FROM {call}")
    assert sentence in str(error.value)


EMPTY = [
    "smoothed('a', 'none')", "smoothed('a', NULL)", "smoothed('a', 'loss', weight := NULL)", "smoothed(NULL, NULL)",
    "rank_spread('a', 'none')", "stragglers(NULL)", "compare(NULL, 'loss')", "compare([], 'loss')",
    "compare([NULL], NULL)",
]  # fmt: skip


@pytest.mark.parametrize("call", EMPTY)
def test_nothing_is_asked_nothing_is_answered(sandbox: Sandbox, call: str) -> None:
    assert list(sandbox.run(f"FROM {call}").rows()) == []


ARGUMENTS = [
    "SELECT count(*) FROM smoothed((SELECT run_id FROM runs), (SELECT 'loss'))",
    "SELECT count(*) FROM smoothed($run, $metric, weight := 0.5)",
    "SELECT count(*) FROM runs r, smoothed(r.run_id, 'loss')",
    "SELECT count(*) FROM runs, LATERAL (FROM rank_spread(run_id, 'loss'))",
    "SELECT count(*) FROM runs l, curves p, rank_spread(l.name, p.metric) WHERE p.step = 0",
    "WITH _x AS (SELECT 'a' AS a) SELECT count(*) FROM smoothed((SELECT a FROM _x), 'loss')",
    """WITH asked AS (SELECT 'loss' AS x), given AS (SELECT 'a' AS y)
       SELECT count(*) FROM rank_spread((SELECT y FROM given), (SELECT x FROM asked))""",
    """WITH runs AS (SELECT 1), curves AS (SELECT 2), curve AS (SELECT 3), points AS (SELECT 4), lines AS (SELECT 5)
       SELECT count(*) FROM smoothed('a', 'loss')""",
    "SELECT sum(steps)::BIGINT FROM compare((SELECT list(name) FROM runs WHERE project = 'digits'), 'loss')",
]


@pytest.mark.parametrize("sql", ARGUMENTS)
def test_an_argument_means_what_it_means_to_the_caller(sandbox: Sandbox, sql: str) -> None:
    """Subqueries, parameters, columns of what stands before, and names that a macro's text uses too."""
    params = {"run": "a", "metric": "loss"} if "$run" in sql else None
    assert list(sandbox.run(sql, params).rows()) == [(3,)]


@pytest.mark.parametrize("metric", ["metric", "name", "run_id", "l.metric", "value"])
def test_a_column_of_a_macro_is_none_of_the_callers(sandbox: Sandbox, metric: str) -> None:
    """A name without quotes is the caller's mistake: it isn't compared with itself."""
    with pytest.raises(QueryError, match="not found"):
        sandbox.run(f"FROM smoothed('a', {metric})")


def test_macros_read_one_curve() -> None:
    """Of 40 series a macro reads the points of its own, also where the run comes by name."""
    store = Store.open(MEMORY)
    for number in range(4):
        run = Emitter("abcd"[number], run_id="abcd"[number] * 16, attempt=str(number))
        store_all(store, [run.starts(name=f"run-{number}")])
        store_all(store, [run.logs({step: {f"m{k}": 1.0 for k in range(10)} for step in range(500)})])
    cursor = store.cursor()
    for call in ("smoothed('run-1', 'm3')", "rank_spread('run-1', 'm3')", "stragglers('run-1', metric := 'm3')",
                 "compare(['run-1'], 'm3')"):  # fmt: skip
        asked = f"SELECT * FROM {call}"
        assert 500 <= rows_scanned(cursor, asked, "points") <= 1_000
        assert 500 <= rows_scanned(cursor, asked, "rows") <= 1_000


# -- random histories ------------------------------------------------------------------------------------------

VALUES = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1.0]))
PROCESSES = st.lists(
    st.tuples(
        st.integers(0, 3),  # rank
        st.integers(0, 2),  # attempt
        st.integers(0, 400),  # seconds after the start
        st.lists(st.tuples(st.integers(-5, 60), VALUES), max_size=12),
        st.booleans(),  # says that it ended
    ),
    min_size=1,
    max_size=6,
)
PARAMS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), max_size=3)


def tell_run(stage: Stage, processes: list[Any], params: dict[str, int]) -> tuple[str, list[tuple[int, int, int]]]:
    """A run's id, and (attempt token, start, end) of its processes in microseconds."""
    run_id, lives = stage.run_id(), []
    for rank, attempt, started, points, ends in processes:
        one = stage.emitter(run_id, rank=rank, attempt=f"job.{attempt}", started=started)
        messages = [
            one.starts(restart_count=attempt, world_size=4),
            one.says(events.ParamsLogged, params=params),
            *(one.logs({step: {"loss": value}}) for step, value in points),
        ]
        if ends:
            one.seq += 5
            messages.append(one.says(events.RunEnded, status="finished"))
        stage.tell(*messages)
        lives.append((attempt, DAY_ONE + started * SECOND, one.now - SECOND))
    return run_id, lives


@settings(max_examples=20, deadline=None)
@given(
    processes=PROCESSES,
    weight=st.floats(0.01, 0.99),
    axis=st.sampled_from(["points", "step", "relative_seconds", "active_seconds"]),
    slowdown_min=st.floats(1, 2),
)
def test_macros_of_one_run(stage: Stage, processes: list[Any], weight: float, axis: str, slowdown_min: float) -> None:
    """Restarts, ranks that come and go, steps in any order, values that are no numbers."""
    run_id, lives = tell_run(stage, processes, {})
    by_rank = stage.rows("SELECT rank, step, value, attempt FROM curves_by_rank WHERE run_id = ?", run_id)
    _check_axes(stage, run_id, lives)
    _check_smoothing(stage, run_id, weight, axis)
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    for rank, step, value, _ in by_rank:
        steps[step][rank] = value
    found = {
        row[0]: row[1:] for row in stage.rows("SELECT * EXCLUDE (run_id, time) FROM rank_spread(?, 'loss')", run_id)
    }
    assert found.keys() == steps.keys()
    for step, values in steps.items():
        expected = astuple(models.spread(values))
        assert all(is_same(*pair, scale=1e6) for pair in zip(found[step], expected, strict=True)), (step, values)
    newest = max(
        (attempt for *_, attempt in by_rank),
        default=max(stage.rows("SELECT attempts FROM runs WHERE run_id = ?", run_id)[0]),
    )
    paces = {rank: {step: value for r, step, value, a in by_rank if (r, a) == (rank, newest)} for rank in range(4)}
    asked = (
        "SELECT rank, * EXCLUDE (run_id, attempt, rank, host) FROM stragglers(?, metric := 'loss', slowdown_min := ?)"
    )
    slow = {row[0]: row[1:] for row in stage.rows(asked, run_id, slowdown_min)}
    for rank, pace in models.paces(paces, slowdown_min).items():
        assert all(is_same(*pair) for pair in zip(slow[rank], astuple(pace), strict=True)), (rank, paces)
    assert slow.keys() == paces.keys()


def _check_axes(stage: Stage, run_id: str, lives: list[tuple[int, int, int]]) -> None:
    start = min(since for _, since, _ in lives)
    spans = [
        (min(since for a, since, _ in lives if a == attempt), max(until for a, _, until in lives if a == attempt))
        for attempt in {attempt for attempt, *_ in lives}
    ]
    axes = "relative_seconds(run_id, time), active_seconds(run_id, time)"
    asked = f"SELECT epoch_us(time), {axes} FROM metrics WHERE run_id = ?"
    for moment, relative, active in stage.rows(asked, run_id):
        assert relative == (moment - start) / 1e6
        assert active == models.active(spans, moment) / 1e6


def _check_smoothing(stage: Stage, run_id: str, weight: float, axis: str) -> None:
    asked = (
        "SELECT step, relative_seconds, active_seconds, value, smoothed "
        "FROM smoothed(?, 'loss', weight := ?, axis := ?) ORDER BY step"
    )
    found = stage.rows(asked, run_id, weight, axis)
    curve = stage.rows("SELECT step, value FROM curves WHERE run_id = ? ORDER BY step", run_id)
    assert repr([(row[0], row[3]) for row in found]) == repr(curve)
    at = {"relative_seconds": 1, "active_seconds": 2}.get(axis, 0)
    found.sort(key=lambda row: (row[at], row[0]))
    finite = count()
    places = [next(finite) if axis == "points" and math.isfinite(row[3]) else row[at] for row in found]
    expected = models.smoothed([row[3] for row in found], places, weight)
    assert all(is_same(row[4], each, scale=1e3) for row, each in zip(found, expected, strict=True))


@settings(max_examples=10, deadline=None)
@given(
    told_runs=st.lists(st.tuples(PROCESSES, PARAMS), min_size=1, max_size=3),
    until_step=st.one_of(st.none(), st.integers(-5, 60)),
)
def test_comparing_runs(stage: Stage, told_runs: list[Any], until_step: int | None) -> None:
    """Any curves, any parameters."""
    params = {tell_run(stage, *told_run)[0]: told_run[1] for told_run in told_runs}
    asked = (
        "SELECT run_id, steps, last_step, last, min, min_step, max, max_step, nonfinite, params "
        "FROM compare(?, 'loss', until_step := ?)"
    )
    found = {row[0]: row[1:] for row in stage.rows(asked, list(params), until_step)}
    assert found.keys() == params.keys()
    texts = {run: {key: str(value) for key, value in mine.items()} for run, mine in params.items()}
    for run, differing in models.differing(texts).items():
        curve = dict(stage.rows("SELECT step, value FROM curves WHERE run_id = ?", run))
        expected = (*astuple(models.summary(curve, until_step)), differing)
        assert all(is_same(*pair) for pair in zip(found[run], expected, strict=True)), (run, curve)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_smoothing_of_long_curves(stage: Stage, data: st.DataObject) -> None:
    """Thousands of points, weights from almost nothing to almost one, gaps of any size: many blocks of the sum."""
    weight = data.draw(st.sampled_from([1e-300, 1e-6, 0.3, 0.9, 0.999, 1 - 1e-9]))
    gaps = data.draw(st.lists(st.sampled_from([1, 1, 1, 2, 50, 10_000]), min_size=300, max_size=300))
    steps = [sum(gaps[:at]) for at in range(len(gaps))]
    seed = data.draw(st.integers(0, 1000))
    values = [math.sin(step * (seed + 1)) * 10 ** ((step + seed) % 7) for step in steps]
    run = stage.emitter(stage.run_id())
    stage.tell(run.logs({step: {"loss": value} for step, value in zip(steps, values, strict=True)}))
    found = stage.rows(
        "SELECT smoothed FROM smoothed(?, 'loss', weight := ?, axis := 'step') ORDER BY step", run.run_id, weight
    )
    expected = models.smoothed(values, [float(step) for step in steps], weight)
    assert [row[0] for row in found] == pytest.approx(expected, rel=1e-7, abs=1e-4)
