"""What it costs to export, archive and delete a long run: CPU, memory, the longest slice, the room that comes back.

A store gets two runs of the same length, ten metrics each. The first is exported in each form and archived, with the
reading back; then it is deleted, and purged as a running consumer does, a transaction a slice.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runwire_consumer import purging, run_archive, run_files
from runwire_consumer.decode import decode
from runwire_consumer.limits import Limits
from runwire_consumer.query_watch import resident_bytes
from runwire_consumer.results import read_arrow
from runwire_consumer.run_files import RunSource
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import codec, columns, events
from runwire_schemas.envelope import Envelope

METRICS = tuple(f"train/metric_{number}" for number in range(10))
BATCH_ROWS = 10_000
TIME = 1_700_000_000_000_000
RUNS = ("a" * 16, "b" * 16)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5_000_000, help="points of each of the two runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), asked.points)
    if asked.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:<32}{value:>14,.2f}")


def measure(folder: Path, points: int) -> dict[str, float]:
    """Every figure by its name."""
    store = Store.open(folder / "runwire.duckdb")
    for run_id in RUNS:
        fill(store, run_id, points)
    store.database.checkpoint()
    sandbox = Sandbox(store.cursor, Limits(seconds_max=3_600.0, rows_max=10_000_000))
    source = RunSource(
        lambda sql, params: list(sandbox.run(sql, params).objects()),
        lambda sql, params: read_arrow(sandbox.run(sql, params).to_arrow()),
    )
    about = run_files.describe(source, RUNS[0])
    figures: dict[str, float] = {"points": points}
    for form in ("parquet", "csv", "json"):
        path = folder / f"run.{form}"

        def export(form: str = form, path: Path = path) -> None:
            if form == run_files.JSON:
                with path.open("wb") as file:
                    run_files.write_json(file, source, about)
            else:
                run_files.write_points(form, path, source, about)

        figures |= {f"export_{form}_{name}": value for name, value in cost(export, points).items()}
        figures[f"export_{form}_bytes_per_point"] = path.stat().st_size / points
    spent = cost(lambda: run_archive.write_run(folder / "archive", source, about), points)
    figures |= {f"archive_{name}": value for name, value in spent.items()}
    return figures | purge(store, points)


def purge(store: Store, points: int) -> dict[str, float]:
    """Delete the first run and let its points go."""
    event = events.RunDeleted(RUNS[0], "e" * 32, 0, 0, TIME, reason=None)
    tell(store, event)
    before = store.database.file_bytes
    began, slices = time.process_time(), []
    (run_key,) = purging.waiting(store)
    plan = purging.plan(store, run_key)
    for part in plan.slices:
        slice_began = time.perf_counter()
        purging.drop(store, part)
        slices.append(time.perf_counter() - slice_began)
    purging.finish(store, plan, TIME)
    spent = time.process_time() - began
    store.database.checkpoint()
    ((used,),) = store.cursor().execute("SELECT used_blocks * block_size FROM pragma_database_size()").fetchall()
    store.close()
    return {
        "purge_cpu_seconds_per_million": spent / points * 1e6,
        "purge_slices": len(slices),
        "purge_longest_slice_seconds": max(slices),
        "file_mib_before": before / 2**20,
        "used_mib_after": used / 2**20,
    }


def fill(store: Store, run_id: str, points: int) -> None:
    """A run of so many points, ten metrics in each row."""
    emitter, rows = run_id * 2, points // len(METRICS)
    random = np.random.default_rng(1)
    started = events.RunStarted(
        run_id, emitter, 0, 0, TIME, project="bench", name="long", attempt="one", host=events.Host("node")
    )
    tell(store, started)
    for first in range(0, rows, BATCH_ROWS):
        steps: Any = np.arange(first, min(first + BATCH_ROWS, rows))
        values: Any = random.normal(size=len(steps) * len(METRICS))
        block: Any = events.Block(METRICS, steps, TIME + steps * 1_000, values)
        tell(store, events.MetricBatch(run_id, emitter, 0, first + 1, (block,)))


def tell(store: Store, event: Any) -> None:
    """One message, one transaction."""
    payload = columns.encode_batch(event) if isinstance(event, events.MetricBatch) else codec.encode(event)
    headers = Envelope.of(event, "bench", "one").to_headers()
    at = store.positions("bench").get("0", (0, ""))[0]
    message = Message("bench", "0", at, at + 1, TIME, headers, payload)
    store.write(store.admit([decode(message)], TIME, at_tail=False))


def cost(work: Callable[[], Any], points: int) -> dict[str, float]:
    """CPU seconds a million points of all threads, and the most resident memory beside what there was."""
    before, most, ended = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.02):
            most = max(most, resident_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    began = resource.getrusage(resource.RUSAGE_SELF)
    try:
        work()
    finally:
        ended.set()
        watching.join()
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = spent.ru_utime + spent.ru_stime - began.ru_utime - began.ru_stime
    return {"cpu_seconds_per_million": seconds / points * 1e6, "memory_mib": max(0, most - before) / 2**20}


if __name__ == "__main__":
    main()
