"""After the engine gave up the process ends at once, whoever meets it; the next start has all that was committed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runwire_consumer.errors import StoreLocked
from runwire_consumer.leaving import EXIT_INVALIDATED
from runwire_consumer.lock import LockFile
from runwire_consumer.store import Store

# A consumer whose engine really fails in a checkpoint: its file system is taken away. Then one part asks it something.
DYING = """
import asyncio, sys, threading
from pathlib import Path
import duckdb, httpx
import runwire_consumer.database as database
from runwire_consumer.doctor.order import DoctorOrder
from runwire_consumer.gauges import make_registry
from runwire_consumer.guard import Door
from runwire_consumer.http import Face, build_app
from runwire_consumer.keeping import Keeper
from runwire_consumer.self_metrics import KeepingMetrics
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.snapshots import options_for
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from runwire_consumer.tokens import Token
from tests.consumer.telling import Emitter

home, part = Path(sys.argv[1]), sys.argv[2]
lock_down, database._lock_down = database._lock_down, lambda *_: None
store = Store.open(home / "runwire.duckdb", options_for(home / "snapshots", 0.0))
log = MemoryLog()
log.append(*((m := Emitter("a").logs({0: {"loss": 1.0}})).headers, m.payload))
registry = make_registry(store.cursor)
service = Service(store, [MemorySource(log)], limits=ServiceLimits(tick_seconds=1e9))
keeper = Keeper(service, store, home / "snapshots", KeepingMetrics(registry, lambda: 1), topic=(home, "dir:"))
face = Face(Sandbox(store.cursor), registry, service.unready)
door = Door(Token("x" * 40), "127.0.0.1", frozenset())
client = httpx.AsyncClient(
    transport=httpx.ASGITransport(build_app(face, door)), base_url="http://127.0.0.1",
    headers={"authorization": "Bearer " + "x" * 40},
)

async def story():
    running = asyncio.create_task(service.run(asyncio.Event()))
    while not service.stats.rows:
        await asyncio.sleep(0.01)
    cursor = store.cursor()
    cursor.execute("SET disabled_filesystems='LocalFileSystem'")
    try:
        cursor.execute("CHECKPOINT")
    except duckdb.FatalException:
        print("fatal", flush=True)
    if part == "writer":
        log.append(*((m := Emitter("b").logs({0: {"loss": 1.0}})).headers, m.payload))
    elif part == "query":
        print(await client.post("/api/sql", content="SELECT 1"))
    elif part == "scrape":
        print(await client.get("/metrics"))
    elif part == "snapshot":
        await keeper.snapshot()
    elif part == "doctor":
        await DoctorOrder(store.cursor, "1", service.unready)({})
    elif part == "prune":
        (home / "snapshots").mkdir()
        for day in (1, 2):
            (home / "snapshots" / f"runwire-2023010{day}T000000Z.duckdb").touch()
        await keeper._prune()
    elif part == "order":
        await service.do(lambda writer: writer.store.database.checkpoint())
    await running

asyncio.run(story())
"""


@pytest.mark.parametrize("part", ["writer", "query", "scrape", "snapshot", "doctor", "prune", "order"])
def test_whoever_meets_it_ends_the_process(part: str, tmp_path: Path) -> None:
    """Exit 70, one sentence, no closing; what was committed is there."""
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    (tmp_path / "home").mkdir()
    died = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "home"), part],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert died.returncode == EXIT_INVALIDATED, died.stderr
    assert died.stdout == "fatal\n"
    assert "The process ends; start it again." in died.stderr
    store = Store.open(tmp_path / "home" / "runwire.duckdb")
    assert store.cursor().execute("SELECT count(*) FROM store.rows").fetchall() == [(1,)]
    store.close()


def test_a_stopped_holder_is_told_from_one_that_runs(tmp_path: Path) -> None:
    """SIGSTOP looks like a hang: the refusal says what it is and what lets it go on."""
    program = (
        "import sys; from pathlib import Path; from runwire_consumer.lock import LockFile; "
        "LockFile.acquire(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "runwire.duckdb.lock"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=rf"in use by pid {holder.pid} on [^(]*\.$"):
            LockFile.acquire(path)
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(StoreLocked, match=r"UTC \(it is stopped by a signal: `kill -CONT` lets it go on\)\.$"):
            LockFile.acquire(path)
        holder.send_signal(signal.SIGCONT)
        holder.communicate("")
