"""From `runwire.init` to SQL inside one process: the real library, the in-memory transport, the real consumer."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import runwire
import runwire.testing
from runwire_consumer.service import Service
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store


def materialize(captured: runwire.testing.Captured, path: Path) -> Store:
    """A store that has read these messages twice over, as after a sender's crash."""
    log = MemoryLog()
    for message in [*captured.messages, *captured.messages]:
        log.append(message.envelope.to_headers(), message.payload, partition="0")
    asyncio.run(Service(Store.open(path), [MemorySource(log)]).run_once())
    return Store.open(path)


def test_what_a_trainer_logs_is_in_sql(tmp_path: Path) -> None:
    """Parameters, definitions, odd values and the end; every row once although every message came twice."""
    with runwire.testing.capture() as captured:
        with runwire.init(project="p", name="n", params={"lr": 0.5}, url=captured.url, home=tmp_path / "home") as run:
            run.define("acc", best="max")
            for step in range(10):
                run.log({"loss": 1.0 / (step + 1), "acc": step / 10}, step=step)
            run.log({"loss": math.nan}, step=10)
        store = materialize(captured, tmp_path / "runwire.duckdb")
    cursor = store.cursor()
    found = cursor.execute("SELECT project, name, state, params['lr'], best['acc'], points FROM runs").fetchall()
    assert found == [("p", "n", "finished", "0.5", 0.9, 21)]
    assert cursor.execute("SELECT missing, dead, lost, complete FROM emitters").fetchall() == [(0, 0, 0, True)]
    values = cursor.execute("SELECT value FROM curves WHERE metric = 'loss' ORDER BY step").fetchall()
    assert repr([value for (value,) in values]) == repr([*(1.0 / (step + 1) for step in range(10)), math.nan])
    store.close()
