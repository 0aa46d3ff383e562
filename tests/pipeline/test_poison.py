"""Hostile messages through the real consumer's path: none crashes it, none is lost, none touches what others sent."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runwire_consumer.change import Counts
from runwire_consumer.decode import Decoded, decode
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer
from runwire_schemas import codec, columns
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import Lifecycle, MetricBatch
from tests.pipeline.poison import TIME, Poison

MOMENT = Moment(TIME + 10**12, at_tail=False, judged_at=TIME + 10**12)
ALWAYS_DEAD = {"noise", "cut", "slander"}
PARTITIONS = 3


@dataclass
class Tally:
    """What was sent, and what the store says that it did."""

    sent: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    done: list[Counts] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def total(self, name: str) -> int:
        """Of all transactions."""
        return sum(getattr(counts, name) for counts in self.done)


def poisoned(path: Path, poison: Poison, count: int, batch: int) -> tuple[Store, Tally]:
    """Write so many messages in batches."""
    writer, tally = Writer(Store.open(path)), Tally()
    source = poison.messages(count)
    while sent := list(itertools.islice(source, batch)):
        messages = []
        for headers, payload, kind in sent:
            part = str(tally.sent.total() % PARTITIONS)
            at = tally.ends[part]
            tally.ends[part] += 1
            tally.sent[kind] += 1
            messages.append(Message("memory:poison", part, at, at + 1, TIME, headers, payload))
            found = decode(messages[-1])
            if isinstance(found, Decoded):
                tally.rows += _rows(found)
            else:
                tally.dead[kind] += 1
        tally.done += writer.write(messages, MOMENT)
    return writer.store, tally


def _rows(found: Decoded) -> int:
    if isinstance(found.event, MetricBatch):
        return found.event.count
    return 1 if isinstance(found.event, Lifecycle) else 0


def check(store: Store, tally: Tally, poison: Poison) -> None:
    """Nothing lost, nothing twice; the honest have every row."""
    cursor = store.cursor()

    def one(sql: str) -> tuple[int, ...]:
        return tuple(int(value or 0) for value in cursor.execute(sql).fetchall()[0])

    sent = tally.sent.total()
    assert tally.total("messages") == sent
    ends = {part: end for _, part, end, _ in cursor.execute("FROM store.offsets").fetchall()}
    assert ends == dict(tally.ends)
    # A message is a dead letter, or its rows are stored or were there before.
    dead = tally.total("dead_letters")
    assert one("SELECT count(*), count(DISTINCT letter_id), count(DISTINCT letter_key) FROM store.dead_letters") == (
        dead, dead, dead,
    )  # fmt: skip
    assert dead >= tally.dead.total()
    aliens = one("SELECT count(*) FROM store.dead_letters WHERE reason LIKE '%already belongs%'")[0]
    refused = one("SELECT count(*) FROM store.dead_letters WHERE reason LIKE 'The store%'")[0]
    assert (dead - tally.dead.total(), refused) == (aliens, 0)
    rows_of_aliens = one(
        "SELECT sum(CASE WHEN type IN ('Heartbeat', 'EmitterEnded') THEN 0 ELSE count END) FROM store.dead_letters "
        "WHERE reason LIKE '%already belongs%'"
    )[0]
    assert tally.total("rows") + tally.total("duplicates") == tally.rows - rows_of_aliens
    # The tables agree with each other and with the ledger.
    rows, points = tally.total("rows"), tally.total("points")
    disagreeing = """
        WITH told AS (
            SELECT emitter_key, sum(end_seq - first_seq) AS n
            FROM store.ledger WHERE disposition = 'stored' GROUP BY ALL
        ),
        found AS (
            SELECT emitter_key, count(*) AS n
            FROM (SELECT emitter_key FROM store.rows UNION ALL SELECT emitter_key FROM store.lifecycle) GROUP BY ALL
        )
        SELECT count(*) FROM told FULL JOIN found USING (emitter_key)
            LEFT JOIN store.emitters USING (emitter_key) LEFT JOIN store.runs USING (run_key)
        -- What came for a run that somebody had deleted counts as stored, and isn't there.
        WHERE CASE WHEN deleted_at IS NULL THEN told.n IS DISTINCT FROM found.n ELSE coalesce(found.n, 0) > told.n END
    """
    assert one(disagreeing) == (0,)
    assert one("SELECT count(*) FROM store.points") == one("SELECT sum(points) FROM store.series") == (points,)
    assert one("SELECT sum(end_seq - first_seq) FROM store.ledger WHERE disposition = 'stored'") == (rows,)
    overlaps = """
        SELECT count(*) FROM (
            SELECT first_seq < lag(end_seq) OVER (PARTITION BY emitter_key ORDER BY first_seq) AS doubled
            FROM store.ledger
        ) WHERE doubled
    """
    assert one(overlaps) == (0,)
    # What is kept whole is there, and nothing else.
    assert one("SELECT count(*) FROM store.letter_payloads") == one("SELECT sum(whole::INT) FROM store.dead_letters")
    for honest in poison.honest:
        found = cursor.execute(
            "SELECT count(*), count(DISTINCT seq), max(seq) + 1, "
            "bool_and(metric = 'loss' AND step = seq AND value = ? + seq) FROM metrics WHERE emitter_id = ?",
            [1_000.0 * honest.number, honest.emitter_id],
        ).fetchall()
        assert found == [(honest.seq, honest.seq, honest.seq, True)]


@pytest.mark.parametrize("seed", [1, 2])
def test_poison_costs_only_itself(tmp_path: Path, seed: int) -> None:
    """10,000 messages, mutated in every way, with honest ones among them."""
    poison = Poison(seed)
    store, tally = poisoned(tmp_path / "runwire.duckdb", poison, 10_000, 2_500)
    check(store, tally, poison)
    assert {kind: tally.sent[kind] - tally.dead[kind] for kind in ALWAYS_DEAD} == dict.fromkeys(ALWAYS_DEAD, 0)
    assert tally.dead["honest"] == 0
    store.close()


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_million_messages(tmp_path: Path) -> None:
    """The same, many times over; minutes of one core."""
    poison = Poison(3)
    store, tally = poisoned(tmp_path / "runwire.duckdb", poison, 1_000_000, 20_000)
    check(store, tally, poison)
    store.close()


def test_both_decoders_agree_about_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectorised decoder takes what the reference takes, value for value, but for what would cost too much."""
    monkeypatch.setattr(columns, "_SMALL_BYTES", 0)
    header = columns.encode_batch(MetricBatch("", "", 0, 0, ()))[:10]
    compared = 0
    for _, payload, _ in Poison(4).messages(10_000):
        if not payload.startswith(header):
            continue
        compared += 1
        try:
            slow: tuple[object, ...] | None = _plain(codec.decode(payload))
        except DecodeError:
            slow = None
        try:
            fast: tuple[object, ...] | None = _plain(columns.decode_batch(payload))
        except DecodeError as error:
            fast = None if "more blocks, keys and parts" not in str(error) else slow
        assert fast == slow
    assert compared > 2_000


def _plain(batch: object) -> tuple[object, ...]:
    assert isinstance(batch, MetricBatch)
    blocks = [
        (block.keys, list(map(int, block.steps)), list(map(int, block.times)), [float(v).hex() for v in block.values])
        for block in batch.blocks
    ]
    return batch.run_id, batch.emitter_id, batch.rank, batch.first_seq, blocks
