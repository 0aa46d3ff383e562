"""The live runs as Prometheus gauges, read from the store at scrape time.

    runwire_metric{project, run_id, run, metric, reduce}    reduce = mean | min | max over the ranks' last values
    runwire_metric_rank{project, run_id, run, metric, rank}    only of metrics that several ranks log
    runwire_run_info{project, run_id, run, group, user, commit} 1
    runwire_run_state{project, run_id, run}    0 running, 1 finished, 2 lost, 3 preempted, 4 crashed, 5 failed, 6 stuck
    runwire_step{project, run_id, run}    highest step of the newest attempt
    runwire_heartbeat_age_seconds{project, run_id, run}    of the most silent process that hasn't ended
    runwire_journal_rows{project, run_id, run}    that wait in the journals of processes that haven't ended

The state is the value, not a label, so a run stays one series for ever: a state timeline needs no join and no old
state lingers beside the new one. Reductions: mean propagates NaN; min and max take the values that are not NaN.

A run leaves some time after its end, a lost one later, a deleted one at once. `live.py` says who stays when the budget
is too small; what is left out, and what had to leave for something else, is counted by kind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import duckdb
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runwire_consumer.exposition import Lines, pair
from runwire_consumer.leaving import leaving_if_invalidated
from runwire_consumer.live import SERIES_A_METRIC, SERIES_A_RUN, GaugeOptions, Live, LiveMetric, LiveRun, read_live

STATE_CODES = {"running": 0, "finished": 1, "lost": 2, "preempted": 3, "crashed": 4, "failed": 5, "stuck": 6}
KINDS = ("runs", "metrics", "ranks")
LINE_BYTES_MAX = 64  # of a series' line beside the labels of its run and metric: name, braces, last label, value

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Shown:
    """What has series: keys of runs, of metrics behind their run's, and of metrics with the number of their ranks."""

    runs: set[int] = field(default_factory=set)
    metrics: set[tuple[int, int]] = field(default_factory=set)
    ranks: dict[tuple[int, int], int] = field(default_factory=dict)


class RunGauges(Collector):
    """Reads the live runs whenever it is scraped. While that fails, it shows none and counts.

    Args:
        cursors: Makes a connection of its own to the open database.
        options: Bounds of what is shown.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        cursors: Callable[[], duckdb.DuckDBPyConnection],
        options: GaugeOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read yet."""
        self._cursors = cursors
        self._options = options or GaugeOptions()
        self._clock = clock
        self._lock = threading.Lock()
        self._shown = Shown()
        self._evicted = dict.fromkeys(KINDS, 0)
        self._failures = 0
        self._failing = False

    def describe(self) -> Iterable[Metric]:
        """Names only: registering must not read the store."""
        return self._tell(Page(Live(), self._options, 0.0))

    def collect(self) -> Iterator[Metric]:
        """All gauges, what was left out, and what had to leave."""
        with self._lock:
            page = Page(self._read(), self._options, self._clock())
            for kind, count in page.evicted(self._shown).items():
                self._evicted[kind] += count
            self._shown = page.shown
            told = self._tell(page)
        yield from told

    def _read(self) -> Live:
        try:
            with leaving_if_invalidated():
                live = read_live(self._cursors, self._options, int(self._clock() * 1e6))
        except duckdb.Error as error:
            self._failures += 1
            if not self._failing:
                _log.warning("The live runs can't be read for /metrics: %s", str(error).splitlines()[0])
            self._failing = True
            return Live()
        self._failing = False
        return live

    def _tell(self, page: Page) -> list[Metric]:
        left_out = GaugeMetricFamily(
            "runwire_series_left_out", "Series that the budget leaves out now.", labels=["kind"]
        )
        gone = CounterMetricFamily(
            "runwire_series_evicted", "Series that were shown and had to leave for the budget.", labels=["kind"]
        )
        for kind, count in page.left_out().items():
            left_out.add_metric([kind], count)
            gone.add_metric([kind], self._evicted[kind])
        failures = CounterMetricFamily(
            "runwire_live_read_failures", "Scrapes without runs, as the store couldn't be read.", self._failures
        )
        return [*page.families, left_out, gone, failures]


def make_registry(cursors: Callable[[], duckdb.DuckDBPyConnection]) -> CollectorRegistry:
    """A registry of its own that holds the live runs of a database."""
    registry = CollectorRegistry()
    registry.register(RunGauges(cursors))
    return registry


class Page:
    """The gauges of a moment: as many lines as there is room for.

    Args:
        live: What is shown, in the order in which it gets room.
        options: Bounds.
        now: Seconds since the epoch.

    Attributes:
        families: All gauges, also those without a series.
        shown: What they hold.
    """

    def __init__(self, live: Live, options: GaugeOptions, now: float) -> None:
        """Lay it out."""
        codes = ", ".join(f"{code} {state}" for state, code in STATE_CODES.items())
        self._info = Lines("runwire_run_info", "What a run is; always 1.")
        self._state = Lines("runwire_run_state", f"State of a run: {codes}.")
        self._step = Lines("runwire_step", "Highest step of the newest attempt.")
        self._age = Lines("runwire_heartbeat_age_seconds", "Age of the last sign of life of the most silent process.")
        self._waiting = Lines("runwire_journal_rows", "Rows that wait in the journals of a run's processes.")
        self._reduced = Lines("runwire_metric", "Last value, reduced over ranks.")
        self._by_rank = Lines("runwire_metric_rank", "Last value of a rank.")
        facts = (self._info, self._state, self._step, self._age, self._waiting)
        self.families = (*facts, self._reduced, self._by_rank)
        self.shown = Shown()
        self._live = live
        self._now = now
        self._free_series, self._free_bytes = options.series_max, options.bytes_max
        self._labels: dict[int, str] = {}

        for run in live.runs:
            self._add_run(run)
        stems = {id(one): stem for one in live.metrics if (stem := self._add_metric(one))}
        for one in sorted(live.metrics, key=lambda one: one.ranks):
            if one.members is not None and id(one) in stems:
                self._add_ranks(one, stems[id(one)])

    def left_out(self) -> dict[str, int]:
        """Series that the budget leaves out, by kind: metrics of runs that are shown, ranks of metrics that are."""
        live, shown = self._live, self.shown
        ranks = [one.ranks for one in live.metrics if one.ranks > 1 and (one.run_key, one.metric_key) in shown.metrics]
        return {
            "runs": SERIES_A_RUN * (len(live.wanted_runs) - len(shown.runs)),
            "metrics": SERIES_A_METRIC * (live.metrics_wanted - len(shown.metrics)),
            "ranks": sum(ranks) - sum(shown.ranks.values()),
        }

    def evicted(self, before: Shown) -> dict[str, int]:
        """Series that were shown before, would be now without a budget, and are not, by kind."""
        shown, wanted = self.shown, self._live.wanted_runs
        metrics = {key for key in before.metrics - shown.metrics if key[0] in wanted}
        alone = {(one.run_key, one.metric_key) for one in self._live.metrics if one.ranks == 1}
        ranks = [
            count for key, count in before.ranks.items()
            if key not in shown.ranks and key[0] in wanted and key not in alone
        ]  # fmt: skip
        return {
            "runs": SERIES_A_RUN * len((before.runs - shown.runs) & wanted),
            "metrics": SERIES_A_METRIC * len(metrics),
            "ranks": sum(ranks),
        }

    def _take(self, series: int, labels: str) -> bool:
        """Whether there is room for so many lines with these labels; then it is theirs."""
        size_bytes = series * (len(labels.encode()) + LINE_BYTES_MAX)
        if series > self._free_series or size_bytes > self._free_bytes:
            return False
        self._free_series -= series
        self._free_bytes -= size_bytes
        return True

    def _add_run(self, run: LiveRun) -> None:
        names = f"{pair('project', run.project)},{pair('run_id', run.run_id)},{pair('run', run.name)}"
        facts = f"{names},{pair('group', run.group)},{pair('user', run.user)},{pair('commit', run.commit)}"
        if not self._take(SERIES_A_RUN, facts):
            return
        self.shown.runs.add(run.run_key)
        self._labels[run.run_key] = names
        self._info.add(facts, 1)
        self._state.add(names, STATE_CODES.get(run.state, -1))
        if run.silent_since_us is not None:
            self._age.add(names, max(0.0, self._now - run.silent_since_us / 1e6))
        if run.journal_rows is not None:
            self._waiting.add(names, run.journal_rows)
        if run.step is not None:
            self._step.add(names, run.step)

    def _add_metric(self, one: LiveMetric) -> str | None:
        """Returns its labels when there is room."""
        if one.run_key not in self._labels:
            return None
        stem = f"{self._labels[one.run_key]},{pair('metric', one.metric)}"
        if not self._take(SERIES_A_METRIC, stem):
            return None
        self.shown.metrics.add((one.run_key, one.metric_key))
        self._reduced.add(f'{stem},reduce="mean"', one.mean)
        self._reduced.add(f'{stem},reduce="min"', one.low)
        self._reduced.add(f'{stem},reduce="max"', one.high)
        return stem

    def _add_ranks(self, one: LiveMetric, stem: str) -> None:
        if one.members is None or one.member_values is None or not self._take(len(one.members), stem):
            return
        self.shown.ranks[one.run_key, one.metric_key] = len(one.members)
        for rank, value in zip(one.members, one.member_values, strict=True):
            self._by_rank.add(f'{stem},rank="{rank}"', value)
