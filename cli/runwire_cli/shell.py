"""`runwire shell`: a snapshot in the plain `duckdb` shell, read-only, in a process of its own.

The live file is never opened: its consumer goes on, and what is asked here, however heavy, costs it nothing but the
snapshot. The snapshot is linked beside the others first, so that their rotation doesn't take it away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from runwire_cli.errors import CommandError
from runwire_cli.output import Output
from runwire_cli.settings import CommandSettings
from runwire_cli.snapshots import taken_now
from runwire_consumer.snapshot_files import listed

FRESH_SECONDS = 60.0
_MOMENT = "%Y-%m-%d %H:%M:%S UTC"
_PROMPT, _MORE = "runwire> ", "    ...> "


def shell(settings: CommandSettings, output: Output, query: str | None, *, newest: bool) -> int:
    """Open a snapshot and ask it; returns the exit code.

    Args:
        settings: Whose home.
        output: Where it is said how old the snapshot is.
        query: Run and end; None asks the person.
        newest: Take the newest snapshot, whatever its age; else one is made, unless one is a minute old at most.

    Raises:
        CommandError: There is no snapshot here.
        StoreError: None could be taken.
    """
    path, taken_at = _snapshot(settings, output, newest=newest)
    age_seconds = max(0.0, time.time() - taken_at / 1e6)
    moment = datetime.fromtimestamp(taken_at / 1e6, UTC).strftime(_MOMENT)
    output.say(f"A snapshot of {moment}, {age_seconds:,.0f} s old, read-only: {path}")
    with tempfile.TemporaryDirectory(prefix=".shell-", dir=path.parent) as folder:
        held = Path(folder) / "runwire.duckdb"
        try:
            held.hardlink_to(path)
        except OSError:  # a file system without links
            held = path
        program = shutil.which("duckdb")
        if program is not None:
            command = [program, "-readonly", str(held), *(["-c", query] if query is not None else [])]
            # Our times are UTC and have no zone.
            return subprocess.run(command, env={**os.environ, "TZ": "UTC"}, check=False).returncode  # noqa: S603 - duckdb
        return _in_python(held, output, query)


def _snapshot(settings: CommandSettings, output: Output, *, newest: bool) -> tuple[Path, int]:
    if settings.server is None:
        found = listed(settings.home.snapshots)
        if found and (newest or 0 <= time.time() - found[0].taken_at / 1e6 <= FRESH_SECONDS):
            return found[0].path, found[0].taken_at
    with output.waiting("Taking a snapshot …"):
        taken: Mapping[str, object] = taken_now(settings, output)
    path = Path(str(taken["path"]))
    if not path.is_file():
        raise CommandError(
            f"The snapshot {path} lies on the consumer's machine: copy it from there, then open it with duckdb."
        )
    moment = datetime.strptime(str(taken["taken_at"]), _MOMENT).replace(tzinfo=UTC)
    return path, int(moment.timestamp() * 1e6)


def _in_python(path: Path, output: Output, query: str | None) -> int:
    """Without the duckdb program: Python's DuckDB, a statement at a time."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        if query is not None:
            return _show(connection, output, query)
        output.say(
            "There is no `duckdb` program on the PATH: this is Python's. End a statement with ; and leave with Ctrl-D."
        )
        waiting = ""
        while True:
            try:
                waiting += input(_MORE if waiting else _PROMPT) + "\n"
            except EOFError:
                sys.stdout.write("\n")
                return 0
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                waiting = ""
                continue
            if waiting.strip() in {".quit", ".exit"}:
                return 0
            if waiting.rstrip().endswith(";") or not waiting.strip():
                if waiting.strip():
                    _show(connection, output, waiting)
                waiting = ""


def _show(connection: duckdb.DuckDBPyConnection, output: Output, query: str) -> int:
    try:
        result = connection.sql(query)
        if result is not None:
            sys.stdout.write(f"{result}\n")
    except duckdb.Error as error:
        output.say(str(error))
        return 1
    return 0
