"""Where events go: destination URLs, topic names and message keys.

kafka://HOST:PORT[,HOST:PORT...][/TOPIC]     topic defaults to runwire.events
dir:PATH                                     a folder, also on a shared file system
memory:NAME                                  inside this process, for tests (runwire.testing)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runwire_schemas.errors import DestinationError

DEFAULT_TOPIC = "runwire.events"
DEFAULT_KAFKA_PORT = 9092

# How a topic is made where it is missing. Event time lives in the body: the broker's append time is what lag and run
# states are judged by, and no record is refused for its clock.
TOPIC_PARTITIONS = 6
TOPIC_REPLICAS_MAX = 3
TOPIC_CONFIG = {"message.timestamp.type": "LogAppendTime"}

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KNOWN = "kafka://HOST:PORT/TOPIC or dir:PATH"


@dataclass(frozen=True, slots=True)
class Destination:
    """A parsed URL.

    Attributes:
        kind: kafka, dir or memory.
        servers: HOST:PORT of each Kafka broker.
        topic: Kafka topic.
        path: Folder of `dir:`, name of `memory:`.
    """

    kind: str
    servers: tuple[str, ...] = ()
    topic: str = ""
    path: str = ""

    def __str__(self) -> str:
        """The URL in its one normal form."""
        if self.kind == "kafka":
            return f"kafka://{','.join(self.servers)}/{self.topic}"
        return f"{self.kind}:{self.path}"


def parse_url(url: str) -> Destination:
    """Read a destination URL.

    Raises:
        DestinationError: The scheme is unknown or a part is missing; the sentence says which.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in {"kafka", "dir", "memory"}:
        raise DestinationError(f"Unknown destination {mask(url)!r}: expected {_KNOWN}.")
    if scheme == "kafka":
        return _parse_kafka(url, rest)
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
    servers = tuple(_server(url, part) for part in authority.split(","))
    topic = topic or DEFAULT_TOPIC
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise DestinationError(f"Topic {topic!r} is no Kafka topic name: use letters, digits, '.', '_' and '-'.")
    return Destination("kafka", servers=servers, topic=topic)


def _server(url: str, part: str) -> str:
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):
        host, port = part, str(DEFAULT_KAFKA_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise DestinationError(f"Destination {mask(url)!r} names no broker: expected kafka://HOST:PORT/TOPIC.")
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
