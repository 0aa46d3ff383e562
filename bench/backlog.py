"""How an hour's backlog is caught up: at which rate, and what the live view is like meanwhile.

A generator fills a topic while no consumer runs (18,000,000 points: an hour of 100 processes at 50 points a second
each, with 1,000 points a message). Then the consumer starts and must catch up; meanwhile one reader asks SQL for a
run's latest values, one scrapes /metrics, and a new run begins, whose records stand behind its partition's backlog.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.broker import broker_if_possible, new_topic
from bench.ingest import GENERATOR, contents, points_stored, read_answer, tell
from bench.measuring import scratch
from bench.report import percentile, show
from tests.services.consumer import ConsumerProcess
from tests.services.kafka import KafkaTopics
from tests.services.process import ServiceProcess

SHAPE = "thousand_points"
POINTS = 18_000_000
POLL_SECONDS = 0.1
WAIT_SECONDS_MAX = 600.0
PACER = Path(__file__).with_name("pacer.py")
NEW_RUN = ("100", "2")  # points a second, seconds
ASK_LATEST = "SELECT metric, value FROM latest WHERE run_id = 'benchaaaaaaaaaaa' AND rank = 0"
ASK_NEW_RUN = "SELECT run_id FROM runs WHERE name = 'paced' AND points > 0"


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=POINTS, metavar="N", help="points that wait (18,000,000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with broker_if_possible() as broker, scratch() as folder:
        if broker is None:
            sys.exit("a backlog needs a Kafka broker")
        figures = measure(broker, folder, options.points)
    show(f"a backlog of {options.points:,} points", figures, as_json=options.json)
    if not figures["catch_up"]["exact"]:
        sys.exit("what is stored is not what was sent")


def measure(broker: KafkaTopics, folder: Path, points: int) -> dict[str, dict[str, Any]]:
    """Figures of the catching up, and of the readers beside it."""
    topic = new_topic(broker)
    sent = fill(broker, topic, points)
    begin = time.monotonic()
    with ConsumerProcess(broker.url(topic), home=folder / "home") as consumer:
        started = time.monotonic()
        process = psutil.Process(consumer.pid)
        address, headers = f"http://{consumer.address}", {"Authorization": f"Bearer {consumer.token}"}
        with httpx.Client(timeout=60, headers=headers) as client:
            readers = [
                Reader(lambda: sql(client, address, ASK_LATEST)),
                Reader(lambda: client.get(f"{address}/metrics").raise_for_status()),
            ]
            command: list[str | Path] = [sys.executable, PACER, broker.url(topic), folder / "trainer", *NEW_RUN]
            new_run_began = time.monotonic()
            trainer = ServiceProcess("pacer", command, log=folder / "pacer.log")
            appeared = caught_up = rss = 0.0
            latencies: list[list[float]] = []
            while not (appeared and caught_up) and time.monotonic() - begin < WAIT_SECONDS_MAX:
                rss = max(rss, process.memory_info().rss)
                if not appeared and sql(client, address, ASK_NEW_RUN):
                    appeared = time.monotonic()
                if not caught_up and points_stored(consumer) >= sent["points"]:
                    caught_up = time.monotonic()
                    latencies = [reader.stop() for reader in readers]
                time.sleep(POLL_SECONDS)
            trainer.wait(timeout_seconds=60)
        cpu = sum(process.cpu_times()[:2])
        consumer.stop()
        found = contents(consumer.database)
    took = caught_up - started
    catch_up = {
        "points": sent["points"],
        "seconds": round(took, 2),
        "points_per_second": round(sent["points"] / took),
        "points_per_cpu_second": round(sent["points"] / cpu),
        "start_seconds": round(started - begin, 2),
        "new_run_visible_seconds": round(appeared - new_run_began, 2),
        "rss_mib_max": round(rss / 2**20),
        "exact": found["rows_twice"] == found["incomplete"] == 0 and found["points"] > sent["points"],
    }
    views = {
        name: {
            "p50_ms": round(1e3 * percentile(found, 0.5), 1),
            "p99_ms": round(1e3 * percentile(found, 0.99), 1),
            "max_ms": round(1e3 * max(found), 1),
            "answers": len(found),
        }
        for name, found in zip(("sql", "metrics"), latencies, strict=True)
    }
    return {"catch_up": catch_up, **views}


def fill(broker: KafkaTopics, topic: str, points: int) -> dict[str, Any]:
    """Send the backlog; returns what was sent, `points` or a little more."""
    command = [sys.executable, str(GENERATOR), broker.bootstrap, topic, SHAPE, f"{WAIT_SECONDS_MAX}", str(points)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as generator:
        try:
            read_answer(generator)
            tell(generator, 10**18)
            return read_answer(generator)
        finally:
            generator.kill()


def sql(client: httpx.Client, address: str, query: str) -> list[dict[str, Any]]:
    """Ask; returns the rows."""
    answer = client.post(f"{address}/api/sql?format=json", content=query, headers={"Content-Type": "text/plain"})
    rows: list[dict[str, Any]] = answer.raise_for_status().json()
    return rows


class Reader:
    """A thread that asks again and again, and notes how long each answer took."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._seconds: list[float] = []
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def stop(self) -> list[float]:
        """End; returns seconds, one an answer.

        Raises:
            Exception: What the reader met.
        """
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._seconds

    def _poll(self) -> None:
        try:
            while not self._stopped.wait(POLL_SECONDS):
                begin = time.monotonic()
                self._ask()
                self._seconds.append(time.monotonic() - begin)
        except Exception as error:  # noqa: BLE001 - carried to the thread that asks for the figures
            self._failure = error


if __name__ == "__main__":
    main()
