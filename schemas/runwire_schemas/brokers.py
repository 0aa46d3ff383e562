"""Kafka brokers, alike for all that speak to one: how a client is let in, and what it means when it isn't.

aiokafka tells why a connection failed to its log alone, and raises "Unable to bootstrap" afterwards. So its log is
listened to here (and never printed: whoever uses the client reports, once a minute): `heard` gives each client's
context a place of its own where the last cause is kept.
"""

from __future__ import annotations

import logging
import ssl
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from aiokafka import conn, errors

from runwire_schemas.errors import SecurityError
from runwire_schemas.security import MECHANISMS, Security, is_local, tls_reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runwire_schemas.topics import Destination

_CHAIN_MAX = 8


class Cause:
    """Why a client's last connection failed, as far as it was heard."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.error: BaseException | None = None

    def forget(self) -> None:
        """It works now: what comes has another cause."""
        self.error = None


_heard: ContextVar[Cause | None] = ContextVar("_heard", default=None)


class _Listener(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the exception that a record carries, and the record from being printed."""
        cause = _heard.get()
        last = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        if cause is not None and isinstance(last, BaseException):
            cause.error = last
        return record.levelno >= logging.CRITICAL


_listener = _Listener()


async def _step(authenticator: Any, payload: bytes | None) -> Any:
    """A step of a login, in this thread: aiokafka takes a thread pool, and none may work while Python ends."""
    return authenticator._step(payload)  # noqa: SLF001 - what its own `step` hands to the pool


def heard() -> Cause:
    """Keep aiokafka quiet, and listen for causes in this task and in those that it starts from here on."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("aiokafka."):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # aiokafka.conn would print logins at DEBUG
    clients = logging.getLogger("aiokafka")  # of its client, which connects
    clients.setLevel(logging.WARNING)
    clients.addFilter(_listener)
    conn.BaseSaslAuthenticator.step = _step
    cause = Cause()
    _heard.set(cause)
    return cause


def client_options(destination: Destination) -> dict[str, Any]:
    """Arguments of every aiokafka client of a destination: where it is, and how it is let in.

    Raises:
        SecurityError: What that takes can't be used.
    """
    security = destination.security or Security()
    options: dict[str, Any] = {"bootstrap_servers": list(destination.servers)}
    if destination.tls:
        options["ssl_context"] = security.context()
    if security.user:
        if security.mechanism not in MECHANISMS:
            raise SecurityError(
                f"RUNWIRE_KAFKA_SASL must be one of {', '.join(MECHANISMS)}, not {security.mechanism!r}"
            )
        if security.mechanism == "PLAIN" and not destination.tls and not all(map(is_local, destination.servers)):
            raise SecurityError(
                "the password would be sent in the clear (RUNWIRE_KAFKA_SASL=PLAIN without TLS): use kafkas://"
            )
        options["sasl_mechanism"] = security.mechanism
        options["sasl_plain_username"], options["sasl_plain_password"] = security.login()
    layers = ("SASL_" if security.user else "") + ("SSL" if destination.tls else "PLAINTEXT")
    return {**options, "security_protocol": layers}


def reason(error: BaseException, destination: Destination, cause: Cause | None = None, to: str = "use") -> str:
    """Why a broker can't be used, half a sentence that says what to do.

    Args:
        error: What was raised.
        destination: The topic it was about.
        cause: What was heard of the client.
        to: What was wanted of the topic: write, read, use.
    """
    servers = ", ".join(destination.servers)
    for one in _chain(error, cause):
        if (told := _refusal(one, destination, servers, to)) is not None:
            return told
    if isinstance(error, (errors.KafkaConnectionError, ConnectionError)):
        return f"no broker answers at {servers}"
    if isinstance(error, TimeoutError):
        return f"no answer in time from {servers}"
    name, text = type(error).__name__, str(error).strip().rstrip(".")
    return text if name in text else f"{name}: {text}" if text else name  # most of aiokafka's texts name the class


def _chain(error: BaseException, cause: Cause | None) -> Iterator[BaseException]:
    """The error, what was heard, and what these came from."""
    heard_last = [] if cause is None or cause.error is None else [cause.error]
    # A broker that answers with a refusal says more than whatever was heard before.
    for first in (error, *heard_last) if isinstance(error, errors.BrokerResponseError) else (*heard_last, error):
        one: BaseException | None = first
        for _ in range(_CHAIN_MAX):
            if one is None:
                break
            yield one
            one = one.__cause__ or one.__context__


def _refusal(error: BaseException, destination: Destination, servers: str, to: str) -> str | None:
    """What an error means that says why; None for one that doesn't."""
    security = destination.security or Security()
    told = None
    match error:
        case SecurityError():
            told = str(error)
        case ssl.SSLError():
            told = tls_reason(error, security, servers)
        case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
            told = (
                f"{servers} doesn't know user {security.user!r}, or the password is wrong: correct RUNWIRE_KAFKA_USER "
                "and RUNWIRE_KAFKA_PASSWORD_FILE (or the URL's)"
            )
        case errors.UnsupportedSaslMechanismError() | errors.IllegalSaslStateError():
            others = " or ".join(one for one in MECHANISMS if one != security.mechanism)
            told = (
                f"{servers} takes no password by {security.mechanism} there: set RUNWIRE_KAFKA_SASL to {others}, or "
                "use its port for passwords"
            )
        case ConnectionResetError() | ConnectionAbortedError() if destination.tls:
            told = tls_reason(error, security, servers)
        case errors.KafkaConnectionError() if "closed" in str(error):
            told = _hung_up(destination, security, servers)
        case _:
            told = _denied(error, destination.topic, security, to)
    return told


def _denied(error: BaseException, topic: str, security: Security, to: str) -> str | None:
    who = f"user {security.user!r}" if security.user else f"we, by {security.certificate or 'no user at all'},"
    match error:
        case errors.TopicAuthorizationFailedError():
            rights = {"write": "Write and Describe", "read": "Read and Describe"}.get(to, "Describe")
            return f"{who} may not {to} topic {topic}: have {rights} on it granted"
        case errors.ClusterAuthorizationFailedError():
            return f"{who} may not {to} topic {topic}: have Write on it, and IdempotentWrite, granted"
        case errors.GroupAuthorizationFailedError():
            return f"{who} may not use the consumer group: have Read on the group runwire-consumer granted"
        case _:
            return None


def _hung_up(destination: Destination, security: Security, servers: str) -> str:
    """What to try where a broker closes the connection without a word."""
    tries = [] if destination.tls else ["TLS (kafkas://)"]
    tries += [] if security.user else ["a user (RUNWIRE_KAFKA_USER, RUNWIRE_KAFKA_PASSWORD_FILE)"]
    tries += ["a certificate (RUNWIRE_CLIENT_CERT)"] if destination.tls and not security.certificate else []
    tries += [f"another certificate than {security.certificate}"] if destination.tls and security.certificate else []
    wanted = f", it may want {' or '.join(tries)}" if tries else ""
    return f"no broker answers at {servers}: it closes the connection{wanted}"
