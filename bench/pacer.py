"""A trainer that logs rows of ten values at a pace, and twenty times a second a row with the time of its own call.

usage: python bench/pacer.py URL HOME POINTS_PER_SECOND SECONDS
"""

from __future__ import annotations

import random
import sys
import time

import runwire

KEYS = 10
TICK_SECONDS = 0.005
PROBE_SECONDS = 0.05
PROBE = "probe/logged_at"


def main(url: str, home: str, points_per_second: float, seconds: float) -> None:
    """Log until the time is up; says on standard output how many rows were logged."""
    numbers = random.Random(7)
    rows = [{f"train/metric_{key}": numbers.random() for key in range(KEYS)} for _ in range(1_024)]
    run = runwire.init(project="bench", name="paced", url=url, home=home, auto_metrics=False)
    begin = time.monotonic()
    logged = probes = 0
    while (passed := time.monotonic() - begin) < seconds:
        due = int(passed * points_per_second / KEYS)
        for call in range(logged, due):
            run.log(rows[call % 1_024], step=call)
        logged = max(logged, due)
        if passed >= probes * PROBE_SECONDS:
            run.log({PROBE: time.time()}, step=probes)
            probes += 1
        time.sleep(TICK_SECONDS)
    print(logged + probes, flush=True)
    run.finish()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
