"""What users read: every rule about attempts, ranks and values, as events in and rows out."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import pytest

from runwire_consumer.database import MEMORY
from runwire_consumer.runstate import RunState
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.plans import rows_scanned
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, store_all, told

NAN, INF = math.nan, math.inf


def rows(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """A query's rows."""
    return cursor.execute(sql).fetchall()


def curve(cursor: duckdb.DuckDBPyConnection, metric: str = "loss", rank: int = 0) -> list[tuple[int, float]]:
    """Step and value of one rank."""
    return cursor.execute(
        'SELECT step, value FROM curves_by_rank WHERE metric = ? AND "rank" = ? ORDER BY step', [metric, rank]
    ).fetchall()


def size_of(cursor: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Rows of a relation."""
    return int(rows(cursor, f"SELECT count(*) FROM {relation}")[0][0])  # noqa: S608 - names of our own


def loss(*steps: int, value: float = 0.0) -> dict[int, dict[str, float]]:
    """Rows of one metric; the value tells who logged it."""
    return {step: {"loss": value} for step in steps}


def test_a_later_attempt_hides_from_its_own_first_step_of_the_metric() -> None:
    """Without a declaration an attempt takes over where it first logs the metric; others keep their curves."""
    one = Emitter("a", attempt="one")
    two = Emitter("b", attempt="two", started=100)
    cursor = told(
        one.starts(),
        one.logs({step: {"loss": 1.0, "acc": 1.0} for step in range(4)}),
        two.starts(),
        two.logs(loss(2, 3, 4, value=2.0)),
    )
    assert curve(cursor) == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    assert curve(cursor, "acc") == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]
    every = "SELECT step, superseded, attempt FROM metrics WHERE metric = 'loss' ORDER BY attempt, step"
    assert rows(cursor, every) == [
        (0, False, 1), (1, False, 1), (2, True, 1), (3, True, 1), (2, False, 2), (3, False, 2), (4, False, 2)
    ]  # fmt: skip


def test_a_declared_resume_hides_all_metrics_behind_its_step() -> None:
    """resumed_from_step = 1 keeps steps up to 1, also of metrics that the new attempt hasn't logged yet."""
    one = Emitter("a", attempt="one")
    two = Emitter("b", attempt="two", started=100)
    cursor = told(
        one.starts(),
        one.logs({step: {"loss": 1.0, "acc": 1.0} for step in range(4)}),
        two.starts(resumed_from_step=1),
        two.logs(loss(3, value=2.0)),
    )
    assert curve(cursor) == [(0, 1.0), (1, 1.0), (3, 2.0)]
    assert curve(cursor, "acc") == [(0, 1.0), (1, 1.0)]


def test_an_attempt_hides_on_all_ranks() -> None:
    """Rank 1 of the old attempt is hidden although only rank 0 of the new one logged."""
    cursor = told(
        Emitter("a", attempt="one", rank=0).logs(loss(0, 1, 2, value=1.0)),
        Emitter("b", attempt="one", rank=1).logs(loss(0, 1, 2, value=1.5)),
        Emitter("c", attempt="two", rank=0, started=100).logs(loss(1, value=2.0)),
    )
    assert curve(cursor, rank=0) == [(0, 1.0), (1, 2.0)]
    assert curve(cursor, rank=1) == [(0, 1.5)]


def test_three_attempts_each_hide_all_earlier_ones() -> None:
    """A third attempt that goes back farther hides the second too; the later start step of the second is moot."""
    cursor = told(
        Emitter("a", attempt="one").logs(loss(0, 1, 2, 3, 4, 5, value=1.0)),
        Emitter("b", attempt="two", started=100).logs(loss(4, 5, 6, value=2.0)),
        Emitter("c", attempt="three", started=200).logs(loss(2, 3, value=3.0)),
    )
    assert curve(cursor) == [(0, 1.0), (1, 1.0), (2, 3.0), (3, 3.0)]


def test_restart_count_comes_before_start_time() -> None:
    """A clock that jumped back doesn't turn the order of a launcher's restarts."""
    one, two = Emitter("a", attempt="job.0", started=100), Emitter("b", attempt="job.1", started=0)
    cursor = told(
        two.starts(restart_count=1), two.logs(loss(0, 1, value=2.0)), one.starts(), one.logs(loss(0, 1, value=1.0))
    )
    assert curve(cursor) == [(0, 2.0), (1, 2.0)]
    assert rows(cursor, "SELECT attempt, token FROM attempts ORDER BY attempt") == [(1, "job.0"), (2, "job.1")]


def test_another_role_joins_without_superseding_or_being_superseded() -> None:
    """An evaluator's curve lives beside training; on the same rank and step the trainer's value stands."""
    train, again = Emitter("a", attempt="one"), Emitter("c", attempt="two", started=200)
    judge = Emitter("b", attempt="judge", started=100)
    cursor = told(
        train.starts(),
        train.logs(loss(0, 1, 2, value=1.0)),
        judge.starts(role="eval"),
        judge.logs({1: {"loss": 9.0}, 2: {"val/acc": 0.5}, 7: {"val/acc": 0.7}}),
        again.starts(resumed_from_step=1),
    )
    assert curve(cursor) == [(0, 1.0), (1, 1.0)]
    assert curve(cursor, "val/acc") == [(2, 0.5), (7, 0.7)]
    assert rows(cursor, "SELECT attempts FROM runs") == [(2,)]
    assert rows(cursor, "SELECT DISTINCT role, attempt FROM metrics ORDER BY role") == [("eval", None), ("train", 1)]


def test_one_rank_restarted_alone() -> None:
    """Same attempt, rank and step twice: the later process start wins, and within one the highest sequence."""
    cursor = told(
        Emitter("a", rank=2).logs({0: {"loss": 1.0}, 1: {"loss": 1.0}, 2: {"loss": 1.0}}),
        Emitter("b", rank=2, started=50).logs({2: {"loss": 2.0}}),
        Emitter("b", rank=2, started=50, seq=1).logs({2: {"loss": 2.5}}),
    )
    assert curve(cursor, rank=2) == [(0, 1.0), (1, 1.0), (2, 2.5)]
    assert rows(cursor, "SELECT count(*) FROM metrics") == [(5,)]


def test_steps_in_any_order_are_all_there() -> None:
    """No step is dropped for coming late."""
    cursor = told(Emitter("a").logs(loss(5, 3, 9, 3, value=1.0)))
    assert curve(cursor) == [(3, 1.0), (5, 1.0), (9, 1.0)]


REDUCTIONS = [
    # (value of each rank, mean, min, max, how many are not finite)
    ([1.0, 3.0], 2.0, 1.0, 3.0, 0),
    ([1.0, NAN], NAN, 1.0, 1.0, 1),
    ([NAN, NAN], NAN, NAN, NAN, 2),
    ([1.0, INF], INF, 1.0, INF, 1),
    ([-INF, 1.0], -INF, -INF, 1.0, 1),
    ([-INF, INF], NAN, -INF, INF, 2),
    ([-INF, NAN, 2.0], NAN, -INF, 2.0, 2),
]


@pytest.mark.parametrize(("values", "mean", "least", "most", "nonfinite"), REDUCTIONS)
def test_reductions_over_ranks(values: list[float], mean: float, least: float, most: float, nonfinite: int) -> None:
    """The mean propagates NaN; min and max take what is no NaN, infinities included."""
    cursor = told(*(Emitter(chr(97 + rank), rank=rank).logs(loss(1, value=value)) for rank, value in enumerate(values)))
    found = rows(cursor, "SELECT run, step, value, min, max, ranks, nonfinite FROM curves WHERE metric = 'loss'")
    assert repr(found) == repr([("a" * 16, 1, mean, least, most, len(values), nonfinite)])


def test_latest_is_the_last_word_not_the_highest_step() -> None:
    """Per rank: highest attempt, then process start, then sequence."""
    cursor = told(
        Emitter("a", attempt="one").logs(loss(90, value=1.0)),
        Emitter("b", attempt="two", started=100).logs({40: {"loss": 2.0}, 30: {"loss": 2.5}}),
        Emitter("c", attempt="two", started=10, rank=1).logs(loss(50, value=3.0)),
    )
    found = 'SELECT "rank", step, value, attempt FROM latest WHERE metric = \'loss\' ORDER BY "rank"'
    assert rows(cursor, found) == [(0, 30, 2.5, 2), (1, 50, 3.0, 2)]
    assert rows(cursor, "SELECT last['loss'] FROM runs") == [(2.75,)]


def test_the_leaderboard() -> None:
    """The README's query: parameters and the best value of a defined metric, a row a run."""
    told_runs = []
    for number, (rate, accuracies) in enumerate([(0.1, [0.5, 0.9, NAN, 0.8]), (0.5, [0.7, 0.6])]):
        run = Emitter("ab"[number], run_id="ab"[number] * 16, attempt=str(number))
        told_runs += [
            run.starts(name=f"run-{number}", git=events.Git(commit="c0ffee", dirty=True)),
            run.says(events.ParamsLogged, params={"lr": rate, "layers": 3, "amp": True, "note": None, "opt": "sgd"}),
            run.says(events.MetricDefined, metric="val/acc", best="max"),
            run.logs({step: {"val/acc": value} for step, value in enumerate(accuracies)}),
        ]
    cursor = told(*told_runs)
    leaderboard = (
        "SELECT name, params['lr'] AS lr, best['val/acc'] AS acc FROM runs WHERE project = 'digits' ORDER BY acc DESC"
    )
    assert rows(cursor, leaderboard) == [("run-0", "0.1", 0.9), ("run-1", "0.5", 0.7)]
    assert rows(cursor, "SELECT key, value, number, type FROM params WHERE run_id = repeat('a', 16) ORDER BY key") == [
        ("amp", "true", None, "bool"),
        ("layers", "3", 3.0, "int"),
        ("lr", "0.1", 0.1, "float"),
        ("note", None, None, "null"),
        ("opt", "sgd", None, "str"),
    ]
    assert rows(cursor, 'SELECT DISTINCT "commit", dirty, points FROM runs ORDER BY points') == [
        ("c0ffee", True, 2), ("c0ffee", True, 4)
    ]  # fmt: skip


def test_best_takes_the_reduced_visible_curve() -> None:
    """Best is of the mean over ranks, of what no attempt supersedes, and never of undefined metrics."""
    one, other = Emitter("a", attempt="one"), Emitter("b", attempt="one", rank=1)
    cursor = told(
        one.says(events.MetricDefined, metric="loss", best="min"),
        one.logs({0: {"loss": 1.0}, 1: {"loss": 4.0, "acc": 1.0}, 2: {"loss": 0.0}}),
        other.logs({0: {"loss": 9.0}, 1: {"loss": 2.0}}),
        Emitter("c", attempt="two", started=100).logs(loss(2, value=6.0)),
    )
    assert rows(cursor, "SELECT best FROM runs") == [({"loss": 3.0},)]


def test_a_later_parameter_replaces_an_earlier_one_and_rank_0_wins() -> None:
    """Rank 1's word on a key doesn't stand against rank 0's; a newer attempt's does."""
    zero, one = Emitter("a"), Emitter("b", rank=1, started=5)
    first = [
        zero.says(events.ParamsLogged, params={"lr": 1, "batch": 8}),
        zero.says(events.ParamsLogged, params={"lr": 2}),
        one.says(events.ParamsLogged, params={"lr": 3, "rank1": 1}),
    ]
    assert rows(told(*first), "SELECT params FROM runs") == [({"batch": "8", "lr": "2", "rank1": "1"},)]
    newer = Emitter("c", attempt="two", rank=1, started=100).says(events.ParamsLogged, params={"lr": 4})
    assert rows(told(*first, newer), "SELECT params['lr'] FROM runs") == [("4",)]


def test_rank_0_describes_the_run_and_edits_have_the_last_word() -> None:
    """RunStarted of another rank doesn't rename the run; RunEdited does, and leaves what it doesn't name."""
    zero, one, editor = Emitter("a"), Emitter("b", rank=1, started=9), Emitter("c", attempt="edit", started=50)
    cursor = told(
        one.starts(name="of-rank-1", world_size=2),
        zero.starts(name="of-rank-0", group="sweep", tags=["x"], notes="n", user="ada", world_size=2),
        editor.says(events.RunEdited, name="better", tags=["y", "z"]),
    )
    described = 'SELECT name, "group", "user", tags, notes, world_size, ranks, attempts FROM runs'
    assert rows(cursor, described) == [("better", "sweep", "ada", ["y", "z"], "n", 2, 2, 1)]
    assert rows(cursor, "SELECT count(*) FROM emitters") == [(2,)]
    assert [row[0] for row in rows(cursor, "SELECT type FROM events ORDER BY type")] == [
        "RunEdited", "RunStarted", "RunStarted"
    ]  # fmt: skip


def test_a_process_describes_itself_again_when_it_knows_more() -> None:
    """A trainer says RunStarted at once, and again with commit and host; the last one counts, the first one's time."""
    zero = Emitter("a")
    at_once, later = zero.starts(), zero.starts(git=events.Git("c0ffee", dirty=False))
    for order in ([at_once, later], [later, at_once]):
        cursor = told(*order)
        described = 'SELECT "commit", dirty, epoch_us(started_at) FROM runs'
        assert rows(cursor, described) == [("c0ffee", False, DAY_ONE)]
        assert rows(cursor, "SELECT count(*) FROM emitters") == [(1,)]


RELATIONS = (
    "runs", "params", "curves", "curves_by_rank", "metrics", "latest", "attempts", "events", "alerts", "artifacts",
    "gaps", "emitters",
)  # fmt: skip


def test_a_deleted_run_is_in_no_relation_and_stays_deleted() -> None:
    """Also what comes after the tombstone is hidden."""
    run = Emitter("a")
    story = [
        run.starts(),
        run.says(events.ParamsLogged, params={"lr": 1}),
        run.says(events.AlertRaised, title="careful"),
        run.says(events.ArtifactLogged, name="model", uri="file:m"),
        run.says(events.RowsLost, first_seq=90, count=2, reason="cap"),
        run.logs(loss(1)),
    ]
    cursor = told(*story)
    assert all(size_of(cursor, name) > 0 for name in RELATIONS)
    cursor = told(*story, Emitter("b", attempt="edit").says(events.RunDeleted), run.logs(loss(2)))
    assert [size_of(cursor, name) for name in RELATIONS] == [0] * len(RELATIONS)


def test_gaps_tell_declared_from_unexplained() -> None:
    """Rows 2-3 are lost by declaration, 5-6 missing, and the end is known to be 9."""
    run = Emitter("a")
    declared = [run.starts(), run.says(events.RowsLost, first_seq=2, count=2, reason="journal cap")]
    run.seq = 4
    more = [run.logs(loss(1))]
    run.seq = 7
    more += [run.logs(loss(2)), run.signals(events.EmitterEnded, next_seq=9, how="crashed")]
    cursor = told(*declared, *more)
    assert rows(cursor, "SELECT kind, first_seq, end_seq, rows, reason, open FROM gaps ORDER BY first_seq") == [
        ("lost", 2, 4, 2, "journal cap", False),
        ("missing", 5, 7, 2, None, False),
        ("missing", 8, 9, 1, None, False),
    ]
    receipt = "SELECT ended, next_seq, stored, dead, lost, missing, complete FROM emitters"
    assert rows(cursor, receipt) == [("crashed", 9, 4, 0, 2, 3, False)]


def test_alerts_and_artifacts_are_columns_of_their_records() -> None:
    """What was said is there by name."""
    run = Emitter("a")
    cursor = told(
        run.says(events.AlertRaised, title="nan", text="loss is NaN", level="error", step=7),
        run.says(events.ArtifactLogged, name="m.pt", uri="file:m.pt", kind="model", size_bytes=5, metadata={"a": "b"}),
    )
    assert rows(cursor, "SELECT level, title, text, step FROM alerts") == [("error", "nan", "loss is NaN", 7)]
    assert rows(cursor, "SELECT name, uri, kind, size_bytes, metadata->>'a' FROM artifacts") == [
        ("m.pt", "file:m.pt", "model", 5, "b")
    ]


def test_state_times_and_cost_are_in_runs() -> None:
    """The state comes from the store; the end is known once it is no longer running."""
    store, run = Store.open(MEMORY), Emitter("a")
    cost = events.Cost(wall_seconds=100.0, log_seconds=0.5, sender_cpu_seconds=0.5)
    store_all(store, [run.starts(), run.says(events.RunEnded, status="failed", error="ValueError: x", cost=cost)])
    found = "SELECT state, ended_at IS NULL, duration_seconds, tracking_share FROM runs"
    assert rows(store.cursor(), found) == [("running", True, 1.0, 0.01)]
    store_all(store, [], {0: RunState("failed", DAY_ONE + SECOND, "rank 0: ValueError: x")})
    assert rows(store.cursor(), found) == [("failed", False, 1.0, 0.01)]
    assert rows(store.cursor(), "SELECT state_reason FROM runs") == [("rank 0: ValueError: x",)]


VALUES = [NAN, INF, -INF, -0.0, 5e-324, 2.0**53 + 2, 1e308]


def test_values_and_names_stay_what_they_are() -> None:
    """NaN, infinities, negative zero, subnormals; keys with spaces, quotes, emoji and NUL."""
    names = ["a b", "x'y\"z", "🔥/loss", "nul\0in", ""]
    cursor = told(Emitter("a").logs({step: dict.fromkeys(names, value) for step, value in enumerate(VALUES)}))
    assert sorted({row[0] for row in rows(cursor, "SELECT metric FROM metrics")}) == sorted(names)
    for name in names:
        assert repr([value for _, value in curve(cursor, name)]) == repr(VALUES)


def test_filters_reach_the_points() -> None:
    """Of 40 series, a query for one reads its points only: the plan's scan says how many rows left it."""
    store = Store.open(MEMORY)
    for number in range(4):
        run = Emitter("abcd"[number], run_id="abcd"[number] * 16, attempt=str(number))
        store_all(store, [run.logs({step: {f"m{k}": 1.0 for k in range(10)} for step in range(500)})])
    cursor = store.cursor()
    assert rows(cursor, "SELECT count(*) FROM store.points") == [(20_000,)]
    for relation in ("curves", "curves_by_rank", "metrics"):
        asked = f"SELECT * FROM {relation} WHERE run_id = repeat('b', 16) AND metric = 'm3'"  # noqa: S608 - ours
        assert len(rows(cursor, asked)) == 500
        assert 500 <= rows_scanned(cursor, asked, "points") <= 2_000
        assert 500 <= rows_scanned(cursor, asked, "rows") <= 2_000


def test_curves_of_some_runs_leave_the_rows_of_a_long_one_alone() -> None:
    """Where the engine takes the points of a few runs for many, it makes its hash table of all rows instead."""
    store = Store.open(MEMORY)
    runs = [Emitter(f"{number:03}", run_id=f"{number:016x}", attempt=str(number)) for number in range(100)]
    for run in runs:
        store_all(store, [run.starts(), run.logs({step: {f"m{k}": 1.0 for k in range(100)} for step in range(10)})])
    long = Emitter("f", run_id="f" * 16, attempt="long")
    store_all(store, [long.starts()])
    for first in range(0, 100_000, 10_000):
        store_all(store, [long.logs({step: {"m0": 1.0} for step in range(first, first + 10_000)})])
    for count in (2, 5, 20):
        names = ", ".join(f"'{run.run_id}'" for run in runs[:: 100 // count])
        asked = f"SELECT run, step, value FROM curves WHERE metric = 'm0' AND run_id IN ({names})"  # noqa: S608 - ours
        assert len(rows(store.cursor(), asked)) == 10 * count
        assert rows_scanned(store.cursor(), asked, "rows") <= 10 * len(runs)


def test_a_step_at_the_end_of_int64_breaks_no_relation() -> None:
    """Whoever says that it resumed from the last step there is keeps nobody from seeing the runs."""
    run = Emitter("a")
    cursor = told(run.starts(resumed_from_step=2**63 - 1), run.logs({1: {"loss": 1.0}}))
    assert rows(cursor, "SELECT attempts FROM runs") == [(1,)]
    assert size_of(cursor, "curves") == 1


@pytest.mark.parametrize("relation", ["store.lines", "runs", "curves", "emitters", "attempts", "latest", "params"])
def test_no_relation_compares_everything_with_everything(relation: str) -> None:
    """A join on more than columns made 100,000 runs cost minutes: no plan holds one of these joins."""
    cursor = told(Emitter("a").starts())
    plan = str(cursor.execute(f"EXPLAIN SELECT * FROM {relation}").fetchall())  # noqa: S608 - names of this table
    assert "HASH_JOIN" in plan
    assert [kind for kind in ("BLOCKWISE_NL_JOIN", "NESTED_LOOP_JOIN", "CROSS_PRODUCT") if kind in plan] == []
