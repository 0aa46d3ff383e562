"""The auditor can fail: whatever is planted in a good file is found, and named."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from runwire_consumer.store import Store
from runwire_schemas import events
from tests.chaos.auditor import Findings, audit
from tests.chaos.told import KEYS, METRICS, Counters, value, writer_of
from tests.consumer.telling import Emitter, store_all

ROWS = 20
WRITERS = (3, 4)
LOST_ROWS = 5
FULL = "the journal couldn't be written: No space left on device"


def rows_of(writer: int, begin: int, end: int) -> dict[int, dict[str, float]]:
    """Rows as a trainer logs them."""
    return {row: {METRICS[key]: value(writer, row, key) for key in range(KEYS)} for row in range(begin, end)}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Two writers of ROWS rows each; the second one's last LOST_ROWS are declared lost."""
    path = tmp_path / "runwire.duckdb"
    store = Store.open(path)
    for letter, writer in zip("ab", WRITERS, strict=True):
        run = Emitter(letter, run_id=letter * 16)
        stored = ROWS - LOST_ROWS if letter == "b" else ROWS
        store_all(store, [run.starts(), run.logs(rows_of(writer, 0, 7)), run.logs(rows_of(writer, 7, stored))])
        if letter == "b":
            first_seq, run.seq = run.seq, run.seq + LOST_ROWS
            store_all(store, [run.says(events.RowsLost, first_seq=first_seq, count=LOST_ROWS, reason=FULL)])
        store_all(store, [run.signals(events.EmitterEnded, next_seq=run.seq, how="crashed")])
    store.close()
    return path


def told(**more: int) -> dict[int, int]:
    """What the writers were told, and others."""
    return {WRITERS[0]: ROWS, WRITERS[1]: ROWS} | {int(name.removeprefix("w")): rows for name, rows in more.items()}


def look(database: Path, told_rows: dict[int, int] | None = None, lossy: frozenset[int] = frozenset({4})) -> Findings:
    return audit(database, told_rows or told(), lossy)


def test_a_good_file_is_good(database: Path) -> None:
    """Everything is accounted for; what was declared is named with its reason."""
    found = look(database)
    assert found == Findings(
        points=(2 * ROWS - LOST_ROWS) * KEYS,
        rows=2 * ROWS - LOST_ROWS,
        lost=0,
        twice=0,
        wrong={},
        open_receipts=0,
        declared={FULL: LOST_ROWS},
        dead_letters={},
    )


def test_the_row_that_was_being_logged_may_be_there(database: Path) -> None:
    """The process died inside of a call: its row is stored, but nobody was told so."""
    found = look(database, {3: ROWS - 1, 4: ROWS})
    assert (found.lost, found.wrong) == (0, {})
    assert look(database, {3: ROWS - 2, 4: ROWS}).wrong == {"a row that nobody logged": 1}


@pytest.mark.parametrize(
    ("told_rows", "lossy", "lost"),
    [
        (told(), frozenset[int](), LOST_ROWS),  # declared by one of whom nobody expects it
        ({3: ROWS + 2, 4: ROWS}, frozenset({4}), 2),  # the tail is missing
        ({3: ROWS, 4: ROWS + 3}, frozenset({4}), 3),  # more than was declared
        (told(w9=4), frozenset({4, 9}), 4),  # a writer of whom nothing is there, whatever is expected of it
    ],
)
def test_what_was_told_and_is_not_there_is_lost(
    database: Path, told_rows: dict[int, int], lossy: frozenset[int], lost: int
) -> None:
    """Rows at the end, undeclared rows, rows of an emitter that never came."""
    found = look(database, told_rows, lossy)
    assert (found.lost, found.twice) == (lost, 0)
    assert any("rows are lost" in line for line in found.examples)


OF_ROW_5 = "WHERE emitter_key = 0 AND seq = 6"  # the start has number 0
POINTS_OF_ROW_5 = f"FROM store.points {OF_ROW_5}"
ROW_5 = f"FROM store.rows {OF_ROW_5}"


@pytest.mark.parametrize(
    ("damage", "lost", "twice", "wrong"),
    [
        pytest.param([f"DELETE {POINTS_OF_ROW_5}", f"DELETE {ROW_5}"], 1, 0, set(), id="a row is gone"),
        pytest.param([f"DELETE {POINTS_OF_ROW_5} AND metric_key = 3"], 1, 0, {"half a row"}, id="a point is gone"),
        pytest.param(
            [f"INSERT INTO store.points SELECT * {POINTS_OF_ROW_5} AND metric_key = 3"], 0, 1, set(), id="a point twice"
        ),
        pytest.param([f"INSERT INTO store.rows SELECT * {ROW_5}"], 0, 1, set(), id="a row twice"),
        pytest.param(
            [
                f"INSERT INTO store.points SELECT emitter_key, metric_key, 900, value {POINTS_OF_ROW_5}",
                f"INSERT INTO store.rows SELECT emitter_key, 900, step, time {ROW_5}",
            ],
            0,
            KEYS,
            {
                "a row under several numbers",
                "a row whose points aren't there",
                "a stored row that the ledger doesn't call stored",
            },
            id="a row under another number too",
        ),
        pytest.param(
            [f"UPDATE store.points SET value = value + 0.5 {OF_ROW_5}"],  # noqa: S608 - literals
            1,
            0,
            {"a value that nobody logged", "a row whose points aren't there"},
            id="other values",
        ),
        pytest.param(
            ["UPDATE store.points SET value = 'nan' WHERE emitter_key = 0 AND metric_key = 0 AND seq = 6"],
            1,
            0,
            {"a value that nobody logged", "half a row"},
            id="a NaN",
        ),
        pytest.param(
            [f"UPDATE store.points SET metric_key = 9 - metric_key {OF_ROW_5}"],  # noqa: S608 - literals
            0,
            0,
            {"a value under another's name"},
            id="names are swapped",
        ),
        pytest.param(
            [f"UPDATE store.rows SET step = 99 {OF_ROW_5}"],  # noqa: S608 - literals
            0,
            0,
            {"a row with another step"},
            id="another step",
        ),
        pytest.param(
            ["INSERT INTO store.ledger VALUES (0, 3, 9, 'stored')"],
            0,
            0,
            {"ranges of the ledger that overlap", "a stored row that the ledger doesn't call stored"},
            id="ranges overlap",
        ),
        pytest.param(
            ["UPDATE store.ledger SET disposition = 'dead' WHERE emitter_key = 0"],
            0,
            0,
            {"a stored row that the ledger doesn't call stored"},
            id="the ledger says otherwise",
        ),
    ],
)
def test_what_is_planted_is_found(database: Path, damage: list[str], lost: int, twice: int, wrong: set[str]) -> None:
    """A lost row, a doubled point, a wrong value, a ledger that doesn't hold."""
    with duckdb.connect(str(database)) as connection:
        for statement in damage:
            connection.execute(statement)
    found = look(database)
    assert (found.lost, found.twice, set(found.wrong)) == (lost, twice, wrong)
    assert bool(found.examples) or not wrong


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE store.emitters SET next_seq = NULL WHERE emitter_key = 0",
        "UPDATE store.emitters SET next_seq = next_seq + 1 WHERE emitter_key = 0",
        "UPDATE store.ledger SET first_seq = 2 WHERE emitter_key = 0",
    ],
)
def test_an_open_receipt_is_found(database: Path, damage: str) -> None:
    """An end that nobody told, a row at the end, and one in front, that nothing explains."""
    with duckdb.connect(str(database)) as connection:
        connection.execute(damage)
    assert look(database).open_receipts == 1


def test_counters_outlive_their_process(tmp_path: Path) -> None:
    """They are in a file, and every value tells writer, row and key."""
    Counters(tmp_path / "told").returned(2, 17)
    assert Counters(tmp_path / "told").rows()[:4] == [0, 0, 17, 0]
    assert len({value(writer, row, key) for writer in range(40) for row in range(40) for key in range(KEYS)}) == 16_000
    assert writer_of(7, 3) == 115
