"""A home whose topic folder grows, a store that reads it, and everything that the store says, in a form to compare."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from runwire_consumer.repair import open_store
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.snapshot_files import Snapshot
from runwire_consumer.snapshots import options_for, take
from runwire_consumer.sources.directory import DirectorySource
from runwire_consumer.store import Store
from runwire_schemas.envelope import Envelope
from runwire_schemas.folder import encode_block, file_header
from tests.consumer.telling import DAY_ONE, SECOND, Emitter

SYNC = b"0123456789abcdef"
SOURCE = "dir:topic"
_KEYLESS = """
    SELECT 'row' AS what, e.emitter_id, r.seq::VARCHAR, r.step::VARCHAR, r.time::VARCHAR
    FROM store.rows r JOIN store.emitters e USING (emitter_key)
    UNION ALL
    SELECT 'point', e.emitter_id, p.seq::VARCHAR, m.name, p.value::VARCHAR
    FROM store.points p JOIN store.emitters e USING (emitter_key) JOIN store.metrics m USING (metric_key)
    UNION ALL
    SELECT 'series', e.emitter_id, m.name, s.points || ' ' || s.first_seq || ' ' || s.last_seq, s.last_value::VARCHAR
    FROM store.series s JOIN store.emitters e USING (emitter_key) JOIN store.metrics m USING (metric_key)
    UNION ALL
    SELECT 'range', e.emitter_id, l.first_seq::VARCHAR, l.end_seq::VARCHAR, l.disposition
    FROM store.ledger l JOIN store.emitters e USING (emitter_key)
    UNION ALL
    SELECT 'record', e.emitter_id, l.seq::VARCHAR, l.type, l.body
    FROM store.lifecycle l JOIN store.emitters e USING (emitter_key)
    UNION ALL
    SELECT 'run', run_id, project, '', '' FROM store.runs
    UNION ALL
    SELECT 'offset', source, "partition", next_offset::VARCHAR, anchor FROM store.offsets
"""


@dataclass
class TopicHome:
    """A folder with `topic`, `runwire.duckdb` and `snapshots`.

    Attributes:
        path: The folder.
        now: The clock of snapshots and repairs, microseconds; it moves on with each use.
        said: Sentences of repairs.
    """

    path: Path
    now: int = DAY_ONE
    said: list[str] = field(default_factory=list)
    emitters: list[Emitter] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the folder of the topic."""
        (self.path / "topic").mkdir(parents=True, exist_ok=True)

    @property
    def topic(self) -> Path:
        """The topic folder."""
        return self.path / "topic"

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots."""
        return self.path / "snapshots"

    @property
    def database(self) -> Path:
        """The file."""
        return self.path / "runwire.duckdb"

    def sends(self, rows: int, letter: str = "a") -> None:
        """An emitter logs so many rows, one block each ten; the first time it says that it starts."""
        run = next((one for one in self.emitters if one.letter == letter), None)
        messages = []
        if run is None:
            run = Emitter(letter, run_id=letter * 16)
            self.emitters.append(run)
            messages.append(run.starts())
        for _ in range(0, rows, 10):
            first = run.seq
            messages.append(run.logs({step: {"loss": 1.0 / (step + 1)} for step in range(first, first + 10)}))
        pairs = [(Envelope.from_headers(one.headers), one.payload) for one in messages]  # type: ignore[arg-type]
        path = self.topic / f"{letter}-000000.avro"
        with path.open("ab") as file:
            if not file.tell():
                file.write(file_header(SYNC))
            for pair in pairs:
                file.write(encode_block([pair], DAY_ONE, SYNC))

    def tick(self) -> int:
        """A second later."""
        self.now += SECOND
        return self.now

    def open(self) -> Store:
        """Open the store as `runwire up` does, repairs included."""
        options = options_for(self.snapshots, 5.0)
        store, _ = open_store(self.database, options, self.tick, self.said.append)
        return store

    def ingest(self) -> None:
        """Read what waits, close."""
        limits = ServiceLimits(batch_seconds=0.0, batch_messages_max=5)
        source = DirectorySource(self.topic, SOURCE)
        asyncio.run(Service(self.open(), [source], limits=limits, clock=lambda: self.now).run_once())

    def snapshot(self) -> Snapshot:
        """Take one of the closed file."""
        store = self.open()
        try:
            return take(store.database, self.snapshots, self.tick())
        finally:
            store.close()

    def content(self) -> list[tuple[str, ...]]:
        """Everything that is stored, by the names that messages carry: keys depend on the order of arrival."""
        store = self.open()
        try:
            return sorted(store.cursor().execute(_KEYLESS).fetchall())
        finally:
            store.close()

    def rows_expected(self) -> int:
        """How many rows were sent."""
        return sum(one.seq for one in self.emitters)


def told_anew(folder: Path, like: TopicHome) -> list[tuple[str, ...]]:
    """What a store says that reads the same topic and never crashed."""
    other = TopicHome(folder)
    for path in like.topic.iterdir():
        (other.topic / path.name).write_bytes(path.read_bytes())
    other.ingest()
    return other.content()
