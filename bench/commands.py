"""What starting a `runwire` command costs: CPU seconds of its process, best of some, beside a Python that does nothing.

A home with one small run and a consumer that runs in it; each command is a process of its own. `up` is counted until
its address stands in the home; `runs_of_a_file` is `runwire runs` in a home where no consumer runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.report import rounded, show
from runwire_cli.client import ServerFile

RUNWIRE = str(Path(sys.executable).with_name("runwire"))
TRAINING = """
import runwire
with runwire.init(project="digits", name="small", params={"lr": 0.1}) as run:
    for step in range(100):
        run.log({"train/loss": 1.0 / (step + 1)}, step=step)
"""
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import_runwire": [sys.executable, "-c", "import runwire"],
    "help": [RUNWIRE, "--help"],
    "version": [RUNWIRE, "--version"],
    "runs": [RUNWIRE, "runs"],
    "runs_json": [RUNWIRE, "runs", "--json"],
    "show": [RUNWIRE, "show", "small"],
    "sql": [RUNWIRE, "sql", "SELECT count(*) FROM metrics"],
    "verify": [RUNWIRE, "verify", "small"],
    "dead_letters_list": [RUNWIRE, "dead-letters", "list"],
    "snapshot_list": [RUNWIRE, "snapshot", "--list"],
    "sync": [RUNWIRE, "sync"],
    "doctor": [RUNWIRE, "doctor"],
}
FILE_COMMANDS = {"runs_of_a_file": [RUNWIRE, "runs"], "doctor_of_a_file": [RUNWIRE, "doctor"]}
READY_SECONDS_MAX = 60.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="starts of each command; the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="runwire-bench-"))
    try:
        figures = measure(folder, options.times)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(
        "What starting a command costs",
        {"cpu_seconds": {name: rounded(seconds) for name, seconds in figures.items()}},
        as_json=options.json,
    )


def measure(folder: Path, times: int) -> dict[str, float]:
    """CPU seconds by command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
    environment |= {"RUNWIRE_HOME": str(folder), "RUNWIRE_AUTO_METRICS": "off"}
    cpu_seconds([sys.executable, "-c", TRAINING], environment)
    figures = {name: best(command, environment, times) for name, command in FILE_COMMANDS.items()}
    starts = []
    for at in range(times):
        consumer = subprocess.Popen([RUNWIRE, "up", "--port", "0"], env=environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + READY_SECONDS_MAX
            while ServerFile.read(folder) is None:
                if consumer.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the consumer doesn't start")
                time.sleep(0.02)
            spent = psutil.Process(consumer.pid).cpu_times()
            starts.append(spent.user + spent.system)
            if at == times - 1:
                figures = {name: best(command, environment, times) for name, command in COMMANDS.items()} | figures
        finally:
            consumer.send_signal(signal.SIGTERM)
            consumer.wait()
    return figures | {"up": min(starts)}


def best(command: Sequence[str], environment: dict[str, str], times: int) -> float:
    """The least of some starts."""
    return min(cpu_seconds(command, environment) for _ in range(times))


def cpu_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """User and system time of a process and of those it waited for, all its threads."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} exits with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
