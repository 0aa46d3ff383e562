"""`runwire shell` opens a snapshot, never the live file, in the duckdb program or in Python's."""

from __future__ import annotations

import io
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from runwire_cli import shell as module
from runwire_cli.output import Form, Output
from runwire_cli.settings import CommandSettings, read_command_settings
from runwire_cli.shell import shell
from runwire_consumer import snapshots
from runwire_consumer.database import Database
from runwire_consumer.snapshot_files import listed
from runwire_consumer.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> CommandSettings:
    """A home whose database no consumer has open."""
    made = read_command_settings(home=str(tmp_path / "home"), environ={})
    made.home.create()
    Store.open(made.home.database, snapshots.options_for(made.home.snapshots, 0.0)).close()
    return made


def test_it_reads_a_snapshot_and_says_how_old_it_is(
    settings: CommandSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any SQL, the relations too; a second shell within a minute takes the same snapshot; the file stays free."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert shell(settings, Output(Form.TABLE), "SELECT count(*) AS n FROM runs", newest=False) == 0
    said = capsys.readouterr()
    assert "A snapshot of 20" in said.err
    assert " s old, read-only: " in said.err
    assert "n" in said.out
    assert len(listed(settings.home.snapshots)) == 1
    opened = Database.open(settings.home.database)  # as a consumer has it
    assert shell(settings, Output(Form.TABLE), "DELETE FROM store.runs", newest=False) == 1
    assert "read-only" in capsys.readouterr().err
    opened.close()
    assert len(listed(settings.home.snapshots)) == 1
    assert not list(settings.home.snapshots.glob(".shell-*"))


def test_a_person_asks_line_by_line(
    settings: CommandSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement over lines, a wrong one, the end."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1 +\n41 AS x;\nSELEC;\n"))
    assert shell(settings, Output(Form.TABLE), None, newest=False) == 0
    said = capsys.readouterr()
    assert "42" in said.out
    assert "SELEC" in said.err


def test_the_duckdb_program_is_used_where_there_is_one(
    settings: CommandSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the snapshot, read-only, in UTC."""
    program = tmp_path / "bin" / "duckdb"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$TZ" "$@" > {tmp_path}/told\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert shell(settings, Output(Form.TABLE), "FROM runs", newest=False) == 0
    zone, readonly, path, *rest = (tmp_path / "told").read_text().splitlines()
    assert (zone, readonly, rest) == ("UTC", "-readonly", ["-c", "FROM runs"])
    assert Path(path).is_relative_to(settings.home.snapshots)


def test_an_old_snapshot_is_taken_only_when_it_is_wanted(
    settings: CommandSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--newest` costs a heavy store nothing."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert shell(settings, Output(Form.TABLE), "SELECT 1", newest=True) == 0
    monkeypatch.setattr(module, "FRESH_SECONDS", -1.0)
    assert shell(settings, Output(Form.TABLE), "SELECT 1", newest=True) == 0
    assert len(listed(settings.home.snapshots)) == 1
    time.sleep(1.1)  # snapshots are named by the second
    assert shell(settings, Output(Form.TABLE), "SELECT 1", newest=False) == 0
    assert len(listed(settings.home.snapshots)) == 2
