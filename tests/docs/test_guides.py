"""The guide to clusters without a network: each of its set-ups, run as written, brings every row to SQL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_schemas.events import EmitterEnded
from tests.docs.guides import shell_blocks, start_block
from tests.producer.programs import of_kind, points, read_topic
from tests.services.process import PATIENCE_SECONDS, wait_until

PAGE = "guides/offline-clusters.md"
SECTIONS = ["A shared folder", "A relay on each node", "A forwarder on the login node", "Journals by hand"]
ROWS = 300
TRAIN = f"""
import runwire
with runwire.init(project="guide", run_id="guided", auto_metrics=False) as run:
    for step in range({ROWS}):
        run.log({{"loss": 1 / (1 + step)}}, step=step)
"""
EXPECTED = [("loss", step, 1 / (1 + step)) for step in range(ROWS)]


class Cluster:
    """A node, a login node and a shared file system, which are folders; the broker is one too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topic = folder / "broker" / "team"
        self.others = {
            "kafka://broker:9092/team": f"dir:{self.topic}",
            "/shared/": f"{folder}/shared/",
            "/local/": f"{folder}/local/",
            "/home/ada/": f"{folder}/ada/",
        }
        (folder / "train.py").write_text(TRAIN)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, block: str) -> subprocess.Popen[str]:
        """Begin a block."""
        process = start_block(block, self.folder, self.others)
        self._started.append(process)
        return process

    def run(self, block: str) -> str:
        """Run a block to its end, which has to be a good one; returns what it printed."""
        process = self.start(block)
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, printed
        return printed

    def wait_until_ended(self, topic: Path) -> None:
        """Until the run's only emitter has ended, in a topic folder."""
        wait_until(
            lambda: topic.is_dir() and of_kind(read_topic(topic), EmitterEnded),
            what="the end arrives",
        )

    def end(self) -> None:
        """Kill what is left, with all it started."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One where nothing runs."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()


def test_every_set_up_is_tested() -> None:
    """A section more needs a test more."""
    assert list(shell_blocks(PAGE)) == SECTIONS


def test_a_shared_folder(cluster: Cluster) -> None:
    """The job writes into it, the login node's consumer reads it."""
    job, login = shell_blocks(PAGE)["A shared folder"]
    up = cluster.start(login.replace("runwire up", "exec runwire up --port 0"))
    cluster.run(job)
    topic = cluster.folder / "shared" / "runwire" / "topic"
    assert points(read_topic(topic)) == EXPECTED
    home = cluster.folder / "ada" / "runwire"
    ask = 'RUNWIRE_HOME=/home/ada/runwire runwire sql --csv "SELECT count(*) AS n FROM metrics"'
    wait_until((home / "server.json").exists, what="the consumer serves")
    wait_until(lambda: str(ROWS) in cluster.run(ask), what="the rows are in SQL")
    up.send_signal(signal.SIGTERM)
    assert up.wait(PATIENCE_SECONDS) == 0


def test_a_relay_on_each_node(cluster: Cluster) -> None:
    """When the job's script has ended, everything is delivered, and no process is left."""
    (job,) = shell_blocks(PAGE)["A relay on each node"]
    printed = cluster.run(job)
    assert sorted(points(read_topic(cluster.topic))) == EXPECTED
    assert "rows wait for the relay" in printed
    assert " waiting" not in printed.replace(": waiting for the first process.", "")


def test_a_forwarder_on_the_login_node(cluster: Cluster) -> None:
    """It waits for the shared home to appear, and goes on when the job is over."""
    job, login = shell_blocks(PAGE)["A forwarder on the login node"]
    forwarder = cluster.start(f"exec {login}")
    cluster.run(job)
    cluster.wait_until_ended(cluster.topic)
    assert sorted(points(read_topic(cluster.topic))) == EXPECTED
    forwarder.send_signal(signal.SIGTERM)
    assert forwarder.wait(PATIENCE_SECONDS) == 0


def test_journals_by_hand(cluster: Cluster) -> None:
    """Sent from the node, and from a carried copy: the same rows with the same numbers."""
    job, sync, carry = shell_blocks(PAGE)["Journals by hand"]
    cluster.run(job)
    assert not cluster.topic.exists()
    assert "1 journal sent" in cluster.run(carry)
    carried = points(read_topic(cluster.topic))
    assert carried == EXPECTED
    assert "1 journal sent" in cluster.run(sync)
    assert points(read_topic(cluster.topic)) == carried * 2
    ends = {(event.emitter_id, event.next_seq, event.how) for event in of_kind(read_topic(cluster.topic), EmitterEnded)}
    assert {how for *_, how in ends} == {"finished"}
    assert len(ends) == 1
