"""What the consumer keeps in memory as runs end and metric names are tried, and what a transaction costs meanwhile.

Messages go through the real writer in this process, into a file: runs that start, log a row and end, then names that
nobody logged before, then neither: each part is looked at on its way. `rss_mib` holds the engine's buffers too, which
its own limit bounds; `engine_mib` is what it says that it uses.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.measuring import scratch
from bench.report import percentile, show
from runwire_consumer.live import GaugeOptions, read_live
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer
from runwire_schemas import codec, columns
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import Block, EmitterEnded, Event, Host, MetricBatch, RunEnded, RunStarted

RUNS, NAMES = 100_000, 1_000_000
LOOKS = (0.0, 0.1, 1 / 3, 1.0)
RUNS_A_BATCH, NAMES_A_BATCH, NAMES_A_ROW = 500, 10_000, 1_000
LIVE, KEYS, PROBES = 100, 10, 15
BEGIN_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


def main() -> None:
    """Fill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="runs that end (100,000)")
    parser.add_argument("--names", type=int, default=NAMES, metavar="N", help="metric names that are tried (1,000,000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with scratch() as folder:
        figures = measure(folder / "runwire.duckdb", options.runs, options.names)
    show(f"{options.runs:,} ended runs, {options.names:,} metric names", figures, as_json=options.json)


def measure(path: Path, runs: int, names: int) -> dict[str, dict[str, Any]]:
    """A column of figures a look."""
    consumer = Consumer(path)
    figures: dict[str, dict[str, Any]] = {}
    parts: tuple[tuple[str, int, int, Callable[[int], list[Event]]], ...] = (
        ("runs", runs, RUNS_A_BATCH, lambda first: ended_runs(first, min(RUNS_A_BATCH, runs - first))),
        ("names", names, NAMES_A_BATCH, new_names),
    )
    for name, total, step, make in parts:
        looks = sorted({round(share * total / step) * step for share in LOOKS})
        for first in range(0, total + 1, step):
            if first in looks and not (name == "names" and first == 0):
                figures[f"{first:,} {name}"] = consumer.look()
            if first < total:
                consumer.write(make(first))
    consumer.writer.close()
    begin = time.process_time()
    store = Store.open(path)
    Writer(store).close()
    figures["after a restart"] = {"open_and_close_cpu_ms": round(1e3 * (time.process_time() - begin), 1)}
    return figures


class Consumer:
    """The store's side of a consumer, fed by hand; a clock that goes a second a batch."""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(path)
        self.writer = Writer(self.store)
        self._now = BEGIN_US
        self._offset = 0
        self._live = live_rows()

    def write(self, events: list[Event]) -> float:
        """One transaction; returns its CPU seconds."""
        self._now += SECOND_US
        batch = []
        for event in events:
            payload = columns.encode_batch(event) if isinstance(event, MetricBatch) else codec.encode(event)
            headers = Envelope.of(event, "bench", event.emitter_id).to_headers()
            batch.append(Message("bench", "0", self._offset, self._offset + 1, self._now, headers, payload))
            self._offset += 1
        begin = time.process_time()
        self.writer.write(batch, Moment(self._now, at_tail=True, judged_at=self._now))
        return time.process_time() - begin

    def look(self) -> dict[str, Any]:
        """Memory, and CPU milliseconds of a small transaction, a scrape, and a count of the gaps."""
        costs = [self.write(next(self._live)) for _ in range(PROBES)]
        gc.collect()
        cursor = self.store.cursor()
        ((engine,),) = cursor.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()
        cursor.close()
        rss = psutil.Process().memory_info().rss
        catalog = self.store.catalog
        scrape = cpu_seconds(lambda: read_live(self.store.cursor, GaugeOptions(), self._now))
        gaps = cpu_seconds(self.store.gaps)
        return {
            "rss_mib": round(rss / 2**20),
            "engine_mib": round(engine / 2**20),
            "transaction_cpu_ms": round(1e3 * percentile(costs, 0.5), 1),
            "scrape_cpu_ms": round(1e3 * scrape, 1),
            "gaps_cpu_ms": round(1e3 * gaps, 1),
            "emitters_remembered": len(catalog.emitters),
            "runs_remembered": len(catalog.run_keys),
            "names_remembered": len(catalog.metric_keys),
        }


def cpu_seconds(work: Callable[[], object]) -> float:
    """The least of three."""
    costs = []
    for _ in range(3):
        begin = time.process_time()
        work()
        costs.append(time.process_time() - begin)
    return min(costs)


def ended_runs(first: int, count: int) -> list[Event]:
    """All that is heard of so many runs of one process each, one after the other."""
    heard: list[Event] = []  # long ago, so that no scrape shows them
    for number in range(first, first + count):
        run, emitter, at = f"{number:016x}", f"{number:032x}", BEGIN_US - 86_400 * SECOND_US
        heard += [
            RunStarted(
                run, emitter, 0, 0, at, project="bench", name=f"run-{number}", attempt=emitter, host=Host("bench")
            ),
            rows(run, emitter, 0, 1, at),
            RunEnded(run, emitter, 0, 2, at, status="finished"),
            EmitterEnded(run, emitter, 0, at, 3, "finished"),
        ]
    return heard


def live_rows() -> Iterator[list[Event]]:
    """Batch after batch, a row of each of some processes that live on."""
    seq = 0
    while True:
        yield [rows("f" * 16, f"{'f' * 16}{rank:016x}", rank, seq, BEGIN_US) for rank in range(LIVE)]
        seq += 1


def new_names(first: int) -> list[Event]:
    """Rows of one process whose names were never logged."""
    made: list[Event] = []
    for row, begin in enumerate(range(first, first + NAMES_A_BATCH, NAMES_A_ROW)):
        keys = tuple(f"sweep/{number}/loss" for number in range(begin, begin + NAMES_A_ROW))
        block = Block(keys, (0,), (BEGIN_US,), tuple(float(number) for number in range(NAMES_A_ROW)))
        seq = first // NAMES_A_ROW + row
        made.append(MetricBatch("e" * 16, "e" * 32, 0, seq, (block,)))
    return made


def rows(run: str, emitter: str, rank: int, seq: int, at: int) -> MetricBatch:
    """One row."""
    values = tuple(np.random.default_rng(seq).random(KEYS).tolist())
    return MetricBatch(
        run, emitter, rank, seq, (Block(tuple(f"train/{key}" for key in range(KEYS)), (seq,), (at,), values),)
    )


if __name__ == "__main__":
    main()
