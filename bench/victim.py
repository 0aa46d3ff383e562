"""The process that emitter_kills.py kills: threads and forked children that log as fast as they can, and count it.

usage: python bench/victim.py URL HOME COUNTERS NUMBER

Each writer, a thread or a child, logs rows of three values, the number of the call, under names of its own, and then
puts how many calls have returned into its place in COUNTERS: shared memory that SIGKILL leaves as it is. Says on
standard output when it has begun.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

import runwire
from runwire import _emitter

# Some hundred rows: every life sees many changes of segment.
SEGMENT_BYTES = 64 * 2**10
KEYS = 3
THREADS = 4
WRITERS_MAX = 64
CHILDREN_AT_ONCE = 2
CHILD_ROWS_MAX = 3_000
FINISH_SHARE = 0.5  # of the children; the others leave their journal to recovery


def metric(victim: int, writer: int, key: int) -> str:
    """The name of a writer's value."""
    return f"{victim:04d}/{writer:02d}/{key}"


def main(url: str, home: str, counters: str, number: str) -> None:
    """Log until somebody ends it."""
    with Path(counters).open("r+b") as file:
        returned = mmap.mmap(file.fileno(), 8 * WRITERS_MAX)
    # There is no option for it: who has a reason to change a segment's size has one to change this line.
    _emitter.segment_bytes_for = lambda journal_bytes_max: min(SEGMENT_BYTES, journal_bytes_max)  # type: ignore[attr-defined]
    run = runwire.init(project="kills", url=url, home=home)
    for writer in range(THREADS):
        threading.Thread(target=write, args=(run, returned, int(number), writer), daemon=True).start()
    print("begun", flush=True)
    numbers = random.Random(int(number))
    children: list[int] = []
    for writer in range(THREADS, WRITERS_MAX):
        if len(children) == CHILDREN_AT_ONCE:
            os.waitpid(children.pop(0), 0)
        child = os.fork()
        if child == 0:
            write(run, returned, int(number), writer, numbers.randrange(1, CHILD_ROWS_MAX))
            if numbers.random() < FINISH_SHARE:
                run.finish()
            os._exit(0)
        children.append(child)
        time.sleep(numbers.uniform(0.0, 0.02))
    time.sleep(60)


def write(run: runwire.Run, returned: mmap.mmap, victim: int, writer: int, rows: int = 10**9) -> None:
    """Log rows, and after each say that its call has returned."""
    names = [metric(victim, writer, key) for key in range(KEYS)]
    for number in range(rows):
        run.log(dict.fromkeys(names, float(number)), step=number)
        struct.pack_into("<q", returned, 8 * writer, number + 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
