"""`runwire.log` and its siblings: the current run's calls, for code that has none at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import runwire
from runwire import _module
from runwire.testing import capture
from runwire_schemas.events import AlertRaised, MetricDefined, ParamsLogged, RunEnded


def test_they_go_to_the_current_run(tmp_path: Path) -> None:
    with capture() as captured:
        run = runwire.init(url=captured.url, home=tmp_path)
        assert runwire.current_run() is run
        runwire.log({"loss": 0.5}, step=3)
        runwire.log_params({"lr": 0.1})
        runwire.define("loss", best="min")
        runwire.alert("look")
        runwire.progress(expect_next_in=60)
        assert runwire.finish("failed", exit_code=2, error="why")
        assert runwire.current_run() is None
        kinds = {type(event) for event in captured.events()}
        assert {ParamsLogged, MetricDefined, AlertRaised, RunEnded} <= kinds
        assert captured.points() == [("loss", 3, 0.5)]


def test_without_a_run_one_notice_is_all(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_module, "_noticed", False)
    for _ in range(3):
        runwire.log({"loss": 0.5})
        runwire.log_params({"lr": 0.1})
        runwire.define("loss")
        runwire.alert("look")
        runwire.progress()
        assert runwire.finish()
    assert [record.message for record in caplog.records] == [
        "There is no current run: call runwire.init first. What is logged now is not kept."
    ]
