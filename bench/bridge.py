"""How much the bridge forwards from Mosquitto to Kafka, and how long a message is on its way until it is acknowledged.

Three real programs: Mosquitto, `runwire bridge`, Kafka. This process publishes messages of 1 kB from a few emitters,
with packets made beforehand, and takes the bridge's own acknowledgements as the end: what they cover is in Kafka.
Two stretches: as many as go through, with a bounded number on their way (messages_per_second), then so many as
`--paced` says, where p99_ms is taken. CPU is the bridge process's own: on a shared machine that alone means something.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import struct
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script

from bench.broker import broker_if_possible, new_topic
from runwire_schemas.edge import ack_topic, decode_ack, event_topic, to_properties
from runwire_schemas.envelope import Envelope
from tests.services.bridge import BridgeProcess
from tests.services.mosquitto import MosquittoBroker

EMITTERS = 8
ROWS = 10
PAYLOAD_BYTES = 1_000
UNTAKEN_MAX = 400
PREFIX = "runwire"
STALL_SECONDS = 60.0


def main() -> None:
    """Measure; print a line or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=50_000, help="of the first stretch")
    parser.add_argument("--on-their-way", type=int, default=2_000, help="at most, in the first stretch")
    parser.add_argument("--paced", type=int, default=1_000, help="messages a second of the second stretch, 10 s long")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, broker_if_possible() as kafka:
        folder = Path(made)
        folder.chmod(0o755)
        target = f"dir:{folder / 'topic'}" if kafka is None else kafka.url(new_topic(kafka))
        with (
            MosquittoBroker(folder / "mosquitto", in_flight=1_000) as mosquitto,
            BridgeProcess(mosquitto.url, target, folder=folder) as bridge,
        ):
            bridge.wait_for("runwire_bridge_broker_up", 1)
            load = Load(mosquitto.address)
            load.run(2_000, options.on_their_way, None)  # connections, imports
            programs = {"bridge": psutil.Process(bridge.process.pid), "mosquitto": psutil.Process(mosquitto.pid)}
            before, began = {name: _cpu(one) for name, one in programs.items()}, time.perf_counter()
            load.run(options.messages, options.on_their_way, None)
            seconds = time.perf_counter() - began
            cpu = {name: _cpu(one) - before[name] for name, one in programs.items()}
            latencies = sorted(load.run(10 * options.paced, options.on_their_way, options.paced))
    found = {
        "messages_per_second": round(options.messages / seconds),
        "p99_ms": round(1_000 * latencies[int(0.99 * len(latencies))], 1),
        "p50_ms": round(1_000 * latencies[len(latencies) // 2], 1),
        "bridge_cpu_us_per_message": round(1e6 * cpu["bridge"] / options.messages),
        "mosquitto_cpu_us_per_message": round(1e6 * cpu["mosquitto"] / options.messages),
        "messages_per_bridge_cpu_second": round(options.messages / cpu["bridge"]),
        "paced_messages_per_second": options.paced,
        "target": target.partition(":")[0],
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


class Load:
    """One MQTT connection that publishes as several emitters and reads what the bridge says of them."""

    def __init__(self, address: str) -> None:
        """Connect and subscribe."""
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self._out = b""
        self._untaken = self._mid = 0
        self._next_seq = [0] * EMITTERS
        self._waiting: list[deque[tuple[int, float]]] = [deque() for _ in range(EMITTERS)]
        self._packets = [self._parts(f"bench{number}{time.time_ns()}") for number in range(EMITTERS)]
        connect = _text("MQTT") + bytes([5, 2]) + struct.pack("!HB", 600, 0) + _text(f"load-{os.getpid()}")
        self._socket.sendall(_packet(0x10, connect))
        topics = b"".join(_text(ack_topic(PREFIX, emitter)) + b"\0" for emitter, *_ in self._packets)
        self._socket.sendall(_packet(0x82, struct.pack("!HB", 1, 0) + topics))
        time.sleep(0.2)
        self._socket.setblocking(False)
        self._by_topic = {ack_topic(PREFIX, emitter): at for at, (emitter, *_) in enumerate(self._packets)}
        self.latencies: list[float] = []

    def run(self, messages: int, on_their_way_max: int, per_second: int | None) -> list[float]:
        """Publish so many, wait until all are acknowledged; seconds of each."""
        self.latencies = []
        published, began, moved_at = 0, time.perf_counter(), time.perf_counter()
        selector = selectors.DefaultSelector()
        selector.register(self._socket, selectors.EVENT_READ)
        while len(self.latencies) < messages:
            now, before = time.perf_counter(), len(self.latencies)
            due = messages if per_second is None else min(messages, int((now - began) * per_second) + 1)
            while (
                published < due
                and published - len(self.latencies) < on_their_way_max
                and self._untaken < UNTAKEN_MAX
                and len(self._out) < 2**18
            ):
                self._publish(published % EMITTERS, now)
                published += 1
            if self._out:
                with contextlib.suppress(BlockingIOError):
                    self._out = self._out[self._socket.send(self._out) :]
            if selector.select(0.001):
                self._take()
            if len(self.latencies) > before:
                moved_at = now
            elif now > moved_at + STALL_SECONDS:
                raise TimeoutError(f"nothing is acknowledged any more, at {before} of {messages} messages")
        return self.latencies

    def _publish(self, at: int, now: float) -> None:
        _, topic, head, tail = self._packets[at]
        seq = self._next_seq[at]
        self._next_seq[at] += ROWS
        self._waiting[at].append((seq + ROWS, now))
        self._mid = self._mid % 60_000 + 1
        properties = head + b"\x26" + _text("first_seq") + _text(str(seq))
        body = topic + struct.pack("!H", self._mid) + _varint(len(properties)) + properties + tail
        self._out += _packet(0x32, body)
        self._untaken += 1

    def _take(self) -> None:
        data = self._read + self._socket.recv(2**18)
        at = 0
        while True:
            length = shift = 0
            front = at + 1
            while front < len(data) and (data[front] & 0x80):
                length |= (data[front] & 0x7F) << shift
                shift, front = shift + 7, front + 1
            if front >= len(data):
                break
            length |= data[front] << shift
            end = front + 1 + length
            if end > len(data):
                break
            self._handle(data[at] >> 4, data[front + 1 : end])
            at = end
        self._read = data[at:]

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == 4:  # PUBACK  # noqa: PLR2004
            self._untaken -= 1
        elif kind == 3:  # PUBLISH  # noqa: PLR2004
            (size,) = struct.unpack_from("!H", body)
            waiting = self._waiting[self._by_topic[body[2 : 2 + size].decode()]]
            ack = decode_ack(body[3 + size :])  # no properties: one byte
            now = time.perf_counter()
            while waiting and waiting[0][0] <= ack.first_seq + ack.count:
                self.latencies.append(now - waiting.popleft()[1])

    @staticmethod
    def _parts(emitter: str) -> tuple[str, bytes, bytes, bytes]:
        envelope = Envelope("MetricBatch", "bench", f"run{emitter}", emitter, "token", 0, 0, ROWS)
        pairs = [(name, value) for name, value in to_properties(envelope) if name != "first_seq"]
        head = b"".join(b"\x26" + _text(name) + _text(value) for name, value in pairs)
        return emitter, _text(event_topic(PREFIX, envelope)), head, os.urandom(PAYLOAD_BYTES)


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | 0x80 if value else low])
        if not value:
            return out


def _text(text: str) -> bytes:
    return struct.pack("!H", len(text.encode())) + text.encode()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
