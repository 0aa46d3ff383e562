"""Where events go: destination URLs, topic names and message keys.

kafka://HOST:PORT[,HOST:PORT...][/TOPIC]     topic defaults to runwire.events
kafkas://[USER[:PASSWORD]@]HOST:PORT...      the same by TLS; user and password are percent-encoded
mqtt://HOST[:PORT][/PREFIX]                  a broker with a bridge behind it (runwire bridge); mqtts:// by TLS
dir:PATH                                     a folder, also on a shared file system
memory:NAME                                  inside this process, for tests (runwire.testing)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from runwire_schemas.errors import DestinationError
from runwire_schemas.security import Security, is_local

DEFAULT_TOPIC = "runwire.events"
DEFAULT_KAFKA_PORT = 9092
DEFAULT_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
DEFAULT_PREFIX = "runwire"

# How a topic is made where it is missing. Event time lives in the body: the broker's append time is what lag and run
# states are judged by, and no record is refused for its clock.
TOPIC_PARTITIONS = 6
TOPIC_REPLICAS_MAX = 3
TOPIC_CONFIG = {"message.timestamp.type": "LogAppendTime"}

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# No wildcards, and none of the broker's own ($SYS); the topics of ids follow behind it.
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,7}")
_KNOWN = "kafka://HOST:PORT/TOPIC, kafkas://HOST:PORT/TOPIC (TLS), mqtt://HOST:PORT, mqtts:// (TLS) or dir:PATH"


@dataclass(frozen=True, slots=True)
class Destination:
    """A parsed URL.

    Attributes:
        kind: kafka, mqtt, dir or memory.
        servers: HOST:PORT of each Kafka broker, of the one MQTT broker.
        topic: Kafka topic; what MQTT topics begin with.
        path: Folder of `dir:`, name of `memory:`.
        tls: By TLS (`kafkas://`, `mqtts://`).
        user: As whom, as far as the URL says it; `str` leaves it out, it is in no journal.
        password: As `user`, and in no `repr` either.
        security: User, password and certificates of the connection, once `secured` has found them.
    """

    kind: str
    servers: tuple[str, ...] = ()
    topic: str = ""
    path: str = ""
    tls: bool = False
    user: str = field(default="", compare=False)
    password: str = field(default="", repr=False, compare=False)
    security: Security | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """The URL in its one normal form, without user and password."""
        if self.servers:
            return f"{self.kind}{'s' if self.tls else ''}://{','.join(self.servers)}/{self.topic}"
        return f"{self.kind}:{self.path}"

    def secured(self, variables: Mapping[str, str]) -> Destination:
        """The same with what a connection to it takes.

        A journal keeps its URL without user and password: to the brokers of RUNWIRE_URL they are taken from there.

        Args:
            variables: The environment.
        """
        if self.kind in {"dir", "memory"}:
            return self
        user, password = self.user, self.password
        if not user:
            try:
                ours = parse_url(variables.get("RUNWIRE_URL") or "")
            except DestinationError:
                ours = Destination("")
            if (ours.kind, ours.servers, ours.tls) == (self.kind, self.servers, self.tls):
                user, password = ours.user, ours.password
        name = self.kind.upper()
        return replace(self, security=Security.of(name, variables, user, password))

    @property
    def plaintext_warning(self) -> str:
        """What to say of a connection that others can read and change; "" where there is none."""
        open_servers = [] if self.tls else [server for server in self.servers if not is_local(server)]
        if not open_servers:
            return ""
        return (
            f"PLAINTEXT: everything that goes to {', '.join(open_servers)} can be read and changed on the way. "
            f"Use {self.kind}s:// (TLS) where the broker speaks it."
        )


def parse_url(url: str) -> Destination:
    """Read a destination URL.

    Raises:
        DestinationError: The scheme is unknown or a part is missing; the sentence says which.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in {"kafka", "kafkas", "dir", "memory", *DEFAULT_MQTT_PORTS}:
        raise DestinationError(f"Unknown destination {mask(url)!r}: expected {_KNOWN}.")
    if scheme in {"kafka", "kafkas"}:
        return _parse_kafka(url, rest, tls=scheme == "kafkas")
    if scheme in DEFAULT_MQTT_PORTS:
        return _parse_mqtt(url, scheme, rest)
    if not rest:
        raise DestinationError(f"Destination {url!r} names no {'folder' if scheme == 'dir' else 'name'}.")
    return Destination(scheme, path=rest)


def _parse_kafka(url: str, rest: str, *, tls: bool) -> Destination:
    if not rest.startswith("//"):
        raise DestinationError(f"Destination {mask(url)!r} lacks '//': expected kafka://HOST:PORT/TOPIC.")
    who, _, where = rest[2:].rpartition("@")  # no topic has one
    user, password = parse_user(url, who)
    authority, _, topic = where.partition("/")
    servers = tuple(_server(url, part, DEFAULT_KAFKA_PORT, "kafka://HOST:PORT/TOPIC") for part in authority.split(","))
    topic = topic or DEFAULT_TOPIC
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise DestinationError(f"Topic {topic!r} is no Kafka topic name: use letters, digits, '.', '_' and '-'.")
    return Destination("kafka", servers=servers, topic=topic, tls=tls, user=user, password=password)


def parse_user(url: str, who: str) -> tuple[str, str]:
    """User and password of a URL, from what stands before its @.

    Raises:
        DestinationError: A character there means something else in a URL.
    """
    if any(character in who for character in "/@?# "):
        raise DestinationError(
            f"Destination {mask(url)!r} has a user or password with a character that ends it: write it as %2F for /, "
            "%40 for @, or keep it in a file (RUNWIRE_KAFKA_PASSWORD_FILE)."
        )
    user, colon, password = who.partition(":")
    if colon and not user:
        raise DestinationError(f"Destination {mask(url)!r} has a password and no user: write USER:PASSWORD@HOST.")
    return unquote(user), unquote(password)


def need_no_password(url: str | None, option: str) -> None:
    """Refuse a URL with a password on a command line, where every user of the machine can read it.

    Raises:
        DestinationError: It has one.
    """
    if not url or url.startswith("dir:"):
        return
    if ":" in url.partition("://")[2].rpartition("@")[0]:
        raise DestinationError(
            f"{option} has a password, and everybody on this machine can read a command line: put the URL into "
            "RUNWIRE_URL, or the password into a file that RUNWIRE_KAFKA_PASSWORD_FILE names."
        )


def _parse_mqtt(url: str, scheme: str, rest: str) -> Destination:
    expected = f"{scheme}://HOST:PORT"
    if not rest.startswith("//"):
        raise DestinationError(f"Destination {mask(url)!r} lacks '//': expected {expected}.")
    who, _, where = rest[2:].rpartition("@")  # no prefix has one
    user, password = parse_user(url, who)
    authority, _, prefix = where.partition("/")
    prefix = prefix.rstrip("/") or DEFAULT_PREFIX
    if not _PREFIX.fullmatch(prefix):
        raise DestinationError(f"Prefix {prefix!r} begins no topics: use letters, digits, '.', '_', '-' and '/'.")
    servers = (_server(url, authority, DEFAULT_MQTT_PORTS[scheme], expected),)
    return Destination("mqtt", servers=servers, topic=prefix, tls=scheme == "mqtts", user=user, password=password)


def _server(url: str, part: str, default_port: int, expected: str) -> str:
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):
        host, port = part, str(default_port)
    if not host or "," in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise DestinationError(f"Destination {mask(url)!r} names no broker: expected {expected}.")
    return f"{host}:{int(port)}"


def mask(url: str) -> str:
    """The URL without its user and password, to be shown."""
    if url.startswith("dir:") and not url.startswith("dir://"):
        return url  # a folder may have an @
    head, at, tail = url.rpartition("@")  # the last one: a password may have it too
    scheme = _SCHEME.match(head)
    return f"{scheme[0] if scheme else ''}***@{tail}" if at else url


def message_key(run_id: str) -> bytes:
    """Kafka key: a run's story stays in order in one partition."""
    return run_id.encode()
