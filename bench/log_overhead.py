"""What a call of `log()` costs beside other trackers: latency, CPU, bytes, memory, import, and what survives SIGKILL.

Every tool logs the same rows (ten random floats a call, then a hundred) on this machine, one tool after the other, each
in an environment of its own, offline, set up to be fast as its documentation says (tools.py). README.md beside this
file says what each figure means.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.adapters import ADAPTERS
from bench.broker import broker_if_possible, stored_bytes
from bench.environments import EnvironmentMissing, python_of, version_of
from bench.measuring import (
    Figures,
    Load,
    MeasuringFailed,
    import_cpu_seconds,
    log_rows,
    numpy_anonymous_bytes,
    rows_after_sigkill,
    scratch,
)
from bench.report import percentile, rounded, show
from bench.tools import TOOLS, Tool
from bench.troubles import destination, missing_for
from tests.services.kafka import KafkaTopics

KEYS = (
    "p50_us",
    "p99_us",
    "p999_us",
    "p50_us_100_scalars",
    "cpu_seconds_per_million_points",
    "bytes_per_point",
    "kept_after_sigkill",
    "rss_extra_mib",
    "anonymous_mib",
    "import_cpu_seconds",
)
CALLS = 100_000
WIDE_KEYS = 100
WIDE_SHARE = 10  # one call of a hundred scalars for so many of ten
KILLS = 3
KILL_CALLS_PER_SECOND = 100.0
KILL_AFTER_SECONDS = (1.5, 3.5)


def main() -> None:
    """Measure the tools and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls-per-second", type=float, default=0.0, metavar="N", help="pace; default: a tight loop")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help="calls of log() at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="time at most for the loop of one tool")
    parser.add_argument("--all", action="store_true", help="also aim and clearml")
    parser.add_argument("--tools", metavar="A,B", help="only these")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    load = Load(calls=options.calls, calls_per_second=options.calls_per_second, seconds_max=options.seconds)
    names = options.tools.split(",") if options.tools else [t.name for t in TOOLS if t.default or options.all]
    tools = [tool for tool in TOOLS if tool.name in names]
    if len(tools) < len(names):
        parser.error(f"tools are {', '.join(tool.name for tool in TOOLS)}")
    figures = {}
    with broker_if_possible() as broker:
        for tool in tools:
            print(f"measuring {tool.name}", file=sys.stderr)
            figures[tool.name] = Measurement(tool, load, broker).take()
    show(f"log(): {pace(load)}", figures, as_json=options.json)


def pace(load: Load) -> str:
    """The load in words."""
    if not load.calls_per_second:
        return f"tight loop, {load.calls:,} calls or {load.seconds_max:g} s"
    return f"{load.calls_per_second:g} calls/s for {load.seconds_max:g} s"


class Measurement:
    """All that is measured of one tool; what fails is named in `error` and leaves its figures out."""

    def __init__(self, tool: Tool, load: Load, broker: KafkaTopics | None) -> None:
        self._tool = tool
        self._load = load
        self._broker = broker if tool.package == "runwire" else None
        self._found: dict[str, Any] = dict.fromkeys(KEYS)
        self._errors: list[str] = []

    def take(self) -> dict[str, Any]:
        """Return the figures, and beside them how the tool was used."""
        how = {"version": version_of(self._tool.package), "setup": self._setup()}
        try:
            python_of(self._tool.package)
        except EnvironmentMissing as error:
            return {**self._found, **how, "error": f"no environment: {error}"}
        missing = missing_for(self._tool.trouble, self._broker)
        if missing:
            return {**self._found, **how, "error": f"not measured: {missing}"}
        for part in (self._narrow, self._wide, self._kills, self._import):
            self._attempt(part)
        return {**self._found, **how, "error": "; ".join(self._errors) or None}

    def _setup(self) -> str:
        if self._tool.package != "runwire":
            return self._tool.setup
        if self._tool.trouble not in {"", "relay"}:  # which says where it sends, or that nobody is there
            return self._tool.setup
        return f"{self._tool.setup}, to {'Kafka' if self._broker else 'dir:'}"

    def _attempt(self, part: Callable[[Path], None]) -> None:
        with scratch() as folder:
            try:
                part(folder)
            except MeasuringFailed as error:
                self._errors.append(f"{part.__name__.strip('_')}: {' '.join(str(error).split())}")

    def _destination(self, folder: Path) -> AbstractContextManager[str]:
        return destination(self._tool.trouble, folder / "data", self._broker)

    def _narrow(self, folder: Path) -> None:
        with self._destination(folder) as url:
            figures = log_rows(self._tool, folder, url, self._load)
        points = self._load.keys * figures.calls
        stored = figures.stored_bytes
        if self._tool.trouble:
            stored = 0  # of a journal that waits: no tool's way to keep data
        elif self._broker:
            in_kafka = stored_bytes(self._broker, url.rpartition("/")[2])
            stored = stored + in_kafka if in_kafka is not None else 0
        all_points = self._load.keys * (figures.calls + figures.warm_up_calls)
        self._found |= {
            "p50_us": _microseconds(figures, 0.5),
            "p99_us": _microseconds(figures, 0.99),
            "p999_us": _microseconds(figures, 0.999),
            "cpu_seconds_per_million_points": rounded(figures.cpu_seconds / points * 1e6),
            "bytes_per_point": rounded(stored / all_points) if stored else None,
            "rss_extra_mib": round(figures.rss_extra_bytes / 2**20, 1),
            "anonymous_mib": self._anonymous_mib(figures, folder),
            "calls": figures.calls,
            "cpu_percent_of_a_core": rounded(100 * figures.loop_cpu_seconds / figures.seconds),
        }

    def _anonymous_mib(self, figures: Figures, folder: Path) -> float | None:
        extra = figures.anonymous_extra_bytes
        if extra is None:
            return None
        return round((extra - (numpy_anonymous_bytes(self._tool, folder) if figures.has_numpy else 0)) / 2**20, 1)

    def _wide(self, folder: Path) -> None:
        load = Load(
            keys=WIDE_KEYS,
            calls=max(1, self._load.calls // WIDE_SHARE),
            calls_per_second=self._load.calls_per_second,
            seconds_max=self._load.seconds_max,
        )
        with self._destination(folder) as url:
            self._found["p50_us_100_scalars"] = _microseconds(log_rows(self._tool, folder, url, load), 0.5)

    def _kills(self, folder: Path) -> None:
        if self._tool.trouble == "disk_full":
            return  # what the disk has no room for is lost, and declared so
        load = Load(calls=100_000, calls_per_second=self._load.calls_per_second or KILL_CALLS_PER_SECOND)
        numbers = random.Random(11)
        returned = kept = 0
        for kill in range(KILLS):
            place = folder / str(kill)
            seconds = numbers.uniform(*KILL_AFTER_SECONDS)
            with self._destination(place) as url:
                calls, rows = rows_after_sigkill(self._tool, place, url, load, seconds)
            returned += calls
            kept += min(calls, rows)  # a row whose call had not returned may be there too
        self._found["kept_after_sigkill"] = round(kept / returned, 4)

    def _import(self, folder: Path) -> None:
        module = ADAPTERS[self._tool.name].module
        self._found["import_cpu_seconds"] = rounded(import_cpu_seconds(self._tool, folder, module))


def _microseconds(figures: Figures, share: float) -> float:
    return rounded(percentile(figures.durations_ns, share) / 1e3)


if __name__ == "__main__":
    main()
