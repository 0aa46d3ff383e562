"""The seam to the outside: what a transport is, and which one a URL names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from runwire._settings import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runwire._batch import Message
    from runwire_schemas.topics import Destination


class Transport(Protocol):
    """A way for messages to the log, used by one sender thread and its event loop.

    What is durable when: a message that `send` returned is in the log for good, as far as the log itself promises
    (Kafka: acknowledged by all in-sync replicas; MQTT: by the log behind the bridge; `dir:`: written to the file, which
    survives any process, and power loss where it was asked for).
    What is not promised: that it is there once. After an error it may be there, and is sent again.
    """

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportError: Not now; worth trying again.
        """

    async def send(self, messages: Sequence[Message]) -> None:
        """Return when all of the messages are durable, in their order.

        Raises:
            TransportError: `refused` where one of the messages will never be taken (too large); `delivered` of them,
                from the first on, are durable; the transport has to be closed, and all others sent again through a
                new one.
        """

    async def close(self) -> None:
        """Give connections and files back; never raises."""


def make_transport(destination: Destination, *, is_durable: bool = False) -> Transport:
    """The transport of a destination, not opened yet; its library is imported here and not before.

    Args:
        destination: Where to.
        is_durable: What `send` returned has to survive power loss of this machine too, where that is up to us (`dir:`).
    """
    if destination.security is None:  # from a journal, which keeps no password
        destination = destination.secured(environment())
    match destination.kind:
        case "kafka":
            from runwire._kafka import KafkaTransport  # noqa: PLC0415 - aiokafka costs 100 ms

            return KafkaTransport(destination)
        case "mqtt":
            from runwire._mqtt import MqttTransport  # noqa: PLC0415 - only where it is used

            return MqttTransport(destination)
        case "dir":
            from runwire._directory import DirectoryTransport  # noqa: PLC0415 - only where it is used

            return DirectoryTransport(destination, is_durable=is_durable)
        case _:
            from runwire._memory import MemoryTransport  # noqa: PLC0415 - only where it is used

            return MemoryTransport(destination)
