"""The MQTT transport over an in-memory broker and bridge, which answer as a list of fates says."""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire import _mqtt as module
from runwire._batch import Message
from runwire._errors import TransportError
from runwire._mqtt import MqttTransport
from runwire_schemas.edge import HELLO, HELLO_EXPIRES_SECONDS, Ack, ack_of, ack_topic, encode_ack, from_properties
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import parse_url

if TYPE_CHECKING:
    from collections.abc import Coroutine

URL = parse_url("mqtt://b/site")
FATES = ("ok", "lost", "twice", "late", "garbled")


@dataclass
class Twin:
    """A connected client, the broker and the bridge behind it.

    Attributes:
        fates: what becomes of each publish but `Hello`; beyond the list all are well.
        has_bridge: somebody answers at all.
        published: (type, first_seq, expires) of each, in order.
        durable: what was said to be.
    """

    transport: MqttTransport
    fates: list[str] = field(default_factory=list)
    has_bridge: bool = True
    may_not_read: bool = False
    published: list[tuple[str, int, int]] = field(default_factory=list)
    durable: set[tuple[str, Ack]] = field(default_factory=set)
    late: list[tuple[str, bytes]] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._client = SimpleNamespace(publish=self.publish, is_connected=lambda: False, _sock_close=lambda: None)
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport._client = self  # type: ignore[assignment]

    async def subscribe(self, topic: str, qos: int) -> tuple[SimpleNamespace]:
        assert qos == 1
        self.topics.append(topic)
        return (SimpleNamespace(value=0x87 if self.may_not_read else 1),)

    def publish(self, topic: str, payload: bytes, qos: int, properties: Any) -> SimpleNamespace:
        del topic
        assert qos == 1
        envelope = Envelope.from_headers(from_properties(properties.UserProperty))
        expires = getattr(properties, "MessageExpiryInterval", 0)
        self.published.append((envelope.type, envelope.first_seq, expires))
        if self.has_bridge:
            fate = "ok" if envelope.type == HELLO or not self.fates else self.fates.pop(0)
            self._answer(fate, envelope, ack_of(envelope, payload))
        return SimpleNamespace(rc=0, is_published=lambda: True)

    def _answer(self, fate: str, envelope: Envelope, ack: Ack) -> None:
        topic = ack_topic("site", envelope.emitter_id)
        said = [] if fate in {"lost", "garbled"} else [(topic, encode_ack(ack))]
        if fate == "garbled":
            self._say(topic, b"\xff{")
        if fate == "refused":
            said = [(topic, encode_ack(Ack(ack.first_seq, ack.count, ack.key, refused=True)))]
        elif said:
            self.durable.add((envelope.emitter_id, ack))
        if fate == "late":
            self.late += said
            return
        for one in [*self.late, *said, *(said if fate == "twice" else [])]:
            self._say(*one)
        self.late.clear()

    def _say(self, topic: str, payload: bytes) -> None:
        self.transport._take(None, None, SimpleNamespace(topic=topic, payload=payload))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait is longer than a moment; what is waited for is unchanged."""
    monkeypatch.setattr(module, "LOOK_INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(module, "RESEND_SECONDS", 0.002)


def run(go: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(go, 30))


def _message(first_seq: int, count: int = 2, emitter: str = "e", kind: str = "MetricBatch") -> Message:
    return Message(Envelope(kind, "p", "r", emitter, "t", 0, first_seq, count), f"{kind}{first_seq}".encode())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["e1", "e2"]), st.sampled_from(["MetricBatch", "EmitterEnded"])), max_size=6),
    st.lists(st.sampled_from(FATES), max_size=12),
)
def test_send_returns_when_all_is_durable(wanted: list[tuple[str, str]], fates: list[str]) -> None:
    """Random answers: lost, late, double, garbled; what wasn't answered goes again until it is."""
    window = [
        _message(0 if kind == "EmitterEnded" else 2 * at, 0 if kind == "EmitterEnded" else 2, emitter, kind)
        for at, (emitter, kind) in enumerate(wanted)
    ]

    async def go() -> None:
        twin = Twin(MqttTransport(URL), list(fates))
        await twin.transport.send(window)
        for message in window:
            assert (message.envelope.emitter_id, ack_of(message.envelope, message.payload)) in twin.durable
        assert sorted(twin.topics) == sorted({f"site-ack/{emitter}" for emitter, _ in wanted})
        assert [kind for kind, *_ in twin.published].count(HELLO) == bool(window)

    run(go())


def test_a_bridge_is_asked_for_before_anything_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: nothing but the question went, and that expires."""
    monkeypatch.setattr(module, "HELLO_SECONDS", 0.01)

    async def go() -> None:
        twin = Twin(MqttTransport(URL), has_bridge=False)
        with pytest.raises(TransportError, match=r"no bridge answers.*runwire bridge mqtt://b:1883/site"):
            await twin.transport.send([_message(0)])
        assert twin.published == [(HELLO, 0, HELLO_EXPIRES_SECONDS)]

    run(go())


def test_who_may_not_read_acknowledgements_is_told() -> None:
    """Before anything goes, not that no bridge is there."""

    async def go() -> None:
        twin = Twin(MqttTransport(URL), may_not_read=True)
        with pytest.raises(TransportError, match=r"may not read site-ack/\S+: have that granted in the broker's ACL"):
            await twin.transport.send([_message(0)])
        assert twin.published == []

    run(go())


def test_a_bridge_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error tells how many of the first messages are durable, also with a hole behind them."""
    monkeypatch.setattr(module, "STALL_SECONDS", 0.02)
    monkeypatch.setattr(module, "RESEND_SECONDS", 10.0)

    async def go() -> None:
        twin = Twin(MqttTransport(URL), ["ok", "ok", "lost", "ok"])
        with pytest.raises(TransportError, match="nothing behind it acknowledges") as caught:
            await twin.transport.send([_message(2 * at) for at in range(4)])
        assert (caught.value.delivered, caught.value.refused) == (2, False)

    run(go())


def test_a_connection_that_breaks() -> None:
    async def go() -> None:
        twin = Twin(MqttTransport(URL), ["ok", "lost"])
        twin._disconnected.set_exception(ConnectionResetError("reset"))
        twin.transport._is_answered = True
        with pytest.raises(TransportError, match="took no message: reset") as caught:
            await twin.transport.send([_message(0), _message(2)])
        assert caught.value.delivered == 1
        await twin.transport.close()

    run(go())


def test_a_refusal_is_the_messages_own() -> None:
    async def go() -> None:
        twin = Twin(MqttTransport(URL), ["ok", "refused"])
        with pytest.raises(TransportError, match="takes no message of these 12 bytes") as caught:
            await twin.transport.send([_message(0), _message(2)])
        assert (caught.value.delivered, caught.value.refused) == (1, True)

    run(go())


def test_signs_of_life_wait_for_nobody() -> None:
    """They expire in the broker, and no answer is waited for."""

    async def go() -> None:
        twin = Twin(MqttTransport(URL), ["lost"])
        await twin.transport.send([_message(0, 0, kind="Heartbeat")])
        assert twin.published[1:] == [("Heartbeat", 0, HELLO_EXPIRES_SECONDS)]

    run(go())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that says what to install."""
    real = builtins.__import__

    def absent(name: str, *rest: Any, **options: Any) -> Any:
        if name == "aiomqtt":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(
        TransportError, match=r"mqtt://b:1883/site needs one package more: pip install 'runwire\[mqtt\]'"
    ):
        run(MqttTransport(URL).open())
