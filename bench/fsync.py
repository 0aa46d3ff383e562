"""What each fsync mode costs a call of `log()`, and what Runwire takes of memory: ten random floats a call.

Each mode runs in a process of its own, at a pace and in a tight loop, one after the other on the disk of --folder.
A file system in memory shows nothing. README.md beside this file says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.measuring import scratch
from bench.report import percentile, rounded, show

MODES = ("none", "interval", "each")
KEYS = tuple(f"train/metric_{number:03d}" for number in range(10))
WARM_UP_CALLS = 500
LOOK_SECONDS = 0.25


def main() -> None:
    """Measure each mode in a process of its own and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each loop")
    parser.add_argument("--calls-per-second", type=float, default=200.0, metavar="N", help="pace of the first loop")
    parser.add_argument("--url", help="where it sends; default: dir: beside the journal")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.seconds, options.calls_per_second, options.url)))
        return
    figures = {}
    for mode in MODES:
        print(f"measuring {mode}", file=sys.stderr)
        with scratch() as temporary:
            folder = (options.folder or temporary) / f"fsync-{mode}-{os.getpid()}"
            figures[mode] = measure(mode, folder, options)
    show(f"log() by fsync mode, {options.seconds:g} s a loop", figures, as_json=options.json)


def measure(mode: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One mode's figures."""
    command = [sys.executable, __file__, "--worker", mode, "--url", options.url or f"dir:{folder / 'topic'}"]
    pace = ["--seconds", str(options.seconds), "--calls-per-second", str(options.calls_per_second)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
    environment = {**inherited, "RUNWIRE_HOME": str(folder / "home")}
    done = subprocess.run([*command, *pace], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def work(mode: str, seconds: float, calls_per_second: float, url: str) -> dict[str, Any]:
    """Log in this process, paced and then in a tight loop."""
    import numpy as np  # noqa: F401, PLC0415 - what the journal takes beside it is measured

    import runwire  # noqa: PLC0415 - not in the process that starts this one

    before = anonymous_bytes()
    numbers = random.Random(11)
    run = runwire.init(project="bench", url=url, fsync=mode)
    row = {key: numbers.random() for key in KEYS}
    for _ in range(WARM_UP_CALLS):
        run.log(row)
    figures: dict[str, Any] = {}
    peak = mapped = 0
    look_at = 0.0
    for name, pause in (("paced", 1 / calls_per_second), ("tight", 0.0)):
        durations = array("q")
        ends_at = time.monotonic() + seconds
        cpu = time.process_time()
        while time.monotonic() < ends_at:
            row[KEYS[0]] = numbers.random()
            start = time.perf_counter_ns()
            run.log(row)
            durations.append(time.perf_counter_ns() - start)
            if pause:
                time.sleep(pause)
            if time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_SECONDS
                peak = max(peak, anonymous_bytes() - before - len(durations) * durations.itemsize)
                mapped = max(mapped, mapped_segments())
        figures |= {
            f"{name}_p50_us": rounded(percentile(durations, 0.5) / 1e3),
            f"{name}_p99_us": rounded(percentile(durations, 0.99) / 1e3),
            f"{name}_p999_us": rounded(percentile(durations, 0.999) / 1e3),
            f"{name}_calls": len(durations),
            f"{name}_cpu_seconds": rounded(time.process_time() - cpu),
        }
    run.finish()
    return {**figures, "anonymous_mib": rounded(peak / 2**20), "mapped_segments": mapped}


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    found = re.search(r"Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) * 1024 if found else 0


def mapped_segments() -> int:
    """Journal files in this process's memory."""
    return Path("/proc/self/maps").read_text().count(f"{os.environ['RUNWIRE_HOME']}/journal/")


if __name__ == "__main__":
    main()
