"""For each alert histories in which it fires, and some that look like it in which it must not.

Values are in promtool's notation, one every 10 s: `1x6` is 1 seven times, `1+2x6` grows by 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RUN = 'project="digits", run_id="r", run="brave-fox"'
LIVES = (f"runwire_run_state{{{RUN}}}", "0x200")


@dataclass(frozen=True, slots=True)
class Case:
    """One history.

    Attributes:
        alert: Which alert is asked.
        why: What the history is.
        series: Names with labels, and values.
        at: When it is asked, such as `2m`.
        fires: The labels of each instance that fires then, without alertname and severity.
    """

    alert: str
    why: str
    series: tuple[tuple[str, str], ...]
    at: str
    fires: tuple[dict[str, str], ...] = field(default=())


def _run(**more: str) -> dict[str, str]:
    return {"project": "digits", "run_id": "r", "run": "brave-fox", **more}


def _metric(metric: str, reduce: str = "mean", run: str = RUN) -> str:
    return f'runwire_metric{{{run}, metric="{metric}", reduce="{reduce}"}}'


def _rank(rank: int, metric: str = "time/step") -> str:
    return f'runwire_metric_rank{{{RUN}, metric="{metric}", rank="{rank}"}}'


def _loss(values: str, why: str, *, fires: bool, alert: str, at: str = "2m") -> Case:
    told = (_run(metric="train/loss", reduce="mean"),) if fires else ()
    return Case(alert, why, (LIVES, (_metric("train/loss"), values)), at, told)


def _states(alert: str, code: int) -> tuple[Case, Case]:
    others = " ".join(str(other) for other in range(7) if other != code)
    name = f"runwire_run_state{{{RUN}}}"
    return (
        Case(alert, "the state", ((name, f"0x5 {code}x20"),), "2m", (_run(),)),
        Case(alert, "every other state, one after the other", ((name, others),), "50s"),
    )


# What training looks like: from 2 down to 1, and from then on up and down by a tenth.
_LEARNS = "2-0.05x19 " + "1.1 1 0.9 1 " * 20
_AT_END = "17m"  # value number 102

CASES: tuple[Case, ...] = (
    _loss("1 0.9" + 20 * " NaN", "NaN", fires=True, alert="RunwireLossNotFinite"),
    _loss("1 0.9" + 20 * " -Inf", "an infinity", fires=True, alert="RunwireLossNotFinite"),
    _loss("1 NaN NaN NaN 0.9x20", "NaN, and numbers again", fires=False, alert="RunwireLossNotFinite"),
    _loss("1 1e300x20", "large is a number", fires=False, alert="RunwireLossNotFinite"),
    Case("RunwireLossNotFinite", "another metric", ((_metric("odd/value"), "NaN" + 20 * " NaN"),), "2m"),
    _loss(_LEARNS + "4x10", "four times as high, and stays", fires=True, alert="RunwireLossSpike", at=_AT_END),
    _loss(_LEARNS + "4 1x10", "one value alone", fires=False, alert="RunwireLossSpike", at=_AT_END),
    _loss(_LEARNS + "1.15x10", "as noisy as before", fires=False, alert="RunwireLossSpike", at=_AT_END),
    _loss("1x99 1.1x10", "a constant moves by a tenth", fires=False, alert="RunwireLossSpike", at=_AT_END),
    _loss("-5x99 -2x10", "a negative one jumps", fires=True, alert="RunwireLossSpike", at="17m10s"),
    _loss("1x3 9x10", "too young to have jumped", fires=False, alert="RunwireLossSpike", at="1m30s"),
    Case(
        "RunwireLossSpike",
        "the run has ended",
        ((f"runwire_run_state{{{RUN}}}", "1x200"), (_metric("train/loss"), _LEARNS + "4x10")),
        _AT_END,
    ),
    *_states("RunwireRunLost", 2),
    *_states("RunwireRunCrashed", 4),
    *_states("RunwireRunFailed", 5),
    *_states("RunwireRunStuck", 6),
    Case(
        "RunwireGpuIdle",
        "one of two GPUs does nothing",
        (
            LIVES,
            (_metric("system/gpu0/utilization_percent", "min"), "95x80"),
            (_metric("system/gpu1/utilization_percent", "min"), "0x80"),
        ),
        "12m",
        (_run(metric="system/gpu1/utilization_percent", reduce="min"),),
    ),
    Case(
        "RunwireGpuIdle",
        "a pause of eight minutes",
        (LIVES, (_metric("system/gpu0/utilization_percent", "min"), "90x10 0x48 90x20")),
        "11m",
    ),
    Case(
        "RunwireGpuIdle",
        "idle, but the run is over",
        (
            (f"runwire_run_state{{{RUN}}}", "1x80"),
            (_metric("system/gpu0/utilization_percent", "min"), "0x80"),
        ),
        "12m",
    ),
    Case(
        "RunwireStraggler",
        "one of four takes twice as long",
        (
            LIVES,
            (_metric("time/step"), "0.25x40"),
            *((_rank(rank), "0.2x40") for rank in range(3)),
            (_rank(3), "0.4x40"),
        ),
        "4m",
        (_run(metric="time/step", rank="3"),),
    ),
    Case(
        "RunwireStraggler",
        "one of two waits for its data, in steps that take equally long",
        (
            LIVES,
            (_metric("time/step"), "1x40"),
            *((_rank(rank), "1x40") for rank in range(2)),
            (_rank(0, "time/data"), "0.1x40"),
            (_rank(1, "time/data"), "0.9x40"),
        ),
        "4m",
        (_run(metric="time/data", rank="1"),),
    ),
    Case(
        "RunwireStraggler",
        "a section far apart that is nothing beside the step",
        (
            LIVES,
            (_metric("time/step"), "1x40"),
            *((_rank(rank), "1x40") for rank in range(3)),
            *((_rank(rank, "time/log"), "0.001x40") for rank in range(2)),
            (_rank(2, "time/log"), "0.01x40"),
        ),
        "4m",
    ),
    Case(
        "RunwireStraggler",
        "slow for a minute",
        (
            LIVES,
            (_metric("time/step"), "0.25x40"),
            *((_rank(rank), "0.2x40") for rank in range(3)),
            (_rank(3), "0.2x10 0.4x6 0.2x20"),
        ),
        "2m40s",
    ),
    Case(
        "RunwireConsumerAway",
        "down",
        (('up{job="runwire", instance="c"}', "1x5 0x20"),),
        "2m",
        ({"job": "runwire", "instance": "c"},),
    ),
    Case("RunwireConsumerAway", "nobody scrapes it", (("other", "1x20"),), "2m", ({"job": "runwire"},)),
    Case("RunwireConsumerAway", "one scrape failed", (('up{job="runwire", instance="c"}', "1x5 0 1x20"),), "1m10s"),
    Case("RunwireSourceAway", "away", (("runwire_source_up", "1x5 0x20"),), "2m", ({},)),
    Case("RunwireSourceAway", "there", (("runwire_source_up", "1x20"),), "2m"),
    Case("RunwireConsumerNotReady", "four minutes", (("runwire_consumer_ready", "1 0x40"),), "5m", ({},)),
    Case("RunwireConsumerNotReady", "two minutes", (("runwire_consumer_ready", "1 0x12 1x40"),), "2m"),
    Case(
        "RunwireDiskFloor",
        "half a gigabyte",
        (("runwire_disk_free_bytes", "5e8x20"), ("runwire_disk_floor_bytes", "67108864x20")),
        "2m",
        ({},),
    ),
    Case(
        "RunwireDiskFloor",
        "a gigabyte",
        (("runwire_disk_free_bytes", "1e9x20"), ("runwire_disk_floor_bytes", "67108864x20")),
        "2m",
    ),
    Case(
        "RunwireLagGrowing",
        "over two partitions",
        (
            ('runwire_consumer_lag_messages{instance="c", source="kafka:t", partition="0"}', "0+50x120"),
            ('runwire_consumer_lag_messages{instance="c", source="kafka:t", partition="1"}', "9x120"),
        ),
        "15m",
        ({"instance": "c", "source": "kafka:t"},),
    ),
    Case(
        "RunwireLagGrowing",
        "a large backlog that shrinks",
        (('runwire_consumer_lag_messages{instance="c", source="kafka:t", partition="0"}', "90000-50x120"),),
        "15m",
    ),
    Case(
        "RunwireLagGrowing",
        "a small one that grows",
        (('runwire_consumer_lag_messages{instance="c", source="kafka:t", partition="0"}', "0+5x120"),),
        "15m",
    ),
    Case(
        "RunwireFreshnessBroken",
        "all of it takes between 5 and 10 s",
        (
            ('runwire_freshness_seconds_bucket{instance="c", le="5"}', "0x60"),
            ('runwire_freshness_seconds_bucket{instance="c", le="10"}', "0+9x60"),
            ('runwire_freshness_seconds_bucket{instance="c", le="+Inf"}', "0+9x60"),
        ),
        "9m",
        ({"instance": "c"},),
    ),
    Case(
        "RunwireFreshnessBroken",
        "half a percent does",
        (
            ('runwire_freshness_seconds_bucket{instance="c", le="5"}', "0+199x60"),
            ('runwire_freshness_seconds_bucket{instance="c", le="+Inf"}', "0+200x60"),
        ),
        "9m",
    ),
    Case("RunwireDeadLetters", "one waits", (("runwire_dead_letters_waiting", "0x5 1x20"),), "2m", ({},)),
    Case("RunwireDeadLetters", "it was discarded", (("runwire_dead_letters_waiting", "0x5 1x5 0x20"),), "3m"),
    Case("RunwireRowsMissing", "for six minutes", (("runwire_missing_rows", "0 5x40"),), "6m", ({},)),
    Case("RunwireRowsMissing", "they came late", (("runwire_missing_rows", "0 5x20 0x40"),), "6m"),
    Case(
        "RunwireSourceAnomaly",
        "one",
        (('runwire_source_anomalies{source="kafka:t", kind="log_truncated"}', "0x5 1x20"),),
        "2m",
        ({"source": "kafka:t", "kind": "log_truncated"},),
    ),
    Case("RunwireSourceAnomaly", "none", (('runwire_source_anomalies{source="s", kind="k"}', "0x20"),), "2m"),
    Case(
        "RunwireRetention",
        "two thirds",
        (('runwire_source_retention_used_ratio{source="kafka:t"}', "0.1 0.67x20"),),
        "2m",
        ({"source": "kafka:t"},),
    ),
    Case("RunwireRetention", "a third", (('runwire_source_retention_used_ratio{source="s"}', "0.33x20"),), "2m"),
    Case("RunwireSnapshotFailing", "one failed", (("runwire_snapshot_failures_total", "0x5 1x20"),), "3m", ({},)),
    Case("RunwireSnapshotFailing", "none", (("runwire_snapshot_failures_total", "2x20"),), "3m"),
    Case(
        "RunwireSnapshotOld",
        "two days, and rows come",
        (("runwire_snapshot_age_seconds", "172801+10x90"), ("runwire_rows_stored_total", "0+5x90")),
        "12m",
        ({},),
    ),
    Case(
        "RunwireSnapshotOld",
        "two days in which nothing came",
        (("runwire_snapshot_age_seconds", "172801+10x90"), ("runwire_rows_stored_total", "5x90")),
        "12m",
    ),
    Case("RunwireStoreRepaired", "once", (("runwire_store_repairs_total", "1x20"),), "2m", ({},)),
    Case("RunwireStoreRepaired", "never", (("runwire_store_repairs_total", "0x20"),), "2m"),
    Case(
        "RunwireSeriesLeftOut",
        "for twelve minutes",
        (('runwire_series_left_out{kind="ranks"}', "3x90"), ('runwire_series_left_out{kind="runs"}', "0x90")),
        "12m",
        ({"kind": "ranks"},),
    ),
    Case("RunwireSeriesLeftOut", "none", (('runwire_series_left_out{kind="runs"}', "0x90"),), "12m"),
    Case(
        "RunwireNoticesFailing",
        "try after try",
        (('runwire_notices_total{outcome="failed"}', "0+1x30"),),
        "4m",
        ({"outcome": "failed"},),
    ),
    Case(
        "RunwireNoticesFailing",
        "many arrive",
        (('runwire_notices_total{outcome="sent"}', "0+1x30"), ('runwire_notices_total{outcome="failed"}', "0 1x30")),
        "4m",
    ),
)
