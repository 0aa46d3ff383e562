"""The gauges: what is live, within a budget of series and bytes, and clean for Prometheus."""
# ruff: noqa: E501 - a series a line reads best

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator

import duckdb
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from runwire_consumer.database import Database
from runwire_consumer.exposition import render
from runwire_consumer.gauges import Page, RunGauges
from runwire_consumer.live import GaugeOptions, Live, LiveMetric, LiveRun
from runwire_consumer.self_metrics import KeepingMetrics, SelfMetrics
from tests.consumer.fleet import Fleet
from tests.consumer.small_store import DIGITS, NOW_US, OLD, OTHER, small_store

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = small_store()
    yield database
    database.close()


def gauges_of(database: Database, options: GaugeOptions | None = None) -> RunGauges:
    """The gauges of a store at NOW_US."""
    return RunGauges(database.cursor, options, clock=lambda: NOW_US / 1e6)


def scrape(gauges: RunGauges) -> dict[str, float]:
    """Name with sorted labels -> value."""
    registry = CollectorRegistry()
    registry.register(gauges)
    found = {}
    for family in text_string_to_metric_families(render(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}"
            assert key not in found
            found[key] = sample.value
    return found


def test_live_runs_are_shown_by_id_and_name(database: Database) -> None:
    """Newest attempt, last values; a run that ended a day ago has left."""
    shown = scrape(gauges_of(database))
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
    rank = f'metric="val/acc",project="digits",rank="0",run="brave-fox-1",run_id="{DIGITS}"'
    assert shown[f"runwire_metric_rank{{{rank}}}"] == 0.75
    assert not [key for key in shown if OLD in key]
    assert not [key for key in shown if "runwire_metric_rank" in key and OTHER in key]
    assert not [key for key in shown if "runwire_heartbeat_age_seconds" in key and OTHER in key]


def test_names_are_verbatim(database: Database) -> None:
    """Quotes, newlines and equals signs come out of a parser as they went in."""
    shown = scrape(gauges_of(database, GaugeOptions(ended_runs_kept_seconds=1e6)))
    odd = f'metric="odd "metric"\n",project="old",reduce="max",run="odd "name"\n=1",run_id="{OLD}"'
    assert shown[f"runwire_metric{{{odd}}}"] == -INF
    assert shown[f'runwire_run_state{{project="old",run="odd "name"\n=1",run_id="{OLD}"}}'] == 5


def a_run(number: int, name: str = "n") -> LiveRun:
    """A run that lives."""
    return LiveRun(number, "p", f"run{number}", name, "", "", "", "running", 0, 9, 3)


def a_metric(number: int, run: int = 0, ranks: int = 1, name: str = "") -> LiveMetric:
    """A metric, with its ranks where there are several."""
    members = [*range(ranks)] if ranks > 1 else None
    return LiveMetric(run, number, name or f"m{number}", 1.0, 0.0, 2.0, ranks, members, members and [0.5] * ranks)


def test_the_budget_holds() -> None:
    """What doesn't fit is left out and counted by kind; the query leaves out by the same order before."""
    metrics = tuple(a_metric(number, ranks=2) for number in range(10))
    live = Live(frozenset(range(3)), (a_run(0),), metrics, 17)
    page = Page(live, GaugeOptions(series_max=5 + 15 + 2), 0.0)
    info, state, step, age, waiting, reduced, by_rank = page.families
    assert [len(one.lines) for one in (info, state, step, age, waiting)] == [1, 1, 1, 1, 1]
    assert [len(one.lines) for one in (reduced, by_rank)] == [15, 2]
    assert reduced.lines[12:] == [
        f'runwire_metric{{project="p",run_id="run0",run="n",metric="m4",reduce="{reduction}"}} {value}\n'
        for reduction, value in (("mean", 1.0), ("min", 0.0), ("max", 2.0))
    ]
    assert page.left_out() == {"runs": 5 * 2, "metrics": 3 * 12, "ranks": 2 * 4}
    assert page.shown.metrics == {(0, number) for number in range(5)}
    page = Page(live, GaugeOptions(bytes_max=5 * 100), 0.0)  # not even the run
    assert page.left_out() == {"runs": 5 * 3, "metrics": 3 * 17, "ranks": 0}
    assert not any(family.lines for family in page.families)


@pytest.mark.parametrize("name", ["plain", '"' * 200, "\\\n" * 300, "é" * 500])
def test_no_names_make_an_answer_larger_than_it_may_be(name: str) -> None:
    """Ten thousand series of the longest names stay below the bytes, too; short ones are all there."""
    runs = tuple(a_run(number, f"{name}{number}") for number in range(100))
    metrics = tuple(a_metric(number, number % 100, name=f"{name}{number}") for number in range(3_166))
    options = GaugeOptions()
    page = Page(Live(frozenset(range(100)), runs, metrics, 3_166), options, NOW_US / 1e6)
    lines = [line for family in page.families for line in family.lines]
    size_bytes = sum(len(line.encode()) for line in lines)
    assert size_bytes <= options.bytes_max
    assert len(lines) == 9_998 if name == "plain" else size_bytes > options.bytes_max / 2
    assert page.left_out()["metrics"] == 9_998 - len(lines)
    assert len(set(lines)) == len(lines)


def test_evictions_are_counted_once_and_by_kind() -> None:
    """What was shown, is still wanted, and had to make room: neither what ended nor what never had room."""
    fleet = Fleet()
    gauges = gauges_of(fleet.database, GaugeOptions(series_max=5 + 3 * 4 + 2))

    def told() -> list[tuple[float, float]]:
        shown = scrape(gauges)
        assert scrape(gauges) == shown  # nothing alternates
        kinds = ("runs", "metrics", "ranks")
        return [
            (
                shown[f'runwire_series_left_out{{kind="{kind}"}}'],
                shown[f'runwire_series_evicted_total{{kind="{kind}"}}'],
            )
            for kind in kinds
        ]

    assert told() == [(0, 0), (0, 0), (0, 0)]
    fleet.run(1, ranks=2)
    fleet.metrics(1, range(4), ranks=2)
    assert told() == [(0, 0), (0, 0), (6, 0)]  # ranks of one metric fit
    fleet.run(2)
    assert told() == [(0, 0), (3, 3), (6, 2)]  # its facts take the room of a metric and of those ranks
    fleet.metrics(2, range(2))
    assert told() == [(0, 0), (9, 9), (2, 2)]  # a metric each, then the newest run's second
    fleet.becomes(1, "finished")
    assert told() == [(0, 0), (9, 9), (2, 2)]
    fleet.becomes(2, "finished")
    fleet.cursor.execute("UPDATE store.run_states SET since = 0 WHERE run_key = 1")  # it leaves
    assert told() == [(0, 0), (0, 9), (0, 2)]
    for number in (3, 4, 5, 6):
        fleet.run(number)
    assert told() == [(10, 5), (0, 15), (0, 2)]  # the metrics of a run that isn't shown aren't counted
    fleet.close()


def test_what_leaves_by_itself_is_no_eviction() -> None:
    """A run that ended some time ago or was deleted, and a rank that an attempt no longer has."""
    fleet = Fleet()
    gauges = gauges_of(fleet.database)
    for number in (1, 2, 3):
        fleet.run(number, ranks=2)
        fleet.metrics(number, range(2), ranks=2)
    before = scrape(gauges)
    fleet.becomes(1, "finished")
    fleet.cursor.execute("UPDATE store.run_states SET since = 0 WHERE run_key = 1")
    fleet.cursor.execute("UPDATE store.runs SET deleted_at = 1 WHERE run_key = 2")
    fleet.cursor.execute("UPDATE store.emitters SET attempt = 'next', restart_count = 1 WHERE emitter_key = 30000")
    after = scrape(gauges)
    assert [sum("runwire_metric_rank{" in key for key in shown) for shown in (before, after)] == [12, 0]
    assert [value for key, value in after.items() if "runwire_series" in key] == [0] * 6
    fleet.close()


def test_a_million_metrics_stay_within_the_budget() -> None:
    """A trainer that invents keys can't explode Prometheus, and what came first stays."""
    fleet = Fleet()
    fleet.run(1)
    fleet.metrics(1, range(1_000_000))
    gauges = gauges_of(fleet.database, GaugeOptions(series_max=1_000))
    for _ in range(2):
        shown = scrape(gauges)
        names = {key.partition('metric="')[2].partition('"')[0] for key in shown if key.startswith("runwire_metric{")}
        assert names == {f"metric{number}" for number in range(331)}
        assert shown['runwire_series_left_out{kind="metrics"}'] == 3 * (1_000_000 - 331)
        assert shown['runwire_series_evicted_total{kind="metrics"}'] == 0
    fleet.close()


def test_a_store_that_cant_be_read_costs_the_runs_alone(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """What the consumer says of itself stays; it is counted, said once, and over as soon as it can be read."""
    trouble = [duckdb.OutOfMemoryException("no memory\nLINE 2"), duckdb.IOException("no"), None]

    def cursors() -> duckdb.DuckDBPyConnection:
        error = trouble.pop(0) if trouble else None
        if error is not None:
            raise error
        return database.cursor()

    registry = CollectorRegistry()
    SelfMetrics(registry)
    registry.register(RunGauges(cursors, clock=lambda: NOW_US / 1e6))
    for failures in (1, 2):
        text = render(registry).decode()
        assert f"runwire_live_read_failures_total {failures}.0" in text
        assert "runwire_points_stored_total 0.0" in text
        assert "run_id=" not in text
    assert [record.message for record in caplog.records] == ["The live runs can't be read for /metrics: no memory"]
    text = render(registry).decode()
    assert "runwire_live_read_failures_total 2.0" in text
    assert f'run_id="{DIGITS}"' in text
    assert 'runwire_series_evicted_total{kind="runs"} 0.0' in text


def test_promtool_finds_nothing_to_say(database: Database) -> None:
    """Names, help texts and types follow Prometheus' own rules, whatever runs and metrics are called."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    registry = CollectorRegistry()
    own = SelfMetrics(registry, "0.1.0")
    own.stored(points=10, rows=5, duplicates=1, seconds=0.01)
    own.fresh(0.2)
    own.lag({("kafka", "0"): 5, ("kafka", "1"): 0})
    own.lag({("kafka", "1"): 7})
    own.anomalies("kafka", {"restarted": 1})
    own.retention_used("kafka", 0.5)
    KeepingMetrics(registry)
    registry.register(gauges_of(database, GaugeOptions(ended_runs_kept_seconds=1e6)))
    text = render(registry)
    assert b'runwire_consumer_lag_messages{partition="1",source="kafka"} 7.0' in text
    assert b'partition="0"' not in text
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")
