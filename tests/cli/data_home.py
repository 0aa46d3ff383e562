"""A home with a few runs in its topic folder, as trainers sent them; nobody has read it yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from runwire._batch import Message as Sent
from runwire._directory import DirectoryTransport
from runwire_consumer.sources import Message
from runwire_schemas import events
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import Destination
from tests.consumer.telling import Emitter

ODD = 'a/../b "c"\n=1,é'
NAN, INF = float("nan"), float("inf")


def send(home: Path, messages: Iterable[Message]) -> None:
    """Messages into the home's topic folder."""

    async def deliver() -> None:
        transport = DirectoryTransport(Destination("dir", path=str(home / "topic")))
        await transport.open()
        await transport.send([Sent(Envelope.from_headers(one.headers), one.payload) for one in messages])  # type: ignore[arg-type]
        await transport.close()

    asyncio.run(deliver())


def ended(emitter: Emitter, status: str = "finished") -> list[Message]:
    """Its last words."""
    last = emitter.says(events.RunEnded, status=status)
    return [last, emitter.signals(events.EmitterEnded, next_seq=emitter.seq, how="finished")]


def small_home(home: Path) -> dict[str, Emitter]:
    """Four runs: two ranks and two attempts that ended; an odd one that ended; one that still runs; one that died.

    Returns:
        By what they are called here: whole, odd, open, died; of `whole` the newest rank 0.
    """
    first, second = Emitter("1", "whole"), Emitter("2", "whole", attempt="second", started=100)
    other = Emitter("3", "whole", rank=1, attempt="second", started=100)
    story = [
        first.starts(name="calm-river-1", world_size=2),
        first.logs({0: {"loss": 1.0}, 1: {"loss": 0.5}, 2: {"loss": -0.0}}),
        first.signals(events.EmitterEnded, next_seq=first.seq, how="crashed"),
    ]
    for one in (second, other):
        story += [
            one.starts(name="calm-river-1", world_size=2, tags=["base"], restart_count=1, resumed_from_step=0),
            one.says(events.ParamsLogged, params={"lr": 0.1, "depth": 3, "note": "x"}),
            one.logs({1: {"loss": 0.25, "acc": NAN}, 2: {"loss": 5e-324, "acc": INF}, 3: {"loss": 0.1, "acc": -INF}}),
            *ended(one),
        ]
    odd = Emitter("4", "../odd\n", project=ODD, started=200)
    story += [
        odd.starts(name=ODD, tags=[ODD], notes=ODD),
        odd.says(events.TextLogged, key=ODD, text=ODD),
        odd.logs({2**62: {ODD: 1.5, "NaN": 2.0, "=cmd": 3.0, "": 4.0}}),
        *ended(odd, "failed"),
    ]
    going = Emitter("5", "going", started=300)
    story += [going.starts(name="brave-fox-2"), going.logs({0: {"loss": 1.0}})]
    died = Emitter("6", "died", started=400)
    story += [
        died.starts(name="late-owl-3"),
        died.logs({0: {"loss": 1.0}}),
        died.signals(events.EmitterEnded, next_seq=died.seq + 2, how="crashed"),
    ]
    send(home, story)
    return {"whole": second, "odd": odd, "open": going, "died": died}
