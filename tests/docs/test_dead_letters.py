"""The guide to dead letters: its commands run as written, its columns and sentences are the real ones."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_consumer.database import MEMORY
from runwire_consumer.letters import KEPT_BYTES_MAX, MESSAGE_BYTES_MAX
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer
from runwire_schemas.errors import UnknownFingerprint
from tests.consumer.telling import DAY_ONE, Emitter, in_log
from tests.docs.guides import shell_blocks, start_block
from tests.repo.files import REPOSITORY

PAGE = "guides/dead-letters.md"
TEXT = (REPOSITORY / "docs" / PAGE).read_text(encoding="utf-8")
BLOCKS = [
    ("See what is there", 0, "upgrade the consumer"),
    ("Replay after an upgrade", 1, "0 dead letters replayed"),
    ("Give up", 0, "1 dead letters discarded"),
]


@pytest.mark.parametrize(("section", "code", "words"), BLOCKS)
def test_its_commands_run(tmp_path: Path, section: str, code: int, words: str) -> None:
    """On a home with a letter of a newer trainer, which this version can't read."""
    store = Store.open(tmp_path / ".runwire" / "runwire.duckdb")
    writer, trainer = Writer(store), Emitter("a")
    good = trainer.logs({1: {"loss": 1.0}})
    newer = replace(good, payload=good.payload[:2] + b"\7" * 8 + good.payload[10:])
    writer.write(in_log([trainer.starts(), newer]), Moment(DAY_ONE, at_tail=False, judged_at=DAY_ONE))
    writer.close()
    (block,) = shell_blocks(PAGE)[section]
    process = start_block(block, tmp_path, {})
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == code, printed
    assert words in printed


def test_every_block_is_run() -> None:
    found = {title: blocks for title, blocks in shell_blocks(PAGE).items() if blocks}
    assert list(found) == [section for section, *_ in BLOCKS]


def test_its_columns_are_all() -> None:
    store = Store.open(MEMORY)
    columns = {row[0] for row in store.cursor().execute("DESCRIBE dead_letters").fetchall()}
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    named = {name for line in rows for name in re.findall(r"`(\w+)`", line)}
    assert columns <= named
    assert named - columns == {"dead", "replayed", "discarded"}


def test_its_sentences_are_said() -> None:
    said = re.sub(r"\s+", " ", TEXT)
    told = str(UnknownFingerprint(b"\0" * 8)).replace("0" * 16, "…")
    assert told in said
    assert (MESSAGE_BYTES_MAX, KEPT_BYTES_MAX) == (2**20, 256 * 2**20)
    assert "up to 1 MiB, all letters together up to 256 MiB" in said
