"""Orders and exports beside a running consumer: it shows an edit at once, and forgets what is deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from runwire_cli.entry import run
from tests.cli.data_home import ended, send
from tests.consumer.telling import Emitter
from tests.services.consumer import ConsumerProcess
from tests.services.process import wait_until


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[ConsumerProcess]:
    """One that reads the home's topic folder."""
    home = tmp_path / "home"
    with ConsumerProcess(f"dir:{home / 'topic'}", home=home) as started:
        yield started


def test_edit_export_archive_delete(
    consumer: ConsumerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each command's answer is true when it returns; gauges follow at once, and the points leave the file."""
    for name in [name for name in os.environ if name.startswith("RUNWIRE_")]:
        monkeypatch.delenv(name)
    done, going = Emitter("a", "done"), Emitter("b", "going", started=9)
    send(
        consumer.home,
        [done.starts(name="one"), done.logs({step: {"loss": 1.0 / 3} for step in range(99)}), *ended(done)],
    )
    send(consumer.home, [going.starts(name="two"), going.logs({step: {"loss": 1.0} for step in range(5)})])

    def ask(*words: str, code: int = 0) -> Any:
        assert run([*words, "--home", str(consumer.home)]) == code
        out = capfd.readouterr().out
        return json.loads(out) if "--json" in words else out

    def metrics() -> str:
        return httpx.get(f"http://{consumer.address}/metrics").text

    wait_until(lambda: consumer.sql("SELECT count(*) AS n FROM metrics")[0]["n"] == 104, what="rows in SQL")
    assert 'run="two"' in metrics()
    assert ask("edit", "two", "--name", "Zwei", "--tag", "+a", "--json") == {
        "run_id": "going", "name": "Zwei", "tags": ["a"], "applied": True,
    }  # fmt: skip
    assert ask("edit", "Zwei", "--tag", "+b", "--json")["tags"] == ["a", "b"]
    told = metrics()
    assert ('run="Zwei"' in told, 'run="two"' in told) == (True, False)

    ask("export", "done", "-o", str(tmp_path / "done"))
    points = pq.read_table(tmp_path / "done" / "points.parquet")
    assert points.column("value").to_pylist() == [1.0 / 3] * 99
    (archived,) = ask("archive", "done", "--to", str(tmp_path / "kept"), "--delete", "--yes", "--json")
    assert (archived["receipt"], archived["deleted"], archived["files"]["points"]["rows"]) == ("complete", True, 99)

    assert ask("delete", "going", "--yes", "--json") == {"deleted": ["going"], "applied": True}
    assert "runwire_run_info{" not in metrics()
    send(consumer.home, [going.logs({9: {"loss": 1.0}})])
    gone = "SELECT run_id, points, reason FROM removals WHERE time IS NOT NULL ORDER BY run_id"
    wait_until(lambda: len(consumer.sql(gone)) == 2, what="the points gone")
    assert consumer.sql(gone) == [
        {"run_id": "done", "points": 99, "reason": "archived"}, {"run_id": "going", "points": 5, "reason": None},
    ]  # fmt: skip
    assert consumer.sql("SELECT count(*) AS n FROM metrics") == [{"n": 0}]
