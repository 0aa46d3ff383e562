"""What must hold after every fault: each row once, ledger and offsets in agreement with the broker."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import duckdb
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.services.consumer import RUNWIRE
from tests.services.process import run_blocking
from tests.services.trainer import METRICS, VALUE_OF_A_RANK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.services.consumer import ConsumerProcess

COMPLETE = """
    SELECT count(*) AS emitters FROM emitters
    HAVING count(*) = {emitters} AND bool_and(complete)
"""


def wait_until_complete(consumer: ConsumerProcess, *, emitters: int) -> None:
    """Return when so many emitters are known, have ended, and every row of theirs is accounted for."""
    consumer.wait_for(COMPLETE.format(emitters=emitters))


def assert_each_point_once(consumer: ConsumerProcess, rows_by_rank: Mapping[int, int]) -> None:
    """Check that each rank's rows 0 .. n-1 are stored exactly once, with the values that were logged."""
    found = consumer.sql(f"""
        SELECT rank, count(*) AS points, count(DISTINCT (metric, step)) AS different, max(step) + 1 AS steps,
            bool_and(metric <> 'train/loss' OR value = rank * {VALUE_OF_A_RANK} + step) AS as_logged
        FROM metrics GROUP BY rank ORDER BY rank
    """)  # noqa: S608
    assert found == [
        {"rank": rank, "points": METRICS * rows, "different": METRICS * rows, "steps": rows, "as_logged": True}
        for rank, rows in sorted(rows_by_rank.items())
    ]


def assert_receipts_clean(consumer: ConsumerProcess) -> None:
    """Check that no row is missing, dead or lost, and that `runwire verify` agrees for every run."""
    assert consumer.sql("SELECT * FROM gaps") == []
    assert consumer.sql("SELECT emitter_id FROM emitters WHERE missing + dead + lost <> 0 OR NOT complete") == []
    for run in consumer.sql("SELECT run_id FROM runs"):
        done = verify(consumer, run["run_id"])
        assert done.returncode == 0, done.stdout + done.stderr


def verify(consumer: ConsumerProcess, run_id: str) -> subprocess.CompletedProcess[str]:
    """Run `runwire verify` on a run."""
    return subprocess.run(
        [RUNWIRE, "verify", run_id],
        env=consumer.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def assert_offsets_at_end(database: Path, bootstrap: str, topic: str) -> None:
    """Check a stopped consumer's database: its offsets are the broker's ends, its ledger never overlaps."""
    with duckdb.connect(str(database), read_only=True) as connection:
        stored = {
            int(partition): offset
            for partition, offset in connection.sql('SELECT "partition", next_offset FROM store.offsets').fetchall()
        }
        overlaps = connection.sql("""
            SELECT * FROM store.ledger a JOIN store.ledger b
            ON a.emitter_key = b.emitter_key AND a.first_seq < b.first_seq AND b.first_seq < a.end_seq
        """).fetchall()
    ends = run_blocking(_end_offsets(bootstrap, topic))
    assert {partition: stored.get(partition, 0) for partition in ends} == ends
    assert overlaps == []


async def _end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap) as consumer:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        return {partition.partition: offset for partition, offset in (await consumer.end_offsets(partitions)).items()}
