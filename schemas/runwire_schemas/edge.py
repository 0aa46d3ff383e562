"""What travels over MQTT besides the payload: topics, the envelope as user properties, acknowledgements.

    PREFIX/<project>/<run>/<emitter>    events; PREFIX is `runwire` unless the URL says otherwise
    PREFIX-ack/<emitter>                what the bridge says of them, as JSON, QoS 1, never retained

Parts of topics and values of properties are percent-encoded: a broker hangs up on control characters, and `/`, `+` and
`#` would make levels and patterns of ids. Laws that both sides hold to:

1. An acknowledgement is sent when the target of the bridge has acknowledged, never before; a PUBACK says nothing.
2. A range that is `ok` is durable, whichever messages it came in. `refused` names one message's range, as it was sent.
3. What lies outside the sequence (`count` 0) is acknowledged under the key of its payload. So is `Hello`, which asks
   whether a bridge is there: it goes no further than to the bridge, which answers once everything before is durable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from runwire_schemas.envelope import SEQ_MAX, Envelope
from runwire_schemas.errors import DecodeError
from runwire_schemas.security import Security, tls_reason
from runwire_schemas.topics import Destination

HELLO = "Hello"
HELLO_EXPIRES_SECONDS = 30
"""A sign of life, or the question for one, that waits longer in the broker says nothing any more."""

DENIED = 0x87
"""Reason code of MQTT 5, Not authorized: of a login, and of a message where the broker tells that it lets it fall."""

_BAD_LOGIN = frozenset({0x86, DENIED})
_KEY_CHARACTERS = 16
_OK, _REFUSED = "ok", "refused"


def client_arguments(destination: Destination) -> dict[str, Any]:
    """Of every MQTT client that is to reach a broker: where it is, as whom, by TLS or not.

    Raises:
        SecurityError: A file that holds a password, a certificate or a key can't be used.
    """
    host, _, port = destination.servers[0].rpartition(":")
    security = destination.security or Security("MQTT")
    user, password = security.login() if security.user else (None, None)
    return {
        "hostname": host.strip("[]"),
        "port": int(port),
        "username": user,
        "password": password,
        "tls_context": security.context() if destination.tls else None,
    }


class HungUp(ConnectionError):
    """The broker closed the connection before it had answered."""


def notice_hanging_up(client: Any) -> None:
    """Have an aiomqtt client fail at once, by `HungUp`, where it would wait in vain for the answer to its CONNECT."""
    go_on = client._client.on_disconnect  # noqa: SLF001 - the library lets the end pass that comes before the answer

    def note(*arguments: Any) -> None:
        if not client._connected.done():  # noqa: SLF001 - as above
            client._connected.set_exception(HungUp("the broker hung up"))  # noqa: SLF001 - as above
        go_on(*arguments)

    client._client.on_disconnect = note  # noqa: SLF001 - as above


def reason(error: BaseException, destination: Destination, *, is_connected: bool = True) -> str:
    """Why an MQTT broker can't be used, half a sentence that says what to do.

    Args:
        error: What aiomqtt raised, or what stands behind it.
        destination: The broker.
        is_connected: It had let us in.
    """
    server, security = destination.servers[0], destination.security or Security("MQTT")
    causes = list(_causes(error))  # aiomqtt wraps what its connecting met
    for cause in causes if destination.tls else ():
        if (told := tls_reason(cause, security, server)) is not None:
            return told
    if any(isinstance(cause, HungUp) for cause in causes):
        return _hung_up(destination, security, server)
    code = getattr(error, "rc", None)  # of aiomqtt's errors; a number of paho's own, or a reason code of MQTT 5
    if getattr(code, "value", None) in _BAD_LOGIN:
        return _no_entry(security, server, is_connected=is_connected)
    text = str(error if code is None else code).strip().rstrip(".")
    if isinstance(code, int) or text == "Unspecified error":
        return "the connection broke"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"no broker answers at {server}"
    if any(isinstance(cause, TimeoutError) for cause in causes) or "timed out" in text:
        wanted = "" if destination.tls else ", it may want TLS (mqtts://)"
        return f"no answer in time from {server}{wanted}"
    return text or type(error).__name__


def _no_entry(security: Security, server: str, *, is_connected: bool) -> str:
    if is_connected:
        return f"{server} no longer lets us in, or denies a topic: have users and rights looked at in its configuration"
    if not security.user:
        return f"{server} wants a user: set RUNWIRE_MQTT_USER and RUNWIRE_MQTT_PASSWORD_FILE"
    return (
        f"{server} doesn't know user {security.user!r}, or the password is wrong: correct RUNWIRE_MQTT_USER and "
        "RUNWIRE_MQTT_PASSWORD_FILE (or the URL's)"
    )


def _hung_up(destination: Destination, security: Security, server: str) -> str:
    """What to try; by TLS 1.3 a broker that wants another certificate says no more than that."""
    if not destination.tls:
        return f"{server} hangs up at once: it may want TLS (mqtts://)"
    if not security.certificate:
        return f"{server} hangs up at once: it may want a certificate of ours (RUNWIRE_CLIENT_CERT)"
    return (
        f"{server} hangs up at once: it may not take our certificate, {security.certificate}: give one that is valid "
        "and signed by an authority that the broker trusts"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of, also where a library hides that."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def denial(destination: Destination, topic: str, right: str = "publish to") -> str:
    """That the broker denies a topic, half a sentence that says what to do."""
    user = (destination.security or Security("MQTT")).user
    who = f"user {user!r}" if user else "who comes without a user"
    return f"{who} may not {right} {topic}: have that granted in the broker's ACL"


@dataclass(frozen=True, slots=True)
class Ack:
    """What became of the rows `first_seq` .. `first_seq + count - 1` of one emitter.

    Attributes:
        key: Of a record outside the sequence (`count` 0), `record_key`; else "".
        refused: The target will never take that message as it is.
    """

    first_seq: int
    count: int
    key: str = ""
    refused: bool = False


def event_topic(prefix: str, envelope: Envelope) -> str:
    """Where a message goes."""
    return "/".join((prefix, *map(_encoded, (envelope.project, envelope.run_id, envelope.emitter_id))))


def events_filter(prefix: str) -> str:
    """What the bridge subscribes to."""
    return f"{prefix}/#"


def ack_topic(prefix: str, emitter_id: str) -> str:
    """Where the bridge's acknowledgements for an emitter go."""
    return f"{prefix}-ack/{_encoded(emitter_id)}"


def emitter_of(prefix: str, topic: str) -> str | None:
    """Whose acknowledgement came there, None where it is none."""
    head, _, tail = topic.rpartition("/")
    return unquote(tail) if head == f"{prefix}-ack" else None


def to_properties(envelope: Envelope) -> list[tuple[str, str]]:
    """The envelope as MQTT 5 user properties."""
    return [(name, _encoded(value.decode())) for name, value in envelope.to_headers()]


def from_properties(properties: Iterable[tuple[str, str]]) -> list[tuple[str, bytes]]:
    """The headers that `to_properties` made user properties of; whatever else came as well as it can be read."""
    return [(name, (unquote(value) if "%" in value else value).encode()) for name, value in properties]


def record_key(payload: bytes) -> str:
    """By what a record outside the sequence is acknowledged."""
    return hashlib.sha256(payload).hexdigest()[:_KEY_CHARACTERS]


def ack_of(envelope: Envelope, payload: bytes, *, refused: bool = False) -> Ack:
    """The acknowledgement of one message."""
    key = "" if envelope.count else record_key(payload)
    return Ack(envelope.first_seq, envelope.count, key, refused)


def joined(acks: Iterable[Ack]) -> list[Ack]:
    """The same in fewer: neighbouring rows that are durable become one range."""
    made: list[Ack] = []
    for ack in acks:
        last = made[-1] if made else None
        if (
            last is not None
            and not (ack.refused or last.refused or ack.key or last.key)
            and last.first_seq <= ack.first_seq <= last.first_seq + last.count
        ):
            end_seq = max(last.first_seq + last.count, ack.first_seq + ack.count)
            made[-1] = Ack(last.first_seq, end_seq - last.first_seq)
        else:
            made.append(ack)
    return made


def encode_ack(ack: Ack) -> bytes:
    """The payload of an acknowledgement."""
    fields = {"first_seq": ack.first_seq, "count": ack.count, "state": _REFUSED if ack.refused else _OK}
    return json.dumps(fields | ({"key": ack.key} if ack.key else {})).encode()


def decode_ack(payload: bytes) -> Ack:
    """Read an acknowledgement.

    Raises:
        DecodeError: It is none.
    """
    try:
        fields = json.loads(payload)
        first_seq, count, key = fields["first_seq"], fields["count"], fields.get("key", "")
        refused = {_OK: False, _REFUSED: True}[fields["state"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DecodeError(f"No acknowledgement of a bridge: {payload[:80]!r}.") from error
    if type(first_seq) is not int or type(count) is not int or type(key) is not str:
        raise DecodeError(f"No acknowledgement of a bridge: {payload[:80]!r}.")
    if first_seq < 0 or count < 0 or first_seq + count > SEQ_MAX or bool(key) is bool(count):
        raise DecodeError(f"The acknowledgement of a bridge is impossible: {payload[:80]!r}.")
    return Ack(first_seq, count, key, refused)


def _encoded(text: str) -> str:
    return text if text.isalnum() and text.isascii() else quote(text, safe="")
