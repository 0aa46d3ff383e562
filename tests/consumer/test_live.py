"""What is shown of the live runs: who gets the room, that it holds still, and that it says what the relations say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire_consumer.live import METRIC_SILENT_SECONDS, GaugeOptions, LiveMetric, read_live
from tests.consumer.fleet import Fleet
from tests.consumer.small_store import DIGITS, NOW_US, OLD, OTHER, SECOND_US, small_store
from tests.consumer.test_watch import BATCH, Consumer, tell

NAN, INF = math.nan, math.inf
FOR_EVER = GaugeOptions(ended_runs_kept_seconds=1e6, lost_runs_kept_seconds=1e6)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    fleet.close()


BY_VIEWS = """
SELECT d.run_key, d.project, d.run_id, d.name, coalesce(d."group", ''), coalesce(d."user", ''),
       coalesce(d."commit", ''), coalesce(s.state, 'running'), min(e.seen_at) FILTER (
           e.next_seq IS NULL AND t.attempt IS NOT DISTINCT FROM n.newest
       ), sum(e.journal_rows) FILTER (e.next_seq IS NULL AND t.attempt IS NOT DISTINCT FROM n.newest),
       any_value(w.step)
FROM store.descriptions d
LEFT JOIN store.run_states s ON s.run_key = d.run_key
JOIN store.senders t ON t.run_key = d.run_key
JOIN store.emitters e ON e.emitter_key = t.emitter_key
JOIN (SELECT run_key, max(attempt) AS newest FROM store.senders GROUP BY run_key) n ON n.run_key = d.run_key
LEFT JOIN (
    SELECT run_key, arg_max(step, number) AS step FROM (
        SELECT run_key, coalesce(attempt, 0) AS number, max(last_step) AS step FROM store.lines GROUP BY ALL
    ) GROUP BY run_key
) w ON w.run_key = d.run_key
GROUP BY ALL
"""
LATEST_BY_VIEWS = """
SELECT run_id, metric, avg(value), coalesce(min(value) FILTER (NOT isnan(value)), 'nan'),
       coalesce(max(value) FILTER (NOT isnan(value)), 'nan'), count(*), list("rank" ORDER BY "rank"),
       list(value ORDER BY "rank")
FROM (
    SELECT *, coalesce(attempt, 0) AS number, max(coalesce(attempt, 0)) OVER (PARTITION BY run_id, metric) AS newest
    FROM main.latest
)
WHERE number = newest GROUP BY run_id, metric
"""
VALUES = st.lists(st.sampled_from((1.5, -2.0, NAN, INF, -INF, 1e300)), min_size=1, max_size=4)


def flat(run_id: str, one: LiveMetric) -> tuple[Any, ...]:
    """As LATEST_BY_VIEWS has it; ranks are told of where there are several."""
    members = (one.members, one.member_values) if one.ranks > 1 else (None, None)
    return (run_id, one.metric, one.mean, one.low, one.high, one.ranks, *members)


@given(st.lists(BATCH, max_size=8), VALUES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_shown_is_what_the_relations_say(history: list[Any], values: list[float]) -> None:
    """The tables are read in another way, of the live runs alone: the views over all runs are the model."""
    consumer, now = Consumer(forgetful=False), 0
    for batch, moment in tell(history):
        consumer.writer.write(batch, moment) if batch else consumer.writer.tick(moment)
        now = moment.now
    cursor = consumer.store.cursor()
    for place, value in enumerate(values):
        cursor.execute(
            "UPDATE store.series SET last_value = ? WHERE hash(emitter_key, metric_key) % ? = ?",
            [value, len(values), place],
        )
    live = read_live(consumer.store.cursor, FOR_EVER, now)
    assert sorted(map(repr, live.runs)) == sorted(
        f"LiveRun(run_key={row[0]}, project={row[1]!r}, run_id={row[2]!r}, name={row[3]!r}, group={row[4]!r}, "
        f"user={row[5]!r}, commit={row[6]!r}, state={row[7]!r}, silent_since_us={row[8]}, "
        f"journal_rows={row[9]}, step={row[10]})"
        for row in cursor.execute(BY_VIEWS).fetchall()
    )
    ids = {run.run_key: run.run_id for run in live.runs}
    by_views = [row if row[5] > 1 else (*row[:6], None, None) for row in cursor.execute(LATEST_BY_VIEWS).fetchall()]
    assert sorted(repr(flat(ids[one.run_key], one)) for one in live.metrics) == sorted(map(repr, by_views))
    gaps = "SELECT coalesce(sum(missing) FILTER (next_seq IS NOT NULL), 0), coalesce(sum(lost), 0) FROM emitters"
    assert cursor.execute(gaps).fetchall() == [consumer.store.gaps()]
    consumer.writer.close()


@pytest.mark.parametrize(
    ("values", "mean", "low", "high"),
    [
        ((1.0,), 1.0, 1.0, 1.0),
        ((1.0, 2.0, 6.0), 3.0, 1.0, 6.0),
        ((1.0, NAN), NAN, 1.0, 1.0),
        ((NAN, 2.0, 1.0), NAN, 1.0, 2.0),
        ((NAN, NAN), NAN, NAN, NAN),
        ((1.0, INF), INF, 1.0, INF),
        ((INF, -INF), NAN, -INF, INF),
        ((NAN, INF), NAN, INF, INF),
        ((1.7e308, 1.7e308), 1.7e308, 1.7e308, 1.7e308),
        ((-1.7e308, -1.7e308), -1.7e308, -1.7e308, -1.7e308),
    ],
)
def test_reductions_over_ranks(fleet: Fleet, values: tuple[float, ...], mean: float, low: float, high: float) -> None:
    """The mean propagates NaN; min and max take what is not NaN, infinities included."""
    fleet.run(1, ranks=len(values))
    fleet.metrics(1, range(1), ranks=len(values))
    for rank, value in enumerate(values):
        fleet.cursor.execute("UPDATE store.series SET last_value = ? WHERE emitter_key = 10000 + ?", [value, rank])
    (found,) = fleet.live().metrics
    assert repr((found.mean, found.low, found.high, found.ranks)) == repr((mean, low, high, len(values)))


def test_the_step_is_the_newest_attempts() -> None:
    """Also where the attempt before came further with a metric that this one hasn't logged yet."""
    database = small_store()
    cursor = database.cursor()
    cursor.execute(
        "INSERT INTO store.series VALUES (1, 3, 1, 0, 0, 0, 1, 900, ?, 1.0, 0, 900, true, NULL, 0)", [NOW_US]
    )
    steps = {run.run_id: run.step for run in read_live(database.cursor, GaugeOptions(), NOW_US).runs}
    assert steps == {DIGITS: 30, OTHER: 40}
    cursor.close()
    database.close()


def test_ranks_of_an_earlier_attempt_count_no_more() -> None:
    """A restart with fewer ranks is reduced over those; what it hasn't logged yet is still the earlier one's."""
    database = small_store()
    cursor = database.cursor()
    cursor.execute("UPDATE store.emitters SET rank = 2 WHERE emitter_key = 1")  # the first attempt's only process
    cursor.execute(
        "INSERT INTO store.series VALUES (1, 3, 1, 0, 0, 0, 1, 900, ?, 6.0, 0, 900, true, NULL, 0)", [NOW_US]
    )
    metrics = [one for one in read_live(database.cursor, GaugeOptions(), NOW_US).metrics if one.run_key == 1]
    assert {one.metric_key: (one.ranks, one.members, one.low) for one in metrics} == {
        1: (2, [0, 1], 2.0),
        2: (2, [0, 1], 0.75),
        3: (1, None, 6.0),
    }
    cursor.close()
    database.close()


def test_of_a_rank_that_was_restarted_alone_the_later_start_counts() -> None:
    """Also where the earlier process of the same attempt and rank logged the greater value, and later."""
    database = small_store()
    cursor = database.cursor()
    cursor.execute("UPDATE store.emitters SET attempt = 'second' WHERE emitter_key = 1")
    cursor.execute("UPDATE store.series SET last_time = ? WHERE emitter_key = 1", [NOW_US])
    metrics = read_live(database.cursor, GaugeOptions(), NOW_US).metrics
    values = {(one.run_key, one.metric_key): repr(one.member_values) for one in metrics}
    assert values[1, 1] == "[2.0, nan]"
    cursor.close()
    database.close()


@pytest.mark.parametrize(
    ("state", "kept_seconds"),
    [("finished", 600), ("failed", 600), ("crashed", 600), ("preempted", 600), ("lost", 86_400)],
)
def test_an_ended_run_leaves_after_its_grace(fleet: Fleet, state: str, kept_seconds: int) -> None:
    """A lost one may come back, so it stays for a day; a restart of the consumer changes nothing of that."""
    fleet.run(1, state, kept_seconds - 1)
    fleet.run(2, state, kept_seconds + 1)
    assert fleet.shown().keys() == {1}


def test_a_clock_that_runs_ahead_keeps_no_run_for_long(fleet: Fleet) -> None:
    """Its end lies in the future; when it was last heard of doesn't."""
    for number, heard_ago in ((1, 599), (2, 601)):
        fleet.run(number, "finished", heard_ago)
    fleet.cursor.execute("UPDATE store.run_states SET since = ?", [NOW_US + 10**9 * SECOND_US])
    assert fleet.shown().keys() == {1}


def test_a_deleted_run_leaves_at_once_and_an_edit_leaves_nothing_behind() -> None:
    """One run, one name at a time."""
    database = small_store()
    cursor = database.cursor()
    cursor.execute("INSERT INTO store.edits (emitter_key, seq, time, name) VALUES (2, 9, 1, 'renamed')")
    names = {run.run_id: run.name for run in read_live(database.cursor, FOR_EVER, NOW_US).runs}
    assert names == {DIGITS: "renamed", OTHER: "brave-fox-1", OLD: 'odd "name"\n=1'}
    cursor.execute("UPDATE store.runs SET deleted_at = 1 WHERE run_id = ?", [DIGITS])
    live = read_live(database.cursor, FOR_EVER, NOW_US)
    assert {run.run_id for run in live.runs} == {OTHER, OLD}
    assert 1 not in live.wanted_runs
    assert {one.run_key for one in live.metrics} == {2, 3}
    cursor.close()
    database.close()


def test_no_run_takes_anothers_room(fleet: Fleet) -> None:
    """Rounds: each run gets as many metrics as the others, one with few all of its, the newest what is over."""
    for number, metrics in ((1, 100), (2, 3), (3, 100), (4, 0)):
        fleet.run(number)
        fleet.metrics(number, range(metrics))
    assert fleet.shown(5 * 4 + 3 * 24) == {4: [], 3: [*range(11)], 2: [0, 1, 2], 1: [*range(10)]}
    live = fleet.live(5 * 4 + 3 * 24)
    assert (live.metrics_wanted, len(live.metrics)) == (203, 24)


def test_runs_come_first_and_of_them_the_living_and_the_newest(fleet: Fleet) -> None:
    """A state is worth more than any metric; who ended gives way."""
    states = (("running", 0), ("finished", 9), ("failed", 5), ("stuck", 0), ("lost", 1))
    for number, (state, ago) in enumerate(states, 1):
        fleet.run(number, state, ago)
        fleet.metrics(number, range(2))
    assert list(fleet.shown(5 * 5 + 3 * 3)) == [4, 1, 5, 3, 2]
    assert fleet.shown(5 * 5 + 3 * 5) == {4: [0, 1], 1: [0, 1], 5: [0], 3: [], 2: []}
    assert fleet.shown(5 * 3 + 2) == {4: [], 1: [], 5: []}
    assert fleet.live(5 * 3 + 2).wanted_runs == {1, 2, 3, 4, 5}


def test_what_fell_silent_goes_first(fleet: Fleet) -> None:
    """Of what is written the names that came first stay, so inventing keys pushes nothing out that is in use."""
    fleet.run(1)
    fleet.metrics(1, range(4), silent_seconds=METRIC_SILENT_SECONDS + 1)
    fleet.metrics(1, range(4, 10))
    fleet.written(1, 2, METRIC_SILENT_SECONDS + 5)
    fleet.written(1, 3, METRIC_SILENT_SECONDS - 1)
    order = [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    for room in range(11):
        assert fleet.shown(5 + 3 * room) == {1: order[:room]}
    for number in range(4, 10):
        fleet.written(1, number, METRIC_SILENT_SECONDS)  # the whole run is silent: nothing moves because of that
    fleet.written(1, 3, 2 * METRIC_SILENT_SECONDS - 1)
    fleet.written(1, 0, 2 * METRIC_SILENT_SECONDS + 1)
    fleet.written(1, 1, 2 * METRIC_SILENT_SECONDS + 1)
    fleet.written(1, 2, 2 * METRIC_SILENT_SECONDS + 5)
    assert fleet.shown() == {1: order}


WRITES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.floats(0, METRIC_SILENT_SECONDS - 1)), max_size=12)


@pytest.fixture(scope="module")
def four_runs() -> Iterator[Fleet]:
    fleet = Fleet()
    for number in range(1, 5):
        fleet.run(number, ranks=number)
        fleet.metrics(number, range(10), ranks=number)
    yield fleet
    fleet.close()


@given(WRITES, st.integers(0, 160))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_writing_moves_nothing(four_runs: Fleet, writes: list[tuple[int, int, float]], series_max: int) -> None:
    """Who logs what in which order and pace between two scrapes lets no series go for another."""
    before = four_runs.live(series_max)
    for run, metric, ago in writes:
        four_runs.written(run, metric, ago)
    after = four_runs.live(series_max)
    untimed = [[one._replace(time_us=0) for one in moment.metrics] for moment in (before, after)]
    assert (after.runs, untimed[1]) == (before.runs, untimed[0])


def test_ranks_get_what_is_left_the_smallest_groups_first(fleet: Fleet) -> None:
    """All ranks of a metric or none, and never instead of a reduction; of a metric of one rank there are none."""
    for number, ranks in ((1, 1), (2, 8), (3, 4), (4, 4_096)):
        fleet.run(number, ranks=ranks)
        fleet.metrics(number, range(2), ranks=ranks)
    reductions = 5 * 4 + 3 * 8

    def members(series_max: int) -> list[tuple[int, int, int]]:
        metrics = fleet.live(series_max).metrics
        assert len(metrics) == 8
        assert all(one.members == [*range(one.ranks)] for one in metrics if one.members is not None)
        return [(one.run_key, one.metric_key, one.ranks) for one in metrics if one.members is not None]

    assert members(reductions + 3) == []
    assert members(reductions + 4 + 3) == [(3, 0, 4)]
    assert members(reductions + 8 + 8) == [(3, 0, 4), (2, 0, 8), (3, 1, 4)]
    assert members(reductions + 24 + 4_095) == [(3, 0, 4), (2, 0, 8), (3, 1, 4), (2, 1, 8)]
    assert members(reductions + 24 + 4_096) == [(4, 0, 4_096), (3, 0, 4), (2, 0, 8), (3, 1, 4), (2, 1, 8)]


def test_everything_of_a_scrape_is_of_one_transaction(fleet: Fleet) -> None:
    """A value and the end that came with it are seen together: what commits on the way is for the next scrape."""
    fleet.run(1)
    fleet.metrics(1, range(1))

    class Late:
        """A connection before whose third query somebody else commits."""

        def __init__(self) -> None:
            self.cursor, self.queries = fleet.database.cursor(), 0

        def execute(self, *query: Any) -> Any:
            self.queries += 1
            if self.queries == 3:
                fleet.becomes(1, "finished")
                fleet.cursor.execute("UPDATE store.series SET last_value = 99.0")
            return self.cursor.execute(*query)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.cursor, name)

    live = read_live(Late, GaugeOptions(), NOW_US)  # type: ignore[arg-type]
    assert [(run.state, one.mean) for run, one in zip(live.runs, live.metrics, strict=True)] == [("running", 0.0)]
    live = fleet.live()
    assert [(run.state, one.mean) for run, one in zip(live.runs, live.metrics, strict=True)] == [("finished", 99.0)]
