"""The measured process: logs rows with one tool, in that tool's environment, and says over a pipe how far it is.

usage: python worker.py log TOOL DATA URL KEYS CALLS CALLS_PER_SECOND SECONDS_MAX DURATIONS COUNTER
       python worker.py count TOOL DATA URL KEYS

`log` is led by its parent: it prints a line of JSON after each stage and waits for a line before the next. DURATIONS
gets the nanoseconds of each call as int64; COUNTER is a file of 8 bytes that holds how many calls have returned, also
after SIGKILL (with a rate alone: in the tight loop it would be timed too). `count` prints how many rows are readable.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import random
import struct
import sys
import time
from array import array
from pathlib import Path
from typing import IO, Any

from bench.adapters import ADAPTERS, Adapter, LogRow, Row

ROWS_DIFFERENT = 1_024
WARM_UP_CALLS = 100


def make_rows(keys: int) -> list[Row]:
    """Rows of random floats under names as trainers choose them, the same objects as a program's constants are."""
    numbers = random.Random(7)
    names = [f"train/metric_{key:03d}" for key in range(keys)]
    return [{name: numbers.random() for name in names} for _ in range(ROWS_DIFFERENT)]


def main(arguments: list[str]) -> None:
    """Do what the arguments say; standard output carries the answers, what tools print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    verb, tool, *rest = arguments
    adapter = ADAPTERS[tool]()
    if verb == "count":
        data, url, keys = rest
        say(answers, rows=adapter.count_rows(Path(data), url, int(keys)))
    else:
        log(adapter, answers, *rest)


def log(adapter: Adapter, answers: IO[str], *arguments: str) -> None:
    """Open a run, log rows, end the run; each stage when the parent says so."""
    data, url, *numbers, durations_path, counter_path = arguments
    keys, calls, rate, seconds_max = int(numbers[0]), int(numbers[1]), float(numbers[2]), float(numbers[3])
    rows = make_rows(keys)
    durations = array("q", bytes(8 * calls))
    with Path(counter_path).open("w+b") as file:
        file.truncate(8)
        counter = mmap.mmap(file.fileno(), 8)
    stage(answers, "started")
    importlib.import_module(adapter.module)
    log_row = adapter.open(Path(data), url)
    for step in range(WARM_UP_CALLS):
        log_row(rows[step % ROWS_DIFFERENT], step)
    struct.pack_into("<q", counter, 0, WARM_UP_CALLS)
    gc.collect()
    stage(answers, "opened", warm_up_calls=WARM_UP_CALLS)
    start = time.monotonic()
    if rate:
        done = log_paced(log_row, rows, durations, rate, start + seconds_max, counter)
    else:
        done = log_tightly(log_row, rows, durations, start + seconds_max)
    seconds = time.monotonic() - start
    with Path(durations_path).open("wb") as file:
        durations[:done].tofile(file)
    stage(answers, "logged", calls=done, seconds=seconds, has_numpy="numpy" in sys.modules)
    adapter.close()
    stage(answers, "closed")


def log_tightly(log_row: LogRow, rows: list[Row], durations: array[int], deadline: float) -> int:
    """Log as fast as the tool takes it; returns the number of calls."""
    clock, count = time.perf_counter_ns, len(rows)
    deadline_ns = clock() + int((deadline - time.monotonic()) * 1e9)
    for call in range(len(durations)):
        row = rows[call % count]
        start = clock()
        log_row(row, WARM_UP_CALLS + call)
        end = clock()
        durations[call] = end - start
        if end > deadline_ns:
            return call + 1
    return len(durations)


def log_paced(  # noqa: PLR0917
    log_row: LogRow, rows: list[Row], durations: array[int], rate: float, deadline: float, counter: mmap.mmap
) -> int:
    """Log at a pace, sleeping in between as a trainer computes; returns the number of calls."""
    clock, count, begin = time.perf_counter_ns, len(rows), time.monotonic()
    for call in range(len(durations)):
        row = rows[call % count]
        start = clock()
        log_row(row, WARM_UP_CALLS + call)
        durations[call] = clock() - start
        struct.pack_into("<q", counter, 0, WARM_UP_CALLS + call + 1)
        if time.monotonic() > deadline:
            return call + 1
        wait = begin + (call + 1) / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
    return len(durations)


def stage(answers: IO[str], name: str, **facts: Any) -> None:
    """Say that a stage is done and wait for the word to go on."""
    say(answers, stage=name, **facts)
    sys.stdin.readline()


def say(answers: IO[str], **facts: Any) -> None:
    """One line of JSON."""
    answers.write(json.dumps(facts) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
