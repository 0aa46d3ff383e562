"""The `mqtt://` transport: MQTT 5, QoS 1, durable when the bridge behind the broker says so, never by a PUBACK.

1. A connection is of use when a bridge has answered its `Hello`: else nothing is sent, and nothing piles up in the
   broker; rows wait in the journal.
2. A message is delivered when the bridge's acknowledgements cover it (`_answers.py`). What the broker took and the
   bridge didn't answer in RESEND_SECONDS goes again; nothing at all in STALL_SECONDS ends the connection.
3. An error tells how many of the first messages are durable for all that: a link that breaks often gets on.
4. Signs of life are worth nothing later: they are sent, expire in the broker, and wait for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from runwire._answers import Answer, Answers
from runwire._batch import Message
from runwire._errors import TransportError
from runwire_schemas.edge import (
    DENIED,
    HELLO,
    HELLO_EXPIRES_SECONDS,
    ack_of,
    ack_topic,
    client_arguments,
    decode_ack,
    denial,
    emitter_of,
    event_topic,
    notice_hanging_up,
    reason,
    to_properties,
)
from runwire_schemas.envelope import Envelope
from runwire_schemas.errors import DecodeError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    import aiomqtt
    from paho.mqtt.client import MQTTMessage, MQTTMessageInfo
    from paho.mqtt.reasoncodes import ReasonCode

    from runwire_schemas.topics import Destination

CONNECT_SECONDS = 10.0
HELLO_SECONDS = 5.0
RESEND_SECONDS = 10.0
STALL_SECONDS = 30.0
CLOSE_SECONDS = 2.0
KEEPALIVE_SECONDS = 20
LOOK_INTERVAL_SECONDS = 0.5
_HEARTBEAT = "Heartbeat"


class MqttTransport:
    """One connection without a session: the journal remembers, not the broker."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._prefix = destination.topic
        self._client: aiomqtt.Client | None = None
        self._answers: dict[str, Answers] = {}
        self._changed = asyncio.Event()
        self._is_answered = False
        self._is_denied = False

    async def open(self) -> None:
        """Connect to the broker."""
        aiomqtt = _library(self._destination)
        try:
            arguments = client_arguments(self._destination)
        except SecurityError as error:
            raise self._error("can't be reached", str(error)) from error
        logger = logging.getLogger("runwire.mqtt")
        logger.setLevel(logging.CRITICAL)  # the sender says what lasts, once a minute
        client = aiomqtt.Client(
            **arguments,
            identifier=f"runwire-{secrets.token_hex(8)}",
            protocol=aiomqtt.ProtocolVersion.V5,
            timeout=CONNECT_SECONDS,
            keepalive=KEEPALIVE_SECONDS,
            logger=logger,
        )
        paho = client._client  # noqa: SLF001 - here and below: what the library does its own way takes a thread pool
        paho.on_message = self._take
        paho.on_publish = self._note_denial
        paho.connect_timeout = CONNECT_SECONDS
        notice_hanging_up(client)
        self._client = client
        try:
            await _beside(client._client_connect)  # noqa: SLF001 - see above
            await client._wait_for(client._connected, timeout=CONNECT_SECONDS)  # noqa: SLF001 - see above
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            told = reason(error, self._destination, is_connected=False)
            raise self._error("can't be reached", told) from error

    async def ask_bridge(self) -> None:
        """Find out whether a bridge answers, for an emitter that there isn't; nothing is stored of it.

        Raises:
            TransportError: None does, or the broker doesn't let us ask.
        """
        client, nobody = self._client, f"doctor-{secrets.token_hex(8)}"
        if client is None:
            raise TransportError(f"{self._destination} is closed.")
        aiomqtt = _library(self._destination)
        try:
            await self._listen(client, nobody)
            await self._greet(client, Envelope(HELLO, "doctor", nobody, nobody, nobody, 0, 0, 0))
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            raise self._error("took no message", reason(error, self._destination)) from error

    async def send(self, messages: Sequence[Message]) -> None:
        """Publish all, then wait until the bridge has answered for each."""
        client, done = self._client, 0
        if client is None:
            raise TransportError(f"{self._destination} is closed.")
        aiomqtt = _library(self._destination)
        try:
            for message in messages:
                await self._listen(client, message.envelope.emitter_id)
            if messages and not self._is_answered:
                await self._greet(client, messages[0].envelope)
            await self._deliver(client, messages)
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            done = self._durable(messages)
            raise self._error("took no message", reason(error, self._destination), delivered=done) from error

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(Exception):
            if client._client.is_connected():  # noqa: SLF001 - else there is nobody to tell
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.__aexit__(None, None, None)
        with contextlib.suppress(Exception):
            client._client._sock_close()  # noqa: SLF001 - where the end found no answer
        for future in (client._connected, client._disconnected):  # noqa: SLF001 - else asyncio says that nobody asked
            if future.done() and not future.cancelled():
                future.exception()

    async def _listen(self, client: aiomqtt.Client, emitter_id: str) -> None:
        """Subscribe to what is said of an emitter, before anything of it goes."""
        if emitter_id not in self._answers:
            topic = ack_topic(self._prefix, emitter_id)
            (granted,) = await client.subscribe(topic, qos=1)
            if getattr(granted, "value", 0) > 1:
                raise PermissionError(denial(self._destination, topic, "read"))
            self._answers[emitter_id] = Answers()

    async def _greet(self, client: aiomqtt.Client, envelope: Envelope) -> None:
        """Ask whether a bridge is there."""
        hello = replace(envelope, type=HELLO, first_seq=0, count=0)
        payload = secrets.token_bytes(16)
        wanted, answers = ack_of(hello, payload), self._answers[envelope.emitter_id]
        self._publish(client, Message(hello, payload), HELLO_EXPIRES_SECONDS)
        until = time.monotonic() + HELLO_SECONDS
        while answers.of(wanted) is Answer.NONE:
            if time.monotonic() >= until:
                raise self._error(
                    "takes messages, but no bridge answers behind it",
                    f"start one: runwire bridge {self._destination} kafka://HOST:PORT",
                )
            await self._look(client)
        self._is_answered = True

    async def _deliver(self, client: aiomqtt.Client, messages: Sequence[Message]) -> None:
        waiting = [
            (message, ack_of(message.envelope, message.payload), self._publish(client, message))
            for message in messages
            if message.envelope.type != _HEARTBEAT
        ]
        for message in messages:
            if message.envelope.type == _HEARTBEAT:
                self._publish(client, message, HELLO_EXPIRES_SECONDS)
        seen, moved_at = -1, time.monotonic()
        resend_at = moved_at
        while waiting:
            answers = [self._answers[message.envelope.emitter_id].of(ack) for message, ack, _ in waiting]
            if Answer.REFUSED in answers:
                size = len(waiting[answers.index(Answer.REFUSED)][0].payload)
                reason = f"what is behind the bridge takes no message of these {size:,} bytes"
                raise self._error("refused a message", reason, delivered=self._durable(messages), refused=True)
            waiting = [one for one, answer in zip(waiting, answers, strict=True) if answer is Answer.NONE]
            taken = sum(info.is_published() for _, _, info in waiting)
            now, reached = time.monotonic(), 2 * (len(messages) - len(waiting)) + taken
            if reached > seen:
                seen, moved_at, resend_at = reached, now, now + RESEND_SECONDS
            elif now >= moved_at + STALL_SECONDS:
                raise self._error(
                    "takes messages, but nothing behind it acknowledges them",
                    "the bridge is gone, or what it forwards to can't be reached",
                    delivered=self._durable(messages),
                )
            elif now >= resend_at and taken == len(waiting):
                resend_at = now + RESEND_SECONDS
                for message, _, _ in waiting:
                    self._publish(client, message)
            if waiting:
                await self._look(client)

    async def _look(self, client: aiomqtt.Client) -> None:
        """Until there is an answer, or a while has passed."""
        ended = client._disconnected  # noqa: SLF001 - the library tells it to whoever waits for messages only
        if ended.done():
            raise ended.exception() or ConnectionError("the broker hung up")
        if self._is_denied:
            raise PermissionError(denial(self._destination, f"{self._prefix}/#"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL_SECONDS):
                await self._changed.wait()
        self._changed.clear()

    def _publish(self, client: aiomqtt.Client, message: Message, expires_seconds: int = 0) -> MQTTMessageInfo:
        from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415 - comes with aiomqtt
        from paho.mqtt.properties import Properties  # noqa: PLC0415 - as above

        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = to_properties(message.envelope)
        if expires_seconds:
            properties.MessageExpiryInterval = expires_seconds
        topic = event_topic(self._prefix, message.envelope)
        # Not the library's own: that waits for the PUBACK, which says nothing.
        info = client._client.publish(topic, message.payload, 1, properties=properties)  # noqa: SLF001 - see above
        if info.rc:
            raise ConnectionError("the connection is lost")
        return info

    def _take(self, _client: object, _userdata: object, message: MQTTMessage) -> None:
        """The bridge says something."""
        with contextlib.suppress(DecodeError, UnicodeDecodeError):
            answers = self._answers.get(emitter_of(self._prefix, message.topic) or "")
            if answers is not None:
                answers.add(decode_ack(bytes(message.payload)))
                self._changed.set()

    def _note_denial(self, _client: object, _userdata: object, _receipt: int, code: ReasonCode, _more: object) -> None:
        """The broker's PUBACK, which says this at most."""
        if code.value == DENIED:
            self._is_denied = True
            self._changed.set()

    def _durable(self, messages: Sequence[Message]) -> int:
        """How many of the messages, from the first on, are known to be durable."""
        count = 0
        for message in messages:
            answers = self._answers.get(message.envelope.emitter_id)
            ack = ack_of(message.envelope, message.payload)
            if answers is None or answers.of(ack) is not Answer.DURABLE:
                break
            count += 1
        return count

    def _error(self, what: str, reason: str, *, delivered: int = 0, refused: bool = False) -> TransportError:
        return TransportError(f"{self._destination} {what}: {reason}.", delivered=delivered, refused=refused)


def _library(destination: Destination) -> ModuleType:
    try:
        import aiomqtt  # noqa: PLC0415 - an extra, and only where it is used
    except ImportError as error:
        raise TransportError(f"{destination} needs one package more: pip install 'runwire[mqtt]'.") from error
    return aiomqtt


async def _beside(call: Callable[[], None]) -> None:
    """Run what blocks in a thread; in this one while Python ends, when none can start."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        raised: Exception | None = None
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            raised = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(tell, raised)

    try:
        threading.Thread(target=run, name="runwire-mqtt-connect", daemon=True).start()
    except RuntimeError:
        run()
    await done
