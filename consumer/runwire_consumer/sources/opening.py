"""Which source a destination names; what a source needs is imported with it."""

from __future__ import annotations

from pathlib import Path

from runwire_consumer.errors import SourceError
from runwire_consumer.sources import Source
from runwire_schemas.topics import Destination


def open_source(destination: Destination) -> Source:
    """The source of a parsed URL; nothing is connected before its `start` and `poll`.

    Raises:
        SourceError: The consumer can't read from there.
    """
    match destination.kind:
        case "dir":
            from runwire_consumer.sources.directory import DirectorySource  # noqa: PLC0415 - as needed

            return DirectorySource(Path(destination.path), str(destination))
        case "kafka":
            from runwire_consumer.sources.kafka import KafkaSource  # noqa: PLC0415 - aiokafka, 100 ms

            return KafkaSource(destination)
        case "mqtt":
            raise SourceError(
                f"A consumer can't read from {destination}: `runwire bridge {destination} kafka://HOST:PORT/TOPIC` "
                "forwards what comes there; read that."
            )
        case kind:
            raise SourceError(f"A consumer can't read from {kind}: name kafka://HOST:PORT/TOPIC or dir:PATH.")
