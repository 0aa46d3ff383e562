"""The store dies while it is saved, set aside and restored, for real, at every effect; every row is there once."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire_consumer.plans import DAMAGED, Plan, repairs_of
from runwire_consumer.repair import open_store
from runwire_consumer.snapshot_files import listed
from runwire_consumer.snapshots import options_for
from tests.pipeline.homes import TopicHome, told_anew
from tests.repo.files import REPOSITORY

# Forks a child a line of its input, [what, home, a number], for importing the store takes half a second each time. A
# child kills itself (SIGKILL) before its n-th effect on files or on the engine, and exits with 0 when there were fewer.
DYING = """
import json, os, signal, sys, traceback
from pathlib import Path
from runwire_consumer import snapshots
from runwire_consumer.database import Database
from runwire_consumer.repair import open_store
from runwire_consumer.snapshot_files import rotate
from tests.pipeline.homes import TopicHome

seen = 0
armed = False
last = 0

def effect():
    global seen
    seen += armed
    if seen == last:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, args):
    if event in ("os.rename", "os.remove", "os.chmod", "shutil.copyfile"):
        effect()

class Doomed:
    def __init__(self, connection):
        self.connection = connection
    def __getattr__(self, name):
        return getattr(self.connection, name)
    def execute(self, sql, *given):
        if sql.split()[0] in ("ATTACH", "COPY", "DETACH", "INSERT"):
            effect()
        return self.connection.execute(sql, *given)

def run(what, home, number):
    global armed, last
    if what == "ingest":  # and die at the end: the WAL stays
        Database.close = lambda *_, **__: os._exit(0)
        TopicHome(home, number).ingest()
    last = number
    sys.addaudithook(hook)
    clock = iter(range(1_700_000_100_000_000, 1_800_000_000_000_000, 1_000_000))
    options = snapshots.options_for(home / "snapshots", 5.0)
    if what == "snapshot":
        store, _ = open_store(home / "runwire.duckdb", options, lambda: next(clock))
        armed = True
        taken = snapshots.take(store.database, home / "snapshots", next(clock), Doomed(store.cursor()))
        rotate(home / "snapshots", taken)
    else:
        armed = True
        open_store(home / "runwire.duckdb", options, lambda: next(clock))

for line in sys.stdin:
    what, home, number = json.loads(line)
    pid = os.fork()
    if pid == 0:
        try:
            run(what, Path(home), number)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@functools.cache
def dying() -> subprocess.Popen[str]:
    """The process that forks them; it ends with its input."""
    return subprocess.Popen(
        [sys.executable, "-c", DYING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    if dying.cache_info().currsize:
        dying().communicate()
        dying.cache_clear()


def fork(what: str, home: TopicHome, number: int) -> int:
    """The exit code of a child."""
    process = dying()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([what, str(home.path), number]) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def run_doomed(home: TopicHome, what: str, at: int) -> bool:
    """Run until it dies; False when it came through."""
    code = fork(what, home, at)
    assert code in {0, -9}
    return code == -9


def copied(home: TopicHome, folder: Path) -> TopicHome:
    """The same home elsewhere."""
    shutil.copytree(home.path, folder)
    return TopicHome(folder, home.now)


def test_killed_at_every_effect_of_a_snapshot(tmp_path: Path) -> None:
    """Whatever is left, all that is listed opens, the store goes on, and the next snapshot clears up."""
    first = TopicHome(tmp_path / "first")
    first.sends(100)
    first.ingest()
    for _ in range(4):  # so that rotation has something to remove
        first.snapshot()
    deaths = 0
    for at in range(1, 100):
        home = copied(first, tmp_path / f"at-{at}")
        if not run_doomed(home, "snapshot", at):
            break
        deaths += 1
        before = [one.path.name for one in listed(home.snapshots)]
        assert len(before) >= 3
        home.now += 1_000_000_000  # later than the one that died
        newest = home.snapshot()
        assert sorted(path.name for path in home.snapshots.iterdir()) == sorted([*before, newest.path.name])
        home.database.write_bytes(b"x" * 20_000)
        home.ingest()
        assert home.said[-1].startswith(f"The snapshot {newest.path.name} is in its place")
        assert home.content() == first.content()
        shutil.rmtree(home.path)
    assert deaths >= 8


def test_killed_at_every_effect_of_a_repair(tmp_path: Path) -> None:
    """The next start finishes it: damaged file and WAL are kept, every row is there once, the repair is told."""
    first = TopicHome(tmp_path / "first")
    first.sends(100)
    first.ingest()
    first.snapshot()
    first.snapshot().path.write_bytes(b"no snapshot at all")
    first.sends(50)
    first.ingest()
    expected = first.content()
    damaged, wal = b"x" * 20_000, b"y" * 5_000
    first.database.write_bytes(damaged)
    wal_of = first.database.with_name("runwire.duckdb.wal")
    wal_of.write_bytes(wal)
    deaths = 0
    for at in range(1, 100):
        home = copied(first, tmp_path / f"at-{at}")
        is_dead = run_doomed(home, "repair", at)
        home.ingest()
        assert home.content() == expected
        (old,) = [path for path in home.path.glob("runwire.duckdb.damaged-*") if path.suffix != ".wal"]
        assert old.read_bytes() == damaged
        assert Path(f"{old}.wal").read_bytes() == wal
        store = home.open()
        (repair,) = repairs_of(store.cursor())
        store.close()
        assert (repair.aside, repair.snapshot) == (old.name, listed(home.snapshots)[-1].path.name)
        assert not list(home.path.glob("*.plan*"))
        shutil.rmtree(home.path)
        if not is_dead:
            break
        deaths += 1
    assert deaths >= 6


DAMAGES = ["header", "both headers", "first block", "truncated", "empty", "text", "wal", "wal without its file"]


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_replaced_and_nothing_is_missing(what: str, tmp_path: Path) -> None:
    """Rows that came after the snapshot are read from the log again."""
    home = TopicHome(tmp_path / "home")
    home.sends(100)
    home.ingest()
    home.snapshot()
    home.sends(40)
    home.sends(30, "b")
    kill_with_a_wal(home)
    assert home.database.with_name("runwire.duckdb.wal").stat().st_size > 1_000
    spoil(home.database, what)
    home.ingest()
    assert home.content() == told_anew(tmp_path / "anew", home)
    assert any("is in its place" in sentence for sentence in home.said)
    store = home.open()
    (repair,) = repairs_of(store.cursor())
    store.close()
    assert repair.snapshot.startswith("runwire-20")
    kept = [path for path in home.path.iterdir() if ".damaged-" in path.name]
    assert len(kept) == (1 if what == "wal without its file" else 2)


def test_without_a_snapshot_the_log_alone_makes_it_again(tmp_path: Path) -> None:
    home = TopicHome(tmp_path / "home")
    home.sends(100)
    home.ingest()
    spoil(home.database, "text")
    home.ingest()
    assert home.content() == told_anew(tmp_path / "anew", home)
    assert home.said[-1].startswith("No snapshot can be read: the store begins empty")


def test_an_older_snapshot_by_hand_comes_to_the_same(tmp_path: Path) -> None:
    """Row 36: offsets go back with it, and the replay makes identical content; the file before is kept."""
    home = TopicHome(tmp_path / "home")
    home.sends(60)
    home.ingest()
    oldest = home.snapshot()
    home.sends(60, "b")
    home.ingest()
    home.snapshot()
    home.sends(60, "c")
    home.ingest()
    before, file = home.content(), home.database.read_bytes()
    plan = Plan.make(home.database, "replaced", "by hand", home.tick(), str(oldest.path))
    plan.write(home.database)
    store = home.open()
    assert store.cursor().execute("SELECT count(*) FROM store.rows").fetchall() == [(60,)]
    store.close()
    home.ingest()
    assert home.content() == before == told_anew(tmp_path / "anew", home)
    assert plan.old(home.database).read_bytes() == file


def kill_with_a_wal(home: TopicHome) -> None:
    """Ingest in a process that dies at the end: the WAL stays."""
    assert fork("ingest", home, home.now) == 0


def spoil(path: Path, what: str) -> None:
    """Damage the file, or its WAL."""
    wal = path.with_name(path.name + ".wal")
    data = bytearray(path.read_bytes())
    match what:
        case "header":
            data[4096:8192] = bytes(4096)
            data[8192 + 100] ^= 0xFF
        case "both headers":
            data[4096:12288] = bytes(8192)
        case "first block":
            data[12288:] = bytes(len(data) - 12288)
        case "truncated":
            del data[12288:]
        case "empty":
            data = bytearray()
        case "text":
            data = bytearray(b"hello world " * 2_000)
        case "wal" if not wal.exists():
            return
        case "wal":
            torn = bytearray(wal.read_bytes())
            torn[len(torn) // 2 : len(torn) // 2 + 64] = bytes(64)
            wal.write_bytes(torn)
        case _:
            path.unlink()
            return
    path.write_bytes(data)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from("abc")),
        st.tuples(st.just("ingest"), st.just("")),
        st.tuples(st.just("snapshot"), st.just("")),
        st.tuples(st.just("kill"), st.just("")),
        st.tuples(st.just("damage"), st.sampled_from(["both headers", "truncated", "empty", "text", "wal"])),
        st.tuples(st.just("spoil snapshot"), st.just("")),
        st.tuples(st.just("restore"), st.integers(0, 2).map(str)),
        st.tuples(st.just("lose"), st.just("")),
    ),
    max_size=10,
)


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_history_ends_with_every_row_once(steps: list[tuple[str, str]]) -> None:
    """Sends, reads, snapshots, damage, restores and lost files in any order, then one read of what waits."""
    with tempfile.TemporaryDirectory() as folder:
        home = TopicHome(Path(folder) / "home")
        play(home, steps)
        home.ingest()
        assert home.content() == told_anew(Path(folder) / "anew", home)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_of_many_histories_ends_with_every_row_once(steps: list[tuple[str, str]]) -> None:
    """As above, more of them."""
    with tempfile.TemporaryDirectory() as folder:
        home = TopicHome(Path(folder) / "home")
        play(home, steps)
        home.ingest()
        assert home.content() == told_anew(Path(folder) / "anew", home)


def play(home: TopicHome, steps: list[tuple[str, str]]) -> None:
    """One step after the other."""
    for what, argument in steps:
        found = listed(home.snapshots)
        match what:
            case "send":
                home.sends(10, argument)
            case "ingest":
                home.ingest()
            case "snapshot":
                home.snapshot()
            case "kill":
                kill_with_a_wal(home)
            case "damage" if home.database.exists():
                spoil(home.database, argument)
            case "spoil snapshot" if found:
                found[0].path.write_bytes(b"no snapshot at all")
            case "restore" if len(found) > int(argument):
                chosen = str(found[int(argument)].path)
                Plan.make(home.database, "replaced", "by hand", home.tick(), chosen).write(home.database)
            case "lose":
                home.database.unlink(missing_ok=True)


def test_a_plan_that_is_none_binds_nobody(tmp_path: Path) -> None:
    """Half a plan can't come about, for it is renamed into place; somebody may still have written one."""
    home = TopicHome(tmp_path / "home")
    home.sends(10)
    home.ingest()
    home.database.with_name("runwire.duckdb.plan").write_text("{")
    store, repairs = open_store(home.database, options_for(home.snapshots, 0.0), home.tick, home.said.append)
    store.close()
    assert repairs == []
    assert DAMAGED == "damaged"
