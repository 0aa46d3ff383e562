"""Anchors: what a record of a Kafka log is recognised by, so that another log behind the same name is found out.

    "42 1700000000000 deadbeef Zk1..."    offset, timestamp, CRC-32 of the value, id of the topic
    "42 1700000000000 deadbeef"           of a broker that gives topics no id (before Kafka 2.8), or of an older store
    "- - - Zk1..."                        the topic alone, where no record was read before the position
    ""                                    nothing is known

The topic's id tells a topic that was made again, whatever it holds. It doesn't tell a log that lost its end (a broker
that was restored from older data, an unclean election): there the record tells.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Self

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A record, or no record, of a topic that has an id, or of one whose id isn't known.

    Attributes:
        topic_id: "" where it isn't known.
        offset: Of the record; None where there is none.
        timestamp: Of the record, milliseconds.
        crc: CRC-32 of its value, 8 hexadecimal digits.
    """

    topic_id: str = ""
    offset: int | None = None
    timestamp: int = 0
    crc: str = ""

    @classmethod
    def of(cls, topic_id: str, offset: int, timestamp: int, value: bytes | None) -> Self:
        """The anchor of a record."""
        return cls(topic_id, offset, timestamp, f"{zlib.crc32(value or b''):08x}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` wrote; what nobody wrote is nothing known, which costs a check and no row."""
        offset, timestamp, crc, topic_id = [*text.split(" "), "", "", "", ""][:4]
        if not crc or not offset.isdecimal() or not timestamp.removeprefix("-").isdecimal():
            return cls(topic_id)
        return cls(topic_id, int(offset), int(timestamp), crc)

    def __str__(self) -> str:
        """As the store keeps it."""
        if self.offset is None:
            return f"{_NONE} {_NONE} {_NONE} {self.topic_id}" if self.topic_id else ""
        record = f"{self.offset} {self.timestamp} {self.crc}"
        return f"{record} {self.topic_id}" if self.topic_id else record

    def is_of(self, offset: int, timestamp: int, value: bytes | None) -> bool:
        """Whether this is the anchor of that record; topics aside."""
        return (self.offset, self.timestamp, self.crc) == (offset, timestamp, f"{zlib.crc32(value or b''):08x}")

    def is_elsewhere(self, topic_id: str) -> bool:
        """Whether it is certain that the record is of another topic than this one."""
        return bool(self.topic_id and topic_id and self.topic_id != topic_id)


NOTHING = Anchor()
