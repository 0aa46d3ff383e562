"""What a bridge says about itself to Prometheus; the bridge calls one method for each thing that happened."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


class BridgeMetrics:
    """Counters and gauges of one bridge.

    Args:
        registry: Where they are registered; never the global one.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing is connected yet."""
        self._forwarded = Counter(
            "runwire_bridge_messages_forwarded", "Messages that the target has acknowledged.", registry=registry
        )
        self._refused = Counter(
            "runwire_bridge_messages_refused",
            "Messages that were too large or had no envelope, and went to the target as dead letters.",
            registry=registry,
        )
        self._in_flight = Gauge(
            "runwire_bridge_in_flight_messages", "Messages that the target hasn't acknowledged yet.", registry=registry
        )
        self._seconds = Histogram(
            "runwire_bridge_forward_seconds",
            "From taking a batch to the target's acknowledgement.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._inlet_up = Gauge(
            "runwire_bridge_broker_up", "1 while the MQTT broker is connected, else 0.", registry=registry
        )
        self._outlet_up = Gauge(
            "runwire_bridge_target_up", "1 while the target takes messages, else 0.", registry=registry
        )
        self._reconnects = Counter(
            "runwire_bridge_disconnects", "How often the MQTT broker was lost, or not reached.", registry=registry
        )

    def forwarded(self, count: int) -> None:
        """The target has so many messages more."""
        self._forwarded.inc(count)

    def refused(self) -> None:
        """A message became a dead letter."""
        self._refused.inc()

    def inlet_up(self, *, up: bool) -> None:
        """The broker is connected, or lost."""
        self._inlet_up.set(up)
        if not up:
            self._reconnects.inc()

    def outlet_up(self, *, up: bool) -> None:
        """The target takes messages, or doesn't."""
        self._outlet_up.set(up)

    @contextlib.contextmanager
    def batch(self, count: int) -> Iterator[None]:
        """So many messages are on their way."""
        began = time.monotonic()
        self._in_flight.set(count)
        try:
            yield
        finally:
            self._in_flight.set(0)
            self._seconds.observe(time.monotonic() - began)


def open_metrics(port: int | None, host: str) -> BridgeMetrics:
    """A bridge's metrics; with a port, Prometheus may ask there from now on.

    Raises:
        OSError: The port can't be opened.
    """
    registry = CollectorRegistry()
    if port is not None:
        start_http_server(port, host, registry)
    return BridgeMetrics(registry)
