"""How old a value is when SQL over HTTP and /metrics first show it, while a trainer logs at a rate.

A trainer logs rows of ten values at the rate, and twenty times a second a probe whose value is the time of its call.
Two readers poll the consumer: one asks SQL for new probes, one scrapes /metrics. A probe's age when an answer that
holds it has arrived is one observation; of probes that one scrape jumps over, /metrics shows the last alone.
With --emitters so many others send beside it (`crowd.py`), each four messages a second of one row of ten values.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
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

from bench.broker import broker_if_possible, new_topic
from bench.measuring import scratch
from bench.pacer import PROBE
from bench.report import percentile, show
from tests.services.consumer import ConsumerProcess
from tests.services.process import ServiceProcess, wait_until

CROWD = Path(__file__).with_name("crowd.py")
PACER = Path(__file__).with_name("pacer.py")
RATE = 100_000.0
RATE_BESIDE_A_CROWD = 1_000.0
SECONDS = 20.0
WARM_UP_SECONDS = 3.0
POLL_SECONDS = 0.05
SCRAPE_SECONDS_BESIDE_A_CROWD = 0.25  # a scrape then renders thousands of series
LAST_PROBES_SECONDS = 3.0
GAUGE = re.compile(rf'^runwire_metric\{{[^}}]*metric="{PROBE}"[^}}]*reduce="max"[^}}]*\}} (\S+)$', re.MULTILINE)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, metavar="N", help="points a second (100,000; beside others 1,000)")
    parser.add_argument("--emitters", type=int, default=0, metavar="N", help="others that send 40 points a second each")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the trainer logs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with broker_if_possible() as broker, scratch() as folder:
        if broker is None and options.emitters:
            sys.exit("many emitters need a Kafka broker")
        topic = new_topic(broker) if broker else ""
        url = broker.url(topic) if broker else f"dir:{folder / 'topic'}"
        others = [broker.bootstrap, topic, str(options.emitters)] if broker and options.emitters else None
        rate = options.rate or (RATE_BESIDE_A_CROWD if others else RATE)
        figures = measure(url, folder, rate, options.seconds, others)
    if options.json:
        show("", figures, as_json=True)
    else:
        rate, through = figures.pop("rate_points_per_second"), figures.pop("through")
        show(f"freshness at {rate:,.0f} points/s through {through}", figures, as_json=False)


def measure(url: str, folder: Path, rate: float, seconds: float, others: list[str] | None = None) -> dict[str, Any]:
    """Ages of the probes in both views; `others` are `crowd.py`'s arguments."""
    with (
        ConsumerProcess(url, home=folder / "consumer") as consumer,
        httpx.Client(timeout=30) as client,
        crowd(others, seconds) as beside,
    ):
        process = psutil.Process(consumer.pid)
        client.headers["Authorization"] = f"Bearer {consumer.token}"
        address = f"http://{consumer.address}"
        scrape_seconds = SCRAPE_SECONDS_BESIDE_A_CROWD if others else POLL_SECONDS
        readers = [Reader(ask_sql(client, address)), Reader(ask_metrics(client, address), scrape_seconds)]
        command: list[str | Path] = [sys.executable, PACER, url, folder / "trainer", str(rate), str(seconds)]
        trainer = ServiceProcess("pacer", command, log=folder / "pacer.log")
        begin, cpu_before = time.time(), sum(process.cpu_times()[:2])
        trainer.wait(timeout_seconds=seconds + 60)
        cpu = sum(process.cpu_times()[:2]) - cpu_before
        share = cpu / (time.time() - begin)
        sent = beside()
        time.sleep(LAST_PROBES_SECONDS)
        ages = [reader.stop(begin + WARM_UP_SECONDS) for reader in readers]
        rows = int(trainer.log.read_text().split()[0])
        rows += int(sent.get("messages", 0))
        wait_until(lambda: _points(consumer) >= rows, timeout_seconds=60, what="all rows are stored")
    sql, metrics = (
        {
            "p50_ms": round(1e3 * percentile(found, 0.5), 1) if found else None,
            "p99_ms": round(1e3 * percentile(found, 0.99), 1) if found else None,
            "max_ms": round(1e3 * max(found), 1) if found else None,
            "probes": len(found),
        }
        for found in ages
    )
    through = "Kafka" if url.startswith("kafka:") else "dir:"
    figures = {"rate_points_per_second": rate, "through": through, "sql": sql, "metrics": metrics}
    figures["consumer"] = {"percent_of_a_core": round(100 * share)}
    return {**figures, "others": sent} if others else figures


@contextmanager
def crowd(arguments: list[str] | None, seconds: float) -> Iterator[Callable[[], dict[str, Any]]]:
    """Let others send as long as the block lasts; what it gives waits for their end and tells what they sent."""
    if arguments is None:
        yield dict
        return
    command = [sys.executable, str(CROWD), *arguments, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            sys.exit("the others ended early")
        process.stdin.write(b"\n")
        try:
            output = process.stdout
            yield lambda: json.loads(output.readline())
        finally:
            process.kill()


class Reader:
    """A thread that polls; `ask` returns the times of the probes that are new since its last call."""

    def __init__(self, ask: Callable[[], list[float]], poll_seconds: float = POLL_SECONDS) -> None:
        self._ask = ask
        self._poll_seconds = poll_seconds
        self._seen: list[tuple[float, float]] = []
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def stop(self, since: float) -> list[float]:
        """End; returns the age in seconds of each probe logged after `since`.

        Raises:
            Exception: What the reader met.
        """
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return [now - logged_at for logged_at, now in self._seen if logged_at >= since]

    def _poll(self) -> None:
        try:
            while not self._stopped.wait(self._poll_seconds):
                found = self._ask()
                now = time.time()
                self._seen += [(logged_at, now) for logged_at in found]
        except Exception as error:  # noqa: BLE001 - carried to the thread that asks for the ages
            self._failure = error


def ask_sql(client: httpx.Client, address: str) -> Callable[[], list[float]]:
    """Ask for the probes above the last step seen."""
    last = -1

    def ask() -> list[float]:
        nonlocal last
        query = f"SELECT step, value FROM metrics WHERE metric = '{PROBE}' AND step > {last} ORDER BY step"  # noqa: S608
        answer = client.post(
            f"{address}/api/sql?format=json", content=query, headers={"Content-Type": "text/plain"}
        ).raise_for_status()
        rows = answer.json()
        if rows:
            last = rows[-1]["step"]
        return [row["value"] for row in rows]

    return ask


def ask_metrics(client: httpx.Client, address: str) -> Callable[[], list[float]]:
    """Scrape, as Prometheus does."""
    last = 0.0

    def ask() -> list[float]:
        nonlocal last
        match = GAUGE.search(client.get(f"{address}/metrics").raise_for_status().text)
        if match is None or float(match[1]) == last:
            return []
        last = float(match[1])
        return [last]

    return ask


def _points(consumer: ConsumerProcess) -> int:
    (row,) = consumer.sql("SELECT coalesce(sum(stored), 0) AS rows FROM emitters")
    return int(row["rows"])


if __name__ == "__main__":
    main()
