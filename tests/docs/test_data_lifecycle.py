"""The guide to the life of a run's data: its commands run as written, and say what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runwire_consumer.reduction import Retention
from tests.cli.data_home import small_home
from tests.docs.guides import shell_blocks, start_block
from tests.repo.files import REPOSITORY

PAGE = "guides/data-lifecycle.md"
TEXT = (REPOSITORY / "docs" / PAGE).read_text(encoding="utf-8")
BLOCKS = [
    ("Rename, group, tag", ["baseline (whole): notes 'the one to beat', tags 'good'", "baseline  "]),
    ("Export a run", ["15 points written: calm-river", "│ loss", "│ acc"]),
    ("Archive", ["calm-river-1 (whole): 15 points", '"run_id": "died"', "│ whole"]),
    ("Delete", ["late-owl-3 (died) is deleted", "died   ", "deleted"]),
    ("Full resolution for some days", ["21 points stored"]),
]


@pytest.mark.parametrize(("section", "words"), BLOCKS)
def test_its_commands_run(tmp_path: Path, section: str, words: list[str]) -> None:
    """In a folder whose home has a few runs that nobody read yet."""
    small_home(tmp_path / ".runwire")
    (block,) = shell_blocks(PAGE)[section]
    process = start_block(block, tmp_path, {})
    printed, _ = process.communicate(timeout=150)
    assert process.returncode == 0, printed
    for one in words:
        assert one in printed, printed


def test_every_block_is_run() -> None:
    assert [title for title, found in shell_blocks(PAGE).items() if found] == [section for section, _ in BLOCKS]


def test_its_rules_are_rules() -> None:
    found = re.findall(r"--retention '?([^ '`]+)|RUNWIRE_RETENTION=\"([^\"]+)\"", TEXT)
    assert [Retention.of([one or other]) for one, other in found] == [
        Retention({"digits": 30}, 90), Retention({"digits": 30}), Retention({}, 90),
    ]  # fmt: skip
