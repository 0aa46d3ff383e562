"""The consumer dies at every effect of a transaction, for real; afterwards every row is there once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from runwire_consumer.service import Service
from runwire_consumer.sources.directory import DirectorySource
from runwire_consumer.store import Store
from runwire_schemas.envelope import Envelope
from runwire_schemas.folder import encode_block, file_header
from tests.consumer.telling import DAY_ONE, Emitter

SYNC = b"0123456789abcdef"
EFFECTS = (
    "BEGIN",
    "INSERT INTO store.offsets",
    "INSERT INTO store.points",
    "MERGE INTO store.ledger",
    "COMMIT",
    "after",
)

# A consumer that kills itself (SIGKILL) at the n-th statement that begins with given words, or right after a COMMIT.
DOOMED = """
import asyncio, os, signal, sys
from pathlib import Path
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources.directory import DirectorySource
from runwire_consumer.store import Store

folder, database, words, at = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

class Doomed:
    def __init__(self, connection):
        self.connection, self.seen = connection, 0
    def __getattr__(self, name):
        return getattr(self.connection, name)
    def execute(self, sql, *args):
        wanted = "COMMIT" if words == "after" else words
        meets = sql.strip().startswith(wanted)
        self.seen += meets
        if meets and self.seen == at and words != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        done = self.connection.execute(sql, *args)
        if meets and self.seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

store = Store.open(database)
store._writer = Doomed(store._writer)
limits = ServiceLimits(batch_seconds=0.0, batch_messages_max=1, batch_bytes_max=1)
asyncio.run(Service(store, [DirectorySource(folder, "dir:topic")], limits=limits).run_once())
"""


def test_killed_at_every_effect(tmp_path: Path) -> None:
    """SIGKILL before, inside and after a transaction; blocks arrive between the lives."""
    topic, database = tmp_path / "topic", tmp_path / "runwire.duckdb"
    topic.mkdir()
    program = tmp_path / "doomed.py"
    program.write_text(DOOMED)
    run, rows = Emitter("a"), 0
    for number, words in enumerate(EFFECTS):
        messages = [run.logs({step: {"loss": float(step)} for step in range(50)}) for _ in range(4)]
        rows += 200
        pairs = [(Envelope.from_headers(one.headers), one.payload) for one in messages]  # type: ignore[arg-type]
        blocks = b"".join(encode_block([pair], DAY_ONE, SYNC) for pair in pairs)
        (topic / f"s-{number:06d}.avro").write_bytes(file_header(SYNC) + blocks)
        died = subprocess.run(
            [sys.executable, program, topic, database, words, "1"], capture_output=True, text=True, check=False
        )
        assert died.returncode == -9, died.stderr
    asyncio.run(Service(Store.open(database), [DirectorySource(topic, "dir:topic")]).run_once())
    store = Store.open(database)
    cursor = store.cursor()
    assert cursor.execute("SELECT count(*), count(DISTINCT seq) FROM store.points").fetchall() == [(rows, rows)]
    assert cursor.execute("SELECT first_seq, end_seq, disposition FROM store.ledger").fetchall() == [
        (0, rows, "stored")
    ]
    offsets = dict(cursor.execute('SELECT "partition", next_offset FROM store.offsets').fetchall())
    assert offsets == {path.name: path.stat().st_size for path in topic.iterdir()}
    store.close()
