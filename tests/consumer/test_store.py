"""The store: a batch wholly or not at all, offsets fenced, one holder, versions in order."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runwire_consumer.change import Change
from runwire_consumer.database import MEMORY, Database, EngineOptions, translated
from runwire_consumer.errors import (
    Fenced,
    StoreCramped,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreInvalidated,
    StoreLocked,
    StoreNewer,
)
from runwire_consumer.migrations import Migration, migrate, migrations
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer
from runwire_schemas import events
from runwire_schemas.envelope import Envelope
from tests.consumer.failing import Failing
from tests.consumer.telling import DAY_ONE, RUN, Emitter, in_log, store_all

TABLES = (
    "offsets", "runs", "emitters", "starts", "metrics", "rows", "points", "series", "ledger", "lifecycle", "params",
    "dead_letters",
)  # fmt: skip


def contents(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the store, table by table."""
    cursor = store.cursor()
    return {name: sorted(cursor.execute(f"FROM store.{name}").fetchall(), key=repr) for name in TABLES}


def story() -> list[Any]:
    """A start, parameters, two batches, a dead letter."""
    run = Emitter("a")
    messages = [
        run.starts(),
        run.says(events.ParamsLogged, params={"lr": 1.0}),
        run.logs({step: {"loss": 1.0} for step in range(5)}),
        run.logs({step: {"loss": 1.0, "acc": 2.0} for step in range(5, 9)}),
    ]
    return [*messages, replace(run.logs({9: {"loss": 0.0}}), payload=b"nonsense")]


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    """Rows, ledger, offsets and dead letters, and the caches read back the same."""
    store = Store.open(tmp_path / "runwire.duckdb")
    store_all(store, story())
    before = contents(store)
    store.close()
    store = Store.open(tmp_path / "runwire.duckdb")
    assert contents(store) == before
    assert before["offsets"] == [("memory:log", "0", 5, "")]
    assert before["ledger"] == [(0, 0, 11, "stored"), (0, 11, 12, "dead")]
    assert before["series"] == [
        (0, 0, 9, 0, 2, 0, 10, 8, DAY_ONE + 10_000_000, 1.0, 0, 8, True, None, 0),
        (0, 1, 4, 0, 7, 5, 10, 8, DAY_ONE + 10_000_000, 2.0, 5, 8, True, None, 0),
    ]
    store.close()


def test_what_comes_again_changes_nothing_but_offsets() -> None:
    """A replayed log is left out row by row; a re-cut batch too."""
    store = Store.open(MEMORY)
    store_all(store, story()[:4])
    before = contents(store)
    again, run = story()[:4], Emitter("a", seq=2)
    recut = run.logs({step: {"loss": 1.0} for step in range(3)})
    store_all(store, [*again, recut])
    after = contents(store)
    assert after.pop("offsets") == [("memory:log", "0", 9, "")]
    assert before.pop("offsets") == [("memory:log", "0", 4, "")]
    assert after == before


def test_a_batch_that_overlaps_brings_its_new_rows_only() -> None:
    """Rows 0-3 are there, a re-cut of 2-6 over two blocks brings 4-6, with the right values."""
    store = Store.open(MEMORY)
    store_all(store, [Emitter("a").logs({step: {"loss": float(step)} for step in range(4)})])
    rows: dict[int, dict[str, float]] = {2: {"loss": 2.0}, 3: {"loss": 3.0}, 4: {"loss": 4.0}}
    rows |= {5: {"loss": 5.0, "acc": 50.0}, 6: {"loss": 6.0, "acc": 60.0}}
    store_all(store, [Emitter("a", seq=2).logs(rows)])
    points = "SELECT name, p.seq, step, value FROM store.points p JOIN store.rows USING (emitter_key, seq) "
    found = store.cursor().execute(points + "JOIN store.metrics USING (metric_key) ORDER BY name, p.seq").fetchall()
    assert found == [
        ("acc", 5, 5, 50.0),
        ("acc", 6, 6, 60.0),
        *[("loss", seq, seq, float(seq)) for seq in range(7)],
    ]


def test_rows_without_metrics_that_overlap_are_no_poison() -> None:
    """Our senders write none, but they are valid: rows 0 and 1 are there, 1-3 bring two more."""
    store = Store.open(MEMORY)
    store_all(store, [Emitter("a").logs({0: {}, 1: {}})])
    store_all(store, [Emitter("a", seq=1).logs({1: {}, 2: {}, 3: {}})])
    found = store.cursor().execute("SELECT seq, step FROM store.rows ORDER BY 1").fetchall()
    assert found == [(k, k) for k in range(4)]
    assert store.letters_waiting() == 0


def test_a_dead_row_that_comes_readable_is_stored() -> None:
    """Replay moves dead to stored, a late arrival lost to stored."""
    store, run = Store.open(MEMORY), Emitter("a")
    good = run.logs({1: {"loss": 1.0}, 2: {"loss": 2.0}})
    lost = run.says(events.RowsLost, first_seq=0, count=1, reason="")
    store_all(store, [lost, replace(good, payload=b"?")])
    ledger = "SELECT first_seq, end_seq, disposition FROM store.ledger ORDER BY 1"
    assert store.cursor().execute(ledger).fetchall() == [(0, 2, "dead"), (2, 3, "stored")]
    store_all(store, [good])
    assert store.cursor().execute(ledger).fetchall() == [(0, 3, "stored")]
    assert store.cursor().execute("SELECT count(*) FROM store.points").fetchall() == [(2,)]


def test_a_second_writer_is_fenced() -> None:
    """Offsets that are not where this writer left them stop it, and nothing of its batch is kept."""
    store = Store.open(MEMORY)
    store_all(store, story()[:2])
    store.cursor().execute("UPDATE store.offsets SET next_offset = 77")
    before = contents(store)
    with pytest.raises(Fenced, match="another one writes"):
        store_all(store, story()[2:])
    assert contents(store) == before


@pytest.mark.parametrize(
    "effect", ["_move_offsets", "_insert_keys", "_insert_rows", "_merge_ledgers", "_insert", "_merge_states"]
)
def test_a_failed_batch_leaves_no_trace(effect: str) -> None:
    """Wherever it fails, file and memory are as before, and the same batch is stored whole afterwards."""
    store = Failing.open(MEMORY)
    store_all(store, story()[:2])
    before = contents(store)
    store.fails_at = effect
    with pytest.raises(OSError, match="planted"):
        store_all(store, story()[2:])
    assert contents(store) == before
    delattr(store, effect)
    store.fails_at = ""
    store_all(store, story()[2:])
    whole = Store.open(MEMORY)
    store_all(whole, story()[:2])
    store_all(whole, story()[2:])
    assert contents(store) == contents(whole)


class Poisoned(Store):
    """A store that chokes on one step's value, as an engine's conversion might."""

    def _insert_rows(self, change: Change) -> None:
        if any(666 in piece.steps for piece in change.pieces):
            raise duckdb.ConversionException("can't cast 666")
        super()._insert_rows(change)


def test_poison_behind_decode_is_set_aside_alone() -> None:
    """One message that the engine refuses becomes a dead letter; its neighbours are stored."""
    run = Emitter("a")
    messages = in_log(run.logs({step: {"loss": 1.0}}) for step in (1, 2, 666, 4, 5))
    writer = Writer(Poisoned.open(MEMORY))
    counts = writer.write(messages, Moment(now=DAY_ONE, at_tail=False, judged_at=DAY_ONE))
    assert (sum(one.rows for one in counts), sum(one.dead_letters for one in counts)) == (4, 1)
    assert contents(writer.store)["ledger"] == [(0, 0, 2, "stored"), (0, 2, 3, "dead"), (0, 3, 5, "stored")]
    assert contents(writer.store)["offsets"] == [("memory:log", "0", 5, "")]


def test_many_poisonous_messages_of_one_sender_are_set_aside_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are stored, the sender's rest waits to be replayed, and transactions are as many however much it sends."""
    hostile, honest = Emitter("a"), Emitter("b", run_id="b" * 16)
    told = []
    for at in range(2_000):
        told.append(hostile.logs({666: {"loss": 1.0}}))
        if at % 100 == 0:
            told.append(honest.logs({at: {"loss": 1.0}}))
    writer = Writer(Poisoned.open(MEMORY))
    attempts = 0
    write = Store.write

    def counted(*given: Any) -> None:
        nonlocal attempts
        attempts += 1
        write(*given)

    monkeypatch.setattr(Store, "write", counted)
    counts = writer.write(in_log(told), Moment(now=DAY_ONE, at_tail=False, judged_at=DAY_ONE))
    assert attempts < 600
    assert (sum(one.rows for one in counts), sum(one.dead_letters for one in counts)) == (20, 2_000)
    assert sum(one.messages for one in counts) == len(told)
    assert contents(writer.store)["offsets"] == [("memory:log", "0", len(told), "")]
    assert contents(writer.store)["ledger"] == [(0, 0, 20, "stored")]
    assert store_letters(writer.store) == [(2_000, 2_000)]


def store_letters(store: Store) -> list[tuple[Any, ...]]:
    """How many, how many of them whole."""
    return store.cursor().execute("SELECT count(*), sum(whole::INT) FROM store.dead_letters").fetchall()


def test_an_emitter_belongs_to_one_run() -> None:
    """The same emitter id under another run or rank is a dead letter that touches nobody's ledger."""
    store = Store.open(MEMORY)
    store_all(store, [Emitter("a").logs({1: {"loss": 1.0}}), Emitter("a", run_id="b" * 16).logs({1: {"loss": 2.0}})])
    store_all(store, [Emitter("a", rank=3, seq=1).logs({1: {"loss": 2.0}})])
    assert contents(store)["ledger"] == [(0, 0, 1, "stored")]
    assert _letters(store) == [("b" * 16, "a" * 32, 0, 1), (RUN, "a" * 32, 1, 1)]
    assert [run_id for _, run_id, *_ in contents(store)["runs"]] == [RUN]


def _letters(store: Store) -> list[tuple[Any, ...]]:
    """Whom the dead letters name."""
    named = 'SELECT run_id, emitter_id, first_seq, "count" FROM store.dead_letters ORDER BY "offset"'
    return store.cursor().execute(named).fetchall()


def test_garbage_makes_nobody_and_takes_nobody_over() -> None:
    """An undecodable message that names an emitter first, for another run: the true one is stored all the same."""
    store, honest = Store.open(MEMORY), Emitter("a")
    store_all(store, [replace(Emitter("a", run_id="b" * 16).logs({1: {"loss": 2.0}}), payload=b"?")])
    assert (contents(store)["emitters"], contents(store)["runs"], contents(store)["ledger"]) == ([], [], [])
    assert _letters(store) == [("b" * 16, "a" * 32, 0, 1)]
    store_all(store, [honest.logs({1: {"loss": 1.0}})])
    assert contents(store)["ledger"] == [(0, 0, 1, "stored")]
    assert [run_id for _, run_id, *_ in contents(store)["runs"]] == [RUN]
    # Of a known emitter, its own rows are accounted for; others' and an absurd number of them are not.
    lost = replace(honest.logs({2: {"loss": 1.0}}), payload=b"?")
    foreign = replace(Emitter("a", rank=1, seq=5).logs({2: {"loss": 1.0}}), payload=b"?")
    absurd = replace(Envelope.from_headers(lost.headers), count=1_000_001).to_headers()  # type: ignore[arg-type]
    store_all(store, [lost, foreign, replace(lost, headers=absurd)])
    assert contents(store)["ledger"] == [(0, 0, 1, "stored"), (0, 1, 2, "dead")]
    assert _letters(store)[1:] == [(RUN, "a" * 32, 1, 1), (RUN, "a" * 32, 5, 1), (RUN, "a" * 32, 1, 1_000_001)]


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (duckdb.TransactionException("Failed to commit: Could not write file: No space left on device"), StoreFull),
        (duckdb.TransactionException("Failed to commit: Could not write file: Disk quota exceeded"), StoreFull),
        (duckdb.IOException("Could not write all bytes to file"), StoreFull),
        (duckdb.OutOfMemoryException("failed to allocate data of size 4.0 KiB (2.0 GiB/2.0 GiB used)"), StoreCramped),
        (duckdb.IOException("Could not read from file"), StoreError),
        (duckdb.TransactionException("Failed to commit: database has been invalidated"), StoreInvalidated),
        (duckdb.FatalException("Failed: No space left on device"), StoreInvalidated),
        (duckdb.TransactionException("Conflict on update"), duckdb.TransactionException),
        (duckdb.ConversionException("Could not convert 'Corrupt database file'"), duckdb.ConversionException),
        (duckdb.OutOfRangeException("'database has been invalidated'"), duckdb.OutOfRangeException),
    ],
)
def test_the_engines_errors_become_ours(error: duckdb.Error, ours: type[Exception]) -> None:
    """Room is waited for, a dead engine is left, everything else is as it is."""
    with pytest.raises(Exception, match=r".") as met, translated():
        raise error
    assert type(met.value) is ours


def test_one_holder_and_the_refusal_names_it(tmp_path: Path) -> None:
    """Another process is told who holds the database; this one can't open it twice either."""
    path = tmp_path / "runwire.duckdb"
    database = Database.open(path)
    with pytest.raises(StoreLocked, match="already open in this process"):
        Database.open(path)
    program = f"from runwire_consumer.database import *; Database.open(Path({str(path)!r}))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert f"is in use by pid {os.getpid()} on " in told.stderr
    database.close()
    Database.open(path).close()


def test_a_newer_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """A downgrade doesn't touch the file."""
    path = tmp_path / "runwire.duckdb"
    database = Database.open(path)
    database.cursor().execute("UPDATE store.meta SET value = '99' WHERE key = 'version'")
    database.close()
    with pytest.raises(StoreNewer, match="version 99, this program knows versions up to"):
        Database.open(path)


def test_migrations_are_numbered_without_a_hole_and_applied_once() -> None:
    """A step that fails leaves the version before it."""
    assert [step.version for step in migrations()] == list(range(1, len(migrations()) + 1))
    connection = duckdb.connect()
    good = Migration(1, "0001_x.sql", "CREATE TABLE store.x (a INTEGER)")
    bad = Migration(2, "0002_y.sql", "CREATE TABLE store.y (a INTEGER); SELECT nonsense")
    with pytest.raises(duckdb.Error):
        migrate(connection, (good, bad))
    assert connection.execute("SELECT value FROM store.meta").fetchall() == [("1",)]
    assert connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'y'").fetchall() == [(0,)]
    migrate(connection, (good, replace(bad, sql="CREATE TABLE store.y (a INTEGER)")))
    migrate(connection, (good, replace(bad, sql="nonsense")))


def test_a_database_of_version_2_is_brought_up_with_its_data(tmp_path: Path) -> None:
    """What is stored stays, nobody is overdue yet, and the run goes on: a loop past its promise makes it stuck."""
    path = tmp_path / "runwire.duckdb"
    connection = duckdb.connect(path)
    migrate(connection, migrations()[:2])
    emitter = Emitter("a")
    connection.execute("INSERT INTO store.runs VALUES (0, ?, 'digits', NULL)", [RUN])
    connection.execute(
        "INSERT INTO store.emitters VALUES (0, ?, 0, 0, 'first', 0, 'train', ?, NULL, 1, NULL, NULL, NULL, NULL, NULL, "
        "?, 5.0, 1, 0, NULL)",
        [emitter.emitter_id, DAY_ONE, DAY_ONE],
    )
    connection.execute("INSERT INTO store.run_states VALUES (0, 'running', ?, '1 of 1 ranks')", [DAY_ONE])
    connection.close()
    store = Store.open(path)
    cursor = store.cursor()
    assert cursor.execute("SELECT emitter_id, next_in_seconds, overdue_seconds FROM emitters").fetchall() == [
        (emitter.emitter_id, 5.0, 0.0)
    ]
    assert cursor.execute("SELECT state, ended_at FROM runs").fetchall() == [("running", None)]
    writer = Writer(store)
    heartbeat = emitter.signals(events.Heartbeat, next_in_seconds=5.0, next_seq=1, overdue_seconds=2.5)
    writer.write(in_log([heartbeat]), Moment(DAY_ONE, at_tail=True, judged_at=DAY_ONE))
    assert cursor.execute("SELECT state, state_reason, ended_at, epoch_us(state_since) FROM runs").fetchall() == [
        ("stuck", "rank 0 makes no progress", None, DAY_ONE - 2_500_000)
    ]
    writer.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """One sentence, and the file stays as it is."""
    path = tmp_path / "runwire.duckdb"
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(StoreDamaged, match="won't open"):
        Database.open(path)
    assert path.read_bytes() == b"x" * 20_000


ESCAPES = [
    "SELECT * FROM read_text('/etc/hostname')",
    "COPY (SELECT 1) TO '/tmp/runwire-escape'",
    "ATTACH '/tmp/runwire-escape.duckdb' AS other",
    "INSTALL sqlite",
    "LOAD sqlite",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET memory_limit = '100GB'",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_the_engine_is_locked_down(escape: str, tmp_path: Path) -> None:
    """Even the writer's own connection can't reach files, extensions or settings."""
    database = Database.open(tmp_path / "runwire.duckdb", EngineOptions(snapshots_folder=tmp_path / "snapshots"))
    with pytest.raises(duckdb.Error):
        database.cursor().execute(escape)
    database.close()


def test_the_snapshot_folder_is_open(tmp_path: Path) -> None:
    """A consistent copy can be made beside the writer, and opened as a store."""
    (tmp_path / "snapshots").mkdir()
    store = Store.open(tmp_path / "runwire.duckdb", EngineOptions(snapshots_folder=tmp_path / "snapshots"))
    store_all(store, story())
    copy = tmp_path / "snapshots" / "copy.duckdb"
    store.cursor().execute(f"ATTACH '{copy}' AS copy; COPY FROM DATABASE runwire TO copy; DETACH copy")
    before = contents(store)
    store.close()
    assert contents(Store.open(copy)) == before


def test_queries_run_beside_the_writer() -> None:
    """A reader keeps its snapshot while a batch is committed."""
    store = Store.open(MEMORY)
    store_all(store, story()[:3])
    reader = store.cursor()
    reader.execute("BEGIN TRANSACTION READ ONLY")
    count = "SELECT count(*) FROM store.points"
    assert reader.execute(count).fetchall() == [(5,)]
    store_all(store, story()[3:])
    assert reader.execute(count).fetchall() == [(5,)]
    reader.execute("COMMIT")
    assert reader.execute(count).fetchall() == [(13,)]
