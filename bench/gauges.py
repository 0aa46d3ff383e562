"""What a scrape of /metrics takes with 100, 1,000 and 10,000 series of live runs, and what writing feels of it.

For each number a store is filled with living runs of 101 series each; for the last one with ten times as many as the
budget lets through. `runwire up` serves it, and `/metrics` is asked about once a second, as Prometheus does. Then the
same store is written to in this process, transaction after transaction, while a reader asks SQL, first alone, then with
a scrape a second beside it.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.measuring import scratch
from bench.memory import Consumer, live_rows
from bench.report import percentile, show
from runwire_consumer.exposition import Exposition
from runwire_consumer.gauges import make_registry
from runwire_consumer.sandbox import Sandbox
from tests.consumer.fleet import Fleet
from tests.services.consumer import ConsumerProcess

SERIES = (100, 1_000, 10_000)
METRICS_A_RUN = 32
BUDGET = 10_000
SCRAPES = 15
SCRAPE_SECONDS = 1.0
PAUSE_SECONDS = 1.1  # an answer is given again for up to a second
WRITE_SECONDS = 10.0
QUERY = "SELECT metric, value FROM latest WHERE run_id = '0000000000000001'"
QUERY_SECONDS = 0.05


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scrapes", type=int, default=SCRAPES, metavar="N", help="a number of series (15)")
    parser.add_argument("--seconds", type=float, default=WRITE_SECONDS, help="how long is written, twice (10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    figures = {}
    for series in SERIES:
        with scratch() as folder:
            fill(folder / "runwire.duckdb", series)
            figures[str(series)] = {
                **scraped(folder, options.scrapes),
                **beside_writing(folder / "runwire.duckdb", options.seconds),
            }
    show(f"/metrics with so many series, {options.scrapes} scrapes", figures, as_json=options.json)


def fill(path: Path, series: int) -> None:
    """Living runs of 32 metrics: 101 series each; ten times as many runs where the budget is to cut."""
    fleet = Fleet(path, time.time_ns() // 1_000)
    for number in range(series // 100 * (10 if series >= BUDGET else 1)):
        fleet.run(number)
        fleet.metrics(number, range(METRICS_A_RUN))
    fleet.cursor.execute("UPDATE store.metrics SET name = 'train/layer.' || metric_key || '/gradient_norm'")
    fleet.close()


def scraped(home: Path, scrapes: int) -> dict[str, Any]:
    """Milliseconds of a scrape, wall time and CPU, and bytes of the answer, plain and gzipped."""
    with ConsumerProcess(f"dir:{home / 'topic'}", home=home) as consumer, httpx.Client() as client:
        process = psutil.Process(consumer.pid)
        time.sleep(2 * PAUSE_SECONDS)
        idle_share = sum(process.cpu_times()[:2])
        time.sleep(3 * PAUSE_SECONDS)
        idle_share = (sum(process.cpu_times()[:2]) - idle_share) / (3 * PAUSE_SECONDS)
        walls, cpus, body = [], [], b""
        for _ in range(scrapes):
            begin, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
            answer = client.get(f"http://{consumer.address}/metrics", headers={"accept-encoding": "identity"})
            walls.append(time.perf_counter() - begin)
            body = answer.raise_for_status().content
            time.sleep(PAUSE_SECONDS)
            cpus.append(sum(process.cpu_times()[:2]) - cpu - idle_share * (time.perf_counter() - begin))
    return {
        "scrape_ms": round(1e3 * percentile(walls, 0.5), 1),
        "scrape_p99_ms": round(1e3 * percentile(walls, 0.99), 1),
        "cpu_ms": round(1e3 * sum(cpus) / len(cpus), 1),  # the kernel counts in hundredths of a second
        "bytes": len(body),
        "gzip_bytes": len(gzip.compress(body, 1)),
        "series": sum(b"run_id=" in line for line in body.splitlines()),
    }


def beside_writing(path: Path, seconds: float) -> dict[str, Any]:
    """Milliseconds of a transaction of 1,000 points and of a query, alone and beside a scrape a second."""
    figures: dict[str, Any] = {}
    consumer = Consumer(path)
    rows = live_rows()
    sandbox = Sandbox(consumer.store.cursor)
    exposition = Exposition(make_registry(consumer.store.cursor))
    for name, scrape in (("alone", None), ("beside", exposition.answer)):
        transactions: list[float] = []
        asking = repeating(QUERY_SECONDS, lambda: sandbox.run(QUERY))
        with asking as queries, repeating(SCRAPE_SECONDS, scrape or (lambda: None)):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                begin = time.perf_counter()
                consumer.write(next(rows))
                transactions.append(time.perf_counter() - begin)
        figures |= {
            f"transactions_{name}": len(transactions),
            f"transaction_{name}_p99_ms": round(1e3 * percentile(transactions, 0.99), 1),
            f"query_{name}_p50_ms": round(1e3 * percentile(queries, 0.5), 1),
            f"query_{name}_p99_ms": round(1e3 * percentile(queries, 0.99), 1),
        }
    consumer.writer.close()
    return figures


@contextmanager
def repeating(seconds: float, work: Callable[[], object]) -> Iterator[list[float]]:
    """Another thread does it again and again with so much time in between; gives the seconds that each took."""
    stop, took = threading.Event(), list[float]()

    def run() -> None:
        while not stop.wait(seconds):
            begin = time.perf_counter()
            work()
            took.append(time.perf_counter() - begin)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
