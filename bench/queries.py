"""What looking costs at 100 million points, 1,000 runs of 100 metrics and 1,000 steps, and at a curve of 10 million.

The store is filled by the consumer's own transactions and compacted by its compaction meanwhile, once; it is kept in
`.cache/bench`. Queries go the way of users' SQL, through the sandbox. Beside it: plain DuckDB with the same points in
one big table (run, metric, step, time, value), as they came. Times are medians of wall milliseconds; `cpu_ms` has the
CPU's. The exit code is 1 where what is read is not what was written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.report import rounded, show
from runwire_consumer.database import EngineOptions
from runwire_consumer.decode import Decoded, decode
from runwire_consumer.limits import Limits
from runwire_consumer.runstate import RunState
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.store import Store
from runwire_schemas import events
from runwire_schemas.envelope import Envelope
from tests.consumer.telling import DAY_ONE, SECOND, Emitter

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"
METRICS, STEPS = 100, 1_000
TOGETHER = 50  # so many runs log at a time
ROWS = 20  # of each run in a transaction
LONG_POINTS = 10_000_000
LONG_ROWS = 100_000  # in a transaction
LONG_RUN = "f" * 16
BUCKETS = 1_000
ZOOM_STEPS = 2_000
REPEATS, PLAIN_REPEATS = 15, 5
NAMES = tuple(f"train/metric-{number:02}" for number in range(METRICS))


class Process(Emitter):
    """The only process of its run."""

    @property
    def emitter_id(self) -> str:
        """Its run's id, twice."""
        return self.run_id * 2


def main() -> None:
    """Build what isn't there, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000, help="of 100,000 points each")
    parser.add_argument("--long-points", type=int, default=LONG_POINTS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    folder = CACHE / f"queries-{options.runs}-{options.long_points}"
    ours, built = build(folder, options.runs, options.long_points)
    plain = build_plain(folder, ours)
    figures = {**ask_ours(ours, options.runs, options.long_points), **sizes(ours, folder), **built}
    ours.close()
    beside = ask_plain(plain, options.runs, options.long_points)
    if options.json:
        print(json.dumps({**figures, "plain_duckdb": beside}))
    else:
        flat = ({name: value for name, value in one.items() if name != "cpu_ms"} for one in (figures, beside))
        columns = dict(zip(("runwire", "plain DuckDB"), flat, strict=True))
        show(f"{options.runs * METRICS * STEPS:,} points", columns, as_json=False)


def build(folder: Path, runs: int, long_points: int) -> tuple[Store, dict[str, Any]]:
    """The store, and what filling it took."""
    done = folder / "built.json"
    path = folder / "runwire.duckdb"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()
        store = Store.open(path)
        began, stalls, size_max = time.process_time(), [], 0
        ingest_seconds = 0.0
        for items, ended in stories(runs, long_points):
            before = time.process_time()
            store.write(store.admit(items, DAY_ONE + 10**6 * SECOND, at_tail=False), states_of(store, ended))
            ingest_seconds += time.process_time() - before
            clock = time.monotonic()
            if store.compaction.step() is not None:
                stalls.append((time.monotonic() - clock) * 1e3)
            if store.database.wal_bytes > 256 * 2**20:
                store.database.checkpoint()
            size_max = max(size_max, store.database.file_bytes)
        while True:
            clock = time.monotonic()
            slice_ = store.compaction.step()
            if slice_ is None:
                break
            stalls.append((time.monotonic() - clock) * 1e3)
        store.compaction.finish(store.cursor())
        store.close()
        done.write_text(
            json.dumps(
                {
                    "compaction_stall_ms": rounded(max(stalls)),
                    "compaction_stall_median_ms": rounded(statistics.median(stalls)),
                    "slices": len(stalls),
                    "build_cpu_seconds": round(time.process_time() - began, 1),
                    "build_ingest_cpu_seconds": round(ingest_seconds, 1),
                    "file_bytes_while_filled": size_max,
                }
            )
        )
    found: dict[str, Any] = json.loads(done.read_text())
    return Store.open(path, EngineOptions()), found


def states_of(store: Store, ended: list[str]) -> dict[int, RunState]:
    """All of these runs have finished."""
    return {store.catalog.run_keys[run_id]: RunState("finished", DAY_ONE, "It finished.") for run_id in ended}


def stories(runs: int, long_points: int) -> Iterator[tuple[list[Decoded], list[str]]]:
    """Transactions: what comes in each, and which runs have ended with what came before."""
    generator = np.random.default_rng(1)
    ended: list[str] = []
    for first in range(0, runs, TOGETHER):
        group = [
            Process("e", f"{number:016x}", attempt=f"a{number}", started=float(number))
            for number in range(first, min(first + TOGETHER, runs))
        ]
        yield [one for emitter in group for one in opening(emitter)], ended
        for step in range(0, STEPS, ROWS):
            yield [batch(emitter, NAMES, step, ROWS, generator) for emitter in group], []
        ended = [emitter.run_id for emitter in group]
    long = Process("f", LONG_RUN, attempt="long")
    yield opening(long), ended
    for step in range(0, long_points, LONG_ROWS):
        yield [batch(long, NAMES[:1], step, LONG_ROWS, generator)], []
    yield [], [LONG_RUN]


def opening(emitter: Emitter) -> list[Decoded]:
    """A run starts, with parameters, and says what is best."""
    number = int(emitter.run_id, 16)
    messages = [
        emitter.starts(name=f"run-{number}", attempt=emitter.attempt),
        emitter.says(events.ParamsLogged, params={"lr": number / 7, "layers": number % 12, "optimizer": "adam"}),
        emitter.says(events.MetricDefined, metric=NAMES[0], best="min"),
        emitter.says(events.MetricDefined, metric=NAMES[1], best="max"),
    ]
    return [one for one in map(decode, messages) if isinstance(one, Decoded)]


def batch(emitter: Emitter, names: tuple[str, ...], step: int, rows: int, generator: np.random.Generator) -> Decoded:
    """Rows as decode hands them out, without the bytes."""
    steps = np.arange(step, step + rows)
    times = emitter.now + steps * 50_000 + generator.integers(0, 4_000, rows)
    values = generator.normal(1.0, 0.1, rows * len(names)) * np.exp(-np.tile(steps, len(names)) / 1_000)
    block = events.Block(names, cast("Any", steps), cast("Any", np.sort(times)), cast("Any", values))
    event = events.MetricBatch(emitter.run_id, emitter.emitter_id, emitter.rank, emitter.seq, (block,))
    emitter.seq += rows
    message = emitter.signals(events.Heartbeat, next_seq=emitter.seq, next_in_seconds=2.0)
    return Decoded(message, Envelope.of(event, emitter.project, emitter.attempt), event)


@dataclass(frozen=True)
class Questions:
    """SQL with holes, by figure."""

    curve: str
    leaderboard: str
    last: str
    buckets: str

    def filled(self, runs: int, long_points: int) -> dict[str, tuple[str, int]]:
        """SQL, and how many rows it has to give."""
        one, twenty = f"'{runs // 2:016x}'", ", ".join(f"'{number * (runs // 20):016x}'" for number in range(20))
        middle = f"AND step BETWEEN {long_points // 3} AND {long_points // 3 + ZOOM_STEPS - 1}"
        return {
            "one_curve_ms": (self.curve.format(runs=one, more=""), STEPS),
            "twenty_curves_ms": (self.curve.format(runs=twenty, more=""), 20 * STEPS),
            "leaderboard_ms": (self.leaderboard, runs),
            "last_values_ms": (self.last, runs * METRICS),
            "long_curve_buckets_ms": (self.buckets.format(points=long_points, buckets=BUCKETS), BUCKETS),
            "zoom_ms": (self.curve.format(runs=f"'{LONG_RUN}'", more=middle), ZOOM_STEPS),
        }


# The first metric, the second one, and the long run, by their names.
OURS = Questions(
    "SELECT run, step, value FROM curves WHERE metric = 'train/metric-00' AND run_id IN ({runs}) {more} ORDER BY 1, 2",
    "SELECT name, params['lr'] AS lr, params['layers'] AS layers, best['train/metric-01'] AS best FROM runs "
    "WHERE run_id <> 'ffffffffffffffff' ORDER BY best DESC",
    "SELECT run_id, run, metric, step, value FROM latest WHERE run_id <> 'ffffffffffffffff'",
    "SELECT * FROM curve('ffffffffffffffff', 'train/metric-00', {buckets})",
)
PLAIN = Questions(
    "SELECT run, step, value FROM points WHERE metric = 'train/metric-00' AND run IN ({runs}) {more} ORDER BY 1, 2",
    "SELECT run, lr, best FROM params JOIN (SELECT run, max(value) AS best FROM points "
    "WHERE metric = 'train/metric-01' GROUP BY run) USING (run) ORDER BY best DESC",
    "SELECT run, metric, arg_max(step, time), arg_max(value, time) FROM points "
    "WHERE run <> 'ffffffffffffffff' GROUP BY ALL",
    "SELECT step * {buckets} // {points} AS b, min(step), max(step), min(value), max(value), avg(value), count(*) "
    "FROM points WHERE metric = 'train/metric-00' AND run = 'ffffffffffffffff' GROUP BY b ORDER BY b",
)


def ask_ours(store: Store, runs: int, long_points: int) -> dict[str, Any]:
    """Medians, through the sandbox."""
    sandbox = Sandbox(store.cursor, Limits(seconds_max=120))
    return measure(OURS.filled(runs, long_points), lambda sql: sum(one.num_rows for one in sandbox.run(sql).batches))


def ask_plain(path: Path, runs: int, long_points: int) -> dict[str, Any]:
    """The same of one big table."""
    connection = duckdb.connect(str(path), read_only=True)
    found = measure(
        PLAIN.filled(runs, long_points), lambda sql: connection.execute(sql).to_arrow_table().num_rows, PLAIN_REPEATS
    )
    ((points,),) = connection.execute("SELECT count(*) FROM points").fetchall()
    connection.close()
    return {**found, "bytes_per_point": rounded(path.stat().st_size / points)}


def measure(asked: dict[str, tuple[str, int]], ask: Callable[[str], int], repeats: int = REPEATS) -> dict[str, Any]:
    """Median wall and CPU milliseconds; the first answer, from a cold cache, doesn't count."""
    found: dict[str, Any] = {}
    cpu_ms: dict[str, float] = {}
    for name, (sql, expected) in asked.items():
        walls, cpus = [], []
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            count = ask(sql)
            walls.append((time.perf_counter() - wall) * 1e3)
            cpus.append((time.process_time() - cpu) * 1e3)
            if count != expected:
                sys.exit(f"{name}: {count:,} rows instead of {expected:,}")
        found[name] = rounded(statistics.median(walls[1:]))
        cpu_ms[name] = rounded(statistics.median(cpus[1:]))
    return {**found, "cpu_ms": cpu_ms}


def sizes(store: Store, folder: Path) -> dict[str, Any]:
    """Bytes of blocks in use, a point; rollups apart, as a file of their own has them."""
    cursor = store.cursor()
    ((points,),) = cursor.execute("SELECT count(*) FROM store.all_points").fetchall()
    ((block, used),) = cursor.execute("SELECT block_size, used_blocks FROM pragma_database_size()").fetchall()
    rollups = cursor.execute("FROM store.rollups ORDER BY emitter_key, metric_key, first_seq").to_arrow_table()
    cursor.close()
    path = folder / "rollups.duckdb"
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as connection:
        connection.register("incoming", rollups)
        connection.execute("CREATE TABLE rollups AS FROM incoming")
    rollup_bytes = path.stat().st_size
    path.unlink()
    return {
        "bytes_per_point": rounded((block * used - rollup_bytes) / points),
        "bytes_per_point_with_rollups": rounded(block * used / points),
        "file_bytes": store.database.file_bytes,
        "points": points,
    }


def build_plain(folder: Path, store: Store) -> Path:
    """One big table, in the order in which points arrive: all runs of a group log at once."""
    path = folder / "plain.duckdb"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with duckdb.connect(str(partial)) as connection:
            connection.execute(
                "CREATE TABLE points (run VARCHAR, metric VARCHAR, step BIGINT, time TIMESTAMP, value DOUBLE)"
            )
            connection.execute("CREATE TABLE params (run VARCHAR, lr DOUBLE)")
            cursor = store.cursor()
            keys = cursor.execute("SELECT DISTINCT run_key FROM store.senders ORDER BY 1").fetchall()
            for first in range(0, len(keys), TOGETHER):
                group = [key for (key,) in keys[first : first + TOGETHER]]
                reader = cursor.execute(
                    "SELECT l.run_id AS run, l.metric, w.step, make_timestamp(w.time) AS time, p.value "
                    "FROM store.all_points p JOIN store.lines l USING (emitter_key, metric_key) "
                    "JOIN store.all_rows w USING (emitter_key, seq) WHERE l.run_key BETWEEN ? AND ? "
                    "ORDER BY w.seq // 20, l.run_key, l.metric, w.seq",
                    [group[0], group[-1]],
                ).to_arrow_table()
                connection.register("incoming", reader)
                connection.execute("INSERT INTO points SELECT * FROM incoming")
            rates = cursor.execute("SELECT run_id, number FROM params WHERE key = 'lr' AND run_id <> ?", [LONG_RUN])
            connection.register("incoming", rates.to_arrow_table())
            connection.execute("INSERT INTO params SELECT * FROM incoming")
            cursor.close()
        partial.rename(path)
    return path


if __name__ == "__main__":
    main()
