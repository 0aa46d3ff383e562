"""Orders of people about runs, a new name or a deletion: events in the same log as the trainers', acknowledged at once.

Each order is an emitter of its own with one record and its end, keyed by the run's id: it lands in the run's partition,
behind what the run had sent until then. It is sent again until the log has acknowledged it, always under the same
emitter id and number, so the consumer's ledger lets it in once, however often it arrives. No consumer needs to run.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runwire._batch import Message
from runwire._errors import TransportError
from runwire._transport import make_transport
from runwire_schemas.codec import encode
from runwire_schemas.envelope import Envelope
from runwire_schemas.events import EmitterEnded, RunDeleted, RunEdited

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runwire_schemas.topics import Destination

ACKNOWLEDGE_SECONDS_MAX = 30.0
RETRY_SECONDS = 0.5
ATTEMPT = "edit"  # no attempt of the run: who only edits or deletes makes none


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done about one run.

    Attributes:
        kind: RunEdited or RunDeleted.
        fields: What the record says beside the run.
        time_us: Its time, microseconds; of two edits the later one has the last word.
    """

    project: str
    run_id: str
    kind: type[RunEdited | RunDeleted]
    fields: Mapping[str, Any]
    time_us: int


def send_orders(
    destination: Destination, orders: Sequence[Order], seconds_max: float = ACKNOWLEDGE_SECONDS_MAX
) -> list[str]:
    """The emitter ids of the orders, once the log has all of them.

    Raises:
        TransportError: It did not acknowledge them in time, or refuses one; some may be there.
    """
    ids = [secrets.token_hex(16) for _ in orders]
    messages = [message for order, one in zip(orders, ids, strict=True) for message in messages_of(order, one)]
    asyncio.run(_send(destination, messages, time.monotonic() + seconds_max))
    return ids


def messages_of(order: Order, emitter_id: str) -> tuple[Message, Message]:
    """The record, and that nothing comes after it."""
    event = order.kind(order.run_id, emitter_id, 0, 0, order.time_us, **order.fields)
    ended = EmitterEnded(order.run_id, emitter_id, 0, order.time_us, next_seq=1, how="finished")
    record, end = (Message(Envelope.of(one, order.project, ATTEMPT), encode(one)) for one in (event, ended))
    return record, end


async def _send(destination: Destination, messages: Sequence[Message], deadline: float) -> None:
    while True:
        transport = make_transport(destination, is_durable=True)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await transport.open()
                await transport.send(messages)
        except TransportError as error:
            if error.refused or time.monotonic() + RETRY_SECONDS >= deadline:
                raise
        except TimeoutError:
            raise TransportError(f"{destination} gave no answer in time.") from None
        else:
            return
        finally:
            await transport.close()
        await asyncio.sleep(RETRY_SECONDS)
