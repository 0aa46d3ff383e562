"""How fast what waits in Kafka becomes rows in DuckDB, generator, broker and consumer together on this machine.

A generator process sends pre-encoded messages through a real broker to the real consumer (`runwire up`) and stays a few
seconds ahead of it. The clock runs from the first message to the last point stored. Then the consumer is stopped and
its file is opened: what was sent must be stored, each point once. Beside it: the same points and rows as finished
columns, inserted by DuckDB alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.broker import broker_if_possible, new_topic
from bench.load import SHAPES
from bench.measuring import scratch
from bench.report import rounded, show
from tests.services.consumer import ConsumerProcess
from tests.services.kafka import KafkaTopics

GENERATOR = Path(__file__).with_name("generator.py")
ASK_SECONDS = 0.5
DRAIN_SECONDS_MAX = 120.0
PLAIN_POINTS = 20_000_000
PLAIN_POINTS_A_TRANSACTION = 500_000
PLAIN_KEYS = 10
STORED = re.compile(r"^runwire_points_stored_total (\S+)$", re.MULTILINE)


def main() -> None:
    """Measure every shape of messages and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the generator sends each shape")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="measure this shape only; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with broker_if_possible() as broker:
        if broker is None:
            sys.exit("ingest needs a Kafka broker")
        figures = {name: measure(broker, name, options.seconds) for name in options.shape or SHAPES}
    figures["plain_duckdb"] = plain_duckdb(PLAIN_POINTS)
    show(f"Kafka to DuckDB, {options.seconds:g} s", figures, as_json=options.json)
    if not all(row["exact"] for row in figures.values()):
        sys.exit("what is stored is not what was sent")


def measure(broker: KafkaTopics, shape: str, seconds: float) -> dict[str, Any]:
    """Figures of one shape of messages."""
    topic = new_topic(broker)
    with scratch() as folder, ConsumerProcess(broker.url(topic), home=folder / "home") as consumer:
        process = psutil.Process(consumer.pid)
        command = [sys.executable, str(GENERATOR), broker.bootstrap, topic, shape, str(seconds)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as generator:
            try:
                read_answer(generator)  # it is ready
                time.sleep(2 * ASK_SECONDS)
                cpu_before, begin = _cpu_seconds(process), time.monotonic()
                sent = feed(generator, consumer, seconds)
                stored, took = wait_until_stored(consumer, sent["points"], begin)
            finally:
                generator.kill()
        cpu = _cpu_seconds(process) - cpu_before
        memory = process.memory_info().rss
        consumer.stop()
        found = contents(consumer.database)
    return {
        "points_per_second": round(stored / took),
        "points_per_cpu_second": round(stored / cpu),
        "points": sent["points"],
        "seconds": round(took, 2),
        "generator_waited_share": round(sent["waited"] / sent["seconds"], 2),
        "consumer_rss_mib": round(memory / 2**20),
        "bytes_per_point": rounded(found.pop("file_bytes") / max(1, stored)),
        "exact": found == {"points": sent["points"], "rows": sent["rows"], "rows_twice": 0, "incomplete": 0},
        "found": found,
    }


def plain_duckdb(points: int) -> dict[str, Any]:
    """DuckDB alone: the same columns from Arrow into tables like ours, without ledger, offsets or latest values."""
    rows = PLAIN_POINTS_A_TRANSACTION // PLAIN_KEYS
    with scratch() as folder:
        connection = duckdb.connect(str(folder / "plain.duckdb"), config={"checkpoint_threshold": "1TB"})
        connection.execute("CREATE TABLE rows (emitter INTEGER, seq BIGINT, step BIGINT, time BIGINT)")
        connection.execute("CREATE TABLE points (emitter INTEGER, metric INTEGER, seq BIGINT, value DOUBLE)")
        cpu, wall = 0.0, 0.0
        for first in range(0, points // PLAIN_KEYS, rows):
            seq = np.arange(first, first + rows)
            tables = {
                "rows": {"emitter": np.zeros(rows, np.int32), "seq": seq, "step": seq, "time": seq},
                "points": {
                    "emitter": np.zeros(rows * PLAIN_KEYS, np.int32),
                    "metric": np.repeat(np.arange(PLAIN_KEYS, dtype=np.int32), rows),
                    "seq": np.tile(seq, PLAIN_KEYS),
                    "value": np.random.default_rng(first).random(rows * PLAIN_KEYS),
                },
            }
            cpu_before, begin = time.process_time(), time.monotonic()
            connection.execute("BEGIN")
            for name, columns in tables.items():
                connection.register("incoming", pa.table(columns))
                connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")  # noqa: S608 - two names
            connection.execute("COMMIT")
            cpu, wall = cpu + time.process_time() - cpu_before, wall + time.monotonic() - begin
        ((stored,),) = connection.execute("SELECT count(*) FROM points").fetchall()
        connection.close()
        size = (folder / "plain.duckdb").stat().st_size
    return {
        "points_per_second": round(stored / wall),
        "points_per_cpu_second": round(stored / cpu),
        "points": points,
        "seconds": round(wall, 2),
        "bytes_per_point": rounded(size / stored),
        "exact": stored == points,
    }


def feed(generator: subprocess.Popen[bytes], consumer: ConsumerProcess, seconds: float) -> dict[str, Any]:
    """Tell the generator how far the consumer is until it has sent everything; returns what it sent."""
    deadline = time.monotonic() + seconds
    tell(generator, 0)
    while time.monotonic() < deadline:
        time.sleep(ASK_SECONDS)
        tell(generator, points_stored(consumer))
    tell(generator, 10**18)  # it may wait for the consumer in its last turn
    return read_answer(generator)


def wait_until_stored(consumer: ConsumerProcess, points: int, begin: float) -> tuple[int, float]:
    """Wait for the last point; returns how many are stored, and the seconds since `begin`."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while (stored := points_stored(consumer)) < points and time.monotonic() < deadline:
        time.sleep(0.05)
    return stored, time.monotonic() - begin


def points_stored(consumer: ConsumerProcess) -> int:
    """What the consumer counts itself; the file is counted at the end."""
    headers = {"Authorization": f"Bearer {consumer.token}"}
    text = httpx.get(f"http://{consumer.address}/metrics", headers=headers, timeout=30).raise_for_status().text
    match = STORED.search(text)
    return int(float(match[1])) if match else 0


def contents(database: Path) -> dict[str, int]:
    """Count what a stopped consumer's file holds."""
    with duckdb.connect(str(database), read_only=True) as connection:

        def one(query: str) -> int:
            (value,) = connection.execute(query).fetchall()[0]
            return int(value)

        return {
            "points": one("SELECT count(*) FROM store.all_points"),
            "rows": one("SELECT count(*) FROM store.all_rows"),
            "rows_twice": one("SELECT count(*) - count(DISTINCT (emitter_key, seq)) FROM store.all_rows"),
            "incomplete": one("SELECT count(*) FROM emitters WHERE NOT complete OR missing + dead + lost > 0"),
            "file_bytes": database.stat().st_size,
        }


def tell(generator: subprocess.Popen[bytes], points: int) -> None:
    """Say how many points are stored."""
    assert generator.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has sent everything
        generator.stdin.write(b"%d\n" % points)


def read_answer(generator: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The generator's next line."""
    assert generator.stdout is not None
    line = generator.stdout.readline()
    if not line:
        sys.exit("the generator ended early")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
