"""The process that chaos strikes: it logs rows in bursts, forks children that do, and counts what log() returned from.

usage: python tests/chaos/trainer.py --number N --told FILE --stop FILE [--children C] [--rows-per-second R]

Home and destination are in the environment. It ends, and finishes its run, when the stop file exists.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import time
from pathlib import Path

import runwire
from runwire import _emitter
from tests.chaos.told import KEYS, METRICS, WRITERS, Counters, value, writer_of

# Some hundred rows: every life sees many changes of segment.
SEGMENT_BYTES = 64 * 2**10
BURST_SECONDS = 0.05
CHILD_ROWS_MAX = 2_000
FINISH_SHARE = 0.5  # of the children; the others leave their journal to recovery
CHILD_INTERVAL_SECONDS = 1.0


def main() -> None:
    """Log until the stop file is there, or somebody ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--told", type=Path, required=True)
    parser.add_argument("--stop", type=Path, required=True)
    parser.add_argument("--children", type=int, default=0)
    parser.add_argument("--rows-per-second", type=float, default=1_000.0)
    options = parser.parse_args()
    faulthandler.enable()  # SIGABRT: who doesn't end says where it is
    # There is no option for it: who has a reason to change a segment's size has one to change this line.
    _emitter.segment_bytes_for = lambda journal_bytes_max: min(SEGMENT_BYTES, journal_bytes_max)  # type: ignore[attr-defined]
    told = Counters(options.told)
    run = runwire.init(project="chaos", params={"trainer": options.number})
    chance = random.Random(options.number)
    writer = Writer(run, told, options.number, 0, options.rows_per_second)
    children: list[int] = []
    next_child = time.monotonic() + chance.uniform(0, CHILD_INTERVAL_SECONDS)
    while not options.stop.exists():
        writer.burst()
        if len(children) < min(options.children, WRITERS - 1) and time.monotonic() >= next_child:
            next_child = time.monotonic() + CHILD_INTERVAL_SECONDS
            rows, finishes = chance.randrange(1, CHILD_ROWS_MAX), chance.random() < FINISH_SHARE
            place = len(children) + 1
            children.append(os.fork())
            if children[-1] == 0:
                be_a_child(run, Writer(run, told, options.number, place, options.rows_per_second), rows, finishes)
    for child in children:
        os.waitpid(child, 0)
    run.finish()


def be_a_child(run: runwire.Run, writer: Writer, rows: int, finishes: bool) -> None:  # noqa: FBT001 - drawn by chance
    """Log some rows and leave, with or without a word."""
    code = 1
    try:
        while writer.rows < rows:
            writer.burst()
        if finishes:
            run.finish()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the auditor looks for it in the log
        sys.stderr.write(f"Traceback of a child: {error!r}\n")
        sys.stderr.flush()
    finally:
        os._exit(code)


class Writer:
    """Logs at a pace, in bursts; after each call the counter says that it has returned."""

    def __init__(self, run: runwire.Run, told: Counters, trainer: int, place: int, rows_per_second: float) -> None:
        self.rows = 0
        self._run = run
        self._told = told
        self._number = writer_of(trainer, place)
        self._place = place
        self._burst_rows = max(1, round(rows_per_second * BURST_SECONDS))
        self._next = time.monotonic()

    def burst(self) -> None:
        """One burst, and the pause before it; who was stopped makes up for nothing."""
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now - BURST_SECONDS) + BURST_SECONDS
        for _ in range(self._burst_rows):
            row = self.rows
            self._run.log({METRICS[key]: value(self._number, row, key) for key in range(KEYS)}, step=row)
            self.rows = row + 1
            self._told.returned(self._place, self.rows)


if __name__ == "__main__":
    main()
