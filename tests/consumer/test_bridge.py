"""The bridge's order of effects, over an in-memory broker and target that fail as a list of faults says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from runwire_consumer import bridge as module
from runwire_consumer.bridge import Bridge, Incoming, Parcel
from runwire_consumer.bridge_metrics import BridgeMetrics
from runwire_consumer.decode import BATCH_BYTES_MAX, HEAD_BYTES_MAX
from runwire_consumer.errors import InletError, OutletError
from runwire_schemas.edge import HELLO, Ack
from runwire_schemas.envelope import Envelope, NoEnvelope

FAULTS = ("none", "open", "take", "outlet open", "before", "between")


@dataclass
class World:
    """A broker's session and a target; every fault happens once, at its turn.

    Attributes:
        session: what the broker has and nobody settled.
        log: what the target has.
        said: acknowledgements, in order, with how much the target had by then.
    """

    session: dict[int, Incoming]
    faults: list[str] = field(default_factory=list)
    log: list[Parcel] = field(default_factory=list)
    said: list[tuple[str, Ack, int]] = field(default_factory=list)
    target_bytes_max: int = 10**9
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def fails(self, *names: str) -> bool:
        if self.faults and self.faults[0] in names:
            self.faults.pop(0)
            return True
        if self.faults and self.faults[0] == "none":
            self.faults.pop(0)
        return False

    def run(self) -> None:
        async def go() -> None:
            self.stop = asyncio.Event()
            running = Bridge(lambda: TwinInlet(self), lambda: TwinOutlet(self), BridgeMetrics(CollectorRegistry()))
            async with asyncio.timeout(30):
                await running.run(self.stop)

        asyncio.run(go())


class TwinInlet:
    """One connection: hands out everything unsettled, from the first on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._handed = set[int]()

    async def open(self) -> None:
        if self._world.fails("open"):
            raise InletError("The broker is away.")

    async def take(self, count_max: int, bytes_max: int, max_wait_seconds: float) -> list[Incoming]:
        del bytes_max, max_wait_seconds
        if self._world.fails("take"):
            raise InletError("The broker is lost.")
        await asyncio.sleep(0)
        if not self._world.session:
            self._world.stop.set()
        fresh = [one for key, one in self._world.session.items() if key not in self._handed][:count_max]
        self._handed |= {one.receipt for one in fresh}
        return fresh

    def answer(self, emitter_id: str, ack: Ack) -> None:
        self._world.said.append((emitter_id, ack, len(self._world.log)))

    def settle(self, messages: Sequence[Incoming]) -> None:
        for message in messages:
            del self._world.session[message.receipt]

    async def close(self) -> None:
        pass


class TwinOutlet:
    """One connection to the target."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def open(self) -> None:
        if self._world.fails("outlet open"):
            raise OutletError("The target is away.")

    async def send(self, parcels: Sequence[Parcel]) -> None:
        if any(len(one.payload) > self._world.target_bytes_max for one in parcels):
            raise OutletError("too large", refused=True)
        if self._world.fails("before"):
            raise OutletError("The target is lost.")
        if self._world.fails("between"):
            self._world.log += parcels[: len(parcels) // 2]
            raise OutletError("The target is lost.")
        self._world.log += parcels

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS_MIN", 0.0)
    monkeypatch.setattr(module, "BATCH_MESSAGES_MAX", 4)


def _message(receipt: int, payload: bytes = b"", emitter: str = "e", kind: str = "MetricBatch") -> Incoming:
    count = 0 if kind == HELLO else 2
    envelope = Envelope(kind, "p", "r", emitter, "t", 0, 2 * receipt if count else 0, count)
    return Incoming(envelope.to_headers(), payload or b"%d" % receipt, receipt)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["e1", "e2", "hello", "stranger"]), max_size=12),
    st.lists(st.sampled_from(FAULTS), max_size=8),
)
def test_nothing_is_acknowledged_too_early_and_nothing_is_lost(kinds: list[str], faults: list[str]) -> None:
    """Random loads and faults: everything is in the target, and was before anybody heard of it."""
    session = {}
    for number, kind in enumerate(kinds, 1):
        match kind:
            case "stranger":
                session[number] = Incoming([("x", b"y")], b"%d" % number, number)
            case "hello":
                session[number] = _message(number, kind=HELLO)
            case _:
                session[number] = _message(number, emitter=kind)
    world = World(dict(session), list(faults))
    world.run()
    assert world.session == {}
    payloads = Counter(parcel.payload for parcel in world.log)
    for number, kind in enumerate(kinds, 1):
        assert (payloads[b"%d" % number] > 0) is (kind != "hello")
    for emitter_id, ack, had in world.said:
        rows = {
            seq
            for parcel in world.log[:had]
            if parcel.envelope.emitter_id == emitter_id
            for seq in range(parcel.envelope.first_seq, parcel.envelope.first_seq + parcel.envelope.count)
        }
        assert rows >= set(range(ack.first_seq, ack.first_seq + ack.count))
    if "hello" in kinds:
        assert any(ack.key for _, ack, _ in world.said)


def test_acknowledgements_are_joined() -> None:
    """Four messages of one emitter in one batch: one acknowledgement."""
    world = World({number: _message(number) for number in range(1, 5)})
    world.run()
    assert world.said == [("e", Ack(2, 8), 4)]


def test_what_the_target_refuses() -> None:
    """Found among others, told to its emitter, kept as a dead letter that names its rows; the others go on."""
    world = World({number: _message(number, b"x" * (5_000 if number == 2 else 10)) for number in (1, 2, 3)})
    world.target_bytes_max = 2_000
    world.run()
    assert [len(parcel.payload) for parcel in world.log] == [10, HEAD_BYTES_MAX, 10]
    letter = world.log[1].envelope
    assert isinstance(letter, NoEnvelope)
    assert (letter.emitter_id, letter.first_seq, letter.count) == ("e", 4, 2)
    assert dict(letter.to_headers())["bridge"] == b"It is too large: 5000 bytes."
    assert sorted((ack.first_seq, ack.refused) for _, ack, _ in world.said) == [(2, False), (4, True), (6, False)]


def test_what_no_sender_makes_is_not_even_tried() -> None:
    """Larger than any consumer reads."""
    world = World({1: _message(1, b"x" * (BATCH_BYTES_MAX + 1))})
    world.run()
    assert [len(parcel.payload) for parcel in world.log] == [HEAD_BYTES_MAX]
    assert [ack.refused for _, ack, _ in world.said] == [True]


def test_a_letter_that_is_refused_too() -> None:
    """Without its headers, then; and where not even that is taken, it is given up, not tried for ever."""
    world = World({1: Incoming([("x", b"y")], b"z" * 5_000, 1), 2: _message(2)})
    world.target_bytes_max = 2_000
    world.run()
    assert [len(parcel.payload) for parcel in world.log] == [HEAD_BYTES_MAX, 1]
    world = World({1: Incoming([("x", b"y")], b"z" * 5_000, 1), 2: _message(2)})
    world.target_bytes_max = 100
    world.run()
    assert [parcel.payload for parcel in world.log] == [b"2"]


def test_a_session_that_is_taken_over() -> None:
    """A final error ends the bridge."""

    class Taken(TwinInlet):
        async def take(self, count_max: int, bytes_max: int, max_wait_seconds: float) -> list[Incoming]:
            del count_max, bytes_max, max_wait_seconds
            raise InletError("taken over", is_final=True)

    world = World({1: _message(1)})
    running = Bridge(lambda: Taken(world), lambda: TwinOutlet(world), BridgeMetrics(CollectorRegistry()))
    with pytest.raises(InletError, match="taken over"):
        asyncio.run(running.run(asyncio.Event()))
