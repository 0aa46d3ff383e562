"""Versions: every earlier file is brought up whole or not at all, a newer one and somebody else's are left alone."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runwire_cli.entry import run
from runwire_consumer import database
from runwire_consumer.database import Database
from runwire_consumer.doctor.inspection import inspect_file
from runwire_consumer.doctor.store import StoreFacts, Unopened
from runwire_consumer.errors import StoreDamaged, StoreError, StoreForeign, StoreNewer
from runwire_consumer.migrations import Migration, migrate, migrations
from runwire_consumer.store import Store
from tests.consumer.telling import RUN, store_all
from tests.consumer.versions import NEWEST, contents, digests, make_file, shape, story
from tests.copied_stores import copied_stores

# Files that are out there were made by these: another text under the same number would never be applied to them.
# The newest may still change; it comes here with the next one.
SHIPPED = {
    1: "0001_store.sql 4601402205bd848f",
    2: "0002_relations.sql 97d28444211a99b0",
    3: "0003_overdue.sql 87f45ff72dcf81e3",
    4: "0004_dead_letters.sql f83e03345724e209",
    5: "0005_ends.sql 66ddbc836ff438c7",
    6: "0006_many_runs.sql 04dfb92629bc8c05",
    7: "0007_layout.sql ab7be4a937a986d6",
    8: "0008_meaning.sql 4b2f1737af96f9a6",
    9: "0009_removals.sql 2ee549190247fa81",
}
# The first block of a file that DuckDB 2.0.0 made; the rest of it are zeros.
DUCKDB_2 = bytes.fromhex(
    "b58ec17f2c9fd1314455434be703000000000000000000000000000000000000000000000000000000000000000000000000000076322e302e300000000000000000000000000000000000000000000000000000643534636262653364660000000000000000000000000000000000000000000000000000000000006dc81be57ef4ab2b5f1965c726a0c40e"
)
EARLIER = range(1, NEWEST)


@pytest.fixture(autouse=True)
def _migrated_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """New stores are no copies here (`tests/copied_stores.py`)."""
    monkeypatch.setattr(database, "migrate", migrate)


def test_what_other_tests_copy_is_what_migrations_make(tmp_path: Path) -> None:
    """Tables, columns, views, macros, and every row that a new store has."""
    Store.open(tmp_path / "migrated.duckdb").close()
    migrated = Store.open(tmp_path / "migrated.duckdb")  # as it is read from a file: the engine spells some texts anew
    with copied_stores(tmp_path / "template.duckdb"):
        copied = Store.open(tmp_path / "copied.duckdb")
        assert (tmp_path / "template.duckdb").exists()
    for look in (shape, contents, constraints):
        assert look(copied.cursor()) == look(migrated.cursor())
    migrated.close()
    copied.close()


def constraints(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Of tables: keys, checks, and indexes."""
    return connection.execute(
        "SELECT schema_name, table_name, constraint_text, '' FROM duckdb_constraints() "
        "WHERE database_name = current_database() UNION ALL SELECT schema_name, table_name, index_name, sql "
        "FROM duckdb_indexes() WHERE database_name = current_database() ORDER BY ALL"
    ).fetchall()


def test_shipped_migrations_stay_as_they_are() -> None:
    """To change a relation, write a new migration."""
    found = {one.version: f"{one.name} {hashlib.sha256(one.sql.encode()).hexdigest()[:16]}" for one in migrations()}
    assert {version: found.get(version) for version in SHIPPED} == SHIPPED
    assert list(found) == list(range(1, NEWEST + 1))
    assert list(SHIPPED) in ([*EARLIER], [*EARLIER, NEWEST])


@pytest.mark.parametrize("version", [*EARLIER, NEWEST])
def test_a_file_of_every_version_opens(tmp_path: Path, version: int) -> None:
    """All data is kept, relations say what a file made by this version says, and new data comes in."""
    path = tmp_path / "runwire.duckdb"
    make_file(path, version)
    before = contents(duckdb.connect(str(path)))
    store = Store.open(path)
    after = contents(store.cursor())
    for table, columns in before.items():
        if table not in {"meta", "described", "described_columns"}:  # the program's own words
            kept = [name for name in columns if name in after[table]]
            assert kept
            was, now = (sorted(zip(*(one[name] for name in kept), strict=True)) for one in (columns, after[table]))
            assert now == was, table
    assert after["meta"]["value"] == [repr(str(NEWEST))]
    assert relations(store) == fresh_relations()
    store_all(store, story())  # duplicates all
    assert contents(store.cursor())["points"] == after["points"]
    store.close()


def relations(store: Store) -> dict[str, list[str]]:
    """What each relation of the users says of the story; of the rest it says something, too."""
    cursor = store.cursor()
    views = cursor.execute(
        "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal ORDER BY 1"
    ).fetchall()
    answers = {name: list(map(repr, cursor.execute(f"FROM main.{name}").fetchall())) for (name,) in views}
    return {name: sorted(row for row in rows if RUN in row) for name, rows in answers.items()}


@functools.cache
def fresh_relations() -> dict[str, list[str]]:
    """The same of a file that this version made itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fresh.duckdb"
        make_file(path, NEWEST)
        store = Store.open(path)
        found = relations(store)
        store.close()
    assert found["runs"]
    return found


# Forks a child a statement, before which it is killed, and children that look what is left: only those open the file.
KILLER = r"""
import hashlib, json, os, shutil, signal, sys
from pathlib import Path
import duckdb
from runwire_consumer.database import Database
from runwire_consumer.migrations import migrate, migrations
from tests.consumer.versions import contents, shape

original, folder, stride = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])


class Killed:
    def __init__(self, connection, at):
        self.connection, self.left = connection, at

    def execute(self, sql, params=None):
        for statement in self.connection.extract_statements(sql):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            done = self.connection.execute(statement, params)
        return done


def forked(work):
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = json.dumps(work()).encode()
            while answer:
                answer = answer[os.write(into, answer):]
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    return (json.loads(text) if text else None), os.WIFSIGNALED(status)


def migrated(path, at):
    connection = duckdb.connect(str(path), config={"checkpoint_threshold": "1TB"})
    killed = Killed(connection, at)
    migrate(killed, migrations())
    return at - killed.left


def left(path):
    connection = duckdb.connect(str(path), read_only=True)
    made = connection.execute("SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'store'").fetchall()
    return shape(connection) if made else []


def opened(path):
    Database.open(path).close()
    connection = duckdb.connect(str(path), read_only=True)
    return [shape(connection), contents(connection)]


def fresh(name):
    for gone in folder.iterdir():
        gone.unlink()
    if original.exists():
        shutil.copy(original, folder / name)
    return folder / name


# What is left, and what the next start makes of it; the same bytes are looked at once.
def looked(path):
    files = sorted((one.name.removeprefix(path.stem), one.read_bytes()) for one in folder.iterdir())
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    if digest not in known:
        seen, _ = forked(lambda: left(path))
        known[digest] = [seen, forked(lambda: opened(path))[0]]
    return known[digest]


known = {}
many = 1_000_000
total, _ = forked(lambda: migrated(fresh("whole.duckdb"), many))
found = []
# The end of it (the version, COMMIT, CHECKPOINT, nothing more) is never left out.
for at in sorted({*range(0, total, stride), *range(total - 3, total + 1)}):
    path = fresh(f"{at}.duckdb")
    _, killed = forked(lambda: migrated(path, at))
    assert killed == (at < total)
    found.append(looked(path))
json.dump(found, sys.stdout)
"""


AT_LENGTH = [pytest.mark.long, pytest.mark.timeout(600)]


# What follows an earlier version is the end of what follows none: the quick tier kills that way alone.
@pytest.mark.parametrize(
    ("version", "stride"),
    [
        (0, 67),
        pytest.param(0, 1, marks=AT_LENGTH),
        *(pytest.param(version, 11, marks=AT_LENGTH) for version in EARLIER),
    ],
)
def test_a_migration_that_is_killed_is_done_or_not(tmp_path: Path, version: int, stride: int) -> None:
    """Before any statement of it: the file has a version wholly, and the next start ends the work."""
    original, folder = tmp_path / "original.duckdb", tmp_path / "killed"
    folder.mkdir()
    if version:
        make_file(original, version)
    allowed = [[], *(json.loads(json.dumps(shape_of(number))) for number in range(NEWEST + 1))]
    path = tmp_path / "whole.duckdb"
    if version:
        shutil.copy(original, path)
    database = Database.open(path)
    whole = json.loads(json.dumps(contents(database.cursor())))
    database.close()
    program = subprocess.run(
        [sys.executable, "-c", KILLER, str(original), str(folder), str(stride)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    found = json.loads(program.stdout)
    assert len(found) >= 5
    for at, (left, opened) in enumerate(found):
        assert left in allowed, f"killed before statement {at}"
        assert opened == [allowed[-1], whole], f"killed before statement {at}"
    seen = [allowed.index(left) for left, _ in found]
    assert seen == sorted(seen)
    assert seen[-1] == len(allowed) - 1


@functools.cache
def shape_of(version: int) -> Any:
    """Of a file of that version, as it is read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shape.duckdb"
        with duckdb.connect(str(path)) as connection:
            migrate(connection, migrations()[:version] or (Migration(0, "none", ""),))
        with duckdb.connect(str(path), read_only=True) as connection:
            return shape(connection)


def newer_file(folder: Path, *, wal: bool) -> Path:
    """A file of a version that comes after this one; with `wal` its writer was killed."""
    path = folder / "runwire.duckdb"
    make_file(path, NEWEST)
    code = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1], config={'checkpoint_threshold': '1TB'}); "
        "c.execute('UPDATE store.meta SET value = ?', [sys.argv[2]]); "
        "c.execute('CREATE TABLE store.novel AS FROM range(1000)'); "
    )
    code += "os._exit(0)" if wal else "c.close()"
    subprocess.run([sys.executable, "-c", code, str(path), str(NEWEST + 1)], check=True)
    assert (folder / "runwire.duckdb.wal").exists() is wal
    return path


@pytest.mark.parametrize("wal", [False, True])
def test_a_newer_file_is_left_alone(
    tmp_path: Path,
    wal: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the consumer, by those that read and by the doctor: a sentence, and not a byte of it changes."""
    path = newer_file(tmp_path, wal=wal)
    before = digests(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreNewer, match=f"version {NEWEST + 1}, this program knows versions up to {NEWEST}"):
            Database.open(path)
        assert digests(tmp_path) == before
    assert inspect_file(path) == Unopened(
        "newer",
        f"The database has version {NEWEST + 1}, this program knows versions up to {NEWEST}: "
        "upgrade runwire, or let a newer consumer own the file.",
    )
    snapshot = tmp_path / "elsewhere" / path.name
    snapshot.parent.mkdir()
    for end in ("", ".wal") if wal else ("",):
        shutil.copy(f"{path}{end}", f"{snapshot}{end}")
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))
    monkeypatch.setenv("RUNWIRE_URL", f"dir:{tmp_path / 'topic'}")
    for command in (
        ["runs"],
        ["up", "--once"],
        ["doctor"],
        ["snapshot"],
        ["dead-letters", "list"],
        ["restore", str(snapshot)],
    ):
        code = run(command)
        said = "".join(capsys.readouterr())
        assert code == (2 if command == ["doctor"] else 1), said
        assert f"version {NEWEST + 1}" in said, said
    for folder in (tmp_path, snapshot.parent):
        after = digests(folder)
        assert {name: after[name] for name in before} == before


def test_a_file_of_a_newer_engine_is_no_damage(tmp_path: Path) -> None:
    """DuckDB 2 writes what 1.5 can't read: nobody may take that for a damaged file."""
    path = tmp_path / "runwire.duckdb"
    path.write_bytes(DUCKDB_2.ljust(12_288, b"\0"))
    with pytest.raises(StoreNewer, match="newer version"):
        Database.open(path)
    found = inspect_file(path)
    assert isinstance(found, Unopened)
    assert found.kind == "newer"


def foreign_duckdb(path: Path) -> None:
    """Somebody's own tables."""
    connection = duckdb.connect(str(path))
    connection.execute("CREATE TABLE wages AS FROM range(10)")
    connection.close()


def foreign_view(path: Path) -> None:
    """A view is somebody's too."""
    connection = duckdb.connect(str(path))
    connection.execute("CREATE VIEW wages AS SELECT 1 AS a")
    connection.close()


def store_without_version(path: Path) -> None:
    """A schema of our name."""
    connection = duckdb.connect(str(path))
    connection.execute("CREATE SCHEMA store")
    connection.execute("CREATE TABLE store.shelves AS FROM range(10)")
    connection.close()


def sqlite(path: Path) -> None:
    """Another engine's file, for which DuckDB would fetch a reader."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE wages (a INTEGER)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (foreign_duckdb, StoreForeign, "it holds 'wages' and no schema 'store'"),
        (foreign_view, StoreForeign, "it holds 'wages' and no schema 'store'"),
        (store_without_version, StoreForeign, "a schema 'store' without a version"),
        (sqlite, StoreForeign, "SQLite"),
        (lambda path: path.write_text("hello\n" * 1_000), StoreDamaged, "not a valid DuckDB database file"),
        (lambda path: path.write_bytes(b""), StoreDamaged, "not a valid DuckDB database file"),
        (lambda path: path.write_bytes(b"\0" * 20_000), StoreDamaged, "not a valid DuckDB database file"),
        (lambda path: path.mkdir(), StoreError, "directory"),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_left_alone(tmp_path: Path, make: Any, kind: type[StoreError], words: str) -> None:
    """A sentence, the bytes as they were, no file beside it, the lock given back."""
    path = tmp_path / "runwire.duckdb"
    make(path)
    before = digests(tmp_path)
    for _ in range(2):
        with pytest.raises(kind, match=words):
            Database.open(path)
    assert digests(tmp_path) == before
    found = inspect_file(path)
    assert isinstance(found, Unopened)
    assert found.kind in {"foreign", "damaged", "unknown"}
    assert digests(tmp_path) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["runwire.duckdb", "runwire.duckdb.lock"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    """A database on another disk, linked into the home: the file is opened, the link stays."""
    (tmp_path / "disk").mkdir()
    path = tmp_path / "runwire.duckdb"
    path.symlink_to(tmp_path / "disk" / "real.duckdb")
    Database.open(path).close()
    assert path.is_symlink()
    assert isinstance(inspect_file(path), StoreFacts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """The system's word, in a sentence."""
    path = tmp_path / "runwire.duckdb"
    make_file(path, NEWEST)
    path.chmod(0)
    with pytest.raises(StoreError, match="Permission denied"):
        Database.open(path)
    path.chmod(0o600)
    Database.open(path).close()


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """The doctor reads a file with a WAL as it is, old versions too."""
    path = tmp_path / "runwire.duckdb"
    make_file(path, 2)
    code = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1], config={'checkpoint_threshold': '1TB'}); "
        "c.execute(\"INSERT INTO store.offsets VALUES ('memory:log', '9', 7, '')\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    before = digests(tmp_path)
    assert set(before) == {"runwire.duckdb", "runwire.duckdb.wal"}
    facts = inspect_file(path, deep=True)
    assert isinstance(facts, StoreFacts)
    assert facts.version == 2
    assert ("memory:log", "9", 7) in facts.offsets
    assert digests(tmp_path) == before
    assert inspect_file(tmp_path / "none.duckdb") is None
    assert {one.name for one in tmp_path.iterdir()} == {*before, "runwire.duckdb.lock"}
