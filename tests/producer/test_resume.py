"""Resuming: which run is continued, by whom, and what can't be."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire._resume import Memory, Remembered
from runwire._settings import Settings, read_settings
from runwire.testing import capture
from runwire_schemas.events import RunStarted

A, B = "a" * 16, "b" * 16
NAME = "brisk-heron-42"


def settings(folder: Path, environ: dict[str, str], **keywords: Any) -> Settings:
    """Settings of a process that starts in a folder."""
    return read_settings(environ=environ, folder=folder, project="p", **keywords)


CHOICES: list[tuple[dict[str, Any], dict[str, str], tuple[bool, str | None]]] = [
    # Keywords, variables, (resume, run_id).
    ({}, {}, (False, None)),
    ({"resume": True}, {}, (True, None)),
    ({"resume": False}, {"RUNWIRE_RESUME": "true"}, (False, None)),
    ({}, {"RUNWIRE_RESUME": "true"}, (True, None)),
    ({}, {"RUNWIRE_RESUME": "1"}, (True, None)),
    ({}, {"RUNWIRE_RESUME": "false"}, (False, None)),
    ({}, {"RUNWIRE_RESUME": ""}, (False, None)),
    ({"resume": A}, {}, (True, A)),
    ({"resume": "mine"}, {"RUNWIRE_RESUME": "other"}, (True, "mine")),
    ({}, {"RUNWIRE_RESUME": "mine"}, (True, "mine")),
    # What is nearer wins; a run that is named is the one that True continues.
    ({"resume": "mine"}, {"RUNWIRE_RUN_ID": "other"}, (True, "mine")),
    ({"resume": True}, {"RUNWIRE_RUN_ID": "mine"}, (True, "mine")),
    ({}, {"RUNWIRE_RESUME": "true", "RUNWIRE_RUN_ID": "mine"}, (True, "mine")),
    ({}, {"RUNWIRE_RESUME": "mine", "RUNWIRE_RUN_ID": "mine"}, (True, "mine")),
    ({"run_id": "mine"}, {"RUNWIRE_RESUME": "other"}, (True, "mine")),
    # A run that this home knows may be called by its name.
    ({"resume": NAME}, {}, (True, A)),
]


@pytest.mark.parametrize(("keywords", "environ", "expected"), CHOICES)
def test_what_is_resumed(
    tmp_path: Path, keywords: dict[str, Any], environ: dict[str, str], expected: tuple[bool, str | None]
) -> None:
    home = tmp_path / ".runwire"
    home.mkdir()
    Memory(home / "runs").remember("p", Remembered(A, NAME))
    found = settings(tmp_path, environ, **keywords)
    assert (found.resume, found.run_id) == expected


@pytest.mark.parametrize(
    ("keywords", "environ", "error", "words"),
    [
        ({"resume": True, "run_id": "x"}, {}, runwire.UsageValueError, "resume: .*and so does run_id"),
        ({"resume": "x", "run_id": "x"}, {}, runwire.UsageValueError, "and so does run_id"),
        ({"resume": 3}, {}, runwire.UsageTypeError, "resume: must be True or a run's id, not int"),
        (
            {"resume": "brave-marten-23"},
            {},
            runwire.UsageValueError,
            "no run of this home is called 'brave-marten-23': give its id",
        ),
        ({}, {"RUNWIRE_RESUME": "x", "RUNWIRE_RUN_ID": "y"}, runwire.SettingsError, "name different runs"),
    ],
)
def test_what_cant_be_resumed(
    tmp_path: Path, keywords: dict[str, Any], environ: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        settings(tmp_path, environ, **keywords)


@pytest.mark.parametrize("text", ["x", "@3", "x@", "x@1.5", "x@last", "x@" + str(2**63), "x3", ""])
def test_a_fork_names_run_and_step(tmp_path: Path, text: str) -> None:
    with capture() as captured, pytest.raises(runwire.UsageValueError, match=re.escape("forked_from: must")):
        runwire.init(forked_from=text, url=captured.url, home=tmp_path)


def test_a_memory_holds_a_run_a_project(tmp_path: Path) -> None:
    """Nothing, garbage and a folder that can't be made are as good as nothing remembered."""
    memory = Memory(tmp_path / "runs")
    assert memory.last("p") is None
    memory.remember("p", Remembered(A, NAME))
    memory.remember("q", Remembered(B, "other"))
    assert (memory.last("p"), memory.last("q")) == (Remembered(A, NAME), Remembered(B, "other"))
    for garbage in ("", "[]", "{}", '{"run_id": 3, "name": ""}', "\0"):
        for path in (tmp_path / "runs").iterdir():
            path.write_text(garbage)
        assert memory.last("p") is None
    nowhere = Memory(Path("/proc/nowhere"))
    nowhere.remember("p", Remembered(A, NAME))
    assert nowhere.settle("p", "job", Remembered(A, NAME)) == Remembered(A, NAME)


def test_all_processes_of_a_launch_settle_on_one_run(tmp_path: Path) -> None:
    """Whatever each of them found, and however many come at once."""
    settled: list[Remembered] = []
    barrier = threading.Barrier(8)

    def settle(number: int) -> None:
        barrier.wait()
        settled.append(Memory(tmp_path / "runs").settle("p", "job#1", Remembered(f"{'abcdefgh'[number]}" * 16, "n")))

    threads = [threading.Thread(target=settle, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(settled)) == 1
    assert Memory(tmp_path / "runs").settle("p", "job#2", Remembered(B, "n")) == Remembered(B, "n")
    assert len(list((tmp_path / "runs").iterdir())) == 2  # nothing is left over


class Launches:
    """Process starts in one home, one after the other."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.url = url
        self.monkeypatch = monkeypatch
        monkeypatch.setattr("runwire._start._process.nth_init", iter(lambda: 1, None))

    def start(self, environ: dict[str, str] | None = None, **keywords: Any) -> runwire.Run:
        """One, to its end."""
        with self.monkeypatch.context() as patch:
            for name, value in (environ or {}).items():
                patch.setenv(name, value)
            run = runwire.init(**{"project": "p", "url": self.url, "home": self.folder, **keywords})
            run.finish()
        return run


def test_a_resumed_run_is_the_projects_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new run where there is none, which is said once; evaluators join and aren't remembered."""
    with capture() as captured:
        launches = Launches(tmp_path, captured.url, monkeypatch)
        first = launches.start(resume=True, name="mine")
        assert [record.message for record in caplog.records] == [
            f"No run of project p is remembered in {tmp_path} to be resumed: mine begins."
        ]
        assert launches.start(resume=True).id == first.id
        assert launches.start(resume=True, project="q").id != first.id
        evaluator = launches.start(resume=True, role="eval")
        assert (evaluator.id, evaluator.name) == (first.id, "mine")
        other = launches.start(role="eval")
        assert launches.start(resume=True).id == first.id != other.id
        assert launches.start(resume=first.id).id == first.id
        assert launches.start(resume="mine").id == first.id
        third = launches.start()
        assert third.id != first.id
        assert launches.start(resume=True).id == third.id
        assert launches.start(resume="mine").id == first.id == launches.start(resume=True).id
        assert launches.start(resume=third.name).id == third.id
        assert launches.start(resume=first.id).name == "mine"
        started = [event for event in captured.events() if isinstance(event, RunStarted) and event.run_id == first.id]
        assert {event.name for event in started} == {"mine"}
        assert {event.role for event in started} == {"train", "eval"}
        assert len({event.attempt for event in started}) == len({event.emitter_id for event in started}) == 9


def test_a_finished_run_by_explicit_id_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with capture() as captured:
        launches = Launches(tmp_path, captured.url, monkeypatch)
        assert launches.start(run_id="experiment").id == launches.start(resume="experiment").id


def ranks(job: str, rank: int, restarts: int = 0, nodes: int = 1) -> dict[str, str]:
    """What torchrun gives a rank of two a node."""
    return {
        "RANK": str(rank), "WORLD_SIZE": str(2 * nodes), "LOCAL_RANK": str(rank % 2), "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": job, "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }  # fmt: skip


def test_all_ranks_and_restarts_of_a_launch_continue_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when another launch has become the project's last one in between; each restart is one attempt."""
    with capture() as captured:
        launches = Launches(tmp_path, captured.url, monkeypatch)
        old = launches.start()
        joined = [launches.start(ranks("one", 0), resume=True)]
        launches.start(ranks("two", 0))
        joined += [
            launches.start(ranks("one", rank, restarts), resume=True) for rank, restarts in ((1, 0), (1, 1), (0, 1))
        ]
        assert {run.id for run in joined} == {old.id}
        new = [launches.start(ranks("three", rank), project="new", resume=True) for rank in (1, 0)]
        assert len({run.id for run in new}) == 1
        started = [event for event in captured.events() if isinstance(event, RunStarted) and event.run_id == old.id]
        places = {(event.attempt, event.restart_count, event.rank) for event in started if event.world_size == 2}
        assert places == {(f"torchrun:one#{restarts}", restarts, rank) for restarts in (0, 1) for rank in (0, 1)}


def test_several_nodes_have_to_name_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their homes may differ."""
    with capture() as captured:
        launches = Launches(tmp_path, captured.url, monkeypatch)
        with pytest.raises(runwire.SettingsError, match="several nodes: name the run that all of them continue"):
            launches.start(ranks("job", 0, nodes=2), resume=True)
        named = launches.start(ranks("job", 0, nodes=2) | {"RUNWIRE_RUN_ID": "mine"}, resume=True)
        assert named.id == launches.start(ranks("job", 3, nodes=2), resume="mine").id


def test_off_and_a_home_that_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode off remembers nothing and makes nothing."""
    launches = Launches(tmp_path / "home", "memory:off", monkeypatch)
    launches.start(mode="off", resume=True)
    launches.start(ranks("job", 0), mode="off", resume=True)
    assert not (tmp_path / "home").exists()
