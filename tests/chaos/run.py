"""Chaos on the real services: a seeded nemesis strikes whatever there is, and an auditor counts what is there after it.

usage: python tests/chaos/run.py --seed S --minutes M [--json]

Prints the plan to stderr as it goes, and at the end what was found; exits with 0 only where nothing is lost, twice,
wrong or unrecoverable. The folder with logs, homes and the database is deleted then, else kept and named.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a script

from tests.chaos.auditor import Findings, audit
from tests.chaos.disks import own_mounts
from tests.chaos.fleet import Fleet
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import NEED_MOUNT, Kind, steps
from tests.chaos.stage import Stage
from tests.services.process import ServiceMissing, wait_until

CLOSING_SECONDS_MAX = 180.0
EXIT_SERVICE_MISSING = 3


def main() -> int:
    """Play, audit, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the whole plan")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the faults go on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    options = parser.parse_args()
    with_disks = own_mounts()  # before anything starts a thread
    folder = Path(tempfile.mkdtemp(prefix="runwire-chaos-"))
    passed = False
    try:
        report = play(folder, options.seed, options.minutes, with_disks=with_disks)
        passed = is_clean(report)
    except ServiceMissing as missing:
        say(f"{missing.name} is not here: {missing.how_to_get}")
        passed = True
        return EXIT_SERVICE_MISSING
    finally:
        if passed and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"logs, homes and database are kept in {folder}")
    text = json.dumps(report) if options.json else "\n".join(f"{name}: {what}" for name, what in report.items())
    sys.stdout.write(f"{text}\n")
    return 0 if passed else 1


def say(line: str) -> None:
    """One line of what happens."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def is_clean(report: dict[str, Any]) -> bool:
    """Whether nothing is lost, twice, wrong or unrecoverable."""
    return not any(report[name] for name in ("lost", "twice", "wrong", "unrecoverable"))


def play(folder: Path, seed: int, minutes: float, *, with_disks: bool) -> dict[str, Any]:
    """One performance, with its figures.

    Raises:
        ServiceMissing: There is no broker to be had.
    """
    with Stage(folder, with_disks=with_disks) as stage:
        left_out = set[Kind]() if with_disks else set(NEED_MOUNT)
        if not stage.snapshots.by_command:
            left_out.add(Kind.DATABASE_DAMAGED)
        fleet = Fleet(folder / "trainers", stage.homes, stage.trainers_url, seed, say)
        nemesis = Nemesis(stage, fleet, say)
        began = time.monotonic()
        try:
            fleet.start()
            nemesis.begin()
            nemesis.play(steps(seed, left_out), began + 60 * minutes)
            say("healing; all trainers finish, what is left is sent")
            stage.heal()
            seconds = time.monotonic() - began
            fleet.finish()
            problems = nemesis.broken + fleet.broken + close_receipts(stage)
        finally:
            fleet.kill_all()
            keep(folder, stage)
        say("auditing")
        found = audit(folder / "audited" / "runwire.duckdb", fleet.told(), fleet.lossy)
    return figures(stage, fleet, nemesis, found, problems=problems, seconds=seconds) | {
        "seed": seed,
        "faults_left_out": sorted(map(str, left_out)),
    }


def close_receipts(stage: Stage) -> list[str]:
    """Wait until every receipt is closed, then stop the consumer; what went wrong with that."""
    problems = []

    def closed() -> bool:
        return stage.consumer.complete() and stage.at_tail()  # one that isn't known yet has no receipt

    try:
        wait_until(closed, timeout_seconds=CLOSING_SECONDS_MAX, what="everything is read, every receipt is closed")
    except TimeoutError as error:
        problems.append(str(error))
    stage.consumer.take_counters()
    code = stage.consumer.stop()
    if code:
        problems.append(f"the consumer ended with {code} when it was told to end")
    return problems


def keep(folder: Path, stage: Stage) -> None:
    """Copy what lies on disks that go, and take the file away from the consumer."""
    stage.consumer.close()
    left = shutil.ignore_patterns("snapshots", "runwire.duckdb.*-*")
    for home, name in ((stage.consumer.process.home, "audited"), (stage.homes[-1], f"place-{len(stage.homes) - 1}")):
        if home.exists() and home != folder / name:
            shutil.copytree(home, folder / name, dirs_exist_ok=True, ignore=left)


def figures(
    stage: Stage, fleet: Fleet, nemesis: Nemesis, found: Findings, *, problems: list[str], seconds: float
) -> dict[str, Any]:
    """What the whole comes to."""
    kills = {
        "consumer": stage.consumer.kills,
        "broker": stage.kills,
        "restore": stage.snapshots.kills,
        **fleet.kills,
    }
    times = sorted(recovery.seconds for recovery in nemesis.recoveries)
    slowest: dict[str, float] = {}
    for recovery in nemesis.recoveries:
        kind = str(recovery.kind)
        slowest[kind] = round(max(slowest.get(kind, 0.0), recovery.seconds), 1)
    unrecoverable = len(problems) + found.open_receipts
    for line in (*problems, *found.examples):
        say(line)
    return {
        "kills": sum(kills.values()),
        "points": found.points,
        "lost": found.lost,
        "twice": found.twice,
        "unrecoverable": unrecoverable,
        "max_recovery_seconds": round(max(times, default=0.0), 1),
        "wrong": dict(found.wrong),
        "p99_recovery_seconds": round(times[max(math.ceil(0.99 * len(times)) - 1, 0)], 1) if times else 0.0,
        "slowest_recovery_seconds_by_fault": dict(sorted(slowest.items())),
        "kills_by_whom": kills,
        "faults": dict(sorted(nemesis.faults.items())),
        "faults_skipped": dict(nemesis.skipped),
        "consumer_exits_by_code": dict(stage.consumer.exits),
        "writers": len(fleet.told()),
        "rows_told": sum(fleet.told().values()),
        "rows_found": found.rows,
        "declared_lost_rows": dict(found.declared),
        "dead_letters": dict(found.dead_letters),
        "duplicate_rows_removed": stage.consumer.counters["runwire_duplicate_rows_total"],
        "messages": stage.consumer.counters["runwire_messages_read_total"],
        "seconds": round(seconds, 1),
        "points_per_second": round(found.points / seconds),
        "problems": problems,
    }


if __name__ == "__main__":
    sys.exit(main())
