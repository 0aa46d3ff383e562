"""What SIGKILL costs a process of four logging threads and forked children that log, its segments being small.

The process (victim.py) and its children count in shared memory which calls have returned. All use one home, so each
also sends what the dead before it left, until it is killed at that. At the end `runwire sync` sends the rest, a
consumer reads the topic, and its file is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.kills import send_rest
from bench.measuring import scratch
from bench.report import show
from bench.victim import KEYS, WRITERS_MAX, metric
from tests.services.consumer import RUNWIRE
from tests.services.process import wait_until

KILLS = 200
VICTIM = Path(__file__).with_name("victim.py")
KILL_AFTER_SECONDS = (0.0, 0.3)
EARLY_SHARE = 0.1  # so many are killed while they begin
ORPHAN_SHARE = 0.3  # of so many the children live on for a moment
ORPHAN_SECONDS_MAX = 0.05


def main() -> None:
    """Kill, count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help="processes to kill")
    parser.add_argument("--seed", type=int, default=11, metavar="N", help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with scratch() as folder:
        figures = measure(folder, options.kills, options.seed)
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"{options.kills} x SIGKILL of threads and forks that log", {"runwire": figures}, as_json=False)
    if figures["rows_lost"] or figures["rows_twice"]:
        sys.exit("rows are lost or twice there")


def measure(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill so many processes, and count what a consumer has stored of their rows."""
    numbers = random.Random(seed)
    home, topic = folder / "home", folder / "topic"
    returned = {}
    for number in range(kills):
        counters = folder / f"returned-{number}"
        counters.write_bytes(bytes(8 * WRITERS_MAX))
        kill_one(numbers, f"dir:{topic}", home, counters, number)
        for writer, calls in enumerate(struct.unpack(f"<{WRITERS_MAX}q", counters.read_bytes())):
            if calls:
                returned[number, writer] = calls
    wait_until(lambda: send_rest(home), timeout_seconds=600, what="nobody holds a journal any more")
    consumer = {**os.environ, "RUNWIRE_HOME": str(folder / "consumer"), "RUNWIRE_URL": f"dir:{topic}"}
    subprocess.run([RUNWIRE, "up", "--once"], env=consumer, check=True, stdout=subprocess.DEVNULL, timeout=600)
    lost, twice = compare(folder / "consumer" / "runwire.duckdb", returned)
    return {"kills": kills, "rows_returned": sum(returned.values()), "rows_lost": lost, "rows_twice": twice}


def kill_one(numbers: random.Random, url: str, home: Path, counters: Path, number: int) -> None:
    """Start a victim and SIGKILL it, with its children or some moments before them."""
    command = [sys.executable, str(VICTIM), url, str(home), str(counters), str(number)]
    early = numbers.random() < EARLY_SHARE
    seconds, orphan_seconds = numbers.uniform(*KILL_AFTER_SECONDS), 0.0
    if numbers.random() < ORPHAN_SHARE:
        orphan_seconds = numbers.uniform(0.0, ORPHAN_SECONDS_MAX)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as victim:
        assert victim.stdout is not None
        try:
            if not early and victim.stdout.readline() != b"begun\n":
                assert victim.stderr is not None
                raise RuntimeError(f"the victim didn't begin: {victim.stderr.read().decode()[-300:]}")
            time.sleep(seconds)
            victim.kill()
            time.sleep(orphan_seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(victim.pid, signal.SIGKILL)


def compare(database: Path, returned: dict[tuple[int, int], int]) -> tuple[int, int]:
    """Rows whose call returned and that are not there with all values, and rows of which a value is there twice."""
    names = [(*writer, metric(*writer, key), calls) for writer, calls in returned.items() for key in range(KEYS)]
    query = """
        SELECT sum(lost), sum(twice) FROM (
            SELECT max(calls - there) AS lost, max(more) AS twice FROM (
                SELECT any_value(victim) AS victim, any_value(writer) AS writer, any_value(calls) AS calls,
                       count(DISTINCT value) FILTER (value < calls) AS there,
                       count(value) - count(DISTINCT value) AS more
                FROM returned LEFT JOIN store.metrics USING (name) LEFT JOIN store.all_points USING (metric_key)
                GROUP BY name
            ) GROUP BY victim, writer
        )
    """
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TEMP TABLE returned (victim INTEGER, writer INTEGER, name VARCHAR, calls BIGINT)")
        connection.executemany("INSERT INTO returned VALUES (?, ?, ?, ?)", names)
        rows = connection.execute(query).fetchall()
    ((lost, twice),) = rows
    return int(lost or 0), int(twice or 0)


if __name__ == "__main__":
    main()
