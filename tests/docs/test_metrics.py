"""docs/guides/metrics.md is whole: each metric of /metrics is in its tables, as it is, and nothing else."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from runwire_consumer.exposition import LABEL_BYTES_MAX, render
from runwire_consumer.gauges import STATE_CODES, RunGauges
from runwire_consumer.live import METRIC_SILENT_SECONDS, SERIES_A_METRIC, SERIES_A_RUN, GaugeOptions
from runwire_consumer.notifying import NoticeMetrics
from runwire_consumer.room import watch_room
from runwire_consumer.self_metrics import KeepingMetrics, SelfMetrics
from tests.consumer.small_store import NOW_US, small_store
from tests.docs.blocks import GUIDES

PAGE = (GUIDES / "metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \| (?P<labels>[`\w ]*)\| (?P<value>.+) \|$", re.MULTILINE)


def exported() -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> type and labels of everything that a consumer can say, each with a series at least."""
    registry = CollectorRegistry()
    own = SelfMetrics(registry)
    own.lag({("kafka", "0"): 1})
    own.anomalies("kafka", {"log_truncated": 1})
    own.retention_used("kafka", 0.5)
    KeepingMetrics(registry)
    watch_room(registry, Path("runwire.duckdb"))
    NoticeMetrics(registry)
    with closing(small_store()) as database:
        registry.register(RunGauges(database.cursor, clock=lambda: NOW_US / 1e6))
        text = render(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family.type, frozenset(label for sample in family.samples for label in sample.labels)
    return found


def test_every_metric_is_in_the_page_and_the_other_way_round() -> None:
    """Name, type and labels."""
    runs, _, consumer = PAGE.partition("## The consumer")
    documented = {
        row["name"]: (row["type"], frozenset(re.findall(r"\w+", row["labels"])) | common)
        for part, common in ((runs, {"project", "run_id", "run"}), (consumer, frozenset()))
        for row in ROW.finditer(part)
    }
    assert documented == exported()


def test_its_figures_are_those_of_the_code() -> None:
    """States, graces, budgets."""
    assert ", ".join(f"{code} {state}" for state, code in STATE_CODES.items()) in PAGE
    options = GaugeOptions()
    assert (SERIES_A_RUN, SERIES_A_METRIC, METRIC_SILENT_SECONDS) == (5, 3, 1_800)
    for words in (
        f"{options.series_max:,} series",
        f"{options.bytes_max / 1e6} MB",
        f"{options.ended_runs_kept_seconds / 60:g} minutes after its end",
        f"{options.lost_runs_kept_seconds / 3600:g} hours one that was lost",
        f"up to {LABEL_BYTES_MAX} bytes",
    ):
        assert words in PAGE.replace("\n", " ")
