"""`runwire demo --url kafka://…`, as the compose file's demo profile runs it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.services.consumer import RUNWIRE, ConsumerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.kafka import KafkaTopics


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_demo_goes_through_kafka(kafka: KafkaTopics, topic_name: str, tmp_path: Path) -> None:
    """It trains, kills a rank and proves that nothing is lost; another consumer of the topic has the same points."""
    url = kafka.url(topic_name)
    done = subprocess.run(
        [RUNWIRE, "demo", "--url", url],
        # What the container has: no git and no home folder.
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "RUNWIRE_HOME": str(tmp_path / "demo")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing 0, twice 0" in done.stdout
    with ConsumerProcess(url, home=tmp_path / "other") as other:
        other.wait_for("SELECT 1 FROM runs WHERE state = 'finished' HAVING count(*) = 2")
        assert other.sql("SELECT * FROM gaps") == []
        for run in other.sql("SELECT name, points FROM runs"):
            assert f"{run['points']:,}" in done.stdout
