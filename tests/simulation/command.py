"""The simulator's command line, and histories on all cores."""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.simulation.bugs import PLANTED, with_bug
from tests.simulation.history import Report, run_history

SAFETY_EACH = 4  # every so many histories end in the midst of faults
TRACE_LINES_SHOWN = 60


@dataclass(frozen=True)
class Outcome:
    """What many histories came to: the failed ones, and totals."""

    histories: int
    commits: int
    rows: int
    failed: list[Report]
    seconds: float


def mode_of(seed: int, mode: str | None = None) -> str:
    """The mode that a seed is run in, where nobody says another."""
    return mode or ("safety" if seed % SAFETY_EACH == 0 else "liveness")


def run_seed(seed: int, mode: str | None = None, bug: str | None = None) -> Report:
    """One history."""
    with with_bug(bug):
        return run_history(seed, mode_of(seed, mode))


def run_many(seeds: Sequence[int], mode: str | None = None, bug: str | None = None, processes: int = 0) -> Outcome:
    """Histories on all cores; ends early when ten have failed."""
    began = time.monotonic()
    commits = rows = done = 0
    failed: list[Report] = []
    for report in _reports(seeds, mode, bug, processes or os.cpu_count() or 1):
        done += 1
        commits += report.commits
        rows += report.rows
        if report.violation:
            failed.append(report)
            if len(failed) >= 10:
                break
    return Outcome(done, commits, rows, sorted(failed, key=lambda one: one.seed), time.monotonic() - began)


def first_failure(bug: str, seeds: Sequence[int]) -> Report | None:
    """The first history that notices a planted bug."""
    return next((report for seed in seeds if (report := run_seed(seed, bug=bug)).violation), None)


def _reports(seeds: Sequence[int], mode: str | None, bug: str | None, processes: int) -> Iterator[Report]:
    tasks = [(seed, mode, bug) for seed in seeds]
    if processes == 1 or len(tasks) < 2 * processes:
        yield from map(_run_task, tasks)
        return
    # Fresh interpreters: a fork would inherit pytest's threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_run_task, tasks, chunksize=20)


def _run_task(task: tuple[int, str | None, str | None]) -> Report:
    report = run_seed(*task)
    return report if report.violation else dataclasses.replace(report, trace=[])


def describe(report: Report, bug: str | None = None) -> str:
    """A failed history for people: what, how to repeat it, and its trace."""
    again = f"python tests/simulation/run.py --seed {report.seed} --mode {report.mode}"
    lines = [
        f"seed {report.seed} ({report.mode}): {report.violation}",
        f"repeat: {again}{f' --bug {bug}' if bug else ''}",
        *(line[:200] for line in report.trace[:1] + report.trace[1:][-TRACE_LINES_SHOWN:]),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run; 1 when a law was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this history alone, and show its trace")
    parser.add_argument("--histories", type=int, default=300, help="how many (300)")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed (0)")
    parser.add_argument("--mode", choices=("safety", "liveness"), help="one of four is safety where this isn't said")
    parser.add_argument("--bug", choices=sorted(PLANTED), help="plant this bug")
    parser.add_argument("--processes", type=int, default=0, help="how many at once (all cores)")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        report = run_seed(given.seed, given.mode, given.bug)
        if given.json:
            print(json.dumps({**dataclasses.asdict(report), "contents": None}))
        else:
            print(describe(report, given.bug) if report.violation else "\n".join([*report.trace, "all laws hold"]))
        return bool(report.violation)
    seeds = range(given.first, given.first + given.histories)
    outcome = run_many(seeds, given.mode, given.bug, given.processes)
    if given.json:
        failed = [{"seed": one.seed, "mode": one.mode, "violation": one.violation} for one in outcome.failed]
        print(json.dumps({**dataclasses.asdict(outcome), "failed": failed}))
    else:
        for report in outcome.failed[:3]:
            print(describe(report, given.bug), end="\n\n")
        print(
            f"{outcome.histories} histories, {outcome.commits} commits, {outcome.rows} rows in {outcome.seconds:.0f} s "
            f"({outcome.histories / outcome.seconds:.0f}/s): {len(outcome.failed)} broke a law",
            file=sys.stdout,
        )
    return bool(outcome.failed)
