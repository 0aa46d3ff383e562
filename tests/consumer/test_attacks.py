"""Under attack nothing escapes: the file, other files, settings, the lock, the writer and memory stay what they are."""
# ruff: noqa: S608 - names of our own

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_consumer.database import Database, EngineOptions
from runwire_consumer.errors import QueryError, SelectRefused
from runwire_consumer.limits import Limits
from runwire_consumer.query_watch import resident_bytes
from runwire_consumer.sandbox import Sandbox
from tests.consumer.attack_grammar import Grammar
from tests.consumer.attacks import ATTACKS, GROUPS, HARMLESS
from tests.consumer.small_store import small_store

POOL_MIB = 512
PEAK_BYTES_MAX = 2 * 2**30
INSPECTED_EACH = 20
LIMITS = Limits(
    seconds_max=1.0,
    rows_max=100_000,
    result_bytes_max=32 * 2**20,
    pool_bytes_max=256 * 2**20,
    uncounted_bytes_max=256 * 2**20,
)
_IN_NONBLOCK, _IN_ALL = 0o4000, 0xFFF
_IN_HEAD = struct.Struct("iIII")


class Fortress:
    """A consumer's store as in production, beside a file that nobody may touch; `assault`, then `inspect`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary" / "secret.csv"
        self.canary.parent.mkdir()
        self.canary.write_text("secret\nnobody reads this\n")
        self.home = folder / "home"
        (self.home / "snapshots").mkdir(parents=True)
        options = EngineOptions(memory_mib_max=POOL_MIB, threads=2, snapshots_folder=self.home / "snapshots")
        self.database = Database.open(self.home / "runwire.duckdb", options)
        with contextlib.closing(small_store()) as small, contextlib.closing(small.cursor()) as source:
            self._copy(source)
        self.writer = self.database.cursor()
        self.writer.execute("CREATE TABLE store.canary (i INTEGER)")
        self.sandbox = Sandbox(self.database.cursor, LIMITS)
        self.ran = self.failed = self.refused = self.commits = 0
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(_IN_NONBLOCK)
        libc.inotify_add_watch(self._watch, str(self.canary).encode(), _IN_ALL)
        self._tables = [
            row[0]
            for row in self.writer.execute(
                "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'store' AND table_name <> 'canary'"
            ).fetchall()
        ]
        self._before = self._state()
        assert self._locks() == ["runwire.duckdb", "runwire.duckdb.lock"]
        self._resident_bytes = resident_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    def _copy(self, source: object) -> None:
        writer = self.database.cursor()
        tables = source.execute(  # type: ignore[attr-defined]
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'store' AND estimated_size > 0"
        ).fetchall()
        for (table,) in tables:
            writer.execute(f"DELETE FROM store.{table}")
            rows = source.execute(f"FROM store.{table}").to_arrow_table()  # type: ignore[attr-defined]
            writer.register("incoming", rows)
            writer.execute(f"INSERT INTO store.{table} FROM incoming")
            writer.unregister("incoming")
        writer.close()

    def _state(self) -> tuple[object, ...]:
        """What no statement may change."""
        tables = " UNION ALL ".join(
            f"SELECT '{name}', count(*), coalesce(bit_xor(hash(t)), 0) FROM store.{name} AS t" for name in self._tables
        )
        objects = self.writer.execute(
            "SELECT (SELECT count(*) FROM duckdb_tables()), (SELECT bit_xor(hash(sql)) FROM duckdb_views()), "
            "(SELECT count(*) FROM duckdb_functions()), (SELECT count(*) FROM duckdb_databases()), "
            "(SELECT count(*) FROM duckdb_sequences())"
        ).fetchone()
        return sorted(self.writer.execute(tables).fetchall()), objects, self._surroundings()

    def _surroundings(self) -> tuple[object, ...]:
        """What of it is seen at a glance: settings, files, locks."""
        settings = self.writer.execute("SELECT bit_xor(hash(s)) FROM duckdb_settings() AS s").fetchone()
        files = sorted(str(path) for path in self.folder.rglob("*") if not path.name.endswith((".wal", ".tmp")))
        return settings, files, self._locks(), sorted(os.listdir())  # noqa: PTH208 - names

    def _locks(self) -> list[str]:
        """Which of the database and its lock file this process has locked."""
        inodes = {str((self.home / name).stat().st_ino): name for name in ("runwire.duckdb", "runwire.duckdb.lock")}
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        own = [line[5].rpartition(":")[2] for line in lines if len(line) > 5 and line[4] == str(os.getpid())]
        return sorted({inodes[inode] for inode in own if inode in inodes})

    def assault(self, sql: str) -> None:
        """Send it; an answer or one sentence is all that comes."""
        try:
            self.sandbox.run(sql, {"name": "x"} if "$name" in sql else None)
        except SelectRefused as error:
            self.refused += 1
            said = str(error)
        except QueryError as error:
            self.failed += 1
            said = str(error)
        else:
            self.ran += 1
            said = ""
        assert "\n" not in said
        assert "nobody reads this" not in said

    def inspect(self, sql: str) -> None:
        """Everything is as before, and the writer writes on."""
        self.glance(sql)
        assert self._state() == self._before, sql

    def glance(self, sql: str) -> None:
        """The writer writes on; files, settings, locks and memory are as before, and nobody touched the canary."""
        self.commits += 1
        self.writer.execute("INSERT INTO store.canary VALUES (?)", [self.commits])
        assert self.writer.execute("SELECT count(*) FROM store.canary").fetchone() == (self.commits,), sql
        assert self._surroundings() == self._before[-1], sql
        with contextlib.suppress(BlockingIOError):
            touched = os.read(self._watch, 4_096)
            raise AssertionError((sql, _IN_HEAD.unpack_from(touched)))
        assert self.peak_bytes() < PEAK_BYTES_MAX, sql

    def peak_bytes(self) -> int:
        """How much memory the process had at most, beyond what it had before."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1_024 - self._resident_bytes

    def close(self) -> None:
        os.close(self._watch)
        self.database.close()


@pytest.fixture
def fortress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fortress]:
    """One, with a current folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fortress = Fortress(tmp_path)
    yield fortress
    fortress.close()


def test_by_hand(fortress: Fortress) -> None:
    """Every attack of the table is refused, nearly every harmless statement finds its columns, nothing else happens."""
    assert (len(ATTACKS) >= 500, len(GROUPS)) == (True, 9)
    for group, statements in GROUPS.items():
        for sql in statements:
            fortress.assault(sql)
        fortress.inspect(group)
    assert fortress.ran == 0
    for sql in HARMLESS:
        fortress.assault(sql)
    fortress.inspect("harmless")
    assert fortress.ran > 0.9 * len(HARMLESS)


def test_the_inspection_sees_what_it_is_for(fortress: Fortress) -> None:
    """A change of a table, a setting, a file, a canary that was read, a lock that was lost: each is told."""
    fortress.inspect("before")
    (fortress.folder / "written.csv").write_text("x")
    with pytest.raises(AssertionError, match="written by hand"):
        fortress.inspect("written by hand")
    (fortress.folder / "written.csv").unlink()
    fortress.canary.read_text()
    with pytest.raises(AssertionError, match="read by hand"):
        fortress.inspect("read by hand")
    with contextlib.suppress(BlockingIOError):
        os.read(fortress._watch, 4_096)
    (fortress.home / "runwire.duckdb.lock").read_text()  # closing it lets this process's lock go
    with pytest.raises(AssertionError, match="unlocked by hand"):
        fortress.inspect("unlocked by hand")
    fortress._before = fortress._state()
    fortress.writer.execute("DELETE FROM store.points WHERE seq = 0")
    with pytest.raises(AssertionError, match="deleted by hand"):
        fortress.inspect("deleted by hand")


@pytest.mark.parametrize("seed", [1])
def test_generated(fortress: Fortress, seed: int) -> None:
    """A few of them."""
    storm(fortress, seed, 200)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_generated(fortress: Fortress, seed: int) -> None:
    """1,000 of each seed."""
    storm(fortress, 100 + seed, 1_000)


def storm(fortress: Fortress, seed: int, count: int) -> None:
    """So many generated statements, a glance after each; a third of them passes the check and reaches the engine."""
    sent: list[str] = []
    columns: dict[str, list[tuple[str, str]]] = {}
    for relation, name, kind in fortress.sandbox.run("SELECT relation, name, type FROM columns").rows():
        columns.setdefault(relation, []).append((name, kind))
    for sql in Grammar(seed, str(fortress.folder), str(fortress.canary), columns).statements(count):
        fortress.assault(sql)
        fortress.glance(sql)
        sent.append(sql)
        if len(sent) == INSPECTED_EACH:
            fortress.inspect("\n".join(sent))
            sent.clear()
    assert fortress.ran + fortress.failed > count // 3
    assert fortress.ran > count // 5  # on a busy machine some run out of time
    assert fortress.refused > count // 3
    print(  # noqa: T201 - shown with -s
        f"seed {seed}: of {count} {fortress.refused} were refused, {fortress.failed} failed and {fortress.ran} ran, "
        f"peak {fortress.peak_bytes() // 2**20} MiB"
    )
