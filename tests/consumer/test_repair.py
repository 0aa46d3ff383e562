"""What counts as damage and what a retry could heal; a file is set aside for the first only."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from runwire_consumer.damage import is_conflict, is_damage, is_newer
from runwire_consumer.database import translated, wal_path
from runwire_consumer.errors import (
    StoreDamaged,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreNewer,
)
from runwire_consumer.plans import plan_path, repairs_of
from runwire_consumer.repair import doubt, open_store
from runwire_consumer.snapshots import options_for, take
from runwire_consumer.store import Store
from tests.consumer.telling import DAY_ONE, Emitter, store_all
from tests.producer.disks import small_disk

# Texts as DuckDB 1.5.5 says them.
DAMAGE = [
    "IO Error: Corrupt database file: computed checksum 5381 does not match stored checksum 0 in block at location 0",
    ('IO Error: The file "x.duckdb" exists, but it is not a valid DuckDB database file!'),
    ('IO Error: Could not read enough bytes from file "x": attempted to read 262144 bytes from location 536576'),
    ('IO Error: Failure while replaying WAL file "x.wal": Corrupt WAL file: entry at byte position 49604 computed'),
    ("Serialization Error: Failed to deserialize: expected end of object, but found field id: 100"),
    ("INTERNAL Error: Information loss on integer cast: value 8026368 outside of target range"),
]
HEALABLE = [
    ('IO Error: Cannot open file "x.duckdb": Permission denied'),
    ('IO Error: Cannot open file "x.duckdb": Too many open files'),
    ('IO Error: Could not read from file "x.duckdb": Input/output error'),
    ('IO Error: Could not read from file "x.duckdb": Is a directory'),
    ('IO Error: Could not write file "x.duckdb": No space left on device'),
    ('IO Error: Failure while replaying WAL file "x.wal": Could not write file "x": No space left on device'),
    ('IO Error: Failure while replaying WAL file "x.wal": Out of Memory Error: failed to allocate data of size 1 GiB'),
    ('IO Error: Could not set lock on file "x": Conflicting lock is held in python3 (PID 1). See also ...'),
    ("Out of Memory Error: could not allocate block of size 256.0 KiB (9 MiB/9 MiB used)"),
    ("IO Error: something that nobody has met yet"),
]
BLOCKS_BEGIN_BYTES, BLOCK_BYTES = 3 * 4096, 262_144  # of DuckDB's file: three headers, then blocks
BLOCK_OF_VALUES = """
    SELECT max(block_id) FROM pragma_storage_info('store.points')
    WHERE column_name = 'value' AND segment_type = 'DOUBLE' AND persistent
"""


@pytest.mark.parametrize("text", DAMAGE)
def test_this_is_damage(text: str) -> None:
    assert (is_damage(text), is_conflict(text), is_newer(text)) == (True, False, False)


@pytest.mark.parametrize("text", HEALABLE)
def test_this_is_none(text: str) -> None:
    assert not is_damage(text)


def test_damage_met_while_open_is_told_from_a_disk_that_fails() -> None:
    """What a snapshot or a query of the writer's meets."""
    for text, kind in ((DAMAGE[0], StoreDamaged), (HEALABLE[2], StoreError), (HEALABLE[4], StoreFull)):
        with pytest.raises(kind) as met, translated():
            raise duckdb.IOException(text)
        assert type(met.value) is kind


def newer_version(path: Path) -> None:
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        connection.execute("UPDATE store.meta SET value = '99' WHERE key = 'version'")


def somebody_elses(path: Path) -> None:
    path.unlink()
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE SCHEMA store")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


INNOCENT: list[tuple[Callable[[Path], None], type[StoreError]]] = [
    (newer_version, StoreNewer),
    (somebody_elses, StoreForeign),
    (a_folder, StoreError),
    (a_pipe, StoreError),
]


@pytest.mark.parametrize(("harm", "kind"), INNOCENT)
def test_what_is_no_damage_costs_no_file(harm: Callable[[Path], None], kind: type[StoreError], tmp_path: Path) -> None:
    """It stays where it is, no plan is left, and the lock is free again."""
    path, options = tmp_path / "runwire.duckdb", options_for(tmp_path / "snapshots", 0.0)
    store, _ = open_store(path, options, lambda: DAY_ONE)
    take(store.database, tmp_path / "snapshots", DAY_ONE)
    store.close()
    harm(path)
    for _ in range(2):
        with pytest.raises(StoreError) as met:
            open_store(path, options, lambda: DAY_ONE)
        assert type(met.value) is kind
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["runwire.duckdb", "runwire.duckdb.lock", "snapshots"]


def test_no_descriptor_left_is_no_damage(tmp_path: Path) -> None:
    """EMFILE, for real."""
    path, options = tmp_path / "runwire.duckdb", options_for(tmp_path / "snapshots", 0.0)
    open_store(path, options, lambda: DAY_ONE)[0].close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.open("/dev/null", os.O_RDONLY))
        os.close(spare.pop())  # one for our own lock
        with pytest.raises((StoreError, OSError)) as met:
            open_store(path, options, lambda: DAY_ONE)
        assert not isinstance(met.value, StoreDamaged)
    finally:
        for descriptor in spare:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    store, repairs = open_store(path, options, lambda: DAY_ONE)
    store.close()
    assert repairs == []


def test_a_full_disk_is_no_damage_and_stops_a_repair(tmp_path: Path) -> None:
    """The plan stays, and the repair is made once there is room."""
    said: list[str] = []
    with small_disk(tmp_path / "disk", size="8m") as disk:
        path, options = disk / "runwire.duckdb", options_for(tmp_path / "snapshots", 0.0)
        store, _ = open_store(path, options, lambda: DAY_ONE)
        store_all(store, [Emitter("a").starts()])
        take(store.database, tmp_path / "snapshots", DAY_ONE)
        store.close()
        path.write_bytes(b"x" * 20_000)
        (disk / "ballast").write_bytes(b"x" * (7 * 2**20))
        for _ in range(2):
            with pytest.raises(StoreFull, match=r"can't be replaced now: .* MiB are needed to restore runwire-2023"):
                open_store(path, options, lambda: DAY_ONE, said.append)
        assert (disk / "runwire.duckdb.damaged-20231114T221320Z").read_bytes() == b"x" * 20_000
        (disk / "ballast").unlink()
        store, (repair,) = open_store(path, options, lambda: DAY_ONE, said.append)
        assert store.cursor().execute("SELECT count(*) FROM runs").fetchall() == [(1,)]
        assert repairs_of(store.cursor()) == [repair]
        assert repair.snapshot == "runwire-20231114T221320Z.duckdb"
        store.close()


def test_a_file_in_doubt_is_replaced_by_the_next_start(tmp_path: Path) -> None:
    """A spoilt block shows only when all are read: the snapshot says so, and the next start goes on from one."""
    path, folder = tmp_path / "runwire.duckdb", tmp_path / "snapshots"
    options = options_for(folder, 0.0)
    store, _ = open_store(path, options, lambda: DAY_ONE)
    store.cursor().execute("INSERT INTO store.points SELECT i % 9, i % 7, i, random() FROM range(300_000) t(i)")
    good = take(store.database, folder, DAY_ONE)
    ((block,),) = store.cursor().execute(BLOCK_OF_VALUES).fetchall()
    store.close()
    with path.open("r+b") as file:
        file.seek(BLOCKS_BEGIN_BYTES + block * BLOCK_BYTES + BLOCK_BYTES // 2)
        file.write(b"spoilt")
    store, repairs = open_store(path, options, lambda: DAY_ONE)  # the engine doesn't see it yet
    assert repairs == []
    with pytest.raises(StoreDamaged, match="Corrupt database file") as met:
        take(store.database, folder, DAY_ONE)
    doubt(path, str(met.value), DAY_ONE)
    store.close()
    store, (repair,) = open_store(path, options, lambda: DAY_ONE)
    assert (repair.snapshot, repair.aside) == (good.path.name, "runwire.duckdb.damaged-20231114T221320Z")
    assert store.cursor().execute("SELECT count(value) FROM store.points").fetchall() == [(300_000,)]
    store.close()


def test_a_database_that_is_gone_is_not_brought_back_unasked(tmp_path: Path) -> None:
    """Somebody removed it, WAL and all, to begin anew: it is said how to get it back."""
    path, folder, said = tmp_path / "runwire.duckdb", tmp_path / "snapshots", list[str]()
    store, _ = open_store(path, options_for(folder, 0.0), lambda: DAY_ONE)
    take(store.database, folder, DAY_ONE)
    store.close()
    path.unlink()
    store, repairs = open_store(path, options_for(folder, 0.0), lambda: DAY_ONE, said.append)
    store.close()
    assert repairs == []
    assert said == ["There is no database: it begins empty; `runwire restore` brings the newest snapshot back."]


def test_another_program_has_the_file_open(tmp_path: Path) -> None:
    """One sentence that names it, after a bounded wait; gone, the file opens."""
    path = tmp_path / "runwire.duckdb"
    Store.open(path).close()
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=rf"Another program has .* open: .*PID {holder.pid}"):
            open_store(path, options_for(tmp_path / "snapshots", 0.3), lambda: DAY_ONE)
        holder.communicate("")
    open_store(path, options_for(tmp_path / "snapshots", 0.0), lambda: DAY_ONE)[0].close()


def test_a_wal_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path, options = tmp_path / "runwire.duckdb", options_for(tmp_path / "snapshots", 0.0)
    open_store(path, options, lambda: DAY_ONE)[0].close()
    os.mkfifo(wal_path(path))
    with pytest.raises(StoreError, match=r"runwire\.duckdb\.wal is no regular file: move it away\."):
        open_store(path, options, lambda: DAY_ONE)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"stamp": "x/../y", "aside": "damaged", "reason": "", "snapshot": ""}',
        '{"stamp": "20260131T180000Z", "aside": "../x", "reason": "", "snapshot": ""}',
        '{"stamp": "20260131T180000Z", "aside": "damaged", "reason": "", "snapshot": "a\\u0000b"}',
    ],
)
def test_what_is_no_plan_binds_nobody(text: str, tmp_path: Path) -> None:
    path, options = tmp_path / "runwire.duckdb", options_for(tmp_path / "snapshots", 0.0)
    open_store(path, options, lambda: DAY_ONE)[0].close()
    plan_path(path).write_text(text)
    store, repairs = open_store(path, options, lambda: DAY_ONE)
    store.close()
    assert repairs == []
    assert not list(tmp_path.glob("*damaged*"))


def test_a_plan_without_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runwire_consumer.plans.os.fsync", full)
    with pytest.raises(StoreFull, match=r"runwire\.duckdb can't be replaced now: No space left on device\."):
        doubt(tmp_path / "runwire.duckdb", "Damaged.", DAY_ONE)
    assert list(tmp_path.iterdir()) == []


def test_an_internal_error_alone_condemns_no_file(tmp_path: Path) -> None:
    """It may be the engine's own fault, which a restored file would meet again: the next start only opens the file."""
    path = tmp_path / "runwire.duckdb"
    assert not doubt(path, "The database file is damaged: INTERNAL Error: Attempted to access index 3.", DAY_ONE)
    assert not plan_path(path).exists()
    assert doubt(path, "The database file is damaged: Corrupt database file: check sum.", DAY_ONE)
    assert plan_path(path).exists()
