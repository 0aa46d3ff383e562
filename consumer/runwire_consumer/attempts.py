"""Attempts of a run: which process starts belong together, and in which order they tried.

An attempt is all process starts (emitters) of one token. Numbers follow (restart count, start time, token),
so a journal that comes late renumbers nothing that is stored. Emitters of another role than train join the
run without making an attempt. The SQL of the same rules is `store.numbered_attempts`; a test holds both
together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

TRAIN = "train"
EDIT = "edit"


class Sender(Protocol):
    """What attempts need to know of an emitter."""

    @property
    def emitter_id(self) -> str:
        """Never reused."""

    @property
    def rank(self) -> int:
        """Global rank."""

    @property
    def attempt(self) -> str:
        """Token."""

    @property
    def role(self) -> str:
        """`train`, or what joins without making an attempt."""

    @property
    def restart_count(self) -> int:
        """The launcher's count."""

    @property
    def started_at(self) -> int:
        """Microseconds."""


SenderT = TypeVar("SenderT", bound=Sender)


def number_attempts(senders: Iterable[Sender]) -> dict[str, int]:
    """Number (1, 2, ...) of each attempt token of one run."""
    places: dict[str, tuple[int, int]] = {}
    for sender in senders:
        if sender.role == TRAIN:
            count, start = places.get(sender.attempt, (sender.restart_count, sender.started_at))
            places[sender.attempt] = (max(count, sender.restart_count), min(start, sender.started_at))
    order = sorted(places, key=lambda token: (*places[token], token))
    return {token: number for number, token in enumerate(order, start=1)}


def newest_by_rank(senders: Iterable[SenderT]) -> dict[int, SenderT]:
    """Each rank's newest process start in the newest attempt; other roles only where there is no attempt."""
    everyone = [sender for sender in senders if sender.role != EDIT]
    numbers = number_attempts(everyone)
    newest = max(numbers, key=numbers.__getitem__, default=None)
    chosen: dict[int, SenderT] = {}
    for sender in sorted(everyone, key=lambda one: (one.started_at, one.emitter_id)):
        if newest is None or (sender.role == TRAIN and sender.attempt == newest):
            chosen[sender.rank] = sender
    return chosen
