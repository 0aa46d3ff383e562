"""What exactly-once costs in the store: our ledger beside keys and anti-joins in DuckDB, points per CPU-second.

python bench/exactly_once.py [--points N]

Every way stores the same batches, rows of 10 metrics from each of 20 emitters, into a file, one transaction a batch.
`ledger` is the consumer's own path from payload to commit, decoding included; the others get columns for free, without
steps, times and latest values, so they are shown better than they would be.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from runwire_consumer.decode import decode
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import columns, events
from runwire_schemas.envelope import Envelope

EMITTERS, METRICS = 20, 10
ROWS_OF_AN_EMITTER = (100, 500)  # a transaction: 20,000 and 100,000 points
NOW = 1_700_000_000_000_000

_TABLE = "CREATE TABLE points (emitter INTEGER, metric INTEGER, seq BIGINT, value DOUBLE{})"
_WAYS = {
    "append, no check": ("", "INSERT INTO points SELECT * FROM batch"),
    "primary key, INSERT OR IGNORE": (
        ", PRIMARY KEY (emitter, metric, seq)",
        "INSERT OR IGNORE INTO points SELECT * FROM batch",
    ),
    "anti-join": ("", "INSERT INTO points SELECT b.* FROM batch b ANTI JOIN points USING (emitter, metric, seq)"),
}


def messages(batch: int, rows: int) -> list[Message]:
    """One transaction's messages, one an emitter."""
    made = []
    for emitter in range(EMITTERS):
        first = batch * rows
        block = events.Block(
            tuple(f"metric/{k}" for k in range(METRICS)),
            np.arange(first, first + rows),  # type: ignore[arg-type]
            np.full(rows, NOW + first),  # type: ignore[arg-type]
            np.random.default_rng(batch).random(rows * METRICS),  # type: ignore[arg-type]
        )
        event = events.MetricBatch("a" * 16, f"{emitter:032x}", emitter, first, (block,))
        headers = Envelope.of(event, "bench", "one").to_headers()
        at = batch * EMITTERS + emitter
        made.append(Message("bench", "0", at, at + 1, NOW, headers, columns.encode_batch(event)))
    return made


def table(batch: int, rows: int) -> pa.Table:
    """The same points as columns."""
    lines = EMITTERS * METRICS
    return pa.table(
        {
            "emitter": np.repeat(np.arange(EMITTERS, dtype=np.int32), METRICS * rows),
            "metric": np.tile(np.repeat(np.arange(METRICS, dtype=np.int32), rows), EMITTERS),
            "seq": np.tile(np.arange(batch * rows, (batch + 1) * rows), lines),
            "value": np.random.default_rng(batch).random(lines * rows),
        }
    )


def cpu_seconds(transactions: int, store: Callable[[int], None]) -> float:
    """What storing so many transactions takes."""
    began = time.process_time()
    for batch in range(transactions):
        store(batch)
    return time.process_time() - began


def with_ledger(folder: Path, transactions: int, rows: int) -> float:
    """Our way."""
    store = Store.open(folder / "ledger.duckdb")
    ready = [messages(batch, rows) for batch in range(transactions)]

    def write(batch: int) -> None:
        store.write(store.admit([decode(message) for message in ready[batch]], NOW, at_tail=True))

    found = cpu_seconds(transactions, write)
    store.close()
    return found


def with_engine(way: str, folder: Path, transactions: int, rows: int) -> float:
    """One of the engine's ways."""
    constraint, insert = _WAYS[way]
    connection = duckdb.connect(str(folder / "engine.duckdb"), config={"checkpoint_threshold": "1TB"})
    connection.execute(_TABLE.format(constraint))
    ready = [table(batch, rows) for batch in range(transactions)]

    def write(batch: int) -> None:
        connection.register("batch", ready[batch])
        connection.execute(insert)

    found = cpu_seconds(transactions, write)
    connection.close()
    return found


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=4_000_000, help="points that each way stores (4,000,000)")
    points = parser.parse_args().points
    print(f"{points:,} points, million points a CPU-second")
    print(f"{'points a transaction':40}" + "".join(f"{EMITTERS * METRICS * rows:10,}" for rows in ROWS_OF_AN_EMITTER))
    ways: dict[str, Callable[[Path, int, int], float]] = {"ledger (ours, from payload to commit)": with_ledger}
    ways |= {way: functools.partial(with_engine, way) for way in _WAYS}
    for name, way in ways.items():
        line = f"{name:40}"
        for rows in ROWS_OF_AN_EMITTER:
            with tempfile.TemporaryDirectory() as folder:
                taken = way(Path(folder), points // (EMITTERS * METRICS * rows), rows)
            line += f"{points / taken / 1e6:10.2f}"
        print(line)


if __name__ == "__main__":
    main()
