"""What SIGKILL costs a logging process: rows whose `log()` had returned that are not in the database, or twice there.

A process logs rows of ten values in a tight loop and counts in shared memory the calls that have returned. After a
random time it is killed; `runwire sync` sends what it left. When all were killed, the consumer's file is opened and
counted.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.broker import broker_if_possible, new_topic
from bench.measuring import START_TIMEOUT_SECONDS, Load, Worker, scratch
from bench.report import show
from bench.tools import TOOLS
from tests.services.consumer import RUNWIRE, ConsumerProcess

KILLS = 20
# Faster than any tool, so the loop never sleeps; such a loop counts its returned calls, the tight one doesn't.
LOAD = Load(calls=2_000_000, calls_per_second=1e7, seconds_max=60)
KILL_AFTER_SECONDS = (0.05, 1.0)


def main() -> None:
    """Kill, count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help="processes to kill")
    parser.add_argument("--dir", action="store_true", help="through a dir: topic even where Kafka can be had")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        broker = None if options.dir else stack.enter_context(broker_if_possible())
        folder = stack.enter_context(scratch())
        url = broker.url(new_topic(broker)) if broker else f"dir:{folder / 'topic'}"
        figures = measure(url, folder, options.kills)
    show(f"{options.kills} x SIGKILL of a logging process", {"runwire": figures}, as_json=options.json)
    if figures["rows_lost"] or figures["rows_twice"]:
        sys.exit("rows are lost or twice there")


def measure(url: str, folder: Path, kills: int) -> dict[str, Any]:
    """Kill processes that log to `url`, and count what a consumer has stored of their rows."""
    numbers = random.Random(11)
    returned: dict[str, int] = {}
    with ConsumerProcess(url, home=folder / "consumer") as consumer:
        for number in range(kills):
            place = folder / str(number)
            place.mkdir()
            with Worker(TOOLS[0], place, url, LOAD) as worker:
                worker.stage("started", START_TIMEOUT_SECONDS)
                worker.go_on()
                worker.stage("open", START_TIMEOUT_SECONDS)
                worker.go_on()
                time.sleep(numbers.uniform(*KILL_AFTER_SECONDS))
                calls = worker.sigkill()
            home = place / "data" / "home"
            (journal,) = (path for path in (home / "journal").iterdir() if path.is_dir())
            returned[journal.name] = calls
            if not send_rest(home):
                raise RuntimeError(f"`runwire sync {home}` left something")
        query = f"SELECT 1 FROM emitters HAVING count(*) >= {kills} AND bool_and(complete)"  # noqa: S608
        consumer.wait_for(query, timeout_seconds=120)
        consumer.stop()
        stored = contents(consumer.database)
    lost = sum(max(0, calls - stored.get(emitter, (0, 0))[0]) for emitter, calls in returned.items())
    return {
        "kills": kills,
        "rows_returned": sum(returned.values()),
        "rows_stored": sum(rows for rows, _ in stored.values()),
        "rows_lost": lost,
        "rows_twice": sum(twice for _, twice in stored.values()),
        "through": "Kafka" if url.startswith("kafka:") else "dir:",
    }


def send_rest(home: Path) -> bool:
    """Send what dead processes left in a home; whether that was all, and nobody lives."""
    done = subprocess.run([RUNWIRE, "sync", home], capture_output=True, text=True, check=False, timeout=600)
    return done.returncode == 0 and "of processes that still run" not in done.stdout


def contents(database: Path) -> dict[str, tuple[int, int]]:
    """Rows with all their values, and rows stored twice, of each emitter."""
    query = """
        SELECT emitter_id, count(*) FILTER (points = ?), sum(points) // ? - count(*) FROM (
            SELECT emitter_key, seq, count(*) AS points FROM store.all_points GROUP BY ALL
        ) JOIN store.emitters USING (emitter_key) GROUP BY emitter_id
    """
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute(query, [LOAD.keys, LOAD.keys]).fetchall()
    return {emitter: (int(count), int(twice)) for emitter, count, twice in rows}


if __name__ == "__main__":
    main()
