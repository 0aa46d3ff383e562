"""From `log()` through a real broker into SQL; into a real Prometheus and onto dashboards: `test_boards.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.services.consumer import ConsumerProcess
from tests.services.kafka import unused_topic
from tests.services.trainer import VALUE_OF_A_RANK, TrainerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services.kafka import KafkaTopics
    from tests.services.prometheus import PrometheusServer

RANKS = 2
ROWS = 300
EVERYWHERE = "0.0.0.0"  # noqa: S104  as in a container: then /metrics asks for the token


@pytest.fixture(scope="module")
def trained(kafka: KafkaTopics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsumerProcess]:
    """A consumer that has everything of two ranks, one of which still trains."""
    folder = tmp_path_factory.mktemp("pipeline")
    url = kafka.url(unused_topic())
    with ConsumerProcess(url, home=folder / "consumer", host=EVERYWHERE) as consumer:
        first = TrainerProcess(folder / "trainer", url, launch="one", world_size=RANKS, rows=ROWS)
        second = TrainerProcess(folder / "trainer", url, launch="one", rank=1, world_size=RANKS)
        try:
            assert first.wait() == 0, first.log.read_text()
            second.wait_for_rows(ROWS)
            last = f"metric = 'train/loss' AND step = {ROWS - 1}"
            consumer.wait_for(f"SELECT 1 FROM curves WHERE {last} AND ranks = {RANKS}")  # noqa: S608
            yield consumer
        finally:
            second.kill()


def test_every_point_is_in_sql(trained: ConsumerProcess) -> None:
    """Each rank's points are there once, as they were logged; a curve is their mean; NaN and infinities stay."""
    by_rank = trained.sql(f"""
        SELECT rank, count(*) AS points, count(DISTINCT step) AS steps,
            bool_and(value = rank * {VALUE_OF_A_RANK} + step) AS as_logged
        FROM metrics WHERE metric = 'train/loss' AND step < {ROWS} GROUP BY rank ORDER BY rank
    """)  # noqa: S608
    assert by_rank == [{"rank": rank, "points": ROWS, "steps": ROWS, "as_logged": True} for rank in range(RANKS)]
    curve = trained.sql("SELECT step, value, min, max, ranks FROM curves WHERE metric = 'train/loss' AND step = 7")
    assert curve == [{"step": 7, "value": 500_007.0, "min": 7.0, "max": 1_000_007.0, "ranks": 2}]
    odd = trained.sql(
        "SELECT value FROM curves_by_rank WHERE metric = 'odd/value' AND step < 4 AND rank = 0 ORDER BY step"
    )
    assert [row["value"] for row in odd] == ["NaN", "Infinity", "-Infinity", 0.0]


def test_a_run_says_what_it_is(trained: ConsumerProcess) -> None:
    """One launch is one run, with its parameters, its best value and a state."""
    (run,) = trained.wait_for(  # a rank that stood still is lost for a moment
        "SELECT project, state, world_size, ranks, attempts, tags, params['lr'] AS lr, best['val/acc'] AS acc "
        "FROM runs WHERE state = 'running'"
    )
    assert run.pop("acc") > 0
    assert run == {
        "project": "services",
        "state": "running",
        "world_size": RANKS,
        "ranks": RANKS,
        "attempts": 1,
        "tags": ["test"],
        "lr": "0.1",
    }


def test_a_wrong_token_reads_nothing(
    trained: ConsumerProcess, start_prometheus: Callable[[str, str], PrometheusServer]
) -> None:
    """Prometheus with another token sees the target down, and why."""
    prometheus = start_prometheus(trained.address, "not the token")
    prometheus.wait_for('up{job="runwire"} == 0')
    prometheus.wait_for_errors({trained.address: "401"})
