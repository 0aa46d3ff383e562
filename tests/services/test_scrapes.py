"""A real Prometheus scrapes 10,000 series of runs and metrics with hostile names, as fast as it is deployed."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import httpx

from runwire_consumer.exposition import label
from tests.consumer.fleet import Fleet
from tests.services.consumer import ConsumerProcess
from tests.tiers import require_service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.prometheus import PrometheusServer

SERIES = 10_000
RUNS, METRICS = 30, 110
HOSTILE = (
    *(f"control {code:02x} {chr(code)}" for code in (*range(32), 127, 0x85, 0x2028, 0xFEFF, 0x202E, 0xFFFD)),
    'quote " backslash \\ brace } { , newline \n# HELP x y\nrunwire_step 1\n',
    "",
    "x" * 1_000,
    "ж" * 400 + "1",
    "ж" * 400 + "2",
    label("ж" * 400 + "1"),
    "🙂" * 63,
    "le", "quantile", "__name__", "job", "instance",
)  # fmt: skip


def fill(path: Path) -> None:
    """A store with living runs that want more series than there may be."""
    fleet = Fleet(path, time.time_ns() // 1_000)
    for number in range(RUNS):
        fleet.run(number)
        fleet.metrics(number, range(METRICS))
    for key, name in enumerate(HOSTILE):
        fleet.cursor.execute("UPDATE store.metrics SET name = ? WHERE metric_key = ?", [name, key])
        fleet.cursor.execute(
            "INSERT INTO store.edits (emitter_key, seq, time, name) SELECT ?::INTEGER * 10000, 1, 1, ? WHERE ? < ?",
            [key, name, key, RUNS],
        )
    fleet.close()


def test_hostile_names_arrive_as_they_are(
    tmp_path: Path, start_prometheus: Callable[[str, str], PrometheusServer]
) -> None:
    """All that the budget holds comes in one scrape within its second, each name as it was logged; promtool agrees."""
    home = tmp_path / "consumer"
    home.mkdir()
    fill(home / "runwire.duckdb")
    with ConsumerProcess(f"dir:{tmp_path / 'topic'}", home=home) as consumer:
        prometheus = start_prometheus(consumer.address, consumer.token)
        prometheus.wait_for('up{job="runwire"} == 1')
        prometheus.wait_for_errors({consumer.address: ""})
        of_runs = '{run_id!="", job="runwire"}'
        ((_, shown),) = [one["value"] for one in prometheus.wait_for(f"count({of_runs}) > {SERIES} - 10")]
        assert int(shown) <= SERIES
        reduced = prometheus.query('runwire_metric{reduce="max"}')
        assert {one["metric"].get("metric", "") for one in reduced} >= {label(name) for name in HOSTILE}
        names = {one["metric"].get("run", "") for one in prometheus.query("runwire_run_info")}
        assert names >= {label(name) for name in HOSTILE[:RUNS]}
        for metric in ("ж" * 400 + "2", "le"):
            found = prometheus.query(f'runwire_metric{{reduce="max", metric="{label(metric)}"}}')
            assert {one["value"][1] for one in found} == {str(HOSTILE.index(metric))}
        answer = httpx.get(f"http://{consumer.address}/metrics")
        assert answer.headers["content-encoding"] == "gzip"
        assert len(answer.content) <= 4_000_000
    promtool = shutil.which("promtool")
    require_service("promtool", promtool is not None, "apt-get install prometheus")
    found_by_it = subprocess.run(
        [str(promtool), "check", "metrics"], input=answer.content, capture_output=True, check=False, timeout=60
    )
    assert (found_by_it.returncode, found_by_it.stdout + found_by_it.stderr) == (0, b"")
