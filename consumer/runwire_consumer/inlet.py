"""The bridge's inlet: an MQTT 5 session that is kept, whose messages are acknowledged when the bridge says so.

aiomqtt acknowledges before anybody has seen a message (aiomqtt#345): paho's manual way is switched on before the
connection. Messages are read here, out of the packet, for two reasons: paho's own reading of user properties takes most
of a bridge's time, and hangs up on some texts that brokers let pass, such as U+FEFF, again and again.
(https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901100)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from runwire_consumer.bridge import Incoming
from runwire_consumer.errors import InletError
from runwire_schemas.edge import (
    DENIED,
    Ack,
    ack_topic,
    client_arguments,
    denial,
    encode_ack,
    events_filter,
    from_properties,
    notice_hanging_up,
    reason,
)
from runwire_schemas.errors import SecurityError
from runwire_schemas.topics import Destination

RECEIVE_MAX = 1_000  # what the broker hands out and is not settled; it may allow less (Mosquitto: 20 by default)
SESSION_SECONDS = 7 * 24 * 3600
KEEPALIVE_SECONDS = 20
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 2.0

_TAKEN_OVER = 0x8E
_USER_PROPERTY = 0x26
_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}  # payload format, expiry, topic alias
_WITH_LENGTH = {0x03, 0x08, 0x09}  # content type, response topic, correlation data
_SUBSCRIPTION = 0x0B
_QOS_SHIFT, _QOS_MASK = 1, 3


class MqttInlet:
    """One connection; its callbacks run on the loop that opened it."""

    def __init__(self, destination: Destination, client_id: str) -> None:
        """Two bridges with one `client_id` take the session from each other."""
        self._destination = destination
        self._client_id = client_id
        self._client: Any = None
        self._end = 0
        self._is_answered = asyncio.Event()
        self._is_denied = False
        self._waiting: deque[Incoming] = deque()
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Connect, and subscribe where the session is new."""
        aiomqtt, paho, packets, properties = _libraries(self._destination)
        try:
            arguments = client_arguments(self._destination)
        except SecurityError as error:
            raise InletError(f"{self._destination} can't be reached: {error}.") from error
        logger = logging.getLogger("runwire_consumer.mqtt")
        logger.setLevel(logging.CRITICAL)  # the bridge says what is wrong
        wanted = properties.Properties(packets.CONNECT)
        wanted.SessionExpiryInterval = SESSION_SECONDS
        wanted.ReceiveMaximum = RECEIVE_MAX
        client = aiomqtt.Client(
            **arguments,
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=wanted,
            timeout=CONNECT_SECONDS,
            keepalive=KEEPALIVE_SECONDS,
            logger=logger,
        )
        client._client.manual_ack_set(True)  # noqa: SLF001 - before it connects, or the first one is lost
        client._client._handle_publish = self._read(client._client)  # noqa: SLF001 - see above
        client._client._handle_disconnect = self._note_end(client._client)  # noqa: SLF001 - see there
        client._client.on_publish = self._note_receipt  # noqa: SLF001 - as everything of paho's here
        notice_hanging_up(client)
        try:
            await client.__aenter__()
            self._client = client
            client._disconnected.add_done_callback(lambda _: self._is_answered.set())  # noqa: SLF001 - see `_check`
            # Without what other clients left there as retained: they were handed out when they came.
            options = paho.SubscribeOptions(qos=1, retainHandling=paho.SubscribeOptions.RETAIN_DO_NOT_SEND)
            (granted,) = await client.subscribe(events_filter(self._destination.topic), options=options)
            # For nobody: a broker that denies acknowledgements says so now, not when a trainer waits for one.
            self.answer(self._client_id, Ack(0, 0, key="hello"))
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._is_answered.wait()
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            told = reason(error, self._destination, is_connected=self._client is not None)
            raise InletError(f"{self._destination} can't be reached: {told}.") from error
        if granted.value > 1:
            raise InletError(
                f"{self._destination} doesn't let {self._client_id} subscribe to "
                f"{events_filter(self._destination.topic)}: {granted}."
            )
        self._check()

    async def take(self, count_max: int, bytes_max: int, max_wait_seconds: float) -> list[Incoming]:
        """What has come, at most so much."""
        if not self._waiting:
            self._check()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_wait_seconds):
                    await self._changed.wait()
        taken, size = list[Incoming](), 0
        while self._waiting and len(taken) < count_max and size < bytes_max:
            taken.append(self._waiting.popleft())
            size += len(taken[-1].payload)
        return taken

    def answer(self, emitter_id: str, ack: Ack) -> None:
        """Publish it, without waiting for the broker's word."""
        topic = ack_topic(self._destination.topic, emitter_id)
        with contextlib.suppress(ValueError):  # no topic can be made of what somebody called an emitter
            self._client._client.publish(topic, encode_ack(ack), 1)  # noqa: SLF001 - aiomqtt's waits for the PUBACK

    def settle(self, messages: Sequence[Incoming]) -> None:
        """PUBACK them, in the order in which they came."""
        for message in messages:
            if message.receipt:
                self._client._client.ack(message.receipt, 1)  # noqa: SLF001 - aiomqtt has no such thing

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.__aexit__(None, None, None)
        with contextlib.suppress(Exception):
            client._client._sock_close()  # noqa: SLF001 - where the end found no answer
        if client._disconnected.done() and not client._disconnected.cancelled():  # noqa: SLF001 - asyncio wants it seen
            client._disconnected.exception()  # noqa: SLF001 - as above

    def _check(self) -> None:
        if self._is_denied:
            topic = f"{self._destination.topic}-ack/#"
            raise InletError(f"{self._destination} takes no acknowledgement: {denial(self._destination, topic)}.")
        ended = self._client._disconnected  # noqa: SLF001 - the library tells it to whoever waits for messages only
        if not ended.done():
            return
        error = ended.exception() or ConnectionError("the broker hung up")
        if self._end == _TAKEN_OVER:
            raise InletError(
                f"{self._destination}: another bridge has taken over the session of {self._client_id}: "
                "one is enough; for a second one give --client-id.",
                is_final=True,
            )
        raise InletError(f"{self._destination} is lost: {reason(error, self._destination)}.")

    def _note_receipt(self, _client: Any, _userdata: Any, _receipt: int, code: Any, _more: Any) -> None:
        """The broker's PUBACK for an acknowledgement of ours."""
        self._is_answered.set()
        if code.value == DENIED:
            self._is_denied = True
            self._changed.set()

    def _read(self, paho: Any) -> Any:
        """What stands in the place of paho's reading of a PUBLISH packet."""

        def handle() -> int:
            packet = paho._in_packet  # noqa: SLF001 - see the module
            self._waiting.append(parse_publish(packet["command"], bytes(packet["packet"])))
            self._changed.set()
            return 0

        return handle

    def _note_end(self, paho: Any) -> Any:
        """Paho passes over the reason of a DISCONNECT packet that has nothing else in it."""
        go_on = paho._handle_disconnect  # noqa: SLF001 - see above

        def handle() -> Any:
            self._end = (bytes(paho._in_packet["packet"]) or b"\0")[0]  # noqa: SLF001 - see above
            return go_on()

        return handle


def parse_publish(command: int, packet: bytes) -> Incoming:
    """Read an MQTT 5 PUBLISH packet without its fixed header; the broker has made sure that it is one."""
    (topic_bytes,) = struct.unpack_from("!H", packet)
    at = 2 + topic_bytes
    receipt = 0
    if (command >> _QOS_SHIFT) & _QOS_MASK:
        (receipt,) = struct.unpack_from("!H", packet, at)
        at += 2
    length, at = _varint(packet, at)
    end = at + length
    return Incoming(from_properties(_user_properties(packet, at, end)), packet[end:], receipt)


def _user_properties(packet: bytes, at: int, end: int) -> list[tuple[str, str]]:
    found = []
    while at < end:
        kind = packet[at]
        at += 1
        if kind == _USER_PROPERTY:
            name, at = _text(packet, at)
            value, at = _text(packet, at)
            found.append((name, value))
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind in _WITH_LENGTH:
            at += 2 + (packet[at] << 8) + packet[at + 1]
        elif kind == _SUBSCRIPTION:
            _, at = _varint(packet, at)
        else:  # none that MQTT 5 has; what follows can't be told
            break
    return found


def _text(packet: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + (packet[at] << 8) + packet[at + 1]
    return packet[at + 2 : end].decode(errors="replace"), end


def _varint(packet: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = packet[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte & 0x80 == 0:
            return value, at
        shift += 7


def _libraries(destination: Destination) -> tuple[Any, Any, Any, Any]:
    try:
        import aiomqtt  # noqa: PLC0415 - an extra, and only where it is used
        from paho.mqtt import properties, subscribeoptions  # noqa: PLC0415 - as above
        from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415 - as above
    except ImportError as error:
        raise InletError(
            f"{destination} needs one package more: pip install 'runwire[mqtt]'.", is_final=True
        ) from error
    return aiomqtt, subscribeoptions, PacketTypes, properties
