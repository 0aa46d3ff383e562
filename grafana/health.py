"""Whether the way from the trainers into SQL works, and how fast: the consumer, its source, its store."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

from grafana.live import freshness
from grafana.panels import WIDTH, chart, number, rows, timeline
from grafana.picking import board
from grafana.queries import Sql, columns, promql

UID = "runwire-health"

_LETTERS_SQL = """SELECT appended_at AS time, reason, source, "partition", "offset", type, run_id, count AS "rows",
       bytes, status, letter_id
FROM dead_letters ORDER BY status <> 'dead', appended_at DESC LIMIT 100"""
_LETTERS_COLUMNS = columns(
    "time timestamp, reason, source, partition, offset number, type, run_id, rows number, bytes number, "
    "status, letter_id"
)

_GAPS_SQL = """SELECT run_id, kind, "rank", attempt, first_seq, end_seq, "rows", reason, open::VARCHAR AS open,
       emitter_id
FROM gaps WHERE NOT (open AND kind = 'missing') ORDER BY kind <> 'missing', run_id, "rank", first_seq LIMIT 200"""
_GAPS_COLUMNS = columns(
    "run_id, kind, rank number, attempt number, first_seq number, end_seq number, rows number, reason, open, emitter_id"
)

_JOURNALS_SQL = """SELECT run_id, "rank", role, journal_rows AS waiting, stored, missing, lost, dead,
       epoch(now()) - epoch(seen_at) AS heard_ago, ended, emitter_id
FROM emitters ORDER BY ended IS NOT NULL, journal_rows DESC, seen_at DESC LIMIT 100"""
_JOURNALS_COLUMNS = columns(
    "run_id, rank number, role, waiting number, stored number, missing number, lost number, dead number, "
    "heard_ago number, ended, emitter_id"
)


def build() -> dashboard.Dashboard:
    """Return the whole dashboard."""
    return (
        board("pipeline health", UID, "From the broker to SQL.")
        .time("now-1h", "now")
        .refresh("10s")
        .with_panel(number("Consumer", 'min(up{job="runwire"})', "short", worry=1, below=True))
        .with_panel(number("Waiting messages", "sum(runwire_consumer_lag_messages)", "short", worry=10_000))
        .with_panel(number("Shown after, p99", freshness(0.99), "s", worry=5))
        .with_panel(number("Dead letters that wait", "sum(runwire_dead_letters_waiting)", "short", worry=1))
        .with_panel(number("Missing rows", "sum(runwire_missing_rows)", "short", worry=1))
        .with_panel(number("Newest snapshot's age", "min(runwire_snapshot_age_seconds)", "s", worry=172_800))
        .with_panel(_up())
        .with_panel(
            _third("Lag", [promql("runwire_consumer_lag_messages", "{{source}} {{partition}}")]).description(
                "Messages that are not stored yet; of a folder bytes."
            )
        )
        .with_panel(
            _third(
                "Freshness: from the broker to SQL",
                [promql(freshness(0.5), "p50"), promql(freshness(0.99), "p99", "B")],
                "s",
            )
        )
        .with_panel(
            _third(
                "Stored a second",
                [
                    promql("sum(rate(runwire_points_stored_total[$__rate_interval]))", "points"),
                    promql("sum(rate(runwire_rows_stored_total[$__rate_interval]))", "rows", "B"),
                    promql("sum(rate(runwire_messages_read_total[$__rate_interval]))", "messages", "C"),
                ],
                "cps",
            )
        )
        .with_panel(
            _third(
                "A transaction takes",
                [promql(_transaction(0.5), "p50"), promql(_transaction(0.99), "p99", "B")],
                "s",
            )
        )
        .with_panel(
            _third(
                "What wasn't plain",
                [
                    promql("sum(increase(runwire_duplicate_rows_total[1m]))", "rows that came twice, a minute"),
                    promql("sum(increase(runwire_dead_letters_total[1m]))", "dead letters, a minute", "B"),
                    promql("sum(runwire_missing_rows)", "rows missing", "C"),
                    promql("sum(runwire_lost_rows)", "rows lost, as declared", "D"),
                    promql("runwire_source_anomalies > 0", "{{kind}}", "E"),
                ],
            ).description("Rows that come twice are stored once: they tell of resending, not of harm.")
        )
        .with_panel(
            _third(
                "Room on the store's disk",
                [
                    promql("runwire_disk_free_bytes", "free"),
                    promql("runwire_disk_floor_bytes", "floor: below it nothing is stored", "B"),
                    promql("runwire_snapshots_bytes", "snapshots", "C"),
                ],
                "bytes",
            ).min(0)
        )
        .with_panel(
            _third(
                "Rows that wait in journals",
                [promql("sum by (run) (runwire_journal_rows)", "{{run}}")],
            ).description("What living processes hold that the log hasn't acknowledged, as their heartbeats say.")
        )
        .with_panel(
            _third(
                "Series in the gauges",
                [
                    promql('count({__name__=~"runwire_metric|runwire_metric_rank", run_id=~".+"})', "shown"),
                    promql("sum by (kind) (runwire_series_left_out)", "left out for the budget: {{kind}}", "B"),
                ],
            )
        )
        .with_panel(
            _third(
                "Notices to the webhook",
                [
                    promql("sum(increase(runwire_notices_total[5m])) by (outcome)", "{{outcome}}"),
                ],
            ).description("Of the last five minutes; none without RUNWIRE_WEBHOOK.")
        )
        .with_panel(
            rows(
                "Journals: what processes hold that isn't acknowledged",
                Sql(_JOURNALS_SQL, _JOURNALS_COLUMNS),
                {"heard_ago": "s"},
            ).description("`waiting` is what each process's last heartbeat said.")
        )
        .with_panel(
            rows(
                "Dead letters",
                Sql(_LETTERS_SQL, _LETTERS_COLUMNS),
                {"bytes": "bytes"},
            )
            .description("What could not be stored: `runwire dead-letters show ID` and `replay`.")
            .no_value("none")
        )
        .with_panel(
            rows(
                "Rows that are not there",
                Sql(_GAPS_SQL, _GAPS_COLUMNS),
            )
            .description("missing: nothing explains it. lost: its process declared it. dead: see above.")
            .no_value("none")
        )
    )


def _third(title: str, targets: Sequence[Builder[Dataquery]], unit: str = "short") -> timeseries.Panel:
    return chart(title, targets, unit).span(WIDTH // 3)


def _transaction(quantile: float) -> str:
    rate = "sum by (le) (rate(runwire_transaction_seconds_bucket[$__rate_interval]))"
    return f"histogram_quantile({quantile}, {rate})"


def _up() -> statetimeline.Panel:
    words = {
        "0": ValueMappingResult(text="down", color="red", index=0),
        "1": ValueMappingResult(text="up", color="green", index=1),
    }
    return timeline(
        "Up",
        [
            promql('up{job="runwire"}', "consumer answers"),
            promql("runwire_source_up", "source can be read", "B"),
            promql("runwire_consumer_ready", "everything is stored", "C"),
        ],
        [ValueMap(options=words)],
    ).span(WIDTH)
