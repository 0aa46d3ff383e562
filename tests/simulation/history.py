"""A history: trainers train, and things go wrong, all of it drawn from one seed; then faults end and all has to heal.

Each history has a few kinds of faults only: rare ones meet each other that way, and a trace stays readable.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulation.laws import Violation
from tests.simulation.loop import Stalled
from tests.simulation.trainer import Trainer
from tests.simulation.world import World, scratch

CALM_SECONDS = 15.0  # after the last journal is gone: states settle
HEAL_SECONDS_MAX = 400.0
EVENTS_MAX = 200_000
KINDS = (
    "kill_trainer",
    "kill_consumer",
    "crash_consumer",
    "store_full",
    "zombie",
    "sends",
    "outage",
    "disk_full",
    "truncate",
    "recreate",
    "expire",
    "grow",
    "poison",
    "damage",
    "restore",
    "clock",
    "recovery",
    "relay",
    "power",
)
STATEMENTS = (
    "BEGIN", "UPDATE store.offsets", "INSERT INTO store.offsets", "INSERT INTO store.rows", "INSERT INTO store.points",
    "MERGE INTO store.series", "MERGE INTO store.ledger", "DELETE FROM store.ledger",
    "INSERT INTO store.letter_payloads", "MERGE INTO store.dead_letters", "COMMIT", "after COMMIT",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a history came to."""

    seed: int
    mode: str
    violation: str
    trace: list[str]
    digest: str
    commits: int
    rows: int
    kinds: tuple[str, ...]
    virtual_seconds: float
    fenced: int
    contents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def run_history(seed: int, mode: str = "liveness", *, is_real: bool = False, keep: bool = False) -> Report:
    """One history in a folder of its own.

    Args:
        seed: Everything follows from it.
        mode: `safety` ends in the midst of faults, `liveness` heals and judges the whole.
        is_real: Over DuckDB instead of the model engine.
        keep: Hand out the database's contents.
    """
    with scratch() as folder:
        return _run(seed, mode, folder, is_real=is_real, keep=keep)


def _run(seed: int, mode: str, folder: Path, *, is_real: bool, keep: bool) -> Report:
    world = World(seed, folder, is_real)
    history = History(world, mode)
    contents: dict[str, list[dict[str, Any]]] = {}
    with world.alive():
        try:
            world.loop.run_until_complete(history.run())
        except (Violation, Stalled) as error:
            world.fail(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - the code under test raised where nothing may
            world.fail(f"raised: {error!r} in {_place(error)}")
        if keep:
            contents = world.engine.contents()
    return Report(
        seed,
        mode,
        world.violation,
        world.trace,
        world.digest,
        world.laws.commits,
        world.laws.rows,
        history.kinds,
        world.loop.time() - 1_000.0,
        world.fenced,
        contents,
    )


def _place(error: BaseException) -> str:
    """Where it was raised, for a trace without a stack."""
    frames = traceback.extract_tb(error.__traceback__)
    return ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])


class History:
    """Directs one world."""

    def __init__(self, world: World, mode: str) -> None:
        self._world = world
        self._mode = mode
        self._rng = random.Random(world.rng.getrandbits(64))
        rng = self._rng
        self.kinds = tuple(sorted(rng.sample(KINDS, rng.randrange(0, 6))))
        if "zombie" in self.kinds and len(world.broker.partitions) > 1:
            # The fence is by partition; see docs/decisions/021.
            self.kinds = tuple(kind for kind in self.kinds if kind != "zombie")
        if "zombie" in self.kinds:
            # Where offsets go back they can come to where the other one left them: the fence sees nothing then.
            gone = {"grow", "restore", "recreate", "truncate", "outage"}
            self.kinds = tuple(kind for kind in self.kinds if kind not in gone)
        deadly = {"kill_consumer", "crash_consumer", "power", "expire", "restore"}
        self._consumers_die = not deadly.isdisjoint(self.kinds)
        self._seconds = rng.choice((4.0, 10.0, 20.0))
        self._attempts = 0
        self._is_healed = False

    async def run(self) -> None:
        """Faults for a while; then healing and judgement, unless only safety is asked."""
        world, rng = self._world, self._rng
        world.tell("history", world.seed, self._mode, ",".join(self.kinds), world.knobs)
        self._set_faults()
        world.start_consumer()
        if "relay" in self.kinds:
            world.start_relay()
        for rank in range(rng.choice((1, 1, 2))):
            self._start(rank, "attempt-0", 0)
        ends_at = world.loop.time() + self._seconds
        while world.loop.time() < ends_at and not world.violation:
            await asyncio.sleep(rng.expovariate(1.0))
            self._keep_alive()
            if self.kinds and rng.random() < 0.8:
                await self._do(rng.choice(self.kinds))
            self._check_budget()
        if self._mode == "liveness" and not world.violation:
            await self._heal()

    def _check_budget(self) -> None:
        if self._world.loop.events > EVENTS_MAX:
            raise Violation("the history doesn't come to an end: something goes round in circles")

    def _set_faults(self) -> None:
        faults, rng = self._world.broker.faults, self._rng
        self._world.broker.gives_ids = rng.random() < 0.75
        faults.delay_seconds = rng.choice((0.01, 0.2))
        if "sends" in self.kinds:
            for name in rng.sample(("lost_ack", "partial", "nothing", "twice", "late", "odd"), 3):
                setattr(faults, name, 0.02 if name == "odd" else rng.choice((0.05, 0.2)))
            faults.late_seconds = rng.choice((1.0, 10.0))

    def _start(self, rank: int, attempt: str, restart_count: int, run: str = "r" * 16) -> Trainer:
        world, rng = self._world, self._rng
        delivers = "relay" if "relay" in self.kinds and rng.random() < 0.7 else "thread"
        fsync = "each" if "power" in self.kinds and rng.random() < 0.7 else "none"
        trainer = world.start_trainer(
            run_id=run, rank=rank, attempt=attempt, restart_count=restart_count, delivers=delivers, fsync=fsync
        )
        trainer.spawn(trainer.train())
        return trainer

    def _keep_alive(self) -> None:
        """Whoever runs the consumer starts it again."""
        if not self._world.living_consumers():
            self._world.start_consumer()

    async def _do(self, kind: str) -> None:
        """One fault."""
        done = getattr(self, f"_{kind}")()
        if done is not None:
            await done

    def _living(self) -> list[Trainer]:
        return [one for one in self._world.trainers if one.alive]

    # Trainers.

    def _kill_trainer(self) -> None:
        rng, living = self._rng, self._living()
        if not living:
            if len(self._world.trainers) < 5:
                self._start_again(self._world.trainers[-1])
            return
        victim = rng.choice(living)
        victim.kill(rng.choice(("between", "inside log", "inside log", "damage")))
        if len(self._world.trainers) < 5 and rng.random() < 0.7:
            self._start_again(victim)

    def _start_again(self, before: Trainer) -> None:
        rng, truth = self._rng, before.truth
        how = rng.random()
        if how < 0.5:  # the launcher's next attempt
            self._start(truth.rank, f"attempt-{truth.restart_count + 1}", truth.restart_count + 1)
        elif how < 0.7:  # this rank alone, or a forked child
            self._start(truth.rank, truth.attempt, truth.restart_count)
        elif how < 0.85:  # resumed by hand
            self._attempts += 1
            self._start(truth.rank, f"resumed-{self._attempts}", truth.restart_count)
        else:
            self._start(0, "attempt-0", 0, run="s" * 16)

    def _power(self) -> None:
        living = self._living()
        for victim in living:
            victim.kill("power")
        if living:
            for helper in self._world.helpers:
                self._world.kill_helper(helper)
            for consumer in self._world.living_consumers():
                consumer.kill("power")
            if len(self._world.trainers) < 5:
                self._start_again(living[0])
            if "relay" in self.kinds:
                self._world.start_relay()

    def _recovery(self) -> None:
        world, rng = self._world, self._rng
        running = [one for one in world.helpers if one.alive and one.name.startswith("recovery")]
        if running and rng.random() < 0.5:
            world.kill_helper(running[0])
        else:
            world.start_recovery()

    def _relay(self) -> None:
        world, rng = self._world, self._rng
        running = [one for one in world.helpers if one.alive and one.name.startswith("relay")]
        for helper in running:
            world.kill_helper(helper)
        if not running or rng.random() < 0.6:
            world.start_relay()

    async def _disk_full(self) -> None:
        world = self._world
        world.disk_is_full = True
        world.tell("disk", "full")
        await asyncio.sleep(self._rng.random() * 4)
        world.disk_is_full = False
        world.tell("disk", "has room")

    # The log.

    def _sends(self) -> None:
        """Set once; here only a pause."""

    async def _outage(self) -> None:
        world = self._world
        world.tell("broker", "away")
        world.broker.outage(reachable=False)
        await asyncio.sleep(self._rng.choice((0.2, 2.0, 6.0)))
        world.broker.outage(reachable=True)
        world.tell("broker", "back")

    async def _grow_unseen(self) -> None:
        """The log gets past where it was read to before anybody looks at it again: its length tells nothing then."""
        broker, rng = self._world.broker, self._rng
        if broker.stands_still or rng.random() < 0.4:
            return
        if self._consumers_die:
            return  # who dies between reading such a log and looking at it has stored its anchor: docs/decisions/021
        if not self._living() and len(self._world.trainers) < 5:
            self._start_again(self._world.trainers[-1])
        self._world.tell("consumer", "stands still")
        broker.stand_still(still=True)
        await asyncio.sleep(rng.choice((1.0, 2.0, 4.0)))
        broker.stand_still(still=False)
        self._world.tell("consumer", "goes on")

    async def _truncate(self) -> None:
        rng, broker = self._rng, self._world.broker
        number, count, quietly = rng.randrange(8), rng.randrange(1, 4), rng.random() < 0.5
        self._world.tell("broker", "loses the last", count, "of", number % len(broker.partitions), quietly)
        broker.truncate(number, count, quietly=quietly)
        await self._grow_unseen()

    async def _recreate(self) -> None:
        quietly = self._rng.random() < 0.5
        self._world.tell("broker", "makes the topic anew", quietly)
        self._world.broker.recreate(self._rng.choice((1, 2, 3)), quietly=quietly)
        await self._grow_unseen()

    def _expire(self) -> None:
        world, rng = self._world, self._rng
        number = rng.randrange(len(world.broker.partitions))
        count = rng.randrange(1, 6)
        if rng.random() < 0.5:
            self._kill_consumer()
        is_read = bool(world.living_consumers())  # what it has read, it stores
        stored = {int(row["partition"]): row["next_offset"] for row in world.engine.contents()["offsets"]}
        world.tell("broker", "expires", count, "of", number)
        world.broker.expire(number, count, 10**9 if is_read else stored.get(number, 0))

    def _grow(self) -> None:
        if len(self._world.broker.partitions) < 6:
            self._world.tell("broker", "grows")
            self._world.broker.grow(self._rng.randrange(1, 3))

    def _poison(self) -> None:
        rng, broker = self._rng, self._world.broker
        value = rng.randbytes(rng.randrange(40))
        headers: tuple[tuple[str, bytes], ...] = ()
        if rng.random() < 0.6:
            names = ("type", "project", "run_id", "emitter_id", "attempt", "rank", "first_seq", "count")
            headers = tuple((name, rng.choice((b"0", b"7", b"x", b"MetricBatch"))) for name in names)
        self._world.tell("stranger", "sends", len(value), "bytes")
        broker.append_raw(rng.randrange(8), value, headers)

    def _damage(self) -> None:
        self._world.broker.damages_next = self._rng.randrange(1, 3)
        self._world.tell("broker", "damages what comes next")

    def _clock(self) -> None:
        world, rng = self._world, self._rng
        jump = rng.choice((-86_400.0, -5.0, 5.0, 3_600.0, 86_400.0))
        whose = rng.choice(("trainer", "broker", "consumer"))
        world.tell("clock of", whose, "jumps by", jump)
        if whose == "broker":
            world.broker.clock_offset_seconds += jump
        else:
            world.offset_seconds[whose] += jump

    # The consumer.

    def _kill_consumer(self) -> None:
        for consumer in self._world.living_consumers():
            consumer.kill("anywhere")

    def _crash_consumer(self) -> None:
        rng = self._rng
        for consumer in self._world.living_consumers():
            words, count = rng.choice(STATEMENTS), rng.randrange(1, 3)
            self._world.tell(consumer.name, "will die at", count, words)
            consumer.crash.plan(words, count)

    def _store_full(self) -> None:
        for consumer in self._world.living_consumers():
            consumer.crash.full = self._rng.randrange(1, 4)
            self._world.tell(consumer.name, "meets a full disk", consumer.crash.full)

    def _zombie(self) -> None:
        """A second consumer, which read the database before the first one wrote on."""
        if len(self._world.living_consumers()) < 2:
            self._world.start_consumer()

    def _restore(self) -> None:
        world, rng = self._world, self._rng
        if rng.random() < 0.5:
            world.engine.snapshot()
            world.tell("database", "snapshot")
            return
        for consumer in world.living_consumers():
            consumer.kill("for a restore")
        if world.engine.restore(rng.randrange(100)):
            world.restores += 1
            world.tell("database", "restored")
            world.laws.restored()

    # Healing.

    async def _heal(self) -> None:
        world = self._world
        world.tell("healing")
        faults = world.broker.faults
        for name in ("lost_ack", "partial", "nothing", "twice", "late", "odd"):
            setattr(faults, name, 0.0)
        world.broker.damages_next = 0
        world.disk_is_full = False
        if not world.broker.reachable:
            world.broker.outage(reachable=True)
        for consumer in world.living_consumers():
            consumer.crash.plan("", 0)
            consumer.crash.full = 0
        ends_at = world.loop.time() + HEAL_SECONDS_MAX
        finishing = [one.spawn(one.finish("finished")) for one in self._living()]
        self._keep_alive()
        if finishing:
            await asyncio.wait(finishing, timeout=HEAL_SECONDS_MAX)
        await self._until(self._is_quiet, ends_at)
        await asyncio.sleep(CALM_SECONDS)
        await self._until(self._is_quiet, ends_at + CALM_SECONDS)
        if not world.violation:
            world.laws.hold()

    def _is_quiet(self) -> str:
        world = self._world
        self._keep_alive()
        if any(one.alive for one in world.trainers):
            return "trainers live"
        waiting = [name for name in world.waiting_journals() if not world.truths[name].may_stay]
        busy = any(one.alive and one.name.startswith("recovery") for one in world.helpers)
        if waiting and not busy:
            world.start_recovery()
        return world.laws.is_quiet()

    async def _until(self, what_waits: Callable[[], str], ends_at: float) -> None:
        world = self._world
        while (waits := what_waits()) and not world.violation:
            if world.loop.time() > ends_at:
                world.fail(f"liveness: {waits}")
                return
            await asyncio.sleep(1.0)
            self._check_budget()


Step = Callable[[], Awaitable[None] | None]
