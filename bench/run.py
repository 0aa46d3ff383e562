"""Every measurement, one after the other: short for a look, or as long as the figures in README.md took.

A script that fails is named, and the others still run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SHORT = {
    "log_overhead": ["log_overhead.py", "--calls", "20000", "--seconds", "10"],
    "ingest": ["ingest.py", "--seconds", "5"],
    "freshness": ["freshness.py", "--seconds", "10"],
    "freshness_crowd": ["freshness.py", "--emitters", "1000", "--seconds", "10"],
    "backlog": ["backlog.py", "--points", "3000000"],
    "memory": ["memory.py", "--runs", "5000", "--names", "50000"],
    "kills": ["kills.py", "--kills", "5"],
    "emitter_kills": ["emitter_kills.py", "--kills", "20"],
}
FULL = {
    "log_overhead": ["log_overhead.py", "--all"],
    "log_overhead_paced": ["log_overhead.py", "--calls-per-second", "5", "--all"],
    "ingest": ["ingest.py"],
    "freshness": ["freshness.py"],
    "freshness_crowd": ["freshness.py", "--emitters", "1000", "--seconds", "60"],
    "backlog": ["backlog.py"],
    "memory": ["memory.py"],
    "kills": ["kills.py"],
    "emitter_kills": ["emitter_kills.py"],
}


def main() -> None:
    """Run them; the exit code says whether all of them did their part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the settings of README.md, about 45 minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object, a key a script")
    options = parser.parse_args()
    found: dict[str, object] = {"machine": machine()}
    failed = []
    for name, (script, *arguments) in (FULL if options.full else SHORT).items():
        print(f"bench/{script} {' '.join(arguments)}", file=sys.stderr)
        command = [sys.executable, str(FOLDER / script), *arguments]
        done = subprocess.run(
            [*command, "--json"] if options.json else command,
            stdout=subprocess.PIPE if options.json else None,
            text=True,
            check=False,
        )
        if done.returncode:
            failed.append(name)
        if options.json and done.stdout:
            found[name] = json.loads(done.stdout)
    if options.json:
        print(json.dumps(found))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def machine() -> dict[str, object]:
    """What the figures were taken on; the load tells whether it had something else to do."""
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


if __name__ == "__main__":
    main()
