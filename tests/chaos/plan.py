"""What will happen, whom, when and for how long: a pure function of the seed.

The plan has two halves that run beside each other. Steps strike what the data goes through, one step after the other,
each followed by a wait for new rows in the database. Lives tell each place for trainers who lives there, how long, and
how it ends. How many of either fit into the time depends on the machine; what they are doesn't.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a step does."""

    CONSUMER_KILLED = "consumer_killed"
    CONSUMER_STOPPED = "consumer_stopped"
    BROKER_KILLED = "broker_killed"
    BROKER_STOPPED = "broker_stopped"
    DELAYED = "delayed"
    THROTTLED = "throttled"
    BLACKHOLE = "blackhole"
    REQUESTS_LOST = "requests_lost"
    ACKNOWLEDGEMENTS_LOST = "acknowledgements_lost"
    HALF_OPEN = "half_open"
    CUT_SHORT = "cut_short"
    RESET = "reset"
    REFUSED = "refused"
    CONSUMER_DISK_FULL = "consumer_disk_full"
    TRAINER_DISK_FULL = "trainer_disk_full"
    SNAPSHOT_TAKEN = "snapshot_taken"
    SNAPSHOT_RESTORED = "snapshot_restored"
    DATABASE_DAMAGED = "database_damaged"
    TOPIC_RECREATED = "topic_recreated"
    PARTITIONS_RAISED = "partitions_raised"
    SECOND_CONSUMER = "second_consumer"


NETWORK = frozenset(
    {
        Kind.DELAYED, Kind.THROTTLED, Kind.BLACKHOLE, Kind.REQUESTS_LOST, Kind.ACKNOWLEDGEMENTS_LOST, Kind.HALF_OPEN,
        Kind.CUT_SHORT, Kind.RESET, Kind.REFUSED,
    }
)  # fmt: skip
NEED_MOUNT = frozenset({Kind.CONSUMER_DISK_FULL, Kind.TRAINER_DISK_FULL})

# A round has each kind once, shuffled, which three minutes have room for, and then some more of these.
AGAIN = (
    *(Kind.CONSUMER_KILLED,) * 4,
    *(Kind.BROKER_KILLED,) * 2,
    Kind.ACKNOWLEDGEMENTS_LOST,
    Kind.SNAPSHOT_TAKEN,
    Kind.SNAPSHOT_RESTORED,
)
SECONDS = (0.5, 4.0)
PAUSE_SECONDS = (0.0, 1.0)
KILLED_MEANWHILE_SHARE = 0.25
SIDES = ("trainers", "consumer")
# Who is killed meanwhile would hide what these are about.
ALONE = frozenset({Kind.SECOND_CONSUMER, Kind.TOPIC_RECREATED, Kind.SNAPSHOT_RESTORED, Kind.DATABASE_DAMAGED})


@dataclass(frozen=True, slots=True)
class Step:
    """One fault.

    Attributes:
        kind: What it is.
        side: Of a fault of the network, between whom and the broker.
        seconds: How long it lasts.
        kills: SIGKILLs of the consumer, one after the other.
        kill_after_seconds: Between them, and before the first one.
        pause_seconds: Of peace, after new rows were seen.
        draw: For whatever else is to be chosen.
    """

    kind: Kind
    side: str
    seconds: float
    kills: int
    kill_after_seconds: float
    pause_seconds: float
    draw: float

    def __str__(self) -> str:
        """One line."""
        side = f" {self.side}" if self.kind in NETWORK else ""
        kills = f", consumer killed {self.kills} times" if self.kills > 1 else ", consumer killed" if self.kills else ""
        return f"{self.kind}{side} {self.seconds:.1f} s{kills}"


def steps(seed: int, left_out: AbstractSet[Kind] = frozenset()) -> Iterator[Step]:
    """The steps, without end."""
    chance = random.Random(f"steps {seed}")
    while True:
        for kind in (*chance.sample([*Kind], len(Kind)), *chance.sample(AGAIN, len(AGAIN))):
            step = _step(chance, kind)  # drawn also for those that are left out: the others stay the same
            if kind not in left_out:
                yield step


def _step(chance: random.Random, kind: Kind) -> Step:
    killed = chance.random() < KILLED_MEANWHILE_SHARE and kind not in ALONE
    times = chance.choice((1, 1, 2, 3))
    return Step(
        kind=kind,
        side=chance.choice(SIDES),
        seconds=chance.uniform(*SECONDS),
        kills=times if kind is Kind.CONSUMER_KILLED else int(killed),
        kill_after_seconds=chance.uniform(0.0, 1.5),
        pause_seconds=chance.uniform(*PAUSE_SECONDS),
        draw=chance.random(),
    )


class Ending(StrEnum):
    """How a trainer's life ends."""

    KILLED = "killed"  # with all it forked
    ORPHANED = "orphaned"  # it alone; its children live on for a moment
    TERMINATED = "terminated"  # SIGTERM
    FINISHED = "finished"


ENDINGS = (Ending.KILLED,) * 14 + (Ending.ORPHANED,) * 3 + (Ending.TERMINATED,) + (Ending.FINISHED,) * 2
LIFE_SECONDS = (4.0, 20.0)
STOPPED_SHARE = 0.15
STOPPED_SECONDS = (0.5, 4.0)
EARLY_SHARE = 0.05  # so many die while they begin
EARLY_SECONDS = (0.1, 1.5)
CHILDREN_SHARE = 0.3
CHILDREN_MAX = 4
RANKS_SHARE = 0.15
SYNC_SHARE = 0.3  # after so many `runwire sync` runs; else the next one in the home recovers what is left


@dataclass(frozen=True, slots=True)
class Life:
    """One trainer, or the ranks of one launch.

    Attributes:
        seconds: Until it ends, from its start.
        ending: How.
        ranks: How many processes.
        children: What each forks.
        stopped_at_seconds: When it gets SIGSTOP.
        stopped_seconds: How long; 0 is never.
        orphan_seconds: What its children have after it.
        synced: `runwire sync` runs after it.
    """

    seconds: float
    ending: Ending
    ranks: int
    children: int
    stopped_at_seconds: float
    stopped_seconds: float
    orphan_seconds: float
    synced: bool


def lives(seed: int, place: int) -> Iterator[Life]:
    """Who lives in one place, one after the other, without end."""
    chance = random.Random(f"lives {seed} {place}")
    while True:
        early = chance.random() < EARLY_SHARE
        seconds = chance.uniform(*(EARLY_SECONDS if early else LIFE_SECONDS))
        stopped = chance.random() < STOPPED_SHARE
        yield Life(
            seconds=seconds,
            ending=Ending.KILLED if early else chance.choice(ENDINGS),
            ranks=2 if chance.random() < RANKS_SHARE else 1,
            children=chance.randint(1, CHILDREN_MAX) if chance.random() < CHILDREN_SHARE else 0,
            stopped_at_seconds=chance.uniform(0.0, seconds),
            stopped_seconds=chance.uniform(*STOPPED_SECONDS) if stopped else 0.0,
            orphan_seconds=chance.uniform(0.0, 0.5),
            synced=chance.random() < SYNC_SHARE,
        )
