"""Looks into a database file that nobody has open: read-only, under its lock, in a process of its own.

A damaged file may take its reader down, or keep it for ever: so the reader is a child that is ended in time. Nothing
of the file is changed, not even its WAL; the file of a newer version is told, not read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb

from runwire_consumer.damage import is_conflict, is_damage, is_newer, is_sqlite
from runwire_consumer.database import need_regular, wal_path
from runwire_consumer.doctor.audit import DEEP_SECONDS_MAX, QUICK_SECONDS_MAX, audit
from runwire_consumer.doctor.store import StoreFacts, Unopened
from runwire_consumer.errors import StoreDamaged, StoreError, StoreForeign, StoreLocked, StoreNewer, first_line
from runwire_consumer.lock import LockFile
from runwire_consumer.migrations import check_version, migrations

LOCK_WAIT_SECONDS = 3.0
OPEN_SECONDS_MAX = 60.0  # a WAL is replayed
MEMORY_MIB_MAX = 1_024
_KINDS: dict[type[StoreError], str] = {
    StoreLocked: "locked",
    StoreNewer: "newer",
    StoreForeign: "foreign",
    StoreDamaged: "damaged",
}
_SAID = ((is_conflict, "locked"), (is_newer, "newer"), (is_sqlite, "foreign"), (is_damage, "damaged"))


def inspect_file(path: Path, *, deep: bool = False) -> StoreFacts | Unopened | None:
    """What is in a database file; None where there is none. Ends in about a minute, with `deep` in an hour."""
    if not os.path.lexists(path):
        return None
    return _ask_child(path, "deep" if deep else "quick")


def inspect_snapshot(path: Path) -> str:
    """Why a snapshot is damaged, a sentence; "" where it opens and has a version of ours."""
    found = _ask_child(path, "snapshot")
    return found.sentence if isinstance(found, Unopened) else ""


def _ask_child(path: Path, how: str) -> StoreFacts | Unopened:
    seconds = OPEN_SECONDS_MAX + (DEEP_SECONDS_MAX if how == "deep" else QUICK_SECONDS_MAX)
    command = [sys.executable, "-m", "runwire_consumer.doctor.inspection", how, str(path)]
    ours, asker = os.pipe()
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command, stdin=ours, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Unopened("unknown", f"The database did not open within {seconds:g} s.")
    finally:
        os.close(ours)
        os.close(asker)
    if done.returncode < 0:
        return Unopened("crashed", f"The engine ended by signal {-done.returncode} when it opened the database.")
    try:
        told: dict[str, Any] = json.loads(done.stdout)
        return Unopened(told["kind"], told["sentence"]) if "kind" in told else StoreFacts.of(told)
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Unopened("unknown", f"The database could not be looked into: {lines[-1] if lines else 'no answer'}")


def look(path: Path, how: str) -> dict[str, Any]:
    """In the child: facts, or kind and sentence of what stands in the way.

    Args:
        path: The file.
        how: quick, deep, or snapshot: only open it, without a lock.
    """
    lock: LockFile | None = None
    try:
        need_regular(path)
        need_regular(wal_path(path))
        path.open("rb").close()  # a folder, or no right to read: the system's own words
        if how != "snapshot":
            lock = LockFile.acquire(path.with_name(path.name + ".lock"), LOCK_WAIT_SECONDS)
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": f"{MEMORY_MIB_MAX}MiB",
        }
        connection = duckdb.connect(str(path), read_only=True, config=config)
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_access = false")
        version = check_version(connection, migrations()[-1].version)
        if how == "snapshot" or version == 0:
            return StoreFacts(version).fields()
        return audit(connection, deep=how == "deep").fields()
    except StoreError as error:
        return {"kind": _KINDS.get(type(error), "unknown"), "sentence": str(error)}
    except duckdb.Error as error:
        kind = next((kind for says, kind in _SAID if says(str(error))), "unknown")
        return {"kind": kind, "sentence": f"The database {path} won't open: {first_line(error)}"}
    except OSError as error:
        return {"kind": "unknown", "sentence": f"The database {path} can't be read: {error.strerror or error}."}
    finally:
        if lock is not None:
            lock.release()


def end_with_asker() -> None:
    """In the child: nobody is left who would end it in time, and it holds the database's lock."""

    def wait() -> None:
        os.read(0, 1)  # the asker writes nothing: it ends
        os._exit(1)

    threading.Thread(target=wait, name="runwire-asker", daemon=True).start()


if __name__ == "__main__":
    end_with_asker()
    sys.stdout.write(json.dumps(look(Path(sys.argv[2]), sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # whatever became of the engine
