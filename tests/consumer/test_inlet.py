"""PUBLISH packets as brokers send them: topic, packet id, every property that MQTT 5 has there, payload."""

from __future__ import annotations

import struct

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from runwire_consumer.bridge import Incoming
from runwire_consumer.inlet import parse_publish

QOS_0, QOS_1 = 0x30, 0x32


def _packet(properties: bytes, payload: bytes, receipt: int | None = 7) -> bytes:
    topic = b"runwire/p/r/e"
    packet_id = b"" if receipt is None else struct.pack("!H", receipt)
    return struct.pack("!H", len(topic)) + topic + packet_id + properties + payload


def test_as_paho_writes_it() -> None:
    """User properties in their order, whatever stands between them."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 5
    properties.TopicAlias = 3
    properties.ResponseTopic = "a/b"
    properties.CorrelationData = b"\x26\x00"
    properties.ContentType = "x"
    properties.UserProperty = [("type", "M"), ("project", "a%20b"), ("long", "x" * 300)]
    packet = _packet(properties.pack(), b"\xc3\x01pay")  # type: ignore[no-untyped-call]
    found = [("type", b"M"), ("project", b"a b"), ("long", b"x" * 300)]
    assert parse_publish(QOS_1, packet) == Incoming(found, b"\xc3\x01pay", 7)


@pytest.mark.parametrize(
    ("properties", "found"),
    [
        (b"\x00", []),
        (b"\x07\x26\x00\x01a\x00\x01b", [("a", b"b")]),
        (b"\x02\x0b\x05", []),
        (b"\x0a\x0b\x80\x01\x26\x00\x01a\x00\x01b", [("a", b"b")]),
        ("\x08\x26\x00\x01a\x00\x03\ufeff".encode().replace(b"\x08", b"\x09", 1), [("a", "\ufeff".encode())]),
        (b"\x01\x7f", []),
    ],
)
def test_by_the_byte(properties: bytes, found: list[tuple[str, bytes]]) -> None:
    """Also what paho hangs up on; at QoS 0 there is nothing to settle."""
    assert parse_publish(QOS_0, _packet(properties, b"x", None)) == Incoming(found, b"x", 0)
