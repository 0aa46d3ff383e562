"""A file that nobody's consumer has open: only what is damaged is called so."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from runwire_consumer.doctor.inspection import inspect_file
from runwire_consumer.doctor.store import StoreFacts, Unopened
from runwire_consumer.store import Store

HOLDER = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def sqlite(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE somebodys (x)")


def torn(path: Path) -> None:
    Store.open(path).close()
    path.write_bytes(path.read_bytes()[:9_000])


def test_a_sound_file(tmp_path: Path) -> None:
    Store.open(tmp_path / "runwire.duckdb").close()
    assert isinstance(inspect_file(tmp_path / "runwire.duckdb"), StoreFacts)


@pytest.mark.parametrize(("make", "kind"), [(sqlite, "foreign"), (torn, "damaged"), (Path.mkdir, "unknown")])
def test_what_stands_in_the_way(make: object, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "runwire.duckdb"
    make(path)  # type: ignore[operator]
    found = inspect_file(path)
    assert isinstance(found, Unopened)
    assert found.kind == kind


def test_another_program_that_has_it_open(tmp_path: Path) -> None:
    """DuckDB's own shell knows nothing of our lock: the file is in use, not damaged."""
    path = tmp_path / "runwire.duckdb"
    Store.open(path).close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        found = inspect_file(path)
        assert holder.stdin is not None
        holder.stdin.close()
    assert isinstance(found, Unopened)
    assert found.kind == "locked"
