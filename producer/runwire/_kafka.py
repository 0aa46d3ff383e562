"""The `kafka://` transport: aiokafka, acknowledged by all in-sync replicas, idempotent, compressed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from runwire._errors import TransportError
from runwire_schemas.brokers import client_options, heard, reason
from runwire_schemas.errors import SecurityError
from runwire_schemas.topics import TOPIC_CONFIG, TOPIC_PARTITIONS, TOPIC_REPLICAS_MAX, message_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runwire._batch import Message
    from runwire_schemas.topics import Destination

SEND_TIMEOUT_SECONDS = 20.0
OPEN_TIMEOUT_SECONDS = 60.0
CLOSE_TIMEOUT_SECONDS = 2.0
BATCH_BYTES_MAX = 900_000  # below a broker's default message.max.bytes, which bounds whole batches

# The broker will never take such a record. Everything else may pass: even a wrong timestamp is a clock's fault, or a
# topic's, and not a row's.
_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaTransport:
    """One idempotent producer.

    After a refused record aiokafka's producer is unusable for that partition (OutOfOrderSequenceNumber on every
    later send, aiokafka#1017): the sender closes this transport and opens a new one.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._producer: AIOKafkaProducer | None = None
        self._cause = heard()  # a broker that is away is the sender's to report, once a minute

    async def open(self) -> None:
        """Connect, and make the topic where it is missing and may be made."""
        self._cause = heard()  # in the task that connects
        try:
            options = client_options(self._destination)
        except SecurityError as error:
            raise self._error("can't be reached", error) from None
        producer = AIOKafkaProducer(
            **options,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=0,  # a window is handed over at once, so nothing is gained by waiting
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=2 * BATCH_BYTES_MAX,
            request_timeout_ms=10_000,
            metadata_max_age_ms=30_000,  # how long new partitions may go unused; aiokafka's own 5 minutes are long
            client_id="runwire",
        )
        self._producer = producer
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
                await producer.start()
                await self._make_topic(producer, options)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._error("can't be reached", error) from error

    async def send(self, messages: Sequence[Message]) -> None:
        """Hand all messages to the producer in order, then wait for every acknowledgement."""
        producer = self._producer
        if producer is None:
            raise TransportError(f"{self._destination} is closed.")
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                acknowledged = [
                    await producer.send(
                        self._destination.topic,
                        value=message.payload,
                        key=message_key(message.envelope.run_id),
                        headers=message.envelope.to_headers(),
                    )
                    for message in messages
                ]
                await asyncio.gather(*acknowledged)
            self._cause.forget()
        except _REFUSALS as error:
            raise self._error("refused a message", error, refused=True) from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._error("took no message", error) from error

    async def close(self) -> None:
        """Stop the producer without a flush; what it still holds is sent again by whoever opens the next one.

        aiokafka's own `stop` sends the rest first: for as long as the broker is away, or behind what is sent anew.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._closed = True  # noqa: SLF001 - see above
        for close in (producer.client.close, producer._sender.close):  # noqa: SLF001 - see above
            # Cancelled tasks of the producer end with CancelledError, which is theirs and not ours.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await close()

    async def _make_topic(self, producer: AIOKafkaProducer, options: dict[str, Any]) -> None:
        topic = self._destination.topic
        metadata = await producer.client.fetch_all_metadata()
        if topic in metadata.topics():
            return
        replicas = min(TOPIC_REPLICAS_MAX, len(metadata.brokers()))
        admin = AIOKafkaAdminClient(**options, client_id="runwire")
        try:
            # Without the right to make topics, the first send says what is missing.
            with contextlib.suppress(KafkaError):
                await admin.start()
                await admin.create_topics([NewTopic(topic, TOPIC_PARTITIONS, replicas, topic_configs=TOPIC_CONFIG)])
        finally:
            with contextlib.suppress(KafkaError):
                await admin.close()

    def _error(self, what: str, error: Exception, *, refused: bool = False) -> TransportError:
        why = reason(error, self._destination, self._cause, "write")
        return TransportError(f"{self._destination} {what}: {why}.", refused=refused)
