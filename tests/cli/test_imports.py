"""What a command imports: starting it must not cost what it doesn't use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runwire_cli.client import ServerFile
from runwire_consumer.http import Order
from tests.cli.commands import clean_environment
from tests.cli.face import TOKEN, served
from tests.consumer.small_store import DIGITS, small_store

COSTLY = (
    "aiokafka", "asyncio", "duckdb", "fastavro", "httpx", "numpy", "prometheus_client", "psutil", "pyarrow", "rich",
    "runwire", "runwire_consumer", "starlette", "typer", "uvicorn",
)  # fmt: skip
PROGRAM = """
import sys
from runwire_cli.entry import run
code = run(sys.argv[2:])
print(*(name for name in sys.argv[1].split() if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""
ASKING = {"typer", "rich", "runwire", "runwire_consumer"}
REPLAYED = {"replayed": 0, "rows": 0, "points": 0, "duplicates": 0, "dead": 0, "not_whole": 0, "settled": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which a consumer runs that takes orders."""
    folder = tmp_path_factory.mktemp("imports") / "home"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)

    async def taken(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"path": "/a", "taken_at": "today", "bytes": 1}

    async def replayed(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**REPLAYED, "reasons": []}

    async def discarded(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"discarded": 0, "settled": 0}

    orders: dict[str, Order] = {
        "snapshots": taken, "dead-letters/replay": replayed, "dead-letters/discard": discarded,
    }  # fmt: skip
    database = small_store()
    with served(database, orders=orders) as port:
        ServerFile("127.0.0.1", port, 1).write(folder)
        yield folder
    database.close()


@pytest.mark.parametrize(
    ("arguments", "may"),
    [
        ("--help", {"typer"}),
        ("runs --help", {"typer"}),
        ("dead-letters list --help", {"typer"}),
        ("--version", {"typer", "runwire"}),
        ("runs", ASKING),
        (f"show {DIGITS}", ASKING),
        ("watch --once", ASKING),
        (f"watch {DIGITS}", ASKING),
        ("sql SELECT(1)", ASKING),
        ("sql SELECT(1) --csv", ASKING),
        (f"verify {DIGITS}", ASKING),
        ("dead-letters list", ASKING),
        ("dead-letters replay --all", ASKING),
        ("dead-letters discard --all", ASKING),
        ("snapshot", ASKING),
        ("snapshot --list", ASKING),
        ("sync", {"typer", "runwire", "asyncio", "fastavro"}),
        ("doctor", ASKING | {"duckdb", "fastavro"}),
        ("nothing", {"typer", "runwire", "runwire_consumer"}),
    ],
)
def test_a_command_imports_only_what_it_may(home: Path, arguments: str, may: set[str]) -> None:
    """Who only asks a consumer needs neither engine nor columns; help needs nothing at all."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, " ".join(COSTLY), *arguments.split()],
        env=clean_environment(home), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1, 2}, done.stderr
    assert "Traceback" not in done.stderr
    assert set(done.stderr.splitlines()[-1].split()) - may == set()
