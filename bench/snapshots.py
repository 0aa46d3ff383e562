"""What a snapshot costs beside a writer: seconds, bytes and the writer's longest wait, beside the ways not taken.

A store is filled with sorted points of many runs. Then a writer commits 10,000 points every 50 ms while a snapshot is
taken: by `COPY FROM DATABASE` (what Runwire does), by a checkpoint and a copy of the file while the writer waits, by
`EXPORT DATABASE` to Parquet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from runwire_consumer import snapshots
from runwire_consumer.snapshots import open_and_read, options_for
from runwire_consumer.store import Store

BATCH_POINTS = 10_000
PAUSE_SECONDS = 0.05
FILL = """
INSERT INTO store.points
SELECT i // 1_000_000, (i // 10_000) % 100, i % 10_000, sin(i) + random() FROM range(?) AS t(i)
"""
BATCH = "INSERT INTO store.points SELECT 9_999, i % 10, i // 10, random() FROM range(?) AS t(i)"


class Writer:
    """Commits a batch again and again, and knows how long each took."""

    def __init__(self, store: Store) -> None:
        """Begin."""
        self.seconds: list[float] = []
        self.gate = threading.Lock()
        self._cursor = store.cursor()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            began = time.perf_counter()
            with self.gate:
                self._cursor.execute("BEGIN")
                self._cursor.execute(BATCH, [BATCH_POINTS])
                self._cursor.execute("COMMIT")
            self.seconds.append(time.perf_counter() - began)

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()


def copy_database(store: Store, folder: Path, _: Writer) -> int:
    """What Runwire does."""
    return snapshots.take(store.database, folder, time.time_ns() // 1_000).bytes


def copy_file(store: Store, folder: Path, writer: Writer) -> int:
    """Checkpoint, then another process copies the file, for our own may not open it; the writer waits."""
    with writer.gate:
        store.database.checkpoint()
        subprocess.run(["cp", str(store.database.path), str(folder / "copy")], check=True)
    return (folder / "copy").stat().st_size


def export_parquet(store: Store, folder: Path, _: Writer) -> int:
    """A folder of Parquet and SQL; views and NOT NULL come by the SQL."""
    store.cursor().execute(f"EXPORT DATABASE '{folder / 'export'}' (FORMAT PARQUET)")
    return sum(path.stat().st_size for path in (folder / "export").iterdir())


WAYS: dict[str, Callable[[Store, Path, Writer], int]] = {
    "copy_database": copy_database,
    "copy_file": copy_file,
    "export_parquet": export_parquet,
}


def measure(points: int) -> dict[str, dict[str, float]]:
    """Every way, on the same store."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "snapshots"
        store = Store.open(Path(place) / "runwire.duckdb", options_for(folder, 0.0))
        store.cursor().execute(FILL, [points])
        store.database.checkpoint()
        for name, way in WAYS.items():
            folder.mkdir()
            writer = Writer(store)
            time.sleep(2.0)
            before = list(writer.seconds)
            began, cpu = time.perf_counter(), time.process_time()
            size = way(store, folder, writer)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            writer.stop()
            during = writer.seconds[len(before) :] or [took]
            found[name] = {
                "seconds_per_million_points": round(took * 1e6 / points, 3),
                "cpu_seconds_per_million_points": round(cpu * 1e6 / points, 3),
                "bytes_per_point": round(size / points, 2),
                "longest_wait_ms": round(max(during) * 1e3, 1),
                "longest_wait_before_ms": round(max(before) * 1e3, 1),
            }
            shutil.rmtree(folder)
        folder.mkdir()
        taken = snapshots.take(store.database, folder, time.time_ns() // 1_000)
        began = time.perf_counter()
        open_and_read(taken.path)
        found["read_through"] = {"seconds_per_million_points": round((time.perf_counter() - began) * 1e6 / points, 3)}
        store.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000_000, help="in the store (20,000,000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measure(options.points)
    if options.json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        print(f"{name:16}" + "   ".join(f"{figure} {value}" for figure, value in figures.items()))


if __name__ == "__main__":
    main()
