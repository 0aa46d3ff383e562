"""`runwire snapshot`, `runwire restore`, and an `up` that finds its database damaged: whole commands, real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from runwire_cli import backup
from runwire_cli.backup import restore
from runwire_cli.client import ServerFile
from runwire_cli.output import Form, Output
from runwire_cli.settings import read_command_settings
from runwire_consumer import repair
from runwire_consumer.errors import SnapshotFailed
from runwire_consumer.leaving import EXIT_INVALIDATED
from runwire_consumer.plans import REPLACED, Plan
from tests.cli.commands import ask, have_trained
from tests.cli.test_up import Consumer, rows
from tests.services.process import wait_until

COUNT = "SELECT count(*) AS points FROM metrics"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def consumer(home: Path) -> Iterator[Consumer]:
    made = Consumer(home)
    yield made
    made.process.kill()
    made.process.wait()


def points(home: Path) -> int:
    (row,) = rows(home, "sql", COUNT)
    return int(row["points"])


def test_by_hand_without_a_consumer(home: Path) -> None:
    """Take, list, damage, repair, go back: every command says in a sentence what it did."""
    have_trained(home, "first")
    assert points(home) == 101
    taken = json.loads(ask(home, "snapshot", "--json").stdout)
    assert Path(taken["path"]).stat().st_size == taken["bytes"]
    have_trained(home, "second")
    assert points(home) == 202
    said = ask(home, "snapshot")
    assert said.stdout.startswith("Snapshot of 20")
    listed = json.loads(ask(home, "snapshot", "--list", "--json").stdout)
    assert len(listed) == 2
    assert listed[1] == taken
    assert Path(taken["path"]).name in ask(home, "snapshot", "--list").stdout

    back = ask(home, "restore", Path(taken["path"]).name)
    assert back.returncode == 0, back.stderr
    assert "is set aside as runwire.duckdb.replaced-20" in back.stderr
    assert f"{Path(taken['path']).name} is in its place; the log is replayed from that moment." in back.stderr
    assert points(home) == 202

    (home / "runwire.duckdb").write_bytes(b"x" * 20_000)
    once = ask(home, "up", "--once")
    assert once.returncode == 0, once.stderr
    assert "is set aside as runwire.duckdb.damaged-20" in once.stderr
    assert points(home) == 202

    (old,) = home.glob("runwire.duckdb.replaced-*")
    there = ask(home, "restore", str(old))
    assert there.returncode == 0, there.stderr
    assert points(home) == 202


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["restore"], "There are no snapshots in "),
        (["restore", "nowhere.duckdb"], "There is no snapshot nowhere.duckdb: `runwire snapshot --list` shows"),
        (["restore", "{home}/runwire.duckdb"], "is the database itself: name a snapshot."),
        (["restore", "{home}/token"], "is not restored. It can't be read: "),
    ],
)
def test_what_can_not_be_restored_changes_nothing(arguments: list[str], sentence: str, home: Path) -> None:
    have_trained(home, "first")
    assert points(home) == 101
    (home / "token").write_text("no database")
    answer = ask(home, *(argument.format(home=home) for argument in arguments))
    assert answer.returncode == 1
    assert sentence in answer.stderr
    assert points(home) == 101
    assert not [path for path in home.iterdir() if "replaced" in path.name or path.name.endswith(".plan")]


def test_a_home_without_a_database_has_nothing_to_save(home: Path) -> None:
    home.mkdir()
    answer = ask(home, "snapshot")
    assert answer.returncode == 1
    assert "There is no database" in answer.stderr


def test_the_running_consumer_takes_it(home: Path, consumer: Consumer) -> None:
    """While it reads on; its metrics tell; a restore is refused as long as it runs."""
    have_trained(home, "first")
    wait_until(lambda: points(home) == 101, what="101 points")
    taken = json.loads(ask(home, "snapshot", "--json").stdout)
    assert Path(taken["path"]).is_file()
    token = (home / "token").read_text().strip()
    text = httpx.get(f"http://127.0.0.1:{consumer.port}/metrics", headers={"authorization": f"Bearer {token}"}).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("runwire_snapshot"))
    assert float(values["runwire_snapshots"]) == 1
    assert float(values["runwire_snapshots_bytes"]) == taken["bytes"]
    assert 0 <= float(values["runwire_snapshot_age_seconds"]) < 300
    assert float(values["runwire_snapshot_failures_total"]) == 0
    refused = ask(home, "restore")
    assert refused.returncode == 1
    assert f"is in use by pid {consumer.process.pid} on " in refused.stderr
    assert "Stop it first: a database is restored while nobody has it open." in refused.stderr


def spoil_a_quiet_block(path: Path) -> None:
    """Damage a block of points that nobody reads when the file is opened."""
    whole = path.read_bytes()
    for start in range(12_288, len(whole), 262_144):
        path.write_bytes(whole[: start + 1_000] + bytes(64) + whole[start + 1_064 :])
        try:
            with duckdb.connect(str(path), read_only=True) as connection:
                connection.execute("FROM runs").fetchall()
                try:
                    connection.execute("SELECT sum(value) FROM store.points").fetchall()
                except duckdb.IOException:
                    return
        except duckdb.IOException:
            continue
    pytest.fail("no block of points was found")


def test_a_snapshot_that_meets_a_damaged_block_ends_the_consumer(home: Path) -> None:
    """The engine opens such a file and reads on; the copy reads all of it. The next start goes on from a good one."""
    have_trained(home, "first")
    assert points(home) == 101
    assert ask(home, "snapshot").returncode == 0
    with duckdb.connect(str(home / "runwire.duckdb")) as connection:
        connection.execute("INSERT INTO store.points SELECT 99, 99, i, random() FROM range(300_000) t(i)")
    spoil_a_quiet_block(home / "runwire.duckdb")
    first = Consumer(home)
    ordered = ask(home, "snapshot")
    assert ordered.returncode == 1
    assert first.process.wait(30) == EXIT_INVALIDATED
    assert "The database file is damaged: " in first.log.read_text()
    second = Consumer(home)
    try:
        wait_until(lambda: points(home) == 101, what="101 points")
        assert "is in its place; the log is replayed" in second.log.read_text()
    finally:
        second.process.kill()
        second.process.wait()


def test_up_repairs_what_a_torn_checkpoint_left(home: Path) -> None:
    """Killed, its headers zeroed: the next `up` says what it does, counts it, and has every row."""
    have_trained(home, "first")
    assert points(home) == 101
    assert ask(home, "snapshot").returncode == 0
    first = Consumer(home)
    have_trained(home, "second")
    wait_until(lambda: points(home) == 202, what="202 points")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    ServerFile("127.0.0.1", first.port, first.process.pid).remove(home)
    database = home / "runwire.duckdb"
    data = bytearray(database.read_bytes())
    data[4096:12288] = bytes(8192)
    database.write_bytes(data)
    second = Consumer(home)
    try:
        wait_until(lambda: points(home) == 202, what="202 points")
        token = (home / "token").read_text().strip()
        text = httpx.get(f"http://127.0.0.1:{second.port}/metrics", headers={"authorization": f"Bearer {token}"}).text
        assert "runwire_store_repairs_total 1.0" in text
        log = second.log.read_text()
        assert "is set aside as runwire.duckdb.damaged-20" in log
        assert "is in its place; the log is replayed from that moment." in log
    finally:
        second.process.kill()
        second.process.wait()
    (old,) = home.glob("runwire.duckdb.damaged-*Z")
    assert old.read_bytes() == data


def test_without_room_a_restore_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a store that works would be set aside, and no start could put another in its place."""
    have_trained(home, "first")
    assert points(home) == 101
    assert ask(home, "snapshot").returncode == 0
    before = sorted(home.iterdir())
    settings = read_command_settings(home=str(home), environ={})
    monkeypatch.setattr(repair, "free_bytes", lambda _: 1_000)
    with pytest.raises(SnapshotFailed, match=r"MiB are needed.*Nothing was changed"):
        restore(settings, Output(Form.TABLE), None)
    assert sorted(home.iterdir()) == before
    assert points(home) == 101


def test_nobody_comes_between_the_plan_of_a_restore_and_its_effects(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_trained(home, "first")
    assert points(home) == 101
    assert ask(home, "snapshot").returncode == 0
    program = (
        "from pathlib import Path; from runwire_consumer.database import lock_beside; "
        f"lock_beside(Path({str(home / 'runwire.duckdb')!r}))"
    )
    others = []

    def opened(*given: Any, **named: Any) -> Any:
        others.append(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False))
        return repair.open_store(*given, **named)

    monkeypatch.setattr(backup, "open_store", opened)
    assert restore(read_command_settings(home=str(home), environ={}), Output(Form.TABLE), None) == 0
    assert ["StoreLocked" in other.stderr for other in others] == [True]
    assert points(home) == 101


def test_an_order_about_letters_finishes_a_replacement_that_was_begun(home: Path) -> None:
    """Else what it does to the old file would be undone by the next start."""
    have_trained(home, "first")
    assert points(home) == 101
    taken = json.loads(ask(home, "snapshot", "--json").stdout)
    path = home / "runwire.duckdb"
    Plan.make(path, REPLACED, "A restore that was killed.", 0, taken["path"]).write(path)
    answer = ask(home, "dead-letters", "replay", "--all")
    assert answer.returncode == 0, answer.stderr
    assert "is in its place; the log is replayed from that moment." in answer.stderr
    assert points(home) == 101
    assert len(list(home.glob("runwire.duckdb.replaced-*"))) == 1
