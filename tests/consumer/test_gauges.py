"""The gauges: what is live, reduced over ranks, within a budget, and clean for Prometheus."""
# ruff: noqa: E501 - a series a line reads best

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from runwire_consumer.database import Database
from runwire_consumer.gauges import (
    GaugeOptions,
    Live,
    LiveMetric,
    LiveRun,
    RunGauges,
    families,
    label,
    read_live,
    reduce_ranks,
)
from runwire_consumer.self_metrics import SelfMetrics
from tests.consumer.small_store import DIGITS, NOW_US, OLD, OTHER, small_store
from tests.consumer.test_watch import BATCH, Consumer, tell

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = small_store()
    yield database
    database.close()


def scrape(database: Database, options: GaugeOptions | None = None, now_us: int = NOW_US) -> dict[str, float]:
    """Text form of every series -> value."""
    registry = CollectorRegistry()
    registry.register(RunGauges(database.cursor, options, clock=lambda: now_us / 1e6))
    lines = generate_latest(registry).decode().replace('\\"', "'").splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines) if not key.startswith("#")}


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
        ((-0.0, 0.0), 0.0, -0.0, -0.0),
        ((), NAN, NAN, NAN),
    ],
)
def test_reductions_over_ranks(values: tuple[float, ...], mean: float, low: float, high: float) -> None:
    """The mean propagates NaN; min and max take what is not NaN, infinities included."""
    found = reduce_ranks(values)
    assert [repr(value) for value in map(abs, found)] == [repr(value) for value in map(abs, (mean, low, high))]


def test_live_runs_are_shown_by_id_and_name(database: Database) -> None:
    """Newest attempt, last values; a run that ended a day ago has left."""
    shown = scrape(database)
    run = f'project="digits",run="brave-fox-1",run_id="{DIGITS}"'
    assert shown[f"runwire_run_state{{{run}}}"] == 0
    assert shown[f"runwire_heartbeat_age_seconds{{{run}}}"] == 5
    assert shown[f"runwire_step{{{run}}}"] == 30
    info = f'runwire_run_info{{commit="c0ffee",group="sweep",project="digits",run="brave-fox-1",run_id="{OTHER}",user="ada"}}'
    assert shown[info] == 1
    values = {
        reduction: shown[
            f'runwire_metric{{metric="val/acc",project="digits",reduce="{reduction}",run="brave-fox-1",run_id="{DIGITS}"}}'
        ]
        for reduction in ("mean", "min", "max")
    }
    assert values == {"mean": INF, "min": 0.75, "max": INF}
    assert (
        shown[f'runwire_metric_rank{{metric="val/acc",project="digits",rank="0",run="brave-fox-1",run_id="{DIGITS}"}}']
        == 0.75
    )
    assert not [key for key in shown if OLD in key]
    assert not [key for key in shown if "runwire_metric_rank" in key and OTHER in key]


BY_VIEWS = """
SELECT d.project, d.run_id, d.name, coalesce(d."group", ''), coalesce(d."user", ''), coalesce(d."commit", ''),
       coalesce(s.state, 'running'), min(e.seen_at) FILTER (
           e.next_seq IS NULL AND t.attempt IS NOT DISTINCT FROM n.newest
       )
FROM store.descriptions d
LEFT JOIN store.run_states s ON s.run_key = d.run_key
JOIN store.senders t ON t.run_key = d.run_key
JOIN store.emitters e ON e.emitter_key = t.emitter_key
JOIN (SELECT run_key, max(attempt) AS newest FROM store.senders GROUP BY run_key) n ON n.run_key = d.run_key
GROUP BY ALL
"""
LATEST_BY_VIEWS = """
SELECT run_id, metric, list("rank" ORDER BY "rank"), list(value ORDER BY "rank")
FROM (
    SELECT *, coalesce(attempt, 0) AS number, max(coalesce(attempt, 0)) OVER (PARTITION BY run_id, metric) AS newest
    FROM main.latest
)
WHERE number = newest GROUP BY run_id, metric
"""


@given(st.lists(BATCH, max_size=8))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_gauges_say_what_the_relations_say(history: list[Any]) -> None:
    """They read the tables their own way, of the live runs alone: the views over all runs are the model."""
    consumer, now = Consumer(forgetful=False), 0
    for batch, moment in tell(history):
        consumer.writer.write(batch, moment) if batch else consumer.writer.tick(moment)
        now = moment.now
    options = GaugeOptions(ended_runs_kept_seconds=1e6, lost_runs_kept_seconds=1e6)
    live, cursor = read_live(consumer.store.cursor, options, now), consumer.store.cursor()
    assert sorted(map(repr, live.runs)) == sorted(repr(LiveRun(*row)) for row in cursor.execute(BY_VIEWS).fetchall())
    assert sorted((one.run_id, one.metric, [*one.ranks], [*one.values]) for one in live.metrics) == sorted(
        cursor.execute(LATEST_BY_VIEWS).fetchall()
    )
    gaps = "SELECT coalesce(sum(missing) FILTER (next_seq IS NOT NULL), 0), coalesce(sum(lost), 0) FROM emitters"
    assert cursor.execute(gaps).fetchall() == [consumer.store.gaps()]
    consumer.writer.close()


def test_an_ended_run_leaves_after_its_grace(database: Database) -> None:
    """It ended 30 s ago: shown with a grace of 60 s, gone with one of 10 s; an old one comes back with a long one."""
    assert [key for key in scrape(database, GaugeOptions(ended_runs_kept_seconds=60)) if OTHER in key]
    assert not [key for key in scrape(database, GaugeOptions(ended_runs_kept_seconds=10)) if OTHER in key]
    everything = scrape(database, GaugeOptions(ended_runs_kept_seconds=1e6))
    odd = [key for key in everything if OLD in key and key.startswith("runwire_metric{")]
    assert len(odd) == 3
    assert all("odd 'metric'\\n" in key for key in odd)


def _run(number: int) -> LiveRun:
    return LiveRun("p", f"run{number}", "n", "", "", "", "running", 0)


def test_the_budget_drops_what_is_unchanged_for_longest() -> None:
    """Runs and metrics come newest first; ranks go before reductions."""
    metrics = tuple(LiveMetric("run0", f"m{i}", (0, 1), (1.0, 2.0), 1) for i in range(10))
    shown, left_out = families(Live((_run(0),), metrics, metrics_left_out=7), 4 + 15 + 2, 0.0)
    by_name = {family.name: family.samples for family in shown}
    assert [sample.labels["metric"] for sample in by_name["runwire_metric"]][::3] == ["m0", "m1", "m2", "m3", "m4"]
    assert len(by_name["runwire_metric_rank"]) == 2
    assert left_out == 5 * 3 + 4 * 2 + 7 * 3
    assert sum(len(family.samples) for family in shown) <= 21


def test_a_million_metrics_stay_within_the_budget() -> None:
    """A trainer that invents keys can't explode Prometheus; what had to leave is counted, once."""
    database = small_store()
    cursor = database.cursor()
    cursor.execute("INSERT INTO store.metrics SELECT 10 + i, 'key' || i FROM range(1000000) t(i)")
    cursor.execute(
        "INSERT INTO store.series SELECT 2, 10 + i, 1, 0, 0, 0, 1, 1, ?::BIGINT - i, 1.0, 0, 1, true, NULL, 0 FROM range(1000000) t(i)",
        [NOW_US],
    )
    registry = CollectorRegistry()
    registry.register(RunGauges(database.cursor, GaugeOptions(series_max=1_000), clock=lambda: NOW_US / 1e6))
    for _ in range(2):
        text = generate_latest(registry).decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert len(lines) <= 1_002
        assert 'metric="key0"' in text
        assert 'metric="key999999"' not in text
        evicted = next(line for line in lines if line.startswith("runwire_series_evicted_total"))
        assert 2_900_000 < float(evicted.rpartition(" ")[2]) < 3_100_000
    cursor.close()
    database.close()


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", ""), ("loss", "loss"), ("x" * 128, "x" * 128), ("ä/β \n", "ä/β \n"), ("a\udcff", "a?")],
)
def test_a_short_label_stays_as_it_is(text: str, kept: str) -> None:
    """Names stay verbatim as far as they can be sent."""
    assert label(text) == kept


def test_long_labels_are_cut_and_stay_apart() -> None:
    """Two names that differ at their end stay two series."""
    one, two = label("x" * 10_000 + "1"), label("x" * 10_000 + "2")
    assert len(one) == len(two) == 128
    assert one != two
    assert one[:117] == two[:117]


def test_promtool_finds_nothing_to_say(database: Database) -> None:
    """Names, help texts and types follow Prometheus' own rules."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    registry = CollectorRegistry()
    own = SelfMetrics(registry, "0.1.0")
    own.stored(points=10, rows=5, duplicates=1, seconds=0.01)
    own.read(3)
    own.fresh(0.2)
    own.dead_letters(1)
    own.gaps(missing=0, lost=2)
    own.source_up(up=True)
    own.lag({("kafka", "0"): 5, ("kafka", "1"): 0})
    own.lag({("kafka", "1"): 7})
    registry.register(RunGauges(database.cursor, GaugeOptions(ended_runs_kept_seconds=1e6), clock=lambda: NOW_US / 1e6))
    text = generate_latest(registry)
    assert b'runwire_consumer_lag_messages{partition="1",source="kafka"} 7.0' in text
    assert b'partition="0"' not in text
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")
