"""The nemesis: plays the plan's steps on the stage, heals, and measures until the consumer stores new rows again."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.fleet import Fleet
from tests.chaos.plan import NETWORK, Kind, Step
from tests.chaos.stage import Stage, second_refuses
from tests.services.process import ServiceFailed, ServiceProcess

RECOVERY_SECONDS_MAX = 90.0
LOOK_INTERVAL_SECONDS = 0.2
STILL_SECONDS = 1.5  # what was on its way has arrived
SUDDEN = frozenset({Kind.HALF_OPEN, Kind.RESET})  # over at once: clients have to find out
DELAY_SECONDS = 0.5
THROTTLED_BYTES_PER_SECOND = 20_000
ANSWER_BYTES_MAX = 3_000
REQUEST_BYTES_MAX = 20_000
SNAPSHOT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the end of a fault until new rows were stored."""

    kind: Kind
    seconds: float


class Nemesis:
    """Strikes, one step after the other.

    Attributes:
        faults: What was done, by kind.
        skipped: What couldn't be, by kind and reason.
        recoveries: One a step.
        broken: Sentences about what didn't come back by itself.
    """

    def __init__(self, stage: Stage, fleet: Fleet, say: Callable[[str], None]) -> None:
        self.faults: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.recoveries: list[Recovery] = []
        self.broken: list[str] = []
        self._stage = stage
        self._fleet = fleet
        self._say = say
        self._strikes: dict[Kind, Callable[[Step], None]] = {
            Kind.CONSUMER_KILLED: self._killed,
            Kind.CONSUMER_STOPPED: self._stopped,
            Kind.BROKER_KILLED: self._broker_killed,
            Kind.BROKER_STOPPED: self._broker_stopped,
            Kind.CONSUMER_DISK_FULL: self._consumer_disk_full,
            Kind.TRAINER_DISK_FULL: self._trainer_disk_full,
            Kind.SNAPSHOT_TAKEN: self._snapshot_taken,
            Kind.SNAPSHOT_RESTORED: self._snapshot_restored,
            Kind.DATABASE_DAMAGED: self._database_damaged,
            Kind.TOPIC_RECREATED: self._topic_recreated,
            Kind.PARTITIONS_RAISED: self._partitions_raised,
            Kind.SECOND_CONSUMER: self._second_consumer,
        } | dict.fromkeys(NETWORK, self._network)

    def begin(self) -> None:
        """The consumer comes up for the first time and stores rows; a first snapshot is taken."""
        self._stage.consumer.start()
        self._await_rows("the first start", None)
        self._take_snapshot()

    def play(self, plan: Iterator[Step], until: float) -> None:
        """Steps until the time is up (monotonic seconds), or something is broken for good."""
        for step in plan:
            if time.monotonic() >= until or self.broken:
                return
            self._say(f"{max(until - time.monotonic(), 0):4.0f} s left: {step}")
            before = self.skipped.total()
            try:
                self._strike(step)
            except (ServiceFailed, TimeoutError) as error:
                self.broken.append(f"{step}: {error}")
                return
            if self.skipped.total() == before:
                self.faults[str(step.kind)] += 1
            seconds = self._await_rows(str(step), step.kind)
            self.recoveries.append(Recovery(step.kind, seconds))
            self._say(f"         {step.kind}: new rows after {seconds:.1f} s")
            time.sleep(min(step.pause_seconds, max(until - time.monotonic(), 0)))

    def _strike(self, step: Step) -> None:
        self._stage.consumer.take_counters()
        killing: threading.Thread | None = None
        if step.kills and step.kind is not Kind.CONSUMER_KILLED:
            killing = threading.Timer(min(step.kill_after_seconds, step.seconds), self._stage.consumer.kill)
            killing.start()
        self._strikes[step.kind](step)
        if killing is not None:
            killing.join()

    def _await_rows(self, what: str, kind: Kind | None) -> float:
        """How long it took."""
        began = time.monotonic()
        if kind in SUDDEN:
            time.sleep(STILL_SECONDS)  # what had come before is stored by then, and tells nothing
        before: int | None = None
        while time.monotonic() - began < RECOVERY_SECONDS_MAX:
            now = self._stage.consumer.rows()
            if now is not None:
                if before is not None and now > before:
                    return time.monotonic() - began
                before = now if before is None else min(before, now)
            time.sleep(LOOK_INTERVAL_SECONDS)
        log = self._stage.consumer.process.process.log_tail()
        self.broken.append(f"no new rows within {RECOVERY_SECONDS_MAX:g} s after {what}; the consumer said\n{log}")
        return time.monotonic() - began

    def _skip(self, kind: Kind, reason: str) -> None:
        self.skipped[f"{kind}: {reason}"] += 1
        self._say(f"         {kind} left out: {reason}")

    def _killed(self, step: Step) -> None:
        for number in range(step.kills):
            if number:
                time.sleep(step.kill_after_seconds)
            self._stage.consumer.kill()

    def _stopped(self, step: Step) -> None:
        self._stage.consumer.signal(signal.SIGSTOP)
        time.sleep(step.seconds)
        self._stage.consumer.signal(signal.SIGCONT)

    def _broker_killed(self, step: Step) -> None:
        with self._stage.broker_killed():
            time.sleep(step.seconds)

    def _broker_stopped(self, step: Step) -> None:
        with self._stage.broker_stopped():
            time.sleep(step.seconds)

    def _network(self, step: Step) -> None:
        proxy = self._stage.proxies[step.side]
        match step.kind:
            case Kind.HALF_OPEN:
                proxy.half_open()
                return  # nobody heals such connections: who has one has to find out
            case Kind.RESET:
                proxy.reset()
                return
            case Kind.REFUSED:
                proxy.refuse()
            case _:
                proxy.set(**_fault(step))
        time.sleep(step.seconds)
        proxy.heal()

    def _consumer_disk_full(self, step: Step) -> None:
        disk = self._stage.disks["consumer"]
        disk.fill()
        time.sleep(step.seconds)
        disk.free()

    def _trainer_disk_full(self, step: Step) -> None:
        disk, proxy = self._stage.disks["trainer"], self._stage.proxies["trainers"]
        with self._fleet.hold_last():
            disk.fill()
            proxy.set(drop_responses=True)  # what is acknowledged makes room
            time.sleep(step.seconds)
            disk.free()
            proxy.heal()

    def _take_snapshot(self) -> str:
        trouble = ""
        for _ in range(SNAPSHOT_ATTEMPTS):
            trouble = self._stage.snapshots.take()
            if not trouble:
                return ""
            time.sleep(1)
        return trouble

    def _snapshot_taken(self, step: Step) -> None:
        trouble = self._stage.snapshots.take()
        if trouble and not step.kills:
            self._skip(step.kind, trouble)

    def _snapshot_restored(self, step: Step) -> None:
        if not self._stage.snapshots.usable:
            self._skip(step.kind, "there is no snapshot that may be restored")
        elif trouble := self._stage.snapshots.restore(step.draw):
            self.broken.append(f"runwire restore: {trouble}")

    def _database_damaged(self, step: Step) -> None:
        if self._stage.snapshots.usable:
            self._stage.snapshots.damage(step.draw)
        else:
            self._skip(step.kind, "there is no snapshot that may be restored")

    def _topic_recreated(self, step: Step) -> None:
        """What was acknowledged dies with its topic unless it was read: nobody writes, and everything is read before.

        Snapshots from before would bring the time back when it wasn't: they are taken anew.
        """
        with self._fleet.standing_still():
            time.sleep(STILL_SECONDS)
            done = self._stage.recreate_topic()
        if done:
            self._stage.snapshots.forget()
            if trouble := self._take_snapshot():
                self._say(f"         no snapshot: {trouble}")
        else:
            self._skip(step.kind, "the consumer didn't reach the tail")

    def _partitions_raised(self, _: Step) -> None:
        self._stage.raise_partitions()

    def _second_consumer(self, _: Step) -> None:
        second: ServiceProcess = self._stage.start_second_consumer()
        if trouble := second_refuses(second):
            self.broken.append(f"a second consumer in the same home: {trouble}")


def _fault(step: Step) -> dict[str, float | bool]:
    """What a step does to bytes on their way."""
    more = 1 + step.draw
    faults: dict[Kind, dict[str, float | bool]] = {
        Kind.DELAYED: {"request_delay_seconds": DELAY_SECONDS, "response_delay_seconds": DELAY_SECONDS * step.draw},
        Kind.THROTTLED: {"bytes_per_second": THROTTLED_BYTES_PER_SECOND},
        Kind.BLACKHOLE: {"drop_requests": True, "drop_responses": True},
        Kind.REQUESTS_LOST: {"drop_requests": True},
        Kind.ACKNOWLEDGEMENTS_LOST: {"drop_responses": True},
        Kind.CUT_SHORT: {
            "response_bytes_max": int(ANSWER_BYTES_MAX * more),
            "request_bytes_max": int(REQUEST_BYTES_MAX * more),
        },
    }
    return faults[step.kind]
