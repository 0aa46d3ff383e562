"""Snapshots: which there are, which stay, what one holds, and what a full disk or a lack of room leaves behind."""

from __future__ import annotations

import contextlib
import errno
import stat
from pathlib import Path

import duckdb
import pytest

from runwire_consumer import floor, snapshots
from runwire_consumer.allowlist import RELATIONS
from runwire_consumer.errors import SnapshotFailed, StoreFull
from runwire_consumer.snapshot_files import Snapshot, kept, listed, rotate, stamp_of
from runwire_consumer.snapshots import offsets_in, open_and_read, options_for, take
from runwire_consumer.store import Store
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, store_all
from tests.producer.disks import small_disk

HOUR, DAY = 3_600 * SECOND, 86_400 * SECOND
MIDNIGHT = DAY_ONE // DAY * DAY


def at(*moments: int) -> list[Snapshot]:
    """Snapshots of these moments."""
    return [Snapshot(Path(f"{moment}"), moment, 1) for moment in moments]


KEPT: list[tuple[str, list[int], list[int]]] = [
    ("none", [], []),
    ("one", [5], [5]),
    ("the newest three of a day", [HOUR * hour for hour in range(5)], [4 * HOUR, 3 * HOUR, 2 * HOUR]),
    (
        "one a day for a week, the last of each",
        [DAY * day + HOUR * hour for day in range(10) for hour in (1, 7, 13, 19)],
        [
            *(9 * DAY + hour * HOUR for hour in (19, 13, 7)),
            *(day * DAY + 19 * HOUR for day in (8, 7, 6, 5, 4, 3)),
        ],
    ),
    ("days without one don't count", [0, 50 * DAY, 90 * DAY, 100 * DAY], [100 * DAY, 90 * DAY, 50 * DAY, 0]),
]


@pytest.mark.parametrize(("what", "taken", "stay"), KEPT, ids=[what for what, *_ in KEPT])
def test_which_stay(what: str, taken: list[int], stay: list[int]) -> None:
    assert [one.taken_at for one in kept(at(*taken))] == stay, what


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of 200 rows, one message of it dead."""
    store = Store.open(tmp_path / "runwire.duckdb", options_for(tmp_path / "snapshots", 0.0))
    run = Emitter("a")
    store_all(store, [run.starts(), run.logs({step: {"loss": float(step)} for step in range(200)})])
    return store


def relations(store: Store) -> dict[str, list[str]]:
    """Every relation's rows; they come in no order."""
    return {name: sorted(map(str, store.cursor().execute(f"FROM {name}").fetchall())) for name in RELATIONS}


def test_a_snapshot_is_a_store_of_its_own(store: Store, tmp_path: Path) -> None:
    """Tables, views, version, offsets; private, without a WAL, and every relation answers in it."""
    folder = tmp_path / "snapshots"
    taken = take(store.database, folder, DAY_ONE)
    assert taken == listed(folder)[0]
    assert taken.path.name == "runwire-20231114T221320Z.duckdb"
    assert (taken.moment, taken.taken_at) == ("2023-11-14 22:13:20 UTC", DAY_ONE)
    assert stat.S_IMODE(taken.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == [taken.path.name]
    assert offsets_in(store.database, taken, "memory:log") == {"0": 2}
    answers = relations(store)
    meta = store.cursor().execute("FROM store.meta").fetchall()
    store.close()
    again = Store.open(taken.path)
    assert relations(again) == answers
    assert again.cursor().execute("FROM store.meta").fetchall() == meta
    run = Emitter("a", seq=201)
    store_all(again, [run.logs({200: {"loss": 1.0}})])
    assert again.cursor().execute("SELECT first_seq, end_seq FROM store.ledger").fetchall() == [(0, 202)]
    again.close()


def test_the_writer_goes_on_meanwhile(store: Store, tmp_path: Path) -> None:
    """A transaction that is open and one that commits after the copy began are not in it; both are in the store."""
    run = Emitter("b")
    writer = store.cursor()
    writer.execute("BEGIN")
    writer.execute("INSERT INTO store.metrics VALUES (99, 'open')")
    taken = take(store.database, tmp_path / "snapshots", DAY_ONE)
    writer.execute("COMMIT")
    store_all(store, [run.starts()])
    store.close()
    with contextlib.closing(duckdb.connect(str(taken.path), read_only=True)) as connection:
        assert connection.execute("SELECT count(*) FROM store.metrics WHERE name = 'open'").fetchall() == [(0,)]
        assert connection.execute("SELECT count(*) FROM store.emitters").fetchall() == [(1,)]
    reopened = Store.open(tmp_path / "runwire.duckdb")
    assert reopened.cursor().execute("SELECT count(*) FROM store.metrics WHERE name = 'open'").fetchall() == [(1,)]
    assert reopened.cursor().execute("SELECT count(*) FROM store.emitters").fetchall() == [(2,)]
    reopened.close()


def test_names_are_unique_and_drafts_no_snapshots(store: Store, tmp_path: Path) -> None:
    """Two in one second differ; strangers and drafts in the folder are neither listed nor, strangers, touched."""
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name in (
        ".runwire-20230101T000000Z.duckdb",
        ".runwire-20230101T000000Z.duckdb.wal",
        "runwire-x.duckdb",
        "notes",
    ):
        (folder / name).write_text("x")
    first, second = (take(store.database, folder, DAY_ONE) for _ in range(2))
    assert second.taken_at == first.taken_at + SECOND
    assert listed(folder) == [second, first]
    assert {path.name for path in folder.iterdir()} == {first.path.name, second.path.name, "runwire-x.duckdb", "notes"}
    store.close()


def test_rotation_never_takes_the_one_just_taken(tmp_path: Path) -> None:
    """Even when the clock went back behind all others."""
    for hour in range(1, 6):
        (tmp_path / f"runwire-{stamp_of(MIDNIGHT + hour * HOUR)}.duckdb").write_text("x")
    found = listed(tmp_path)
    rotate(tmp_path, found[-1])
    assert listed(tmp_path) == [*found[:3], found[-1]]


def test_without_room_it_is_not_begun(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "free_bytes", lambda _: 1_000)
    with pytest.raises(StoreFull, match=r"There is no room for a snapshot in .*: it needs up to"):
        take(store.database, tmp_path / "snapshots", DAY_ONE)
    assert list((tmp_path / "snapshots").iterdir()) == []
    store.close()


@pytest.mark.parametrize("size", ["64k", "2m", "5m"])
def test_a_disk_that_fills_meanwhile_costs_the_snapshot_only(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step finds no room: nothing is left, the engine lives, and the next one comes out well elsewhere."""
    monkeypatch.setattr(snapshots, "free_bytes", lambda _: 2**40)
    with small_disk(tmp_path / "disk", size=size) as disk:
        store = Store.open(tmp_path / "runwire.duckdb", options_for(disk, 0.0))
        store.cursor().execute("INSERT INTO store.points SELECT i % 9, i % 7, i, random() FROM range(600_000) t(i)")
        for _ in range(2):
            with pytest.raises((StoreFull, SnapshotFailed)):
                take(store.database, disk, DAY_ONE)
            assert list(disk.iterdir()) == []
        store_all(store, [Emitter("a").starts()])
        assert store.database.checkpoint()
        assert store.cursor().execute("SELECT count(*) FROM runs").fetchall() == [(1,)]
        store.close()


def test_what_is_no_snapshot_is_said(tmp_path: Path) -> None:
    """A file of somebody else, a damaged one, one of a newer version."""
    path = tmp_path / "runwire-20230101T000000Z.duckdb"
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(SnapshotFailed, match="It can't be read: "):
        open_and_read(path)
    path.unlink()
    duckdb.connect(str(path)).close()
    with pytest.raises(SnapshotFailed, match="It can't be read: Catalog Error"):
        open_and_read(path)
    path.unlink()
    Store.open(path).close()
    assert open_and_read(path) > 0
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        connection.execute("UPDATE store.meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(SnapshotFailed, match="It has version 99, which this program doesn't know"):
        open_and_read(path)


FLOORS = [
    ((64, 0, 0), 64),
    ((64, 31, 0), 64),
    ((64, 33, 0), 66),
    ((64, 10, 20), 100),
    ((0, 0, 0), 0),
]


@pytest.mark.parametrize(("given", "expected"), FLOORS)
def test_the_floor(given: tuple[int, int, int], expected: int) -> None:
    """The reserve, or room for a checkpoint and the batch."""
    assert floor.floor_bytes(*given) == expected


def test_the_reserve_is_a_share_of_a_small_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="8m") as disk:
        assert floor.reserve_bytes(disk) == 8 * 2**20 // 20
        floor.check_floor(disk, 0, 2**20)
        with pytest.raises(StoreFull, match=r"The disk of .* is almost full: 8 MiB are free, and below 9 MiB nothing"):
            floor.check_floor(disk, 2**22, 2**16)


def test_a_file_in_the_folders_place_is_said(tmp_path: Path) -> None:
    """By what lists and by what takes, with what to do."""
    folder = tmp_path / "snapshots"
    folder.write_text("no folder")
    with pytest.raises(
        SnapshotFailed, match=f"^{folder} is a file where the folder of snapshots belongs: move it away"
    ):
        listed(folder)
    store = Store.open(tmp_path / "runwire.duckdb", options_for(folder, 0.0))
    with pytest.raises(SnapshotFailed, match="is a file where the folder"):
        take(store.database, folder, MIDNIGHT)
    store.close()


class Unroomy:
    """A connection whose copy has no room left for its last step; what the engine says then is seen on a full disk."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def execute(self, sql: str) -> duckdb.DuckDBPyConnection:
        """As the connection does."""
        done = self.connection.execute(sql)
        if sql.startswith("DETACH"):
            raise duckdb.IOException(
                "IO Error: Detached database 'runwire_snapshot', but CHECKPOINT during DETACH failed.\n"
                'Checkpoint failed for database "runwire_snapshot". The database has been invalidated. Original error: '
                "Could not write file: No space left on device"
            )
        return done

    def close(self) -> None:
        """As the connection does."""
        self.connection.close()


def test_a_copy_that_is_invalidated_is_no_store_that_is(tmp_path: Path) -> None:
    """The process goes on: only the draft is beyond use."""
    folder = tmp_path / "snapshots"
    store = Store.open(tmp_path / "runwire.duckdb", options_for(folder, 0.0))
    with pytest.raises(SnapshotFailed, match="CHECKPOINT during DETACH failed"):
        take(store.database, folder, MIDNIGHT, Unroomy(store.cursor()))  # type: ignore[arg-type]
    assert list(folder.iterdir()) == []
    take(store.database, folder, MIDNIGHT)
    store.close()


class Interrupted:
    """A connection that is interrupted in its statement `number`, from 0."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, number: int | None) -> None:
        self.connection = connection
        self.number = number
        self.statements = 0

    def execute(self, sql: str, *parameters: object) -> duckdb.DuckDBPyConnection:
        """As the connection does."""
        self.statements += 1
        if self.statements - 1 == self.number:
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
        return self.connection.execute(sql, *parameters)

    def close(self) -> None:
        """As the connection does."""
        self.connection.close()


def test_an_interrupt_at_any_statement_is_said(tmp_path: Path) -> None:
    """The consumer's end may come at each; no draft stays."""

    def interrupted(number: int | None) -> int:
        store = Store.open(tmp_path / "runwire.duckdb", options_for(folder, 0.0))
        connection = Interrupted(store.cursor(), number)
        try:
            take(store.database, folder, MIDNIGHT, connection)  # type: ignore[arg-type]
        finally:
            store.close()
        return connection.statements

    folder = tmp_path / "snapshots"
    statements = interrupted(None)
    kept_files = list(folder.iterdir())
    assert (statements > 5, len(kept_files)) == (True, 1)
    for number in range(statements):
        with pytest.raises(SnapshotFailed, match="Interrupted!"):
            interrupted(number)
        assert list(folder.iterdir()) == kept_files


def test_an_older_one_that_cannot_be_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's file say; the one just taken counts."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for day in range(12):
        (tmp_path / f"runwire-{stamp_of(day * DAY)}.duckdb").touch()
    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(SnapshotFailed, match=r"was taken, but the older .* can't be removed: Operation not perm"):
        rotate(tmp_path, listed(tmp_path)[0])
