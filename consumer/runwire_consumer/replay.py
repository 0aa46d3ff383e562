"""Orders about dead letters: replay decodes them again with this version and stores them, discard gives them up.

Both work in slices, a transaction each, on the writer's thread, so that what comes from the log takes its turn between
two slices. A slice changes rows, ledger and the letters' status together, or nothing: after a kill at any time, given
twice, or given by two people at once, an order can be given again. Letters come in the order in which they came from
the log, so a run's start is there before its rows.

    asked    {"ids": ["0123456789abcdef", ...]} or {"all": true}; an id may be cut short while it names one letter
    replay   {"replayed", "rows", "points", "duplicates", "dead", "not_whole", "settled", "reasons"}
    discard  {"discarded", "settled"}

`settled` were replayed or discarded before, `dead` are still undecodable, `not_whole` can't be tried: their message is
not kept. `reasons` holds the first few of those two, {"letter_id", "reason"} each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from runwire_consumer import letterbox
from runwire_consumer.errors import LetterRefused
from runwire_consumer.letterbox import BEGINNING_CHARACTERS, Settled
from runwire_consumer.letters import DEAD, DISCARDED, ID_CHARACTERS, rebuild_message
from runwire_consumer.self_metrics import SelfMetrics
from runwire_consumer.store import Store
from runwire_consumer.writing import Writer

REPLAY_LETTERS_MAX = 1_000
REPLAY_BYTES_MAX = 8 * 2**20
DISCARD_LETTERS_MAX = 20_000
IDS_MAX = 10_000
REASONS_TOLD_MAX = 20

NOT_WHOLE = "The message itself is not kept: there is nothing to replay."

_Made = TypeVar("_Made")
_Asked = Mapping[str, Any]
_Order = Callable[[_Asked], Awaitable[Mapping[str, Any]]]


class Do(Protocol):
    """Runs work with the writer where nobody else uses it: `Service.do`, or `Directly`."""

    async def __call__(self, work: Callable[[Writer], _Made]) -> _Made:
        """What the work returns; what it raises comes back."""


@dataclass(frozen=True, slots=True)
class Directly:
    """Work with a writer that is nobody else's."""

    writer: Writer

    async def __call__(self, work: Callable[[Writer], _Made]) -> _Made:
        """What the work returns."""
        return work(self.writer)


def letter_orders(do: Do, metrics: SelfMetrics | None = None) -> dict[str, _Order]:
    """The orders by their path below /api/; what is replayed counts as stored."""
    return {
        "dead-letters/replay": lambda asked: replay(do, asked, metrics),
        "dead-letters/discard": lambda asked: discard(do, asked),
    }


def obey(store: Store, path: str, asked: _Asked) -> dict[str, Any]:
    """Carry out an order on an open store that nobody else has, and close it.

    Raises:
        LetterRefused: The order can't be understood, or names a letter that isn't there.
    """
    writer = Writer(store)

    async def obeyed() -> Mapping[str, Any]:
        return await letter_orders(Directly(writer))[path](asked)

    try:
        return dict(asyncio.run(obeyed()))
    finally:
        writer.close()


@dataclass(slots=True)
class _Chosen:
    """Letters that an order is about.

    Attributes:
        keys: Of the dead ones, in order; `bytes` of their messages run beside.
        not_whole: Keys of those of which too little is kept.
        settled: How many were replayed or discarded before.
    """

    keys: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    not_whole: list[int] = field(default_factory=list)
    settled: int = 0

    def slices(self, letters_max: int, bytes_max: int) -> Iterator[list[int]]:
        """Keys for one transaction each."""
        taken: list[int] = []
        size = 0
        for key, more in zip(self.keys, self.bytes, strict=True):
            if taken and (len(taken) >= letters_max or size + more > bytes_max):
                yield taken
                taken, size = [], 0
            taken.append(key)
            size += more
        if taken:
            yield taken


async def replay(do: Do, asked: _Asked, metrics: SelfMetrics | None = None) -> dict[str, Any]:
    """Store what can be decoded now; the others stay, and say why now.

    Raises:
        LetterRefused: The order can't be understood, or names a letter that isn't there.
    """
    chosen = await _choose(do, asked)
    done = {"replayed": 0, "rows": 0, "points": 0, "duplicates": 0, "dead": 0}
    for keys in chosen.slices(REPLAY_LETTERS_MAX, REPLAY_BYTES_MAX):
        counts = await do(lambda writer, keys=keys: _replay_slice(writer, keys))  # type: ignore[misc]
        for name, count in counts.items():
            done[name] += count
        if metrics is not None and counts:
            metrics.replayed(points=counts["points"], rows=counts["rows"], duplicates=counts["duplicates"])
    settled = chosen.settled + len(chosen.keys) - done["replayed"] - done["dead"]
    left = [*chosen.keys, *chosen.not_whole] if done["dead"] or chosen.not_whole else []
    reasons = await do(lambda writer: letterbox.find_reasons(writer.store.cursor(), left, REASONS_TOLD_MAX))
    return {
        **done,
        "not_whole": len(chosen.not_whole),
        "settled": settled,
        "reasons": [
            {"letter_id": one, "reason": reason if whole else f"{reason} {NOT_WHOLE}"} for one, reason, whole in reasons
        ],
    }


async def discard(do: Do, asked: _Asked) -> dict[str, Any]:
    """Give letters up: their bytes go, their rows stay dead in the ledger.

    Raises:
        LetterRefused: The order can't be understood, or names a letter that isn't there.
    """
    chosen = await _choose(do, asked)
    keys = sorted([*chosen.keys, *chosen.not_whole])
    discarded = 0
    for at in range(0, len(keys), DISCARD_LETTERS_MAX):
        taken = keys[at : at + DISCARD_LETTERS_MAX]
        discarded += await do(lambda writer, taken=taken: _discard_slice(writer, taken))  # type: ignore[misc]
    return {"discarded": discarded, "settled": chosen.settled + len(keys) - discarded}


def _replay_slice(writer: Writer, keys: Sequence[int]) -> dict[str, int]:
    """On the store's thread: one transaction, more where the store refuses a message."""
    rows = letterbox.fetch_messages(writer.store.cursor(), keys)
    if not rows:
        return {}
    done = writer.replay({row["letter_key"]: rebuild_message(row) for row in rows}, _now())
    dead = sum(counts.dead_letters for counts in done)
    return {
        "replayed": len(rows) - dead,
        "rows": sum(counts.rows for counts in done),
        "points": sum(counts.points for counts in done),
        "duplicates": sum(counts.duplicates for counts in done),
        "dead": dead,
    }


def _discard_slice(writer: Writer, keys: Sequence[int]) -> int:
    dead = letterbox.still_dead(writer.store.cursor(), keys)
    now = _now()
    writer.settle([Settled(key, DISCARDED, now) for key in dead])
    return len(dead)


async def _choose(do: Do, asked: _Asked) -> _Chosen:
    if asked.get("all") is True and "ids" not in asked:
        found = await do(lambda writer: letterbox.find_dead(writer.store.cursor()))
        chosen = _Chosen(not_whole=found.keys[~found.whole].tolist())
        chosen.keys, chosen.bytes = found.keys[found.whole].tolist(), found.bytes[found.whole].tolist()
        return chosen
    ids = asked.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids) or len(ids) > IDS_MAX:
        raise LetterRefused('Name dead letters: {"ids": ["...", ...]} or {"all": true}.')
    return await do(lambda writer: _find(writer, ids))


def _find(writer: Writer, ids: Sequence[str]) -> _Chosen:
    chosen = _Chosen()
    for one in ids:
        if not (BEGINNING_CHARACTERS <= len(one) <= ID_CHARACTERS and one.isascii()):
            raise LetterRefused(f"{one[:40]!r} is no id of a dead letter: it has {ID_CHARACTERS} hexadecimal digits.")
    named = letterbox.find_named(writer.store.cursor(), {one.lower() for one in ids})
    places: dict[int, letterbox.Place] = {}
    for one in ids:
        count, place = named.get(one.lower(), (0, None))
        if place is None:
            raise LetterRefused(f"No dead letter has the id {one!r}: `runwire dead-letters list` names them.")
        if count > 1:
            raise LetterRefused(f"Several dead letters have ids that begin with {one!r}: write more of it.")
        places[place.letter_key] = place
    for key, place in sorted(places.items()):
        if place.status != DEAD:
            chosen.settled += 1
        elif place.whole:
            chosen.keys.append(key)
            chosen.bytes.append(place.bytes)
        else:
            chosen.not_whole.append(key)
    return chosen


def _now() -> int:
    return time.time_ns() // 1_000
