"""A slice that is cut off anywhere: nothing of it is there, nothing is lost or twice, and the next start goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runwire_consumer.compaction import Compaction
from runwire_consumer.database import MEMORY
from runwire_consumer.errors import StoreFull
from runwire_consumer.store import Store
from tests.consumer.layouts import TINY, History, make_blocks_small
from tests.consumer.versions import contents


class Cut:
    """A connection whose n-th statement from now on fails."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, left: int) -> None:
        self._connection = connection
        self.tried = self.left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Fail before it when its turn has come; never a ROLLBACK."""
        if not sql.startswith("ROLLBACK"):
            self.left -= 1
            if self.left < 0:
                raise duckdb.IOException("Could not write: No space left on device")
        return self._connection.execute(sql, *parameters)


def test_a_slice_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of its statements, COMMIT too: tables and memory are as before, and the next try does the same slice."""
    store = Store.open(MEMORY)
    make_blocks_small(store.cursor(), monkeypatch)
    history = History(store, 3)
    history.play(20, compacts=False)
    history.end_all()
    writer, slices = store.writer, 0
    while True:
        before, hot = contents(store.cursor()), store.compaction.hot_points
        cut, done = Cut(writer, -1), None
        while cut.left < 0:
            cut = Cut(writer, cut.tried + 1)
            store.compaction._cursor = cut  # type: ignore[assignment]
            try:
                done = store.compaction.step()
            except StoreFull:
                assert contents(store.cursor()) == before
                assert store.compaction.hot_points == hot
        if done is None:
            break
        slices += 1
    assert slices >= 3


def test_what_is_left_to_do_is_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction that begins anew over the same tables knows what the one before it knew."""
    store = Store.open(MEMORY)
    make_blocks_small(store.cursor(), monkeypatch)
    history = History(store, 5)
    for _ in range(6):
        history.play(12)
        anew = Compaction(store.cursor(), store.places, TINY)
        assert anew.hot_points == store.compaction.hot_points
        assert anew._hot == store.compaction._hot
        assert anew._loose == store.compaction._loose
        assert type(store.places)(store.cursor())._restarted == store.places._restarted
        assert type(store.places)(store.cursor()).unsettled == store.places.unsettled


# Forks children that are killed before a statement, and others that look what is left; only they open the file.
KILLER = r"""
import json, os, shutil, signal, sys
from pathlib import Path
from runwire_consumer.doctor.audit import audit
from runwire_consumer.store import Store
from runwire_consumer import rollups
from tests.consumer.layouts import TINY, RELATIONS, everything

folder = Path(sys.argv[1])
rollups.BLOCK_POINTS, rollups.LEVEL_BLOCKS, rollups.SERIES_POINTS_MIN = 4, 2, 3


class Killed:
    def __init__(self, connection, left):
        self.connection, self.left = connection, left

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def execute(self, sql, *parameters):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.connection.execute(sql, *parameters)


def forked(work):
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(into, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    return (json.loads(text) if text else None), os.WIFSIGNALED(status)


def compacted(path, at):
    store = Store.open(path)
    store.compaction.limits = TINY
    killed = Killed(store.writer, at)
    store.compaction._cursor = killed
    store.compaction.step()
    while keys := store.compaction.unsettled():
        from runwire_consumer.compaction import describe
        store.compaction.settle(describe(store.cursor(), keys))
    return at - killed.left


def looked(path):
    store = Store.open(path)
    facts = audit(store.cursor(), deep=True)
    said = hash(repr([everything(store.cursor()), facts.points, facts.rows]))
    return [[one.law for one in facts.anomalies], list(facts.unchecked), said]


def fresh():
    shutil.copy(folder / "original.duckdb", folder / "copy.duckdb")
    (folder / "copy.duckdb.wal").unlink(missing_ok=True)
    return folder / "copy.duckdb"


before, _ = forked(lambda: looked(fresh()))
total, _ = forked(lambda: compacted(fresh(), 10_000))
found = []
for at in range(total + 1):
    path = fresh()
    _, killed = forked(lambda: compacted(path, at))
    found.append([killed == (at < total), forked(lambda: looked(path))[0]])
json.dump([before, found], sys.stdout)
"""


@pytest.mark.timeout(300)
def test_a_consumer_killed_within_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL before any statement: the next start finds every point once, and relations say what they said before."""
    store = Store.open(tmp_path / "original.duckdb")
    make_blocks_small(store.cursor(), monkeypatch)
    history = History(store, 1)
    history.play(20, compacts=False)
    history.end_all()
    store.close()
    program = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], env={"PYTHONHASHSEED": "1"},
    )  # fmt: skip
    before, found = json.loads(program.stdout)
    assert before[:2] == [[], []]
    assert len(found) >= 15
    assert [at for at, one in enumerate(found) if one != [True, before]] == []
