"""`init`: what it takes, refuses and leaves behind."""

from __future__ import annotations

import argparse
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire._clock import wall_time_us
from runwire.testing import capture
from runwire_schemas.events import ParamsLogged, RunEnded, RunStarted


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"role": "boss"}, ValueError, "role"),
        ({"role": ["train"]}, ValueError, "role"),
        ({"params": {}, "config": {}}, ValueError, "config"),
        ({"params": 3}, TypeError, "params"),
        ({"config": [1]}, TypeError, "config"),
        ({"params": {1: 2}}, TypeError, "params"),
        ({"notes": 3}, TypeError, "notes"),
        ({"notes": "x" * 65_537}, ValueError, "notes"),
        ({"forked_from": b"run@3"}, TypeError, "forked_from"),
        ({"resumed_from_step": 1.5}, TypeError, "resumed_from_step"),
        ({"resumed_from_step": 2**63}, ValueError, "resumed_from_step"),
        ({"tags": "base"}, TypeError, "tags"),
        ({"project": 3}, TypeError, "project"),
        ({"url": "ftp://x"}, runwire.SettingsError, "url"),
        ({"mode": "maybe"}, runwire.SettingsError, "mode"),
        ({"sender": "me"}, runwire.SettingsError, "sender"),
        ({"home": "/proc/nowhere"}, runwire.SettingsError, "^home: can.t write"),
    ],
)
def test_a_wrong_init_names_the_argument_and_changes_nothing(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], named: str
) -> None:
    """It makes no journal, and a call that can be seen to be wrong leaves the current run alone."""
    with capture() as captured:
        with pytest.raises(error, match=named):
            runwire.init(**{"url": captured.url, "home": tmp_path / "home", **arguments})
        assert runwire.current_run() is None
        assert not (tmp_path / "home").exists()


def test_a_wrong_init_leaves_the_current_run_alone(tmp_path: Path) -> None:
    with capture() as captured, runwire.init(url=captured.url, home=tmp_path) as run:
        with pytest.raises(runwire.UsageError):
            runwire.init(params=3)
        assert runwire.current_run() is run


def test_a_second_init_finishes_the_first_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with capture() as captured:
        first = runwire.init(url=captured.url, home=tmp_path)
        second = runwire.init(url=captured.url, home=tmp_path)
        assert first.id != second.id
        assert [record.message for record in caplog.records] == [
            f"Run {first.name} is finished, because a new one begins."
        ]
        assert [event.run_id for event in captured.events() if isinstance(event, RunEnded)] == [first.id]
        second.finish()


@pytest.mark.parametrize("given", [{"lr": 0.1}, argparse.Namespace(lr=0.1)])
@pytest.mark.parametrize("argument", ["params", "config"])
def test_params_of_every_make(tmp_path: Path, argument: str, given: Any) -> None:
    with capture() as captured:
        runwire.init(url=captured.url, home=tmp_path, **{argument: given}).finish()
        assert [event.params for event in captured.events() if isinstance(event, ParamsLogged)] == [{"lr": 0.1}]


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    """Once at its start, and again when git, host and packages are known."""
    with capture() as captured:
        runwire.init(
            "p", name="n", group="g", tags=["a"], notes="why", user="me", resumed_from_step=3, forked_from="x@3",
            url=captured.url, home=tmp_path,
        ).finish()  # fmt: skip
        first, second = (event for event in captured.events() if isinstance(event, RunStarted))
        assert (first.project, first.name, first.group, list(first.tags), first.notes) == ("p", "n", "g", ["a"], "why")
        assert (first.user, first.resumed_from_step, first.forked_from, first.role) == ("me", 3, "x@3", "train")
        assert second.packages
        assert second.host.python


@pytest.mark.parametrize("mode", ["on", "off", "offline"])
def test_a_finished_run_is_let_go(tmp_path: Path, mode: str) -> None:
    """Nothing of ours keeps a run, and what its attributes hold, alive."""
    with capture() as captured:
        run = runwire.init(url=captured.url, home=tmp_path, mode=mode)
        run.log({"a": 1})
        run.finish()
        kept = weakref.ref(run)
        del run
        gc.collect()
        assert kept() is None


def test_offline_keeps_everything_for_sync(tmp_path: Path) -> None:
    with capture() as captured:
        run = runwire.init(url=captured.url, home=tmp_path, mode="offline")
        run.log({"a": 1})
        assert run.finish() is False
        assert captured.messages == []
        runwire.init(url=captured.url, home=tmp_path).finish()
        assert captured.points() == [("a", 0, 1.0)]


def test_off_takes_every_call_and_still_checks_it(tmp_path: Path) -> None:
    run = runwire.init(url="memory:off", home=tmp_path / "home", mode="off", params={"a": 1})
    for step in range(3):
        run.log({"a": 1.0}, step=step)
    with pytest.raises(runwire.UsageTypeError):
        run.log({"a": "x"})
    run.define("a")
    run.alert("a")
    assert run.finish()
    assert runwire.current_run() is None
    assert not (tmp_path / "home").exists()


def test_ranks_that_nothing_unites_are_refused_unless_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says what to set; an id makes them ranks of one run; off tracks nothing that they could share."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(runwire.SettingsError, match=r"^RUNWIRE_RUN_ID: nothing makes these 2 ranks one run and"):
        runwire.init(url="memory:refused", home=tmp_path)
    with runwire.init(url="memory:off", home=tmp_path, mode="off") as run:
        assert run.rank == 1
    with capture() as captured:
        runwire.init(url=captured.url, home=tmp_path, run_id="mine").finish()
        started = next(event for event in captured.events() if isinstance(event, RunStarted))
        assert (started.attempt, started.world_size, started.launched_by) == ("mine#0", 2, "explicit")


def test_a_pod_that_may_be_a_rank_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and a run of its own."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with runwire.init(url="memory:pod", home=tmp_path, mode="offline") as run:
        assert run.rank == 0
    assert [line for line in caplog.messages if "Pod 3 of an indexed Job is a run of its own." in line] != []


def test_any_bytes_around_a_run_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, variables, hosts and tags that aren't UTF-8 stop no run."""
    odd, escaped = "x\udcff", "x\\udcff"
    monkeypatch.setattr("sys.argv", [odd, f"--data={odd}"])
    for variable in ("LOGNAME", "SLURMD_NODENAME", "RUNWIRE_TAGS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(variable, odd)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with capture() as captured:
        runwire.init(odd, name=odd, group=odd, notes=odd, url=captured.url, home=tmp_path).finish()
        started = next(event for event in captured.events() if isinstance(event, RunStarted))
        assert (started.project, started.name, started.group, started.notes) == (escaped,) * 4
        assert (started.user, started.host.name, list(started.tags)) == (escaped, escaped, [escaped])
        assert list(started.command)[1:] == [escaped, f"--data={escaped}"]
        assert started.attempt == f"torchrun:{escaped}#0"


def test_a_deleted_current_folder_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where home and destination are given, nothing asks where the process is."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with capture() as captured:
        runwire.init(url=captured.url, home=tmp_path).finish()
        assert any(isinstance(event, RunEnded) for event in captured.events())
    with pytest.raises(runwire.SettingsError, match="current folder no longer exists"):
        runwire.init(home="relative")


def test_a_clock_before_1970_gives_no_negative_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer sets such records aside."""
    monkeypatch.setattr("time.time_ns", lambda: -(10**18))
    assert wall_time_us() == 0
