"""The bridge between an MQTT broker and the log: it keeps nothing itself, and acknowledges nothing too early.

The order of effects, never another:

1. The target has a batch of messages for good.
2. Their emitters are told, by an acknowledgement each (`runwire_schemas.edge`).
3. The broker is told, which forgets them.

Killed before 3., the broker hands the batch out again, and the ledger drops what is stored: nothing is lost, nothing
is there twice. Other laws: in flight are at most what the inlet asked the broker for; while the target is away nothing
is acknowledged, nor is a `Hello` answered, so that emitters keep what they have; what the target refuses, or what has
no readable envelope, goes there as a dead letter instead of coming again for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from runwire_consumer.bridge_metrics import BridgeMetrics
from runwire_consumer.decode import BATCH_BYTES_MAX, HEAD_BYTES_MAX
from runwire_consumer.errors import InletError, OutletError
from runwire_schemas.edge import HELLO, Ack, ack_of, joined
from runwire_schemas.envelope import Envelope, NoEnvelope
from runwire_schemas.errors import EnvelopeError

BATCH_MESSAGES_MAX = 500
TAKE_BYTES_MAX = 8 * 2**20
TAKE_SECONDS = 0.5
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.2, 5.0
STEADY_SECONDS = 30.0
HEADERS_BYTES_MAX = 16 * 2**10
REFUSED_HEADER = "bridge"

_SHORT_LIVED = (
    "The MQTT broker hangs up again and again: if another bridge runs under the same name, they take the session from "
    "each other; give one of them another --client-id."
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is forwarded."""

    envelope: Envelope
    payload: bytes


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message of the broker.

    Attributes:
        headers: Its user properties, as headers.
        receipt: What the inlet settles it by.
    """

    headers: Sequence[tuple[str, bytes]]
    payload: bytes
    receipt: int = 0


_Outgoing = tuple[Parcel, Ack | None]  # what it is acknowledged by, None where nobody asked or waits
_Answers = dict[str, list[Ack]]


class Inlet(Protocol):
    """One connection to the broker: messages come in order, each at least once until it is settled."""

    async def open(self) -> None:
        """Connect, and take up the session that was kept.

        Raises:
            InletError: Not now.
        """

    async def take(self, count_max: int, bytes_max: int, max_wait_seconds: float) -> list[Incoming]:
        """The next messages, [] when none came in time.

        Raises:
            InletError: The connection is lost: what wasn't settled comes again through another.
        """

    def answer(self, emitter_id: str, ack: Ack) -> None:
        """Tell an emitter; lost with the connection, after which the emitter sends again."""

    def settle(self, messages: Sequence[Incoming]) -> None:
        """Tell the broker to forget them."""

    async def close(self) -> None:
        """Hang up; the session is kept."""


class Outlet(Protocol):
    """One connection to the target; after an error another one is made."""

    async def open(self) -> None:
        """Connect.

        Raises:
            OutletError: Not now.
        """

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Return when all are durable there, in order.

        Raises:
            OutletError: `refused` where one of them will never be taken.
        """

    async def close(self) -> None:
        """Hang up; never raises."""


class Bridge:
    """Forwards from one broker to one target."""

    def __init__(
        self, make_inlet: Callable[[], Inlet], make_outlet: Callable[[], Outlet], metrics: BridgeMetrics
    ) -> None:
        """Nothing is connected before `run`."""
        self._make_inlet = make_inlet
        self._make_outlet = make_outlet
        self._metrics = metrics
        self._outlet: Outlet | None = None
        self._told = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until `stop` is set.

        Raises:
            InletError: Another bridge has taken the session over.
        """
        pause_seconds = RETRY_SECONDS_MIN
        try:
            while not stop.is_set():
                inlet, opened_at = self._make_inlet(), None
                try:
                    await inlet.open()
                    opened_at = time.monotonic()
                    self._metrics.inlet_up(up=True)
                    while not stop.is_set():
                        await self._pass(inlet, stop)
                except InletError as error:
                    self._metrics.inlet_up(up=False)
                    if error.is_final:
                        raise
                    self._tell(str(error))
                    if opened_at is not None and time.monotonic() - opened_at >= STEADY_SECONDS:
                        pause_seconds = RETRY_SECONDS_MIN
                    elif opened_at is not None and pause_seconds >= RETRY_SECONDS_MAX:
                        self._tell(_SHORT_LIVED)  # not every broker gives the reason
                    await _sleep(stop, pause_seconds)
                    pause_seconds = min(2 * pause_seconds, RETRY_SECONDS_MAX)
                finally:
                    await inlet.close()
        finally:
            await self._drop_outlet()

    async def _pass(self, inlet: Inlet, stop: asyncio.Event) -> None:
        """One batch, in the order of effects."""
        batch = await inlet.take(BATCH_MESSAGES_MAX, TAKE_BYTES_MAX, TAKE_SECONDS)
        if not batch:
            return
        with self._metrics.batch(len(batch)):
            answers = await self._forward(batch, stop)
            if answers is None:
                return
            for emitter_id, acks in answers.items():
                for ack in joined(acks):
                    inlet.answer(emitter_id, ack)
            inlet.settle(batch)

    async def _forward(self, batch: Sequence[Incoming], stop: asyncio.Event) -> _Answers | None:
        """The acknowledgements by emitter once all is durable; None when `stop` came before."""
        answers: _Answers = {}
        parcels = [sorted_out for message in batch for sorted_out in self._sort_out(message, answers)]
        size, pause_seconds = max(1, len(parcels)), RETRY_SECONDS_MIN
        # A Hello alone asks as well whether there is a target.
        while parcels or self._outlet is None:
            part = parcels[:size]
            try:
                await self._send([parcel for parcel, _ in part])
            except OutletError as error:
                await self._drop_outlet()
                if error.refused:  # what the target never takes is found by halves
                    size = max(1, len(part) // 2)
                    if len(part) == 1:
                        parcels[:1] = self._give_up(part[0], str(error), answers)
                    continue
                self._metrics.outlet_up(up=False)
                self._tell(str(error))
                if await _sleep(stop, pause_seconds):
                    return None
                pause_seconds = min(2 * pause_seconds, RETRY_SECONDS_MAX)
                continue
            for parcel, ack in part:
                if ack is not None:
                    answers.setdefault(parcel.envelope.emitter_id, []).append(ack)
            del parcels[:size]
            size = min(2 * size, BATCH_MESSAGES_MAX)
            self._metrics.forwarded(len(part))
        return answers

    def _sort_out(self, message: Incoming, answers: _Answers) -> list[_Outgoing]:
        """What goes to the target for a message, and is acknowledged with it."""
        envelope = _envelope_of(message.headers)
        if envelope is None:
            self._metrics.refused()
            return [(_letter(message, None, "It came without a readable envelope"), None)]
        ack = ack_of(envelope, message.payload)
        if envelope.type == HELLO:
            answers.setdefault(envelope.emitter_id, []).append(ack)
            return []
        if len(message.payload) > BATCH_BYTES_MAX:
            return [self._refuse(Parcel(envelope, message.payload), ack, answers)]
        return [(Parcel(envelope, message.payload), ack)]

    async def _send(self, parcels: Sequence[Parcel]) -> None:
        if self._outlet is None:
            self._outlet = self._make_outlet()
            await self._outlet.open()
        if parcels:
            await self._outlet.send(parcels)
        self._metrics.outlet_up(up=True)

    def _refuse(self, parcel: Parcel, ack: Ack, answers: _Answers) -> _Outgoing:
        """Its emitter halves it or declares it lost; until then, its rows are dead ones."""
        self._metrics.refused()
        answers.setdefault(parcel.envelope.emitter_id, []).append(replace(ack, refused=True))
        return _letter(Incoming(parcel.envelope.to_headers(), parcel.payload), parcel.envelope, "It is too large"), None

    def _give_up(self, refused: _Outgoing, reason: str, answers: _Answers) -> list[_Outgoing]:
        """What goes in its place."""
        parcel, ack = refused
        if ack is not None:
            return [self._refuse(parcel, ack, answers)]
        if isinstance(parcel.envelope, NoEnvelope) and parcel.envelope.headers:  # a letter: less of it, then
            return [(Parcel(NoEnvelope.beside(None, ()), parcel.payload[:HEAD_BYTES_MAX]), None)]
        _log.error("A dead letter of %d bytes can't be forwarded and is gone: %s", len(parcel.payload), reason)
        return []

    async def _drop_outlet(self) -> None:
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            await outlet.close()

    def _tell(self, trouble: str) -> None:
        """Say it once, until something else is wrong."""
        if trouble and trouble != self._told:
            _log.warning("%s", trouble)
        self._told = trouble


def _envelope_of(headers: Sequence[tuple[str, bytes]]) -> Envelope | None:
    try:
        return Envelope.from_headers(headers)
    except EnvelopeError:
        return None


def _letter(message: Incoming, envelope: Envelope | None, reason: str) -> Parcel:
    """What the consumer makes a dead letter of: the headers as far as they go, and the head of what is too large."""
    kept, size = [(REFUSED_HEADER, f"{reason}: {len(message.payload)} bytes.".encode())], 0
    for name, value in message.headers:
        size += len(name.encode()) + len(value)
        if size > HEADERS_BYTES_MAX:
            break
        kept.append((name, value))
    is_whole = envelope is None and len(message.payload) <= BATCH_BYTES_MAX // 4
    return Parcel(NoEnvelope.beside(envelope, kept), message.payload if is_whole else message.payload[:HEAD_BYTES_MAX])


async def _sleep(stop: asyncio.Event, seconds: float) -> bool:
    """Whether it was told to stop meanwhile."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
