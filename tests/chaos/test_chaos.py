"""Three minutes of chaos on the real services: nothing is lost or twice, and everything comes back by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.plan import Ending, Kind, lives, steps
from tests.services.kafka import fetch_jars
from tests.services.process import ServiceMissing
from tests.tiers import require_service

RUN = Path(__file__).with_name("run.py")
SEED = 5
MINUTES = 3
KILLS_MIN = 30
POINTS_MIN = 10_000  # millions on a quick machine


def test_a_plan_follows_from_its_seed() -> None:
    """The same seed gives the same faults and lives, another one others; what can't be played leaves the rest alone."""
    count = 200
    first, again, other = ([next(plan) for _ in range(count)] for plan in (steps(1), steps(1), steps(2)))
    assert first == again != other
    assert {step.kind for step in first[: len(Kind)]} == set(Kind)
    fewer = steps(1, {Kind.CONSUMER_DISK_FULL})
    assert [step for step in first if step.kind is not Kind.CONSUMER_DISK_FULL] == [
        next(fewer) for _ in range(sum(step.kind is not Kind.CONSUMER_DISK_FULL for step in first))
    ]
    some, same, others = ([next(plan) for _ in range(count)] for plan in (lives(1, 0), lives(1, 0), lives(1, 1)))
    assert some == same != others
    assert {life.ending for life in some} == set(Ending)


@pytest.mark.long
@pytest.mark.services
@pytest.mark.timeout(60 * MINUTES + 420)
def test_three_minutes_of_chaos() -> None:
    """Whatever the nemesis does, the auditor finds each row whose log() returned, once, with its values."""
    try:
        fetch_jars()
    except ServiceMissing as missing:
        require_service(missing.name, False, missing.how_to_get)
    done = subprocess.run(
        [sys.executable, RUN, "--seed", str(SEED), "--minutes", str(MINUTES), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8_000:] + done.stdout
    report = json.loads(done.stdout)
    assert (report["lost"], report["twice"], report["unrecoverable"], report["wrong"]) == (0, 0, 0, {}), report
    assert report["kills"] >= KILLS_MIN, report
    assert report["points"] >= POINTS_MIN, report
