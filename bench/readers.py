"""What readers cost: ingest alone and beside 8 busy ones, and the three ways to run free SQL.

A folder's topic is filled and stored; then as much again is sent to the running consumer, once alone and once while 8
clients ask it without a pause, by HTTP, what people and dashboards ask. Beside it: a query in the consumer's process,
in a child that opens a snapshot, in a child that is fed Arrow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.load import SHAPES, EmitterStream, make_bodies
from bench.measuring import scratch
from bench.report import percentile, rounded, show
from runwire._batch import Message
from runwire._directory import DirectoryTransport
from runwire_consumer import snapshots
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.store import Store
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import parse_url
from tests.services.consumer import ConsumerProcess

READERS = 8
SHAPE = "thousand_points"
EMITTERS = 4
WAIT_SECONDS_MAX = 600.0
QUERIES = (
    (
        "json",
        "SELECT step, value FROM curves WHERE run_id = 'benchaaaaaaaaaaa' AND metric = 'train/metric_000' LIMIT 2000",
    ),
    ("csv", "SELECT metric, max(value) FROM latest GROUP BY metric"),
    ("arrow", "SELECT run_id, metric, avg(value), count(*) FROM metrics GROUP BY ALL"),
    ("json", "SELECT name, state, points, params, last FROM runs"),
)
ONE_CURVE = "SELECT step, value FROM metrics WHERE run_id = 'benchaaaaaaaaaaa' AND metric = 'train/metric_000'"
CHILD = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
connection.execute(sys.argv[2]).fetchall()
"""


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=4_000_000, metavar="N", help="points of each half (4,000,000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--ask", metavar="HOST:PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(options.ask, READERS)
        return
    with scratch() as folder:
        figures = {
            "alone": ingest(folder / "alone", options.points, readers=0),
            "readers": ingest(folder / "readers", options.points, readers=READERS),
        }
        alone, beside = (figures[key]["points_a_second"] for key in ("alone", "readers"))
        figures["readers"]["slowed_percent"] = rounded(100 * (1 - beside / alone))
        figures |= ways(folder / "alone" / "home")
    show(f"{READERS} readers beside ingest of {options.points:,} points", figures, as_json=options.json)


def ingest(folder: Path, points: int, *, readers: int) -> dict[str, Any]:
    """How fast the second half becomes rows, and what the readers got meanwhile."""
    topic = Topic(folder / "topic")
    topic.send(points)
    figures: dict[str, Any] = {}
    with ConsumerProcess(f"dir:{folder / 'topic'}", home=folder / "home") as consumer:
        consumer.wait_for(stored(topic.points), timeout_seconds=WAIT_SECONDS_MAX)
        process = psutil.Process(consumer.pid)
        with reading(consumer, readers) as seconds:
            cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
            topic.send(points)
            while stored_points(consumer) < topic.points:
                time.sleep(0.1)
            took = time.monotonic() - began
            spent = sum(process.cpu_times()[:2]) - cpu
            mib = process.memory_info().rss / 2**20
        figures = {
            "points_a_second": round(points / took),
            "consumer_cpu_seconds": rounded(spent),
            "consumer_mib": round(mib),
        }
    if seconds:
        figures |= {"queries": len(seconds), "query_ms_p50": rounded(1e3 * percentile(seconds, 0.5))}
    return figures


def ways(home: Path) -> dict[str, dict[str, Any]]:
    """The same curve by three ways; what each needs before it can begin."""
    store = Store.open(home / "runwire.duckdb", snapshots.options_for(home / "snapshots", 0.0))
    sandbox = Sandbox(store.cursor)
    sandbox.run(ONE_CURVE)
    inside = timed(lambda: sandbox.run(ONE_CURVE))
    began = time.monotonic()
    snapshot = snapshots.take(store.database, home / "snapshots", time.time_ns() // 1_000)
    copied = time.monotonic() - began
    command = [sys.executable, "-c", CHILD, str(snapshot.path), ONE_CURVE]
    child = timed(lambda: subprocess.run(command, check=True))
    cursor = store.cursor()

    def feed() -> None:
        sink = pa.BufferOutputStream()
        reader = cursor.execute("SELECT run_id, metric, step, value FROM metrics").to_arrow_reader()
        with pa.ipc.new_stream(sink, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)

    fed = timed(feed)
    cursor.close()
    store.close()
    return {
        "in the process": {"ready_ms": 0, "curve_ms": rounded(1e3 * inside)},
        "child, snapshot": {"ready_ms": rounded(1e3 * copied), "curve_ms": rounded(1e3 * child)},
        "child, Arrow": {"ready_ms": rounded(1e3 * fed), "curve_ms": None},
    }


class Topic:
    """A folder's topic that is filled with encoded messages."""

    def __init__(self, folder: Path) -> None:
        """Nothing is sent yet."""
        self._folder = folder
        self.points = 0
        self._turn = 0
        now_us = time.time_ns() // 1_000
        self._shape = SHAPES[SHAPE]
        self._streams = [
            EmitterStream(n, self._shape, make_bodies(self._shape, now_us), now_us) for n in range(EMITTERS)
        ]
        self._begun = False

    def send(self, points: int) -> None:
        """So many, in messages of a thousand."""
        asyncio.run(self._send(points))

    async def _send(self, points: int) -> None:
        transport = DirectoryTransport(parse_url(f"dir:{self._folder}"))
        await transport.open()
        if not self._begun:
            self._begun = True
            for stream in self._streams:
                await self._one(transport, stream.start())
        sent = 0
        while sent < points:
            for stream in self._streams:
                await self._one(transport, stream.batch(self._turn))
                sent += 1_000
            self._turn += 1
        self.points += sent
        await transport.close()

    async def _one(self, transport: DirectoryTransport, encoded: tuple[bytes, bytes, list[tuple[str, bytes]]]) -> None:
        _, value, headers = encoded
        await transport.send([Message(Envelope.from_headers(headers), value)])


def stored(points: int) -> str:
    """A query with a row as soon as so many are stored."""
    return f"SELECT 1 AS x FROM (SELECT sum(points) AS n FROM runs) WHERE n >= {points}"  # noqa: S608 - a number


def stored_points(consumer: ConsumerProcess) -> int:
    """How many the consumer has stored since it began."""
    text = httpx.get(f"http://{consumer.address}/metrics", timeout=60).text
    return int(
        float(next(line.split()[1] for line in text.splitlines() if line.startswith("runwire_points_stored_total")))
    )


@contextlib.contextmanager
def reading(consumer: ConsumerProcess, count: int) -> Iterator[list[float]]:
    """So many clients that ask without a pause, in a process of their own; seconds of each answer, at the end."""
    seconds: list[float] = []
    if not count:
        yield seconds
        return
    command = [sys.executable, __file__, "--ask", consumer.address]
    environment = {**os.environ, "RUNWIRE_TOKEN": consumer.token}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as clients:
        assert clients.stdout is not None
        clients.stdout.readline()  # the first is answered
        try:
            yield seconds
        finally:
            printed, _ = clients.communicate("")
            seconds += json.loads(printed)


def ask(address: str, count: int) -> None:
    """Ask until stdin ends, then print the seconds of each answer; clients stand for other machines."""
    os.nice(19)
    ended = threading.Event()
    seconds: list[float] = []
    headers = {"authorization": f"Bearer {os.environ['RUNWIRE_TOKEN']}"}

    def one(number: int) -> None:
        with httpx.Client(base_url=f"http://{address}", headers=headers, timeout=60) as client:
            while not ended.is_set():
                form, sql = QUERIES[number % len(QUERIES)]
                began = time.monotonic()
                if client.post("/api/sql", params={"format": form}, content=sql).status_code == 200:  # noqa: PLR2004
                    seconds.append(time.monotonic() - began)
                    first.release()

    first = threading.Semaphore(0)
    threads = [threading.Thread(target=one, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    first.acquire()
    print("asking", flush=True)
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps(seconds))


def timed(work: Any) -> float:
    """The fastest of three, in seconds."""
    found = []
    for _ in range(3):
        began = time.monotonic()
        work()
        found.append(time.monotonic() - began)
    return min(found)


if __name__ == "__main__":
    main()
