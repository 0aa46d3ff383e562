"""The state of a run: failed > crashed > preempted > lost > stuck > running > finished over the newest ranks.

Time is an argument: the log's append time while the consumer lags, the consumer's clock at the tail. While
a source is unreachable the caller doesn't evaluate; afterwards `reachable_since` gives everyone a new
promise, for their heartbeats could not reach us. Newer signs of a rank revive `lost`; those of an older
attempt change nothing. A rank is stuck while it heartbeats and says itself that its loop is past the promise it gave
(`run.progress`): the emitter judges, by a clock that no lag touches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runwire_consumer.attempts import newest_by_rank

ORDER = ("failed", "crashed", "preempted", "lost", "stuck", "running", "finished")
SETTLED = frozenset({"finished", "failed", "crashed", "preempted", "lost"})
PROMISE_SECONDS_DEFAULT = 5.0
OVERDUE_FACTOR = 2.0
OVERDUE_GRACE_SECONDS = 2.0

_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known of one emitter; times in microseconds.

    Attributes:
        status: RunEnded's finished, failed or preempted.
        how: EmitterEnded's finished or crashed.
        ended_at: When it ended, by its own clock.
        error: RunEnded's text.
        world_size: How many ranks its launch has.
        seen_at: Newest sign of life, by the log's clock.
        next_in_seconds: When the next heartbeat was promised; 0 for never promised.
        overdue_seconds: How long its loop was past its promise at the last heartbeat.
    """

    emitter_id: str
    rank: int
    attempt: str
    role: str
    restart_count: int
    started_at: int
    seen_at: int
    next_in_seconds: float = 0.0
    overdue_seconds: float = 0.0
    status: str | None = None
    how: str | None = None
    ended_at: int | None = None
    error: str | None = None
    world_size: int = 1


@dataclass(frozen=True, slots=True)
class RunState:
    """A state, since when (microseconds), and why in a few words."""

    state: str
    since: int
    reason: str


def evaluate(emitters: Iterable[Signs], now: int, reachable_since: int = 0) -> RunState | None:
    """The state of one run at `now`; None while no rank of it is known."""
    ranks = newest_by_rank(emitters)
    if not ranks:
        return None
    states = [_rank_state(ranks[rank], now, reachable_since) for rank in sorted(ranks)]
    expected = max(len(states), *(one.world_size for one in ranks.values()))  # some may not have come yet
    worst = min(states, key=lambda one: ORDER.index(one.state))
    if worst.state == "finished":
        return RunState("finished", max(one.since for one in states), _some(states, expected))
    if worst.state == "running":
        running = [one for one in states if one.state == "running"]
        return RunState("running", min(one.since for one in running), _some(running, expected))
    same = [one for one in states if one.state == worst.state]
    return min(same, key=lambda one: one.since)


def _some(part: list[RunState], expected: int) -> str:
    return f"{len(part)} of {expected} ranks"


def lost_after(signs: Signs, reachable_since: int = 0) -> int:
    """When a silent emitter counts as lost, microseconds."""
    promise = signs.next_in_seconds or PROMISE_SECONDS_DEFAULT
    overdue_seconds = OVERDUE_FACTOR * promise + OVERDUE_GRACE_SECONDS
    return max(signs.seen_at, reachable_since) + int(overdue_seconds * _MICROS)


def _rank_state(signs: Signs, now: int, reachable_since: int) -> RunState:
    ended_at = signs.ended_at if signs.ended_at is not None else signs.seen_at
    name = f"rank {signs.rank}"
    if signs.status == "failed":
        return RunState("failed", ended_at, f"{name}: {signs.error or 'failed'}")
    if signs.status is not None:
        return RunState(signs.status, ended_at, name)
    if signs.how == "crashed":
        return RunState("crashed", ended_at, f"{name} died without a word")
    if signs.how is not None:
        return RunState("finished", ended_at, name)
    deadline = lost_after(signs, reachable_since)
    if now > deadline:
        return RunState("lost", deadline, f"{name} is silent")
    if signs.overdue_seconds > 0:
        return RunState("stuck", signs.seen_at - int(signs.overdue_seconds * _MICROS), f"{name} makes no progress")
    return RunState("running", signs.started_at, name)
