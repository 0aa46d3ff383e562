"""The demo's parts: the real images, ranks that are killed and go on, and a count that outlives SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from runwire_cli.demo import run_demo
from runwire_cli.demo_ranks import KILLED_RANK, WORLD_SIZE, load_digits, prepare, start_training, variables_of, watch
from runwire_cli.demo_train import read_progress
from runwire_cli.live import LiveView, of_group
from runwire_schemas import folder
from runwire_schemas.codec import decode
from runwire_schemas.errors import DestinationError
from runwire_schemas.events import EmitterEnded, Event, MetricBatch, RunStarted
from runwire_schemas.topics import parse_url

STEPS = 3_000


def test_images_are_scikit_learns() -> None:
    """Read from the package's file, without the second that importing scikit-learn takes."""
    import sklearn.datasets  # noqa: PLC0415 - only here

    images, labels = load_digits()
    known = sklearn.datasets.load_digits()
    assert images.shape == (1797, 64)
    assert np.array_equal(images * 16.0, known.data)
    assert np.array_equal(labels, known.target)


def test_processes_log_in_as_the_url_says() -> None:
    """User and password of RUNWIRE_URL get to them, which the text that is shown doesn't hold."""
    destination = parse_url("kafkas://trainer:s3cret@broker/team").secured({"RUNWIRE_KAFKA_USER": "other"})
    given = variables_of(destination)
    assert "trainer" not in given["RUNWIRE_URL"]
    again = parse_url(given["RUNWIRE_URL"]).secured(given)
    assert again.security is not None
    assert again.security.login() == ("trainer", "s3cret")
    assert variables_of(parse_url("dir:/x")) == {"RUNWIRE_URL": "dir:/x"}


def test_no_password_on_the_command_line() -> None:
    with pytest.raises(DestinationError, match="--url has a password"):
        run_demo("kafka://u:s3cret@broker/team", keep=False, console=Console())


def test_killed_rank_goes_on_and_every_point_is_in_the_log(tmp_path: Path) -> None:
    """What each rank counted itself is what the topic folder holds, the killed rank's two lives together."""
    home, topic = tmp_path / "home", tmp_path / "topic"
    training = prepare(tmp_path / "run", lr=0.1, steps=STEPS, group="g", job="job")
    view = LiveView(lambda _sql, _params: [], of_group("g"))
    start_training(training, parse_url(f"dir:{topic}"), home)
    watch(training, view, kill_at=0.1, destination=parse_url(f"dir:{topic}"), home=home)
    events = _events(topic)
    assert {event.run_id for event in events} == {events[0].run_id}, "all ranks and lives are one run"
    for rank in range(WORLD_SIZE):
        # A recovered journal is sent again in other cuts: a point is known by its row's number.
        points = {
            (event.emitter_id, seq, key)
            for event in events
            if isinstance(event, MetricBatch) and event.rank == rank
            for seq, keys in enumerate((block.keys for block in event.blocks for _ in block.steps), event.first_seq)
            for key in keys
        }
        given, returned = training.progress[rank]
        assert returned <= len(points) <= given
        assert given - returned <= 4
    ends = [event.how for event in events if isinstance(event, EmitterEnded) and event.rank == KILLED_RANK]
    assert sorted(ends) == ["crashed", "finished"]
    starts = [event for event in events if isinstance(event, RunStarted) and event.rank == KILLED_RANK]
    assert {event.attempt for event in starts} == {"torchrun:job#0:29500"}
    assert list((home / "journal").iterdir()) == []


def test_progress_outlives_sigkill(tmp_path: Path) -> None:
    """Counted before and after each call; a new life of the rank goes on counting."""
    program = (
        "import os, signal, sys; from pathlib import Path; from runwire_cli.demo_train import Progress\n"
        "progress = Progress(Path(sys.argv[1]))\n"
        "progress.giving(4); progress.returned(4); progress.giving(4); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "progress"
    for life in (1, 2):
        done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, env={**os.environ})
        assert done.returncode == -signal.SIGKILL
        assert read_progress(path) == (8 * life, 4 * life)
    assert read_progress(tmp_path / "missing") == (0, 0)


def _events(topic: Path) -> list[Event]:
    found = []
    for path in sorted(topic.iterdir()):
        data = path.read_bytes()
        header = folder.parse_header(data)
        assert header is not None
        for block in folder.split_blocks(data[header[1] :], header[0]):
            assert isinstance(block, folder.RawBlock)
            found += [decode(record.payload) for record in folder.decode_block(block)]
    return found
