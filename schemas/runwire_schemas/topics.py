"""Where events go: destination URLs, topic names and message keys.

kafka://HOST:PORT[,HOST:PORT...][/TOPIC]     topic defaults to runwire.events
mqtt://HOST[:PORT][/PREFIX]                  a broker with a bridge behind it (runwire bridge); mqtts:// by TLS
dir:PATH                                     a folder, also on a shared file system
memory:NAME                                  inside this process, for tests (runwire.testing)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runwire_schemas.errors import DestinationError

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
_KNOWN = "kafka://HOST:PORT/TOPIC, mqtt://HOST:PORT or dir:PATH"


@dataclass(frozen=True, slots=True)
class Destination:
    """A parsed URL.

    Attributes:
        kind: kafka, mqtt, mqtts, dir or memory.
        servers: HOST:PORT of each Kafka broker, of the one MQTT broker.
        topic: Kafka topic; what MQTT topics begin with.
        path: Folder of `dir:`, name of `memory:`.
    """

    kind: str
    servers: tuple[str, ...] = ()
    topic: str = ""
    path: str = ""

    def __str__(self) -> str:
        """The URL in its one normal form."""
        if self.servers:
            return f"{self.kind}://{','.join(self.servers)}/{self.topic}"
        return f"{self.kind}:{self.path}"


def parse_url(url: str) -> Destination:
    """Read a destination URL.

    Raises:
        DestinationError: The scheme is unknown or a part is missing; the sentence says which.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in {"kafka", "dir", "memory", *DEFAULT_MQTT_PORTS}:
        raise DestinationError(f"Unknown destination {mask(url)!r}: expected {_KNOWN}.")
    if scheme == "kafka":
        return _parse_kafka(url, rest)
    if scheme in DEFAULT_MQTT_PORTS:
        return _parse_mqtt(url, scheme, rest)
    if not rest:
        raise DestinationError(f"Destination {url!r} names no {'folder' if scheme == 'dir' else 'name'}.")
    return Destination(scheme, path=rest)


def _parse_kafka(url: str, rest: str) -> Destination:
    if not rest.startswith("//"):
        raise DestinationError(f"Destination {mask(url)!r} lacks '//': expected kafka://HOST:PORT/TOPIC.")
    authority, _, topic = rest[2:].partition("/")
    if "@" in rest:  # no topic has one
        raise DestinationError(
            f"Destination {mask(url)!r} has a user or password: this version speaks to Kafka without them."
        )
    servers = tuple(_server(url, part, DEFAULT_KAFKA_PORT, "kafka://HOST:PORT/TOPIC") for part in authority.split(","))
    topic = topic or DEFAULT_TOPIC
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise DestinationError(f"Topic {topic!r} is no Kafka topic name: use letters, digits, '.', '_' and '-'.")
    return Destination("kafka", servers=servers, topic=topic)


def _parse_mqtt(url: str, scheme: str, rest: str) -> Destination:
    expected = f"{scheme}://HOST:PORT"
    if not rest.startswith("//"):
        raise DestinationError(f"Destination {mask(url)!r} lacks '//': expected {expected}.")
    authority, _, prefix = rest[2:].partition("/")
    if "@" in rest:  # no prefix has one
        raise DestinationError(
            f"Destination {mask(url)!r} has a user or password: this version speaks to MQTT brokers without them."
        )
    prefix = prefix.rstrip("/") or DEFAULT_PREFIX
    if not _PREFIX.fullmatch(prefix):
        raise DestinationError(f"Prefix {prefix!r} begins no topics: use letters, digits, '.', '_', '-' and '/'.")
    return Destination(scheme, servers=(_server(url, authority, DEFAULT_MQTT_PORTS[scheme], expected),), topic=prefix)


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
