"""Forgetting: what has settled leaves memory, and nobody can tell by what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire_consumer.catalog import EMITTER_COLUMNS, NAME_CHARACTERS_MAX
from runwire_consumer.database import MEMORY
from runwire_consumer.ledger import Ledger, Range
from runwire_consumer.remembered import Keys
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.watch import Watch
from runwire_consumer.writing import Moment, Writer
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, in_log

SIGNS = {"seen_at", "row_time", "assigned_seq", "journal_rows"}
TABLES = (
    "offsets", "runs", "starts", "metrics", "rows", "points", "series", "ledger", "lifecycle", "dead_letters",
    "run_states", "edits", "losses",
)  # fmt: skip

LETTERS = "abcdef"  # a and b are two ranks of one run, the others a run each
NAMES = ("loss", "acc", "lr")


def ranges_of(ledger: Ledger | None) -> list[Range]:
    """A ledger's ranges; an emitter without rows may have no ledger."""
    return ledger.ranges() if ledger else []


@dataclass
class Consumer:
    """A writer that forgets everything settled after every batch, or nothing at all."""

    forgetful: bool
    store: Store = field(default_factory=lambda: Store.open(MEMORY))

    def __post_init__(self) -> None:
        """Begin with an empty store."""
        self.writer = Writer(self.store)
        catalog = self.store.catalog
        if self.forgetful:
            catalog.run_keys, catalog.metric_keys = Keys(0, 0), Keys(0, 0)
        most = 0 if self.forgetful else 10**9
        self.writer._watch = Watch(self.store.cursor(), catalog, most)

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything stored but how recently emitters were seen, which is written once a second only."""
        cursor = self.store.cursor()
        columns = ", ".join(f'"{name}"' for name in EMITTER_COLUMNS if name not in SIGNS)
        found = {name: sorted(cursor.execute(f"FROM store.{name}").fetchall(), key=repr) for name in TABLES}
        found["emitters"] = cursor.execute(f"SELECT {columns} FROM store.emitters ORDER BY emitter_key").fetchall()  # noqa: S608
        return found

    def emitters(self) -> list[tuple[Any, ...]]:
        """Every emitter with all that is known of it, stored or not yet, and its ledger."""
        catalog = self.store.catalog
        catalog.fetch(self.store.cursor(), [letter * 32 for letter in LETTERS])
        return sorted(
            (*(getattr(one, name) for name in EMITTER_COLUMNS), *ranges_of(catalog.ledgers.get(one.emitter_key)))
            for one in catalog.emitters.values()
        )


STEP = st.tuples(
    st.sampled_from(("starts", "logs", "beats", "ends", "fails", "leaves", "edits")), st.sampled_from(LETTERS)
)
AGAIN = st.tuples(st.just("again"), st.integers(0, 200))
GARBLED = st.tuples(st.just("garbled"), st.sampled_from(LETTERS))
BATCH = st.tuples(
    st.lists(st.one_of(STEP, STEP, STEP, AGAIN, GARBLED), max_size=4),
    st.sampled_from((0, 0.3, 2, 20, 60)),
    st.sampled_from((True, True, True, False)),
)


def tell(history: list[tuple[list[tuple[Any, ...]], float, bool]]) -> Iterator[tuple[list[Message], Moment]]:
    """The history's batches with the moment each is written at; without a clock the log can't be reached."""
    emitters = {
        letter: Emitter(letter, run_id=("a" if letter in "ab" else letter) * 16, rank=int(letter == "b"))
        for letter in LETTERS
    }
    said: list[Message] = []
    now, offset = DAY_ONE, 0
    for steps, seconds, reachable in history:
        now += int(seconds * SECOND)
        batch: list[Message] = []
        for kind, who in steps:
            message = said[who % len(said)] if kind == "again" and said else None
            if kind != "again":
                message = say(emitters[who], kind)
            if message is not None:
                said.append(message)
                batch.append(replace(message, appended_at=now))
        yield in_log(batch, offset), Moment(now, at_tail=True, judged_at=now if reachable else None)
        offset += len(batch)


def say(emitter: Emitter, kind: str) -> Message:
    """One message of an emitter."""
    if kind == "starts":
        return emitter.starts()
    if kind == "logs":
        return emitter.logs({emitter.seq: {NAMES[emitter.seq % 3]: 1.0, "all": float(emitter.seq)}})
    if kind == "beats":
        return emitter.signals(events.Heartbeat, next_in_seconds=5.0, next_seq=emitter.seq)
    if kind == "ends":
        return emitter.says(events.RunEnded, status="finished")
    if kind == "fails":
        return emitter.says(events.RunEnded, status="failed", error="planted")
    if kind == "edits":
        return emitter.says(events.RunEdited, name="other")
    if kind == "garbled":
        return replace(emitter.logs({emitter.seq: {"loss": 0.0}}), payload=b"?")
    return emitter.signals(events.EmitterEnded, next_seq=emitter.seq, how="crashed")


@given(st.lists(BATCH, max_size=12))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nobody_can_tell_that_something_was_forgotten(history: list[Any]) -> None:
    """After every batch both stores are the same, whatever comes late, again, damaged, or while the log is away."""
    forgetful, mindful = Consumer(forgetful=True), Consumer(forgetful=False)
    for batch, moment in tell(history):
        for consumer in (forgetful, mindful):
            if batch:
                consumer.writer.write(batch, moment)
            else:
                consumer.writer.tick(moment)
        assert forgetful.contents() == mindful.contents()
    assert forgetful.emitters() == mindful.emitters()
    forgetful.writer.close()
    mindful.writer.close()


def test_what_has_settled_leaves_memory() -> None:
    """A hundred runs that ended one after the other leave what the bound allows; one that lives stays whole."""
    store = Store.open(MEMORY)
    writer = Writer(store)
    watch = writer._watch = Watch(store.cursor(), store.catalog, 10)
    catalog = store.catalog
    alive = [Emitter("y", run_id="z" * 16), Emitter("z", run_id="z" * 16, rank=1)]
    moment = Moment(DAY_ONE + 1_000 * SECOND, at_tail=True, judged_at=DAY_ONE + 1_000 * SECOND)
    offset = 0
    most = 0
    for number in range(100):
        run = Numbered("x", run_id=f"{number:016x}")
        batch = [one.logs({1: {"loss": 1.0}}) for one in alive]
        batch += [run.starts(), run.says(events.RunEnded, status="finished")]
        writer.write(in_log(batch, offset), moment)
        offset += len(batch)
        most = max(most, len(catalog.emitters))
        assert {one.emitter_id for one in alive} <= catalog.emitters.keys()
    assert most == 2 + 10
    assert len(catalog.ledgers) == len(catalog.emitters)
    assert len(watch._states) == len(watch._members) == len(catalog.emitters) - 1
    assert store.cursor().execute("SELECT count(*), count(DISTINCT run_id) FROM store.runs").fetchall() == [(101, 101)]
    writer.close()


def test_signs_of_life_that_wait_keep_nothing_in_memory() -> None:
    """Runs whose last sign of life isn't written yet, and runs that a log brings again, settle and leave, too."""
    store = Store.open(MEMORY)
    writer = Writer(store)
    writer._watch = Watch(store.cursor(), store.catalog, 10)
    told: list[Message] = []
    offset, now = 0, DAY_ONE
    for number in range(60):
        run = Numbered("x", run_id=f"{number:016x}")
        now += 60 * SECOND  # the runs before are lost
        for later in (0, SECOND // 2):
            batch = [replace(run.logs({later: {"loss": 1.0}}), appended_at=now + later)]
            told += batch
            writer.write(in_log(batch, offset), Moment(now + later, at_tail=False, judged_at=now + later))
            offset += len(batch)
    assert len(store.catalog.emitters) <= 20
    seen = "SELECT count(*) FROM store.emitters WHERE seen_at % 1_000_000 <> 0"
    assert store.cursor().execute(seen).fetchall()[0][0] >= 40  # the last sign is written before it is forgotten
    for message in told:
        writer.write(in_log([message], offset), Moment(now, at_tail=False, judged_at=now))
        offset += 1
    assert len(store.catalog.emitters) <= 20
    writer.close()


class Numbered(Emitter):
    """The only process of a run, both named by a number."""

    @property
    def emitter_id(self) -> str:
        """Its id."""
        return self.run_id * 2


def test_names_are_forgotten_from_the_oldest() -> None:
    """By number and by length, and half of what may be stays, so that it doesn't happen every batch."""
    keys = Keys(4, NAME_CHARACTERS_MAX)
    keys.learn({"a": 0, "b": 1, "c": 2, "d": 3})
    keys.forget()
    assert [*keys] == ["a", "b", "c", "d"]
    keys.learn({"e": 4})
    keys.forget()
    assert [*keys] == ["d", "e"]
    keys = Keys(1_000, 10)
    keys.learn({"short": 0, "much longer": 1})
    keys.forget()
    assert keys == {}


class Refusing:
    """A cursor that gives no states while it is told not to."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self.cursor = cursor
        self.refuses = False

    def execute(self, sql: str, *given: Any) -> Any:
        """As the cursor, or an error."""
        if self.refuses and "FROM store.run_states" in sql:
            raise duckdb.InterruptException("planted")
        return self.cursor.execute(sql, *given)

    def __getattr__(self, name: str) -> Any:
        """Of the cursor."""
        return getattr(self.cursor, name)


def test_a_look_back_that_fails_is_made_again_whole() -> None:
    """A run whose emitters were read back but not its state would be written anew as if it had none."""
    consumer, trainer = Consumer(forgetful=True), Emitter("a")
    cursor = Refusing(consumer.store.cursor())
    watch = consumer.writer._watch = Watch(cursor, consumer.store.catalog, 0)  # type: ignore[arg-type]
    moment = Moment(DAY_ONE, at_tail=True, judged_at=DAY_ONE)
    consumer.writer.write(in_log([trainer.starts(), trainer.says(events.RunEnded, status="finished")]), moment)
    consumer.writer.write(in_log([Emitter("b", run_id="b" * 16).starts()], 2), moment)
    assert watch._states.keys() == {1}  # the first is forgotten
    cursor.refuses = True
    with pytest.raises(duckdb.InterruptException):
        watch._meet({0})
    assert 0 not in watch._members
    cursor.refuses = False
    watch._meet({0})
    assert watch._states[0].state == "finished"
