"""The audit: nothing is wrong with what the consumer stores, each broken law is seen, time and memory are bounded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer.database import MEMORY
from runwire_consumer.doctor import audit as auditing
from runwire_consumer.doctor.audit import audit
from runwire_consumer.doctor.order import DoctorOrder
from runwire_consumer.doctor.store import LAWS, StoreFacts
from runwire_consumer.errors import ConsumerError
from runwire_consumer.migrations import migrations
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import Emitter, store_all

DEEP_ONLY = {"rows_once", "rows_in_ranges", "points_once", "points_in_rows", "series_true", "pieces_true"}


def told_store() -> Store:
    """Two emitters: one with a start, rows, a dead row and a declared loss, ended 2 rows too early; one that lives."""
    store = Store.open(MEMORY)
    one, two = Emitter("a"), Emitter("b", rank=1)
    messages = [
        one.starts(),
        one.logs({step: {"loss": 1.0, "acc": float("nan")} for step in range(5)}),
        replace(one.logs({9: {"loss": 0.0}}), payload=b"nonsense"),
    ]
    one.seq += 1
    messages.append(one.says(events.RowsLost, first_seq=7, count=1, reason="full"))
    messages.append(one.signals(events.EmitterEnded, next_seq=11, how="finished"))
    messages += [two.starts(), two.logs({step: {"loss": float(step)} for step in range(4)})]
    store_all(store, messages)
    return store


def laws(facts: StoreFacts) -> set[str]:
    """Those that are broken."""
    return {one.law for one in facts.anomalies}


def test_a_sound_store_is_counted() -> None:
    """Nothing is wrong; gaps and dead letters are told."""
    facts = audit(told_store().cursor(), deep=True)
    assert facts.anomalies == ()
    assert facts.unchecked == ()
    assert (facts.version, facts.runs, facts.rows, facts.points) == (migrations()[-1].version, 1, 9, 14)
    assert facts.offsets == (("memory:log", "0", 7),)
    assert facts.gaps == (("aaaaaaaaaaaaaaaa", 2),)
    assert [count for _, count in facts.dead_letters] == [1]


# The last columns say what is seen by counts alone, and what only by looking at each row.
@pytest.mark.parametrize(
    ("broken", "quick", "deep"),
    [
        (
            "DELETE FROM store.rows WHERE emitter_key = 1 AND seq = 2",
            {"rows_counted"},
            {"rows_in_ranges", "points_in_rows"},
        ),
        ("UPDATE store.rows SET seq = 3 WHERE emitter_key = 1 AND seq = 2", set(), {"rows_once", "points_in_rows"}),
        ("INSERT INTO store.rows FROM store.rows WHERE seq = 1", {"rows_counted"}, {"rows_once", "rows_in_ranges"}),
        (
            "UPDATE store.rows SET seq = 70 WHERE emitter_key = 1 AND seq = 4",
            {"rows_inside"},
            {"rows_in_ranges", "points_in_rows"},
        ),
        ("DELETE FROM store.lifecycle WHERE seq = 0 AND emitter_key = 0", {"rows_counted"}, {"rows_in_ranges"}),
        (
            "INSERT INTO store.points FROM store.points WHERE seq = 1 LIMIT 1",
            {"points_counted"},
            {"points_once", "series_true"},
        ),
        ("DELETE FROM store.points WHERE seq = 1", {"points_counted"}, {"series_true"}),
        ("UPDATE store.points SET value = 7 WHERE emitter_key = 1 AND seq = 4", set(), {"series_true"}),
        ("UPDATE store.points SET seq = 3 WHERE emitter_key = 1 AND seq = 2", set(), {"points_once"}),
        ("UPDATE store.series SET points = points + 1 WHERE emitter_key = 1", {"points_counted"}, {"series_true"}),
        (
            "INSERT INTO store.rollups VALUES (1, 0, 0, 0, 5, 0, 4, 0, 4, 0, 0, 0, 1, 1, 0, 0, true)",
            set(),
            {"pieces_true"},
        ),
        ("INSERT INTO store.ledger VALUES (1, 2, 4, 'lost')", {"ranges"}, set()),
        ("UPDATE store.ledger SET disposition = 'gone' WHERE disposition = 'lost'", {"ranges"}, set()),
        ("DELETE FROM store.ledger WHERE emitter_key = 1", {"rows_counted"}, set()),
        ("INSERT INTO store.metrics VALUES (0, 'again')", {"keys_once"}, set()),
        ("INSERT INTO store.runs SELECT 5, run_id, project, NULL FROM store.runs", {"keys_once"}, set()),
        ("DELETE FROM store.emitters WHERE emitter_key = 1", {"keys_known"}, set()),
        ("DELETE FROM store.runs", {"keys_known"}, set()),
        ("UPDATE store.emitters SET next_seq = 3 WHERE emitter_key = 0", {"ends"}, set()),
        ("INSERT INTO store.offsets FROM store.offsets", {"offsets_once"}, set()),
        ("UPDATE store.offsets SET next_offset = -1", {"offsets_once"}, set()),
        ("DELETE FROM store.offsets", {"offsets_there"}, set()),
    ],
)
def test_each_broken_law_is_seen(broken: str, quick: set[str], deep: set[str]) -> None:
    """By counts, or by looking at every row; and nothing else is said to be wrong."""
    store = told_store()
    store.cursor().execute(broken)
    assert laws(audit(store.cursor())) == quick
    assert laws(audit(store.cursor(), deep=True)) == quick | deep


def test_every_law_is_tried() -> None:
    """The audit's queries are those that have sentences."""
    assert {*auditing._QUICK, *auditing._DEEP, *auditing._WHOLE} == set(LAWS)
    assert {*auditing._DEEP, *auditing._WHOLE} == DEEP_ONLY


@pytest.mark.parametrize("slice_points", [1, 3, 1_000])
def test_slices_cover_everything_once(monkeypatch: pytest.MonkeyPatch, slice_points: int) -> None:
    """Whatever the size of a slice, a row that is there twice is counted once."""
    monkeypatch.setattr(auditing, "SLICE_POINTS_MAX", slice_points)
    store = told_store()
    assert audit(store.cursor(), deep=True).anomalies == ()
    store.cursor().execute("INSERT INTO store.points FROM store.points")
    counts = {one.law: one.count for one in audit(store.cursor(), deep=True).anomalies}
    assert counts["points_once"] == 14


def test_out_of_time_is_told() -> None:
    """What could not be looked at any more is no anomaly and no lie."""
    facts = audit(told_store().cursor(), deep=True, stopped=lambda: True, seconds_max=1e-9)
    assert facts.anomalies == ()
    assert all(one.endswith("out of time") for one in facts.unchecked)


def test_a_query_that_fails_costs_only_itself() -> None:
    """A store without one of its tables is looked at as far as it goes."""
    store = told_store()
    store.cursor().execute("DROP VIEW main.emitters CASCADE")
    store.cursor().execute("DROP TABLE store.dead_letters CASCADE")
    facts = audit(store.cursor())
    assert {one.partition(":")[0] for one in facts.unchecked} == {"gaps", "dead letters"}
    assert facts.rows == 9


def test_the_audit_sees_one_moment_while_the_writer_goes_on() -> None:
    """Rows that come between two of its queries are in none of them."""
    store, one = told_store(), Emitter("c")

    class Nosy:
        """Writes more before each query of the audit."""

        def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
            self.cursor = cursor
            self.begun = False

        def execute(self, sql: str, params: object = None) -> duckdb.DuckDBPyConnection:
            if self.begun:
                store_all(store, [one.logs({1: {"loss": 1.0}})])
            self.begun = sql.startswith("SELECT value") or self.begun
            return self.cursor.execute(sql, params)

        def interrupt(self) -> None:
            self.cursor.interrupt()

    facts = audit(Nosy(store.cursor()), deep=True)  # type: ignore[arg-type]
    assert facts.anomalies == ()
    assert audit(store.cursor(), deep=True).rows > facts.rows


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Batches, records, losses and garbage of three emitters, some again, some cut anew, some late or never."""
    emitters = [Emitter(letter, rank=rank) for rank, letter in enumerate("abc")]
    said: list[Message] = []
    for _ in range(draw(st.integers(1, 25))):
        one = draw(st.sampled_from(emitters))
        count = draw(st.integers(1, 4))
        rows = {step: {"loss": float(step), **({"acc": 1.0} if step % 2 else {})} for step in range(count)}
        match draw(st.sampled_from(["log", "log", "log", "record", "again", "recut", "dead", "skip", "lost", "end"])):
            case "log":
                said.append(one.logs(rows))
            case "record":
                said.append(one.says(events.ParamsLogged, params={"lr": 1.0}))
            case "again" if said:
                said.append(draw(st.sampled_from(said)))
            case "recut" if one.seq > 1:
                first = draw(st.integers(0, one.seq - 1))
                said.append(replace(one.logs(rows), payload=b"?") if first == 0 else _again_from(one, first, rows))
            case "dead":
                said.append(replace(one.logs(rows), payload=b"garbage"))
            case "skip":
                one.seq += count
            case "lost" if one.seq:
                first = draw(st.integers(0, one.seq - 1))
                said.append(one.says(events.RowsLost, first_seq=first, count=count, reason="full"))
            case "end":
                said.append(one.signals(events.EmitterEnded, next_seq=one.seq + 100, how="crashed"))
            case _:
                pass
    return said


def _again_from(one: Emitter, first: int, rows: dict[int, dict[str, float]]) -> Message:
    """A batch that begins among rows that were told before."""
    other = replace(one, seq=first)
    message = other.logs(rows)
    one.seq = max(one.seq, other.seq)
    return message


@settings(max_examples=25, deadline=None)
@given(histories(), st.integers(1, 6))
def test_nothing_is_ever_wrong_with_what_the_consumer_stores(messages: list[Message], cut: int) -> None:
    """Whatever comes, in whatever transactions: every law holds."""
    store = Store.open(MEMORY)
    for start in range(0, len(messages), cut):
        store_all(store, messages[start : start + cut])
    assert audit(store.cursor(), deep=True).anomalies == ()
    store.close()


async def test_the_order_answers_one_at_a_time() -> None:
    """What the consumer tells over HTTP; a second question waits for nobody, a closing store stops it."""
    store = told_store()
    order = DoctorOrder(store.cursor, "1.0", lambda: "The disk is full.")
    answer = await order({"deep": True})
    assert (answer["version"], answer["trouble"]) == ("1.0", "The disk is full.")
    assert StoreFacts.of(answer["facts"]).rows == 9
    first = asyncio.create_task(order({}))
    await asyncio.sleep(0)
    with pytest.raises(ConsumerError, match="already"):
        await order({})
    await first
    with pytest.raises(ConsumerError, match="'deep' is true or false"):
        await order({"deep": 1})
    order.stop()
    assert (await order({}))["facts"]["unchecked"]
