"""What system metrics cost: CPU time of the thread that samples, over many samples of this machine as it is.

A sample is what the thread does every INTERVAL_SECONDS: read the machine, the process and the GPUs that there are, and
journal the row. Import of the libraries happens once a run and is not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

import runwire
from bench.report import rounded, show
from runwire._system import INTERVAL_SECONDS
from runwire._system_gpus import GpuProbe, load_nvml
from runwire._system_host import HostProbe, metrics_between

SAMPLES = 200
PAUSE_SECONDS = 0.05  # in a tight loop caches stay warm, as they never are after five seconds of training


def main() -> None:
    """Sample and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help="samples to take")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.samples)
    if options.json:
        print(json.dumps(figures))
    else:
        show("system metrics", {"runwire": figures}, as_json=False)


def measure(folder: Path, samples: int) -> dict[str, float]:
    """Take samples; an offline run keeps them, so that no sender works meanwhile."""
    run = runwire.init(project="bench", home=folder / "home", mode="offline", auto_metrics=False)
    host = HostProbe(folder, _complain)
    gpus = GpuProbe(load_nvml(), None, 1, _complain)
    before = host.read()
    cpu_seconds, values = 0.0, 0
    for step in range(samples):
        time.sleep(PAUSE_SECONDS)
        begin_seconds = time.thread_time()
        after = host.read()
        metrics = metrics_between(before, after) | gpus.read()
        run.log_automatic(metrics, step, {})
        cpu_seconds += time.thread_time() - begin_seconds
        before, values = after, max(values, len(metrics))
    milliseconds = 1_000 * cpu_seconds / samples
    gpus.close()
    run.finish()
    return {
        "percent_of_a_core": rounded(milliseconds / (10 * INTERVAL_SECONDS)),
        "milliseconds_a_sample": rounded(milliseconds),
        "values_a_sample": values,
    }


def _complain(what: str, error: Exception) -> None:
    sys.exit(f"{what} can't be read: {error!r}")


if __name__ == "__main__":
    main()
