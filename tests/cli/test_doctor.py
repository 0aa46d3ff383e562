"""`runwire doctor` on homes that are broken for real: what it says, how it exits, and that it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from runwire_cli.doctor import examine
from runwire_cli.settings import read_command_settings
from runwire_consumer.doctor import FIELDS, Severity
from runwire_consumer.doctor.inspection import inspect_snapshot
from runwire_consumer.repair import doubt
from tests.cli.commands import ask, clean_environment
from tests.consumer.versions import digests
from tests.services.consumer import ConsumerProcess
from tests.services.process import wait_until

NOON = 1_800_000_000_000_000
TRAINING = """
import runwire
run = runwire.init(project="digits")
for step in range(50):
    run.log({"loss": 1.0 / (step + 1), "acc": float(step)})
run.finish()
"""
DYING = """
import os, runwire
run = runwire.init(project="digits", mode="offline")
for step in range(50):
    run.log({"loss": 1.0})
os._exit(9)
"""
HOLDING = """
import sys, time
from pathlib import Path
from runwire_consumer.lock import LockFile
lock = LockFile.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a trained run that is stored; copies of it are broken."""
    home = tmp_path_factory.mktemp("sound") / "home"
    python(TRAINING, home)
    assert ask(home, "up", "--once").returncode == 0
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound home."""
    copy = Path(shutil.copytree(sound, tmp_path / "home"))
    database(copy, f"UPDATE store.offsets SET source = 'dir:{copy / 'topic'}'")  # noqa: S608 - a path of our own
    return copy


def python(program: str, home: Path, *arguments: str) -> None:
    """Run a program beside a home."""
    home.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=clean_environment(home),
        cwd=home.parent,
        timeout=60,
        check=False,
    )


def findings(home: Path, *, deep: bool = False) -> dict[tuple[str, Severity], str]:
    """What is said of a home, beyond what is well: sentence by check and severity."""
    settings = read_command_settings(environ=clean_environment(home))
    found = examine(settings, deep=deep)
    assert found
    return {(one.check, one.severity): one.what for one in found if one.severity > Severity.OK}


def database(home: Path, *statements: str) -> None:
    """Change the stored file as nobody should."""
    connection = duckdb.connect(str(home / "runwire.duckdb"))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_sound_home(home: Path) -> None:
    """Only notes; not a byte of the database changes; exit 0."""
    before = digests(home)
    assert findings(home, deep=True).keys() == {("server", Severity.NOTE), ("snapshots", Severity.NOTE)}
    assert digests(home) == before
    answer = ask(home, "doctor")
    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.splitlines()[0].startswith("note ")
    assert "ok      store         1 run, 50 rows, 100 points agree with the ledger" in answer.stdout


def test_no_home(tmp_path: Path) -> None:
    """Nothing is made, nothing is wrong."""
    assert findings(tmp_path / "none") == {
        ("home", Severity.NOTE): "Nothing is tracked here yet: there is no home.",
        (
            "folder",
            Severity.NOTE,
        ): "The topic folder doesn't exist yet: nobody has sent there, or RUNWIRE_URL is wrong.",
    }
    assert list(tmp_path.iterdir()) == []


def old(path: Path) -> None:
    """As if nobody had written to it for an hour."""
    hour_ago = time.time() - 3_600
    for one in [path, *(path.iterdir() if path.is_dir() else ())]:
        os.utime(one, (hour_ago, hour_ago))


def open_token(home: Path) -> None:
    (home / "token").write_text("x" * 32)
    (home / "token").chmod(0o644)


def short_token(home: Path) -> None:
    (home / "token").write_text("x")
    (home / "token").chmod(0o600)


def torn_database(home: Path) -> None:
    with (home / "runwire.duckdb").open("r+b") as file:
        file.truncate(10_000)


def another_database(home: Path) -> None:
    (home / "runwire.duckdb").unlink()
    database(home, "CREATE TABLE wages AS FROM range(3)")


def dead_journal(home: Path) -> None:
    python(DYING, home)
    (journal,) = [path for path in (home / "journal").iterdir() if not path.name.startswith(".")]
    old(journal)


def torn_tail(home: Path) -> None:
    (file,) = (home / "topic").glob("*.avro")
    with file.open("ab") as stream:
        stream.write(b"\x02\xff half a block")
    old(file)


def garbage(home: Path) -> None:
    (home / "topic" / "alien.avro").write_bytes(b"no topic file" * 1_000)
    assert ask(home, "up", "--once").returncode == 0


def set_aside(home: Path) -> None:
    (home / "runwire.duckdb.damaged-20260101T000000Z").write_bytes(b"x" * 2**20)
    (home / "runwire.duckdb.damaged-20260101T000000Z.wal").write_bytes(b"x")


def doubted(home: Path) -> None:
    doubt(home / "runwire.duckdb", "A block of it can't be read.", NOON)


def repaired(home: Path) -> None:
    doubted(home)
    assert ask(home, "up", "--once").returncode == 0
    (aside,) = home.glob("runwire.duckdb.damaged-*")
    aside.unlink()


def half_a_snapshot(home: Path) -> None:
    (home / "snapshots").mkdir(exist_ok=True)
    (home / "snapshots" / "runwire-20260101T000000Z.duckdb").write_bytes(b"\0" * 100)


@pytest.mark.parametrize(
    ("broken", "check", "severity", "words"),
    [
        (open_token, "token", Severity.WARNING, "mode 0644"),
        (short_token, "token", Severity.ERROR, "The token has 1 characters"),
        (torn_database, "store", Severity.ERROR, "won't open"),
        (another_database, "store", Severity.ERROR, "it holds 'wages' and no schema 'store'"),
        (dead_journal, "journals", Severity.WARNING, "Unsent: 1 journal of dead processes"),
        (torn_tail, "folder", Severity.NOTE, "The end of 1 file is no block"),
        (garbage, "dead-letters", Severity.WARNING, "1 message: 1 times The file is no topic file"),
        (set_aside, "leftovers", Severity.NOTE, "Set aside as damaged: 2 files, 1.0 MiB"),
        (doubted, "plan", Severity.WARNING, "about to be replaced: A block of it can't be read."),
        (repaired, "repairs", Severity.NOTE, "replaced once, last at 2027-01-15 08:00:00 UTC: A block of it can't be"),
        (half_a_snapshot, "snapshots", Severity.ERROR, "it is no DuckDB file"),
        (lambda home: (home / "runwire.duckdb.broken").write_bytes(b"x"), "leftovers", Severity.NOTE, "1 file beside"),
        (
            lambda home: (home / "server.json").write_text('{"host": "127.0.0.1", "port": 1, "pid": 999999999}'),
            "server",
            Severity.NOTE,
            "names a consumer (pid 999999999) that is gone",
        ),
        (
            lambda home: database(home, "DELETE FROM store.rows WHERE seq > 40"),
            "store",
            Severity.ERROR,
            "1 emitters have another number of rows than their ledger says",
        ),
        (
            lambda home: database(home, "DELETE FROM store.offsets"),
            "store",
            Severity.WARNING,
            "no offset: the log would be read again",
        ),
        (
            lambda home: database(home, "UPDATE store.emitters SET next_seq = next_seq + 5"),
            "gaps",
            Severity.WARNING,
            "missing 5 rows of 1 run",
        ),
        (lambda home: shutil.rmtree(home / "topic"), "folder", Severity.NOTE, "doesn't exist yet"),
        (lambda home: os.utime(home / "runwire.duckdb", (2**33, 2**33)), "clock", Severity.WARNING, "ahead of"),
    ],
)
def test_a_broken_home(
    home: Path, broken: Callable[[Path], object], check: str, severity: Severity, words: str
) -> None:
    """What was broken is said, and looking changes nothing."""
    broken(home)
    before = digests(home)
    found = findings(home)
    assert words in found[check, severity]
    assert max(one for _, one in found) == severity
    assert digests(home) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_home_without_rights(home: Path) -> None:
    """Neither raised nor hidden."""
    home.chmod(0o500)
    try:
        found = findings(home)
    finally:
        home.chmod(0o700)
    assert ("disk", Severity.ERROR) in found


@pytest.fixture
def holder(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the database's lock."""
    command = [sys.executable, "-c", HOLDING, str(home / "runwire.duckdb.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_database_is_not_waited_for(home: Path, holder: subprocess.Popen[str]) -> None:
    """Who holds it is said, and what could not be looked at; a stopped holder is an error."""
    found = findings(home)
    assert f"pid {holder.pid} on" in found["store", Severity.NOTE]
    assert "answers no questions" in found["server", Severity.NOTE]
    os.kill(holder.pid, signal.SIGSTOP)
    wait_until(
        lambda: ("lock", Severity.ERROR) in findings(home),
        what="the doctor sees that it is stopped",
    )
    answer = ask(home, "doctor")
    assert answer.returncode == 2
    assert answer.stdout.startswith("error   lock")
    assert f"→ Let it go on: kill -CONT {holder.pid}." in answer.stdout


def test_the_exit_code_and_json(home: Path) -> None:
    """0, 1 and 2; one document with a verdict and findings of the same fields."""
    for broken, code, verdict in (
        (lambda _: None, 0, "note"),
        (open_token, 1, "warning"),
        (torn_database, 2, "error"),
    ):
        broken(home)
        answer = ask(home, "doctor", "--json")
        told = json.loads(answer.stdout)
        assert (answer.returncode, told["verdict"], told.keys()) == (code, verdict, {"verdict", "findings"})
        assert all(tuple(one) == FIELDS for one in told["findings"])
        assert all(isinstance(text, str) for one in told["findings"] for text in one.values())
        assert {one["severity"] for one in told["findings"]} <= {"ok", "note", "warning", "error"}


def test_hostile_names_drive_no_terminal(home: Path) -> None:
    """File names and reasons out of a store are cleaned; the token is in no output."""
    (home / "runwire.duckdb.\x1b[2J\u202e").write_bytes(b"x")
    open_token(home)
    database(
        home,
        "INSERT INTO store.dead_letters BY NAME SELECT 0 AS letter_key, 'ab' AS letter_id, 'dir:x' AS source, "
        "'a' AS partition, 0 AS \"offset\", 0 AS appended_at, 'bad' || chr(27) || '[31m' || chr(10) || 'ok store' "
        "AS reason, 0 AS bytes, ''::BLOB AS head, 'dead' AS status, false AS whole",
    )
    for form in ([], ["--json"]):
        answer = ask(home, "doctor", *form)
        assert "\x1b" not in answer.stdout + answer.stderr
        assert "\u202e" not in answer.stdout
        assert "x" * 32 not in answer.stdout + answer.stderr
    assert "bad\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}ok store" in ask(home, "doctor").stdout


def test_a_running_consumer_is_asked(home: Path) -> None:
    """Its store is looked through beside its writer; what is wrong with it is said, too."""
    with ConsumerProcess(f"dir:{home / 'topic'}", home=home) as consumer:
        wait_until(consumer.is_ready, what="it has begun to read")
        environment = {**consumer.environment}
        settings = read_command_settings(environ=environment)
        for deep in (False, True):
            found = {one.check: one for one in examine(settings, deep=deep)}
            assert found["store"].what.startswith("1 run, 50 rows, 100 points agree with the ledger")
            assert found["lock"].severity is Severity.OK
            assert found["server"].what == f"The consumer answers at http://{consumer.address}."
            assert found["clock"].severity is Severity.OK
        elsewhere = home.parent / "elsewhere"
        elsewhere.mkdir()
        far = {"RUNWIRE_HOME": str(elsewhere), "RUNWIRE_SERVER": consumer.address, "RUNWIRE_TOKEN": consumer.token}
        found = {one.check: one for one in examine(read_command_settings(environ=far), deep=False)}
        assert found["store"].what.startswith("1 run, 50 rows")
        far["RUNWIRE_TOKEN"] = "wrong" * 8
        found = {one.check: one for one in examine(read_command_settings(environ=far), deep=False)}
        assert "refuses the token" in found["store"].what
    far["RUNWIRE_SERVER"] = "127.0.0.1:1"
    found = {one.check: one for one in examine(read_command_settings(environ=far), deep=False)}
    assert found["server"].severity is Severity.ERROR


def test_a_snapshot_is_opened(home: Path) -> None:
    """With --deep the newest is looked into, though it begins as a database does."""
    (home / "snapshots").mkdir()
    whole = home / "snapshots" / "runwire-20260101T000000Z.duckdb"
    shutil.copy(home / "runwire.duckdb", whole)
    assert inspect_snapshot(whole) == ""
    assert ("snapshots", Severity.ERROR) not in findings(home, deep=True)
    with whole.open("r+b") as file:
        file.truncate(10_000)
    assert "won't open" in findings(home, deep=True)["snapshots", Severity.ERROR]


def test_who_looks_into_the_file_ends_with_who_asked(tmp_path: Path) -> None:
    """A doctor that was killed must not leave somebody behind who holds the database's lock."""
    told, ended = tmp_path / "told", tmp_path / "ended"
    reader = tmp_path / "reader"
    reader.write_text(f"#!/bin/sh\necho $$ > {told}.draft; mv {told}.draft {told}\nread answer\necho > {ended}\n")
    reader.chmod(0o700)
    program = (
        "import sys; from pathlib import Path; from runwire_consumer.doctor.inspection import inspect_snapshot; "
        f"sys.executable = {str(reader)!r}; inspect_snapshot(Path('x'))"
    )
    asker = subprocess.Popen([sys.executable, "-c", program])
    wait_until(told.exists, timeout_seconds=60.0, what="the reader begins")
    assert not ended.exists()
    asker.kill()
    asker.wait()
    wait_until(ended.exists, timeout_seconds=60.0, what="the reader ends")


def test_the_reader_of_a_file_ends_when_its_asker_does() -> None:
    program = (
        "import time; from runwire_consumer.doctor.inspection import end_with_asker; end_with_asker(); "
        "print('there', flush=True); time.sleep(600)"
    )
    reader = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdin is not None
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"there\n"
    reader.stdin.close()
    reader.stdout.close()
    assert reader.wait(60) == 1
