"""What it costs to limit a statement to projects: copies, as decision 027 has it, beside a filter and beside no limit.

    python bench/project_tokens.py [--runs 200] [--metrics 20] [--steps 500] [--json]

Half of the runs belong to the token's project. CPU milliseconds of this process, all threads, medians of `--times`;
they hold on a busy machine too. `filter` is what a condition on the project would cost if it were safe, which it is not
(docs/decisions/027-access-is-one-table-and-a-project-token-reads-copies.md).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from runwire_consumer.database import Database
from runwire_consumer.limits import Limits
from runwire_consumer.sandbox import Sandbox

OURS = frozenset({"ours"})
FILL = """
INSERT INTO store.runs SELECT i, printf('%016x', i), if(i % 2 = 0, 'ours', 'theirs'), NULL FROM range({runs}) t(i);
INSERT INTO store.run_states SELECT i, 'finished', 0, 'because' FROM range({runs}) t(i);
INSERT INTO store.emitters BY NAME SELECT
    i AS emitter_key, printf('%032x', i) AS emitter_id, i AS run_key, 0 AS "rank", 'only' AS attempt,
    0 AS restart_count, 'train' AS role, i AS started_at, 1 AS world_size, {steps} AS next_seq, 'finished' AS how,
    'finished' AS status,
    i AS seen_at, 2.0 AS next_in_seconds, 0 AS assigned_seq, 0 AS journal_rows, i AS row_time, 0.0 AS overdue_seconds
    FROM range({runs}) t(i);
INSERT INTO store.starts SELECT
    i, 0, 'run-' || i, 'sweep', 'ada', ['base'], NULL, NULL, 'torchrun', NULL, 0, 1, 'node', 'Linux', '3.11', 2, 1, [],
    'c0ffee', 'main', NULL, false, ['train.py'], map {{}}, '0' FROM range({runs}) t(i);
INSERT INTO store.params SELECT i, 1, 0, 'lr', (i / 1000)::VARCHAR, i / 1000, 'float' FROM range({runs}) t(i);
INSERT INTO store.metrics SELECT i, 'metric/' || i FROM range({metrics}) t(i);
INSERT INTO store.rows SELECT e, s, s, s FROM range({runs}) t(e), range({steps}) u(s);
INSERT INTO store.points SELECT e, m, s, s / 7 FROM range({runs}) t(e), range({metrics}) v(m), range({steps}) u(s);
INSERT INTO store.series SELECT e, m, {steps}, 0, 0, 0, {steps} - 1, {steps} - 1, 0, 1.0, 0, {steps} - 1, true, NULL, 0
    FROM range({runs}) t(e), range({metrics}) v(m);
INSERT INTO store.ledger SELECT e, 0, {steps}, 'stored' FROM range({runs}) t(e);
"""
BY_PROJECT = "run_id IN (SELECT run_id FROM runs WHERE project = 'ours')"
STATEMENTS = {
    "one_curve": (
        "SELECT step, value FROM curves WHERE run_id = $run AND metric = 'metric/3' ORDER BY step",
        "SELECT step, value FROM curves WHERE run_id = $run AND metric = 'metric/3' AND {by_project} ORDER BY step",
    ),
    "run_list": (
        "SELECT run_id, name, state FROM runs ORDER BY started_at DESC LIMIT 50",
        "SELECT run_id, name, state FROM runs WHERE project = 'ours' ORDER BY started_at DESC LIMIT 50",
    ),
    "leaderboard": (
        "SELECT name, params['lr'], last['metric/3'] AS l FROM runs ORDER BY l LIMIT 20",
        "SELECT name, params['lr'], last['metric/3'] AS l FROM runs WHERE project = 'ours' ORDER BY l LIMIT 20",
    ),
    "last_values": ("SELECT * FROM latest", "SELECT * FROM latest WHERE {by_project}"),
    "one_metric_of_all_runs": (
        "SELECT run_id, max(value) FROM curves WHERE metric = 'metric/3' GROUP BY run_id",
        "SELECT run_id, max(value) FROM curves WHERE metric = 'metric/3' AND {by_project} GROUP BY run_id",
    ),
}


def main() -> int:
    """Fill a store, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 200), ("metrics", 20), ("steps", 500), ("times", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(Path(folder) / "runwire.duckdb")
        with contextlib.closing(database.cursor()) as cursor:
            cursor.execute(FILL.format(runs=asked.runs, metrics=asked.metrics, steps=asked.steps))
        database.checkpoint()
        found = _measured(Sandbox(database.cursor, Limits(seconds_max=600)), asked.times)
        database.close()
    if asked.json:
        print(json.dumps({"points": asked.runs * asked.metrics * asked.steps, "cpu_ms": found}))
        return 0
    print(f"{asked.runs * asked.metrics * asked.steps:,} points; CPU milliseconds\n")
    print(f"{'':24}{'all':>10}{'filter':>10}{'copies':>10}")
    for name, each in found.items():
        print(f"{name:24}{each['all']:10.1f}{each['filter']:10.1f}{each['copies']:10.1f}")
    return 0


def _measured(sandbox: Sandbox, times: int) -> dict[str, dict[str, float]]:
    found = {}
    for name, (sql, filtered) in STATEMENTS.items():
        params = {"run": f"{4:016x}"} if "$run" in sql else None
        found[name] = {
            "all": _cpu_ms(partial(sandbox.run, sql, params), times),
            "filter": _cpu_ms(partial(sandbox.run, filtered.format(by_project=BY_PROJECT), params), times),
            "copies": _cpu_ms(partial(sandbox.run, sql, params, OURS), times),
        }
    return found


def _cpu_ms(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times + 1):
        started = time.process_time()
        run()
        taken.append((time.process_time() - started) * 1_000)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    sys.exit(main())
