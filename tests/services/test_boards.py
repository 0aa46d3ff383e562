"""Dashboards and alerts for real: trainings through a broker, a consumer and a Prometheus as they are deployed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from grafana.alerts import ALERTS
from grafana.generate import DASHBOARDS, FOLDER
from runwire_schemas.codec import encode
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import Block, MetricBatch
from tests.grafana.model import Picked, asked_targets, frame, transformed
from tests.services.consumer import ConsumerProcess
from tests.services.kafka import KafkaTopics, unused_topic
from tests.services.learner import DIVERGES_AT, PROJECT, Learner
from tests.services.process import ServiceMissing, run_blocking, wait_until
from tests.services.prometheus import PrometheusServer
from tests.tiers import require_service

EVERYWHERE = "0.0.0.0"  # noqa: S104  as in a container: then /metrics asks for the token
GARBAGE_RUN = "garbagegarbage22"
BOARDS = {name: json.loads((FOLDER / name).read_text()) for name in DASHBOARDS}

# What needs hardware, a disaster or time that no test has; each has its reason.
MAY_BE_EMPTY = {
    ("What wasn't plain", "E"): "nothing had to be put right in the log",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs.

    Attributes:
        runs: Ids by name.
        wide: The ranks of the run that still trains.
    """

    consumer: ConsumerProcess
    prometheus: PrometheusServer
    runs: dict[str, str]
    wide: tuple[Learner, Learner]

    def picked(self, board: str, **values: Any) -> Picked:
        """What a board shows when it is opened, or with other values."""
        one = self.runs["wide"] if board == "ranks.json" else None
        return Picked({"project": None, "run": one, "metric": "train/loss", "order": "name", **values})


@pytest.fixture(scope="module")
def stage(kafka: KafkaTopics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Runs of every kind: one that ended, one of two ranks that trains, one that was moved, one that diverged."""
    folder = tmp_path_factory.mktemp("boards")
    topic = unused_topic()
    url = kafka.url(topic)
    with ConsumerProcess(url, home=folder / "consumer", host=EVERYWHERE) as consumer:
        prometheus = PrometheusServer([consumer.address], token=consumer.token, folder=folder / "prometheus")
        learners: list[Learner] = []

        def learn(launch: str, **options: Any) -> Learner:
            learners.append(Learner(folder / launch, url, launch=launch, **options))
            return learners[-1]

        try:
            try:
                prometheus.start()
            except ServiceMissing as missing:
                require_service(missing.name, False, missing.how_to_get)
                raise
            wide = (
                learn("b", name="wide", world_size=2, learning_rate=0.5),
                learn("b", name="wide", rank=1, world_size=2, learning_rate=0.5, pause_seconds=0.06),
            )
            short = learn("a", name="short", steps=120, alert_at=20, pause_seconds=0.05)
            moved = learn("c", name="moved", learning_rate=0.3)
            run_blocking(_send_garbage(kafka.bootstrap, topic))
            assert short.wait() == 0, short.process.log_tail()
            consumer.wait_for("SELECT 1 FROM latest WHERE run = 'moved' AND metric = 'time/step'")
            moved.preempt()
            moved.wait()
            again = learn("c", name="moved", restart=1, learning_rate=0.3, steps=30)
            assert again.wait() == 0, again.process.log_tail()
            consumer.wait_for("SELECT 1 FROM runs WHERE name = 'moved' AND attempts = 2 AND state = 'finished'")
            consumer.wait_for(
                "SELECT 1 FROM latest WHERE run = 'wide' AND metric = 'time/step' HAVING count(*) = 2",
                timeout_seconds=60,
            )
            runs = {row["name"]: row["run_id"] for row in consumer.sql("SELECT name, run_id FROM runs")}
            yield Stage(consumer, prometheus, runs, wide)
        finally:
            for learner in learners:
                learner.kill()
            prometheus.close()


async def _send_garbage(bootstrap: str, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        for first_seq, damaged in ((0, False), (2, True)):
            block = Block(keys=("loss",), steps=(0, 1), times=(1_000_000, 2_000_000), values=(0.5, 0.25))
            batch = MetricBatch(GARBAGE_RUN, "e" * 32, rank=0, first_seq=first_seq, blocks=(block,))
            headers = Envelope.of(batch, project=PROJECT, attempt="one").to_headers()
            payload = b"no Avro" if damaged else encode(batch)
            await producer.send_and_wait(topic, payload, key=GARBAGE_RUN.encode(), headers=headers)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_data(stage: Stage, name: str) -> None:
    """Prometheus, configured as deployed, answers each PromQL with rows, the consumer each SQL; each can be shown."""
    panels = {panel["title"]: panel for panel in BOARDS[name]["panels"]}
    for what, target in asked_targets(BOARDS[name]):
        picked = stage.picked(name)
        if "expr" in target:
            expression = picked.in_promql(target["expr"])
            if (what, target["refId"]) in MAY_BE_EMPTY:
                stage.prometheus.query(expression)
            else:
                stage.prometheus.wait_for(expression)
            continue
        query = picked.in_sql(target["url_options"]["data"])
        rows = stage.consumer.wait_for(query) if _must_answer(what) else []
        table = frame(target, rows)
        if what in panels and rows:
            _check_panel(panels[what], transformed(panels[what], table))


def _must_answer(what: str) -> bool:
    """Nothing failed, and no row is missing: the rest of what may be empty would be a fault."""
    return what != "marks Failed or crashed"


def _check_panel(panel: dict[str, Any], table: dict[str, list[Any]]) -> None:
    if panel["type"] == "trend":
        x = panel["options"]["xField"]
        assert table[x] == sorted(set(table[x]))
        lines = table.keys() - {x}
        assert lines
        for line in lines:
            assert any(value is not None for value in table[line]), line
    else:
        assert all(len(column) > 0 for column in table.values())


def test_a_dashboard_with_one_run_or_some_shows_these(stage: Stage) -> None:
    """Whatever is picked by id, panels and marks speak of nothing else."""
    for run in ("short", "moved"):
        for what, target in asked_targets(BOARDS["live.json"]):
            if "expr" in target or what == "picker project":
                continue
            picked = stage.picked("live.json", run=[stage.runs[run]], project=PROJECT)
            rows = stage.consumer.sql(picked.in_sql(target["url_options"]["data"]))
            names = {row["run"] for row in rows if "run" in row}
            assert names <= {run}, what


def test_the_story_of_a_run_is_marked(stage: Stage) -> None:
    """Its alert, its resume, its preemption and its end, in the time range and not outside of it."""
    marks = {annotation["name"]: annotation["target"] for annotation in BOARDS["live.json"]["annotations"]["list"]}

    def titles(name: str, **bounds: int) -> list[str]:
        picked = Picked(stage.picked("live.json").values, **bounds)
        rows = stage.consumer.sql(picked.in_sql(marks[name]["url_options"]["data"]))
        return [row["title"] for row in rows]

    assert titles("Alerts") == ["short: alert"]
    assert titles("Resumed") == ["moved: resumed"]
    assert titles("Preempted") == ["moved: preempted"]
    assert sorted(titles("Ended")) == ["moved: finished", "short: finished"]
    assert titles("Alerts", from_ms=int(time.time() * 1000) + 60_000) == []


def test_the_table_of_live_runs_tells_when_they_will_end(stage: Stage) -> None:
    """From the parameter max_steps, the step and the pace; what has ended has nothing left."""
    (target,) = next(panel for panel in BOARDS["live.json"]["panels"] if panel["title"] == "Now")["targets"]
    rows = stage.consumer.sql(stage.picked("live.json").in_sql(target["url_options"]["data"]))
    now = {row["run"]: row for row in rows if row["run_id"] != GARBAGE_RUN}
    assert next(iter(now)) == "wide"  # what lives comes first
    assert (now["short"]["of"], now["short"]["step"], now["short"]["left"]) == (120, 119, None)
    wide = now["wide"]
    assert wide["of"] == 10**9
    assert wide["left"] == pytest.approx((10**9 - 1 - wide["step"]) / wide["steps_per_second"])


def test_the_straggler_is_named(stage: Stage) -> None:
    """Rank 1, which pauses longer, is slower than the median and behind."""
    (target,) = next(panel for panel in BOARDS["ranks.json"]["panels"] if panel["title"] == "Stragglers")["targets"]
    rows = stage.consumer.sql(stage.picked("ranks.json").in_sql(target["url_options"]["data"]))
    assert [row["rank"] for row in rows] == [1, 0]
    assert rows[0]["slower"] > 0 > rows[1]["slower"]
    assert rows[0]["behind"] > rows[1]["behind"] == 0


def test_the_leaderboard_knows_the_winner(stage: Stage) -> None:
    """By the defined best value, either way round; one that still trains moves meanwhile."""
    (target,) = next(p for p in BOARDS["leaderboard.json"]["panels"] if p["title"] == "Runs by $metric")["targets"]

    def ordered(**values: str) -> dict[str, float]:
        picked = stage.picked("leaderboard.json", metric="val/accuracy", **values)
        rows = stage.consumer.sql(picked.in_sql(target["url_options"]["data"]))
        assert rows.pop()["run_id"] == GARBAGE_RUN  # which never had the metric
        return {row["run"]: row["best"] for row in rows}

    highest, lowest = ordered(order="highest"), ordered(order="lowest")
    assert list(highest.values()) == sorted(highest.values(), reverse=True)
    assert list(lowest.values()) == sorted(lowest.values())
    assert highest.keys() == lowest.keys() >= {"short", "moved", "wide"}
    for run in ("short", "moved"):
        (best,) = stage.consumer.sql(f"SELECT best['val/accuracy'] AS best FROM runs WHERE name = '{run}'")  # noqa: S608
        assert highest[run] == lowest[run] == best["best"]


def test_grafanas_rules_can_be_evaluated(stage: Stage) -> None:
    """Prometheus answers the expressions that Grafana's rules ask, with nothing but ones."""
    fires = set()
    for alert in ALERTS:
        rows = stage.prometheus.query(f"group without () ({alert.expression})")
        assert {row["value"][1] for row in rows} <= {"1"}
        if rows:
            fires.add(alert.name)
    # Garbage was sent, by nobody who was heard of again; the others hang on how busy this machine is.
    may = {"RunwireRunLost", "RunwireStraggler", "RunwireFreshnessBroken", "RunwireDiskFloor", "RunwireConsumerAway"}
    assert fires - may == {"RunwireDeadLetters"}


def test_a_run_that_diverges_and_one_that_is_killed_fire(stage: Stage, tmp_path: Path) -> None:
    """In a real Prometheus with the rules as they are deployed, with the run's name; `bench/alerts.py` times it."""

    def firing(alert: str, run: str) -> list[Any]:
        return stage.prometheus.query(f'ALERTS{{alertname="{alert}", run="{run}", alertstate="firing"}}')

    diverges = Learner(
        tmp_path / "d", stage.consumer.url, launch="d", name="diverges", learning_rate=DIVERGES_AT, pause_seconds=0.5
    )
    try:
        stage.consumer.wait_for(
            "SELECT 1 FROM latest WHERE run = 'diverges' AND metric = 'train/loss' AND NOT isfinite(value)"
        )
        wait_until(
            lambda: firing("RunwireLossNotFinite", "diverges"),
            what="the alert of a run that diverges",
        )
        for rank in stage.wide:
            rank.kill()
        wait_until(
            lambda: firing("RunwireRunLost", "wide") or firing("RunwireRunCrashed", "wide"),
            what="the alert of a run that was killed",
        )
    finally:
        diverges.kill()
