"""Dead letters replayed after an upgrade: as if the consumer had always known what it knows now."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from runwire_consumer import letterbox
from runwire_consumer import replay as replaying
from runwire_consumer.database import MEMORY
from runwire_consumer.errors import LetterRefused
from runwire_consumer.replay import Directly, discard, letter_orders, replay
from runwire_consumer.self_metrics import SelfMetrics
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.wanted import want
from runwire_consumer.writing import Moment, Writer
from runwire_schemas import catalog, events
from tests.consumer.failing import Failing
from tests.consumer.newer_trainers import from_newer, upgrade
from tests.consumer.telling import DAY_ONE, RUN, SECOND, Emitter, in_log
from tests.consumer.test_service import World, met

NOW = DAY_ONE + 3_600 * SECOND
MOMENT = Moment(NOW, at_tail=False, judged_at=NOW)
RELATIONS = (
    "SELECT * EXCLUDE (state_since) FROM runs ORDER BY run_id",
    "FROM params ORDER BY ALL",
    "FROM metrics ORDER BY ALL",
    "FROM curves ORDER BY ALL",
    "FROM events ORDER BY ALL",
    "FROM attempts ORDER BY ALL",
    "FROM gaps ORDER BY ALL",
    "FROM emitters ORDER BY ALL",
)
RECEIPT = "SELECT stored, dead, lost, missing, complete FROM emitters ORDER BY emitter_id"
STATUSES = "SELECT status, count(*) FROM dead_letters GROUP BY status ORDER BY status"

_Made = TypeVar("_Made")


def seen(store: Store) -> list[Any]:
    """Everything that users see, but for dead letters."""
    return [store.cursor().execute(sql).fetchall() for sql in RELATIONS]


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    return store.cursor().execute(sql).fetchall()


def write(writer: Writer, messages: Iterable[Message], first_offset: int = 0) -> None:
    """One batch of the log."""
    writer.write(in_log(messages, first_offset), MOMENT)


def order(writer: Writer, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Replay all, or what is asked."""
    return asyncio.run(replay(Directly(writer), {"all": True} if asked is None else asked))


def story(newer: Callable[[str, Message], Message]) -> list[Message]:
    """A whole run; `newer` may rewrite what it is told by name."""
    run = Emitter("a")
    return [
        newer("start", run.starts(name="brave-fox-1", tags=["x"], world_size=1)),
        newer("params", run.says(events.ParamsLogged, params={"lr": 0.5})),
        newer("first", run.logs({step: {"loss": float(step)} for step in range(4)})),
        newer("second", run.logs({step: {"loss": float(step), "acc": 1.0} for step in range(4, 9)})),
        newer("third", run.logs({step: {"loss": float(step)} for step in range(9, 11)})),
        run.says(events.RunEnded, status="finished"),
        run.signals(events.EmitterEnded, next_seq=run.seq, how="finished"),
    ]


NEWER = [
    ({"start"}, (13, 1, 0, 0, True)),
    ({"second"}, (9, 5, 0, 0, True)),
    ({"start", "first"}, (9, 5, 0, 0, True)),
    ({"start", "params", "first", "second", "third"}, (1, 13, 0, 0, True)),
]


@pytest.mark.parametrize(("names", "receipt"), NEWER, ids=["start", "rows", "both", "all"])
@pytest.mark.parametrize("batched", [True, False])
def test_a_newer_trainers_messages_are_stored_after_the_upgrade(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: set[str], receipt: tuple[Any, ...], *, batched: bool
) -> None:
    """The letters name their rows meanwhile, and afterwards everything is as if nothing had been unknown."""
    told = story(lambda name, message: from_newer(message) if name in names else message)
    path = tmp_path / "runwire.duckdb"
    writer = Writer(Store.open(path))
    for at in range(1 if batched else len(told)):
        write(writer, told if batched else told[at : at + 1], at)
    assert ask(writer.store, RECEIPT) == [receipt]
    reasons = ask(writer.store, "SELECT DISTINCT reason FROM dead_letters")
    assert all("upgrade the consumer, then `runwire dead-letters replay --all`" in reason for (reason,) in reasons)
    # Before the upgrade a replay changes nothing.
    before = seen(writer.store)
    done = order(writer)
    assert (done["replayed"], done["dead"], len(done["reasons"])) == (0, len(names), len(names))
    assert seen(writer.store) == before
    assert ask(writer.store, STATUSES) == [("dead", len(names))]
    writer.close()
    upgrade(monkeypatch)
    writer = Writer(Store.open(path))
    offsets = ask(writer.store, "FROM store.offsets")
    done = order(writer)
    assert (done["replayed"], done["dead"], done["not_whole"]) == (len(names), 0, 0)
    assert ask(writer.store, "FROM store.offsets") == offsets
    assert ask(writer.store, STATUSES) == [("replayed", len(names))]
    assert ask(writer.store, "SELECT count(*) FROM store.letter_payloads") == [(0,)]
    always = Writer(Store.open(MEMORY))
    write(always, told)
    assert seen(writer.store) == seen(always.store)
    assert ask(writer.store, RECEIPT) == [(14, 0, 0, 0, True)]
    assert ask(writer.store, "SELECT state FROM runs") == [("finished",)]
    again = order(writer)
    assert (again["replayed"], again["rows"], again["settled"]) == (0, 0, 0)
    assert seen(writer.store) == seen(always.store)
    writer.close()


def test_letters_alone_make_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was known; the replay makes run, emitter and rows."""
    writer = Writer(Store.open(MEMORY))
    told = story(lambda _, message: from_newer(message))[:5]
    write(writer, told)
    assert ask(writer.store, "SELECT count(*) FROM store.emitters") == [(0,)]
    upgrade(monkeypatch)
    assert order(writer)["rows"] == 13
    assert ask(writer.store, "SELECT run_id, name, points FROM runs") == [(RUN, "brave-fox-1", 16)]
    assert ask(writer.store, "SELECT seen_at FROM store.emitters") == [(told[-1].appended_at,)]


def test_what_is_replayed_counts_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the metrics of the consumer that does it; letters that wait are counted, too."""
    registry = CollectorRegistry()
    writer = Writer(Store.open(MEMORY))
    write(writer, story(lambda name, message: from_newer(message) if name in {"first", "second"} else message))
    assert writer.store.letters_waiting() == 2
    upgrade(monkeypatch)
    orders = letter_orders(Directly(writer), SelfMetrics(registry))

    async def replay_all() -> None:
        await orders["dead-letters/replay"]({"all": True})

    for _ in range(2):
        asyncio.run(replay_all())
        assert registry.get_sample_value("runwire_rows_stored_total") == 9
        assert registry.get_sample_value("runwire_points_stored_total") == 14
        assert registry.get_sample_value("runwire_messages_read_total") == 0
    assert writer.store.letters_waiting() == 0


def test_a_state_follows_its_replayed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that counted as lost because its end was unreadable is finished afterwards."""
    run = Emitter("a")
    writer = Writer(Store.open(MEMORY))
    start = run.starts()
    end = run.says(events.RunEnded, status="finished")
    write(writer, [start, replace(end, payload=end.payload[:2] + b"\7" * 8 + end.payload[10:])])
    assert ask(writer.store, "SELECT state FROM runs") == [("lost",)]
    entry = next(one for one in catalog.entries() if one.type == "RunEnded")
    monkeypatch.setattr(catalog, "_by_fingerprint", lambda: {b"\7" * 8: entry})
    assert order(writer)["replayed"] == 1
    assert ask(writer.store, "SELECT state FROM runs") == [("finished",)]


@pytest.mark.parametrize(
    "effect", ["_insert_keys", "_insert_rows", "_merge_ledgers", "_write_letters", "_merge_states"]
)
def test_a_replay_that_dies_leaves_the_letters_dead(monkeypatch: pytest.MonkeyPatch, effect: str) -> None:
    """Wherever it fails, rows and status are as before, and the same order works afterwards."""
    store = Failing.open(MEMORY)
    writer = Writer(store)
    write(writer, story(lambda name, message: from_newer(message) if name != "params" else message))
    upgrade(monkeypatch)
    before = seen(store), ask(store, "FROM store.dead_letters")
    store.fails_at = effect
    with pytest.raises(OSError, match="planted"):
        order(writer)
    assert (seen(store), ask(store, "FROM store.dead_letters")) == before
    delattr(store, effect)
    store.fails_at = ""
    assert order(writer)["replayed"] == 4
    assert ask(store, RECEIPT) == [(14, 0, 0, 0, True)]


def test_two_at_once_and_beside_a_living_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people replay while a trainer goes on; each row is stored once, and the order comes in slices."""
    monkeypatch.setattr(replaying, "REPLAY_LETTERS_MAX", 3)
    world, run, other = World(), Emitter("a"), Emitter("b", run_id="b" * 16)
    start = run.starts()
    unknown = [from_newer(run.logs({step: {"loss": float(step)}})) for step in range(20)]
    slices = 0
    between: list[int] = []

    async def do(work: Callable[[Writer], _Made]) -> _Made:
        nonlocal slices
        slices += 1
        between.append(slices)
        return await world.service.do(work)

    async def told() -> None:
        world.append(start, *unknown)
        await world.until("SELECT count(*) FROM dead_letters", [(20,)])
        upgrade(monkeypatch)
        world.append(*(other.logs({step: {"loss": float(step)}}) for step in range(10)))
        one, two = await asyncio.gather(replay(do, {"all": True}), replay(do, {"all": True}))
        assert one["replayed"] + two["replayed"] == 20
        assert one["rows"] + two["rows"] == 20
        assert one["duplicates"] + two["duplicates"] == 0
        await met(lambda: world.rows("SELECT count(*) FROM metrics") == [(30,)])
        assert world.rows(STATUSES) == [("replayed", 20)]

    world.play(told)
    assert slices >= 14


def test_a_restored_snapshot_and_a_replayed_log_double_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snapshot is older than some letters and than the replay; log and letters come again."""
    path, copy = tmp_path / "runwire.duckdb", tmp_path / "snapshot"
    told = story(lambda name, message: from_newer(message) if name in {"start", "second"} else message)
    writer = Writer(Store.open(path))
    write(writer, told[:2])
    writer.close()
    shutil.copy(path, copy)
    writer = Writer(Store.open(path))
    write(writer, told[2:], 2)
    first_ids = ask(writer.store, "SELECT letter_id FROM dead_letters ORDER BY 1")
    with monkeypatch.context() as patch:
        upgrade(patch)
        order(writer)
        expected = seen(writer.store)
        writer.close()
    shutil.copy(copy, path)
    # The old version again, then the new one, both with the whole log read anew.
    writer = Writer(Store.open(path))
    write(writer, told[2:], 2)
    write(writer, told, 0)
    assert ask(writer.store, "SELECT letter_id FROM dead_letters ORDER BY 1") == first_ids
    upgrade(monkeypatch)
    order(writer)
    assert seen(writer.store) == expected
    write(writer, told, 0)
    assert seen(writer.store) == expected
    assert ask(writer.store, STATUSES) == [("replayed", 2)]
    writer.close()


def test_discarded_letters_keep_their_rows_dead() -> None:
    """The bytes go, the receipt stays honest, the letter can't come back by a replay or by the log."""
    writer = Writer(Store.open(MEMORY))
    told = story(lambda name, message: replace(message, payload=b"\0secret" * 9) if name == "second" else message)
    write(writer, told)
    ((letter,),) = ask(writer.store, "SELECT letter_id FROM dead_letters WHERE whole")
    assert asyncio.run(discard(Directly(writer), {"ids": [letter[:6]]})) == {"discarded": 1, "settled": 0}
    assert asyncio.run(discard(Directly(writer), {"ids": [letter]})) == {"discarded": 0, "settled": 1}
    assert ask(writer.store, RECEIPT) == [(9, 5, 0, 0, True)]
    kept = "SELECT status, whole, head, headers, bytes FROM dead_letters"
    assert ask(writer.store, kept) == [("discarded", False, b"", None, 63)]
    assert ask(writer.store, "FROM store.letter_payloads") == []
    assert order(writer, {"ids": [letter]})["settled"] == 1
    write(writer, told, 0)
    assert ask(writer.store, kept) == [("discarded", False, b"", None, 63)]


def test_what_is_not_whole_says_so() -> None:
    """What a source reports as removed can't be replayed, but can be discarded."""
    writer = Writer(Store.open(MEMORY))
    reason = "Records 5 to 9 were removed by the topic's retention before they were read."
    writer.write([Message("kafka://x/t", "0", 5, 10, NOW, (), b"", damage=reason)], MOMENT)
    done = order(writer)
    assert (done["replayed"], done["dead"], done["not_whole"]) == (0, 0, 1)
    assert done["reasons"][0]["reason"] == f"{reason} {replaying.NOT_WHOLE}"
    assert asyncio.run(discard(Directly(writer), {"all": True}))["discarded"] == 1


REFUSED: list[dict[str, Any]] = [
    {}, {"all": False}, {"all": True, "ids": ["abcd"]}, {"ids": []}, {"ids": "abcd"}, {"ids": [7]}, {"ids": ["abc"]},
    {"ids": ["abcdef"]}, {"ids": ["x" * 17]}, {"ids": ["%%%%"]}, {"ids": ["abcd"] * 10_001},
    {"ids": ["\ud800abcd"]}, {"ids": ["\ud800abc"]},
]  # fmt: skip


@pytest.mark.parametrize("asked", REFUSED, ids=lambda asked: str(asked)[:30])
def test_an_order_that_names_nothing_is_refused(asked: dict[str, Any]) -> None:
    writer = Writer(Store.open(MEMORY))
    with pytest.raises(LetterRefused):
        order(writer, asked)


def test_letters_are_named_by_as_much_as_tells_them_apart() -> None:
    """Many at once, by whole ids and by their beginnings; one that several have is refused."""
    writer = Writer(Store.open(MEMORY))
    garbage = Emitter("a").logs({1: {"loss": 1.0}})
    write(writer, [replace(garbage, payload=b"?%d" % number) for number in range(1_000)])
    ids = [one for (one,) in ask(writer.store, "SELECT letter_id FROM dead_letters")]
    heads = Counter(one[:4] for one in ids)
    shared = next(head for head, count in heads.items() if count > 1)
    named = [one if heads[one[:4]] > 1 else one[:4].upper() for one in ids]
    with pytest.raises(LetterRefused, match=f"Several dead letters have ids that begin with '{shared}'"):
        order(writer, {"ids": [*named, shared]})
    assert order(writer, {"ids": [*named, *named[:9]]})["dead"] == 1_000


SEND = st.tuples(st.sampled_from(["send", "newer", "garble"]), st.integers(0, 20), st.integers(1, 6))
DO = st.sampled_from([("replay",), ("upgraded",), ("discard",), ("restart",), ("again",)])
HISTORIES = st.lists(st.one_of(SEND, SEND, DO), max_size=20)


@dataclass
class Told:
    """A store, and what should be in it: each row's disposition, by the model."""

    path: Path
    log: list[Message] = field(default_factory=list)
    model: dict[int, str] = field(default_factory=dict)
    waiting: list[tuple[int, int]] = field(default_factory=list)
    newer: list[tuple[int, int]] = field(default_factory=list)
    met: bool = False

    def __post_init__(self) -> None:
        """Open it."""
        self.writer = Writer(Store.open(self.path))

    def do(self, action: tuple[Any, ...], patch: pytest.MonkeyPatch) -> None:
        """One step."""
        match action:
            case ("send" | "newer" | "garble" as kind, first, count):
                self._send(kind, range(first, first + count))
            case ("replay",):
                order(self.writer)
            case ("upgraded",):
                with patch.context() as inner:
                    upgrade(inner)
                    order(self.writer)
                for first, end in self.newer:
                    self._store(range(first, end))
                self.newer.clear()
            case ("discard",):
                asyncio.run(discard(Directly(self.writer), {"all": True}))
                self.newer.clear()
            case ("restart",):
                self.writer.close()
                self.writer = Writer(Store.open(self.path))
            case _:
                write(self.writer, self.log)

    def _send(self, kind: str, rows: range) -> None:
        message = Emitter("a", seq=rows.start).logs({seq: {"loss": float(seq)} for seq in rows})
        if kind == "newer":
            message = from_newer(message)
            self.newer.append((rows.start, rows.stop))
        elif kind == "garble":
            message = replace(message, payload=message.payload[:-1])
        write(self.writer, [message], len(self.log))
        self.log.append(message)
        if kind == "send":
            self._store(rows)
        else:
            self.waiting.append((rows.start, rows.stop))
            if self.met:
                self._declare()

    def _store(self, rows: range) -> None:
        self.met = True
        self._declare()
        self.model.update(dict.fromkeys(rows, "stored"))

    def _declare(self) -> None:
        for first, end in self.waiting:
            for seq in range(first, end):
                self.model.setdefault(seq, "dead")
        self.waiting.clear()


@given(HISTORIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_with_replays(history: list[tuple[Any, ...]]) -> None:
    """Sent, upgraded, replayed, discarded, restarted, read again: every row is stored once or dead, as modelled."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = Told(Path(folder) / "runwire.duckdb")
        for action in history:
            world.do(action, patch)
        store = world.writer.store
        ledger = ask(store, "SELECT first_seq, end_seq, disposition FROM store.ledger")
        found = {seq: what for first, end, what in ledger for seq in range(first, end)}
        assert found == world.model
        stored = sorted(seq for seq, what in world.model.items() if what == "stored")
        assert ask(store, "SELECT seq, value FROM metrics ORDER BY seq") == [(seq, float(seq)) for seq in stored]
        kept = ask(store, "SELECT count(*) FROM dead_letters WHERE status = 'dead' AND whole")
        assert ask(store, "SELECT count(*) FROM store.letter_payloads") == kept
        assert store.catalog.kept_bytes == (ask(store, "SELECT sum(bytes) FROM store.letter_payloads")[0][0] or 0)
        world.writer.close()


def test_many_names_are_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer waits meanwhile: 10,000 looks at the table kept what came from the log for a minute."""
    writer = Writer(Store.open(MEMORY))
    writer.write([Message("dir:x", "a", at, at + 1, NOW, {}, b"%d" % at) for at in range(300)], MOMENT)
    ids = [one for (one,) in writer.store.cursor().execute("SELECT letter_id FROM store.dead_letters").fetchall()]
    looks = []

    def counted(*given: Any) -> None:
        looks.append(given)
        want(*given)

    monkeypatch.setattr(letterbox, "want", counted)
    done = asyncio.run(discard(Directly(writer), {"ids": [*ids[1:], ids[0][:15].upper(), ids[1]]}))
    assert done == {"discarded": 300, "settled": 0}
    assert len(looks) == 2  # the names, and what is still dead
