"""`runwire.testing`: what users' tests may rely on."""

from __future__ import annotations

from pathlib import Path

import runwire
from runwire.testing import capture
from runwire_schemas.events import EmitterEnded, Heartbeat, RunStarted


def test_everything_sent_is_there_when_the_run_has_finished(tmp_path: Path) -> None:
    with capture() as captured:
        with runwire.init(project="p", url=captured.url, home=tmp_path) as run:
            run.log({"loss": 0.5}, step=3)
        assert captured.points() == [("loss", 3, 0.5)]
        assert {RunStarted, Heartbeat, EmitterEnded} <= {type(event) for event in captured.events()}
        assert all(message.envelope.run_id == run.id for message in captured.messages)


def test_destinations_know_nothing_of_each_other(tmp_path: Path) -> None:
    with capture() as one, capture() as other:
        runwire.init(url=one.url, home=tmp_path).finish()
        assert one.messages
        assert other.messages == []


def test_at_the_end_all_is_forgotten() -> None:
    with capture() as captured:
        pass
    assert captured.messages == []
    assert captured.points() == []
