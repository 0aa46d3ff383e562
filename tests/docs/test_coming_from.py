"""What the guides say in Python is true: their blocks run, the calls in their tables exist, their settings are all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import runwire
from runwire import _settings
from runwire.testing import Captured, capture
from runwire_schemas.events import RunEnded, RunStarted
from tests.docs.blocks import GUIDES, blocks, calls, rows, run_code, trainer, training
from tests.producer.programs import of_kind

COMING, LOGGING = "coming-from-other-trackers.md", "logging.md"


@pytest.fixture(autouse=True)
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Captured]:
    """Runs of a guide go here, from a folder of their own."""
    with capture() as destination:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("RUNWIRE_URL", destination.url)
        monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path / "home"))
        yield destination
        runwire.finish()


BLOCKS: list[tuple[str, int, list[tuple[str, int, float]]]] = [
    (
        LOGGING,
        0,
        [
            ("train/loss", 0, 1.0),
            ("train/loss", 1, 0.5),
            ("train/loss", 2, 1 / 3),
            ("val/acc", 2, 0.9),
            ("val/loss", 2, 0.1),
        ],
    ),
    (LOGGING, 1, [("loss", 0, 0.5), ("loss", 1, 0.4), ("loss", 100, 0.3), ("loss", -1, 0.6)]),
    (COMING, 0, [("train/loss", 0, 1.0), ("train/loss", 1, 0.5), ("train/loss", 2, 1 / 3), ("val/acc", 2, 0.9)]),
    (COMING, 1, [("train/loss", 0, 1.0), ("train/loss", 1, 0.5), ("train/loss", 2, 1 / 3), ("acc", 2, 0.9)]),
    (
        COMING,
        2,
        [
            *(("train/loss", step, 1 / (step + 1)) for step in range(3)),
            *(("acc/train", 2, 0.9), ("acc/val", 2, 0.8), ("hparam/acc", 2, 0.9)),
        ],
    ),
]


@pytest.mark.parametrize(("guide", "number", "points"), BLOCKS)
def test_blocks_log_what_they_say(
    guide: str, number: int, points: list[tuple[str, int, float]], captured: Captured, tmp_path: Path
) -> None:
    """Beside the other tracker's: the same names, steps and values."""
    run_code(blocks(guide)[number], tmp_path, training())
    runwire.finish()
    assert captured.points() == points
    assert [event.status for event in of_kind(captured.events(), RunEnded)] == ["finished"]


def test_the_block_for_tests_of_ones_own(tmp_path: Path) -> None:
    """It brings its own destination."""
    run_code(blocks(LOGGING)[2], tmp_path, {})


def test_the_callbacks_of_ultralytics(captured: Captured, tmp_path: Path) -> None:
    """Called as its trainer calls them."""
    names = run_code(blocks(COMING)[3], tmp_path, training())
    for callback in names["model"].callbacks.values():
        callback(trainer())
    assert captured.points() == [("train/box_loss", 2, 1.5), ("lr/pg0", 2, 0.01), ("metrics/mAP50(B)", 2, 0.5)]
    assert of_kind(captured.events(), RunStarted)[0].name == "yolo"


def test_no_block_is_left_out() -> None:
    assert (len(blocks(LOGGING)), len(blocks(COMING))) == (3, 4)


CALLS = [(guide, call) for guide, column in ((COMING, 1), (LOGGING, 0)) for call in calls(guide, column)]


@pytest.mark.parametrize("call", dict.fromkeys(call for _, call in CALLS))
def test_calls_in_tables_work(call: str, tmp_path: Path) -> None:
    """Each is one that a run takes, with the names that a training script has."""
    run = runwire.init()
    run_code(call, tmp_path, {**training(), "runwire": runwire, "run": run})
    run.finish()


def test_every_call_of_the_table_is_seen() -> None:
    assert len([call for guide, call in CALLS if guide == COMING]) > 40
    assert len([call for guide, call in CALLS if guide == LOGGING]) == 15


def test_every_setting_is_in_the_table() -> None:
    """The variables of `_settings.py`, no other, each with its keyword."""
    known = re.findall(r"(?m)^    (RUNWIRE_\w+) ", _settings.__doc__ or "")
    table = [(row[0].strip("`"), row[1].strip("`")) for row in rows(LOGGING) if row[0].startswith("`RUNWIRE_")]
    assert [name for name, _ in table] == known
    assert [name for name, keyword in table if keyword not in {name.removeprefix("RUNWIRE_").lower(), "-"}] == []


def test_every_guide_is_listed() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (GUIDES / "README.md").read_text()))
    assert listed == {path.name for path in GUIDES.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("guide", [COMING, LOGGING, "README.md"])
def test_links_lead_somewhere(guide: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (GUIDES / guide).read_text())
    assert [link for link in links if not (GUIDES / link).exists()] == []
