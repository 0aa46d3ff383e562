"""Every alert, once: `rules.py` makes Prometheus' rules, Grafana's and Kubernetes' of this list.

An expression has rows exactly while its alert is true, and keeps the labels that say of what. Texts use `.Labels`, for
both Prometheus and Grafana know it; a `$` would be taken for a variable in Grafana's provisioning files.
"""

from __future__ import annotations

from dataclasses import dataclass

from runwire_consumer.gauges import STATE_CODES

RUNBOOK = "docs/guides/alerts.md"

_RUNS = STATE_CODES["running"]
_LOSS = 'runwire_metric{metric=~"(?i).*loss.*", reduce="mean"}'
_TRAINS = f"and on (run_id) runwire_run_state == {_RUNS}"
_BEFORE = f"{_LOSS}[15m] offset 30s"
_SECTION = 'runwire_metric_rank{metric=~"time/.+", metric!="time/steps_per_second"}'
_FRESHNESS = "histogram_quantile(0.99, sum by (instance, le) (rate(runwire_freshness_seconds_bucket[5m])))"
_LAG = "sum by (instance, source) (runwire_consumer_lag_messages{})"
_RUN = "Run {{ .Labels.run }} ({{ .Labels.project }}, {{ .Labels.run_id }})"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        name: As Prometheus calls it; also the heading of its section in the runbook.
        group: `runs` or `pipeline`.
        severity: critical: data or a run is in danger. warning: somebody should look today. info: good to know.
        expression: PromQL.
        lasting: How long it must have been true, as `30s` or `5m`.
        summary: What is the matter, one line.
        description: What it means, and what to look at first.
    """

    name: str
    group: str
    severity: str
    expression: str
    lasting: str
    summary: str
    description: str

    @property
    def uid(self) -> str:
        """As Grafana knows it: `runwire-loss-not-finite`."""
        return "".join(f"-{one.lower()}" if one.isupper() else one for one in self.name).lstrip("-")

    @property
    def runbook(self) -> str:
        """Where it is said what to do."""
        return f"{RUNBOOK}#{self.name.lower()}"


def _state(state: str) -> str:
    return f"runwire_run_state == {STATE_CODES[state]}"


RUNS = (
    Alert(
        "RunwireLossNotFinite",
        "runs",
        "critical",
        f"{_LOSS} != {_LOSS} or abs({_LOSS}) == Inf",
        "0s",
        _RUN + " diverges: {{ .Labels.metric }} is NaN or infinite.",
        "The last value of a loss is no number any more, so the rest of the run is wasted. It rarely comes back.",
    ),
    Alert(
        "RunwireLossSpike",
        "runs",
        "warning",
        f"{_LOSS} > 4 * quantile_over_time(0.9, {_BEFORE}) - 3 * quantile_over_time(0.1, {_BEFORE})\n"
        f"and {_LOSS} - quantile_over_time(0.5, {_BEFORE}) > 0.2 * abs(quantile_over_time(0.5, {_BEFORE}))\n"
        f"and {_LOSS} offset 2m\n{_TRAINS}",
        "15s",
        _RUN + ": {{ .Labels.metric }} has jumped.",
        "It lies above what it was in the 15 minutes before by three times their spread (from the tenth to the "
        "ninetieth percentile), and has for 15 s.",
    ),
    Alert(
        "RunwireRunStuck",
        "runs",
        "critical",
        _state("stuck"),
        "0s",
        _RUN + " is stuck.",
        "Its processes live, but a loop is past the promise it gave by run.progress(expect_next_in=…).",
    ),
    Alert(
        "RunwireRunLost",
        "runs",
        "critical",
        _state("lost"),
        "0s",
        _RUN + " is lost: it hasn't been heard of for too long.",
        "Its node or network is gone, or it was frozen. What it logged waits in its journal.",
    ),
    Alert(
        "RunwireRunCrashed",
        "runs",
        "critical",
        _state("crashed"),
        "0s",
        _RUN + " crashed: a process died without a word.",
        "Killed from outside (out of memory, a scheduler), or by a signal. What it had logged is being recovered.",
    ),
    Alert(
        "RunwireRunFailed",
        "runs",
        "warning",
        _state("failed"),
        "0s",
        _RUN + " failed.",
        "An exception ended it, or it said so itself; state_reason of the relation runs says which.",
    ),
    Alert(
        "RunwireGpuIdle",
        "runs",
        "warning",
        'max_over_time(runwire_metric{metric=~"system/gpu[0-9]+/utilization_percent", reduce="min"}[1m]) < 5\n'
        + _TRAINS,
        "10m",
        _RUN + ": {{ .Labels.metric }} stays below 5 %.",
        "A GPU has done next to nothing for ten minutes while its run says that it trains.",
    ),
    Alert(
        "RunwireStraggler",
        "runs",
        "warning",
        f"{_SECTION} - on (run_id, metric) group_left () quantile by (run_id, metric) (0.5, {_SECTION})\n"
        '> on (run_id) group_left () 0.2 * max by (run_id) (runwire_metric{metric="time/step", reduce="mean"})\n'
        + _TRAINS,
        "2m",
        _RUN + ": rank {{ .Labels.rank }} is slower than the others in {{ .Labels.metric }}.",
        "For two minutes it has taken longer than the median rank, by more than a fifth of a step: the others wait.",
    ),
)

PIPELINE = (
    Alert(
        "RunwireConsumerAway",
        "pipeline",
        "critical",
        'up{job="runwire"} == 0 or absent(up{job="runwire"})',
        "30s",
        "Prometheus can't scrape the consumer.",
        "It is down, or the token is wrong. Trainers go on; their rows wait in Kafka and in journals.",
    ),
    Alert(
        "RunwireSourceAway",
        "pipeline",
        "critical",
        "runwire_source_up == 0",
        "30s",
        "The consumer can't read its topic.",
        "The broker is away or the topic is gone. Trainers go on; their rows wait in journals.",
    ),
    Alert(
        "RunwireConsumerNotReady",
        "pipeline",
        "critical",
        "runwire_consumer_ready == 0",
        "3m",
        "The consumer has stored nothing for minutes.",
        "Something stands in the way, a full disk or a topic that is away: /readyz and runwire doctor say what.",
    ),
    Alert(
        "RunwireDiskFloor",
        "pipeline",
        "critical",
        "runwire_disk_free_bytes < 10 * runwire_disk_floor_bytes",
        "1m",
        "The disk of the store is almost full.",
        "Below the floor the consumer stops storing until there is room; what comes waits in the log.",
    ),
    Alert(
        "RunwireLagGrowing",
        "pipeline",
        "warning",
        f"{_LAG.format('')} > 1000\nand {_LAG.format('')} > {_LAG.format(' offset 5m')}",
        "5m",
        "The consumer falls behind {{ .Labels.source }}.",
        "More waits than five minutes before, and has for five minutes. Look at the transaction time, CPU and disk.",
    ),
    Alert(
        "RunwireFreshnessBroken",
        "pipeline",
        "warning",
        f"{_FRESHNESS} > 5",
        "2m",
        "What is logged takes more than 5 s to be in SQL and in the gauges.",
        "The p99 from a message's append to its commit. The consumer catches up, or it is too slow for what comes.",
    ),
    Alert(
        "RunwireDeadLetters",
        "pipeline",
        "warning",
        "runwire_dead_letters_waiting > 0",
        "0s",
        "Messages could not be stored, and nobody has looked at them yet.",
        "They are kept: runwire dead-letters list says why, replay or discard them. Until then this goes on.",
    ),
    Alert(
        "RunwireRowsMissing",
        "pipeline",
        "warning",
        "runwire_missing_rows > 0",
        "5m",
        "Rows of processes that have ended are missing, and nothing explains it.",
        "The relation gaps names them. A journal that still waits on its node closes the gap when it is sent.",
    ),
    Alert(
        "RunwireSourceAnomaly",
        "pipeline",
        "warning",
        "runwire_source_anomalies > 0",
        "0s",
        "The consumer had to put something right in {{ .Labels.source }}: {{ .Labels.kind }}.",
        "docs/guides/faults.md says what each kind means. It goes on until the consumer starts again.",
    ),
    Alert(
        "RunwireRetention",
        "pipeline",
        "critical",
        "runwire_source_retention_used_ratio > 0.5",
        "0s",
        "Half of the retention of {{ .Labels.source }} is used up by what waits unread.",
        "What isn't read before retention ends is removed, and lost.",
    ),
    Alert(
        "RunwireSnapshotFailing",
        "pipeline",
        "warning",
        "increase(runwire_snapshot_failures_total[1h]) > 0",
        "0s",
        "Snapshots of the store fail.",
        "The store gets no fresh backup. The consumer's log says why; most often the disk has no room for a copy.",
    ),
    Alert(
        "RunwireSnapshotOld",
        "pipeline",
        "warning",
        "runwire_snapshot_age_seconds > 172800 and increase(runwire_rows_stored_total[12h]) > 0",
        "10m",
        "The newest snapshot is two days old.",
        "Rows came, and no snapshot holds them. Its age must stay well below what the topic keeps (retention.ms).",
    ),
    Alert(
        "RunwireStoreRepaired",
        "pipeline",
        "warning",
        "runwire_store_repairs_total > 0",
        "0s",
        "The store's file was damaged, and a snapshot took its place.",
        "runwire doctor says why, runwire verify what a run misses. It goes on until the consumer starts again.",
    ),
    Alert(
        "RunwireSeriesLeftOut",
        "pipeline",
        "info",
        "runwire_series_left_out > 0",
        "10m",
        "The gauges leave out series of {{ .Labels.kind }}: there are more than their budget.",
        "Dashboards and alerts of Prometheus don't see them. SQL has all of them.",
    ),
    Alert(
        "RunwireNoticesFailing",
        "pipeline",
        "warning",
        'increase(runwire_notices_total{outcome=~"failed|dropped"}[15m]) > 2',
        "0s",
        "The consumer's webhook takes no notices.",
        "People who rely on it hear nothing. The consumer's log says what the endpoint answers.",
    ),
)

ALERTS = (*RUNS, *PIPELINE)
