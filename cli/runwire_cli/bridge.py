"""`runwire bridge`: forwards what comes to an MQTT broker to Kafka or into a folder; keeps nothing itself."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import zlib
from collections.abc import Sequence

from runwire._batch import Message
from runwire._errors import TransportError
from runwire._settings import environment
from runwire._transport import Transport, make_transport
from runwire_cli.errors import CommandError
from runwire_consumer.bridge import Bridge, Parcel
from runwire_consumer.bridge_metrics import open_metrics
from runwire_consumer.errors import OutletError
from runwire_consumer.inlet import MqttInlet
from runwire_schemas.topics import Destination, need_no_password, parse_url

_log = logging.getLogger("runwire")


def bridge(source: str, target: str, client_id: str | None, metrics_port: int | None, metrics_host: str) -> int:
    """Forward until SIGTERM or SIGINT; returns the exit code.

    Args:
        source: mqtt:// or mqtts:// URL.
        target: kafka:// or dir: URL.
        client_id: Names the session that the broker keeps; by default made of this host's name and the URLs.
        metrics_port: Prometheus may ask there; None: nobody.
        metrics_host: Address that this port is opened on.

    Raises:
        CommandError: The URLs are none that can be bridged, or the port is taken.
        DestinationError: A URL can't be understood.
        InletError: Another bridge has taken the session over, or a package is missing.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    _log.setLevel(logging.INFO)
    for url, option in ((source, "MQTT_URL"), (target, "URL")):
        need_no_password(url, option)
    inlet, outlet = (parse_url(url).secured(environment()) for url in (source, target))
    if inlet.kind != "mqtt" or outlet.kind not in {"kafka", "dir"}:
        raise CommandError("A bridge leads from mqtt://HOST to kafka://HOST:PORT/TOPIC or dir:PATH, in this order.", 2)
    try:
        metrics = open_metrics(metrics_port, metrics_host)
    except OSError as error:
        raise CommandError(f"Port {metrics_port} of {metrics_host} can't be opened: {error.strerror}.") from error
    name = client_id or default_client_id(socket.gethostname(), inlet, outlet)
    for warning in filter(None, (inlet.plaintext_warning, outlet.plaintext_warning)):
        _log.warning("%s", warning)
    _log.info("Bridging %s to %s as %s.", inlet, outlet, name)
    asyncio.run(_run(Bridge(lambda: MqttInlet(inlet, name), lambda: TransportOutlet(outlet), metrics)))
    return 0


def default_client_id(host: str, inlet: Destination, outlet: Destination) -> str:
    """The same after a restart; another one for another bridge of this host."""
    return f"runwire-bridge-{host}-{zlib.crc32(f'{inlet} {outlet}'.encode()):08x}"


async def _run(running: Bridge) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await running.run(stop)


class TransportOutlet:
    """The producer's way to the target, as the bridge needs it."""

    def __init__(self, destination: Destination) -> None:
        """Nothing is connected before `open`."""
        # The journals of emitters are trimmed behind it, whatever their writers promise of power loss.
        self._transport: Transport = make_transport(destination, is_durable=True)

    async def open(self) -> None:
        """Connect."""
        try:
            await self._transport.open()
        except TransportError as error:
            raise OutletError(str(error)) from error

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Return when all are durable there."""
        try:
            await self._transport.send([Message(parcel.envelope, parcel.payload) for parcel in parcels])
        except TransportError as error:
            raise OutletError(str(error), refused=error.refused) from error

    async def close(self) -> None:
        """Hang up."""
        await self._transport.close()
