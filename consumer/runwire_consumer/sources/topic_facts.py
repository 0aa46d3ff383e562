"""What a broker says of a topic: its id, its partitions and who leads them, and how long it keeps records.

aiokafka asks for Metadata up to version 5; ids of topics come with version 10 (KIP-516, Kafka 2.8). So the request is
spelled here, in aiokafka's own types; an older broker is asked as aiokafka does, and its topics have no id.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import BrokerNotAvailableError, for_code
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

_UNKNOWN_TOPIC = 3
_RESOURCE_TOPIC = 2
_KEPT = ("retention.ms", "retention.bytes", "cleanup.policy")


# aiokafka's types are not typed for mypy, hence each subclass's exception from its rules.
class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _AskTopic(Request[_MetadataRequest]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_MetadataRequest]) -> _MetadataRequest:
        return request_struct_class([(bytes(16), self._topic, {})], False, False, False, {})


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic as one broker knows it now.

    Attributes:
        topic_id: Kafka's id of the topic, another one each time a topic is made; "" where the broker gives none.
        leaders: By partition what tells one reign of a leader from the next: node, epoch, and the connection to it.
            While it is equal, nobody cut the partition's log behind our back.
    """

    topic_id: str = ""
    leaders: dict[int, tuple[int, int, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic keeps records; infinite is `math.inf`."""

    seconds: float = math.inf
    bytes: float = math.inf
    compacted: bool = False


async def ask_topic(client: AIOKafkaClient, topic: str) -> TopicFacts | None:
    """What the cluster says of a topic; None where there is none.

    Raises:
        KafkaError: No answer, or none that says it.
    """
    try:
        answer = await client.send(_any_node(client), _AskTopic(topic))
    except NotImplementedError:  # how aiokafka says that a broker is too old for this version
        return await _ask_as_aiokafka(client, topic)
    ((code, _, topic_id, _, partitions, *_),) = answer.topics
    if code == _UNKNOWN_TOPIC:
        return None
    if code:
        raise for_code(code)(topic)
    name = base64.urlsafe_b64encode(topic_id).decode().rstrip("=") if any(topic_id) else ""
    return TopicFacts(name, {number: (node, epoch, _link(client, node)) for _, number, node, epoch, *_ in partitions})


async def ask_retention(client: AIOKafkaClient, topic: str) -> Retention | None:
    """How long the topic keeps records; None where we may not know.

    Raises:
        KafkaError: No answer.
    """
    answer = await client.send(_any_node(client), DescribeConfigsRequest([(_RESOURCE_TOPIC, topic, list(_KEPT))]))
    ((code, _, _, _, entries),) = answer.resources
    if code:
        return None
    values: dict[str, Any] = {name: value for name, value, *_ in entries}
    policy = values.get("cleanup.policy") or "delete"
    if "delete" not in policy:
        return Retention(compacted=True)
    seconds, size = _limit(values.get("retention.ms")) / 1000, _limit(values.get("retention.bytes"))
    return Retention(seconds, size, compacted="compact" in policy)


async def _ask_as_aiokafka(client: AIOKafkaClient, topic: str) -> TopicFacts | None:
    cluster = await client.fetch_all_metadata()
    numbers = cluster.partitions_for_topic(topic)
    if not numbers:
        return None
    nodes = {number: cluster._partitions[topic][number].leader for number in numbers}  # noqa: SLF001 - shown nowhere
    return TopicFacts("", {number: (node, -1, _link(client, node)) for number, node in nodes.items()})


def _any_node(client: AIOKafkaClient) -> Any:
    node = client.get_random_node()
    if node is None:
        raise BrokerNotAvailableError("no broker is known")
    return node


def _link(client: AIOKafkaClient, node: int) -> object:
    """The connection that records of this node come by; another object after each reconnect."""
    return client._conns.get((node, ConnectionGroup.DEFAULT))  # noqa: SLF001 - as above


def _limit(text: str | None) -> float:
    """Kafka's -1 is no limit."""
    try:
        value = int(text or "-1")
    except ValueError:
        return math.inf
    return math.inf if value < 0 else float(value)
