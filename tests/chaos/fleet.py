"""The trainers: in each place one lives after the other, as the plan says, and what dead ones left is sent by the next.

One thread leads them all. Places have homes of their own. What each writer was told is in files, and stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.plan import Ending, Life, lives
from tests.chaos.told import Counters, writer_of
from tests.services.consumer import RUNWIRE
from tests.services.process import ServiceFailed, ServiceProcess, wait_until
from tests.services.trainer import torchrun_environment, trainer_environment

TICK_SECONDS = 0.05
END_SECONDS_MAX = 60.0  # finish() takes 10 s at most, of each process; the machine may be busy
ABORT_SECONDS_MAX = 5.0
BEGIN_SECONDS_MAX = 60.0
SYNC_SECONDS_MAX = 120.0
REST_SECONDS_MAX = 120.0
DECLARE_SECONDS = 3.0  # a journal looks for room every second, and says then what it lost
TRAINER = Path(__file__).with_name("trainer.py")


@dataclass(slots=True)
class Trainer:
    """One process and what it was told."""

    number: int
    process: ServiceProcess
    told: Counters
    stop: Path

    def signal(self, number: signal.Signals) -> None:
        """To it and all it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass(slots=True)
class Place:
    """A home and who lives there.

    Attributes:
        held: Nobody ends or begins here for now.
        due: What happens when, from the begin of the life on: (monotonic seconds, what).
        ends_by: When the living must have ended; None while nobody told them to.
    """

    number: int
    home: Path
    lives: Iterator[Life]
    may_fork: bool
    life: Life | None = None
    trainers: list[Trainer] = field(default_factory=list)
    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    ends_by: float | None = None
    held: bool = False
    lossy: bool = False
    syncing: ServiceProcess | None = None


class Fleet:
    """Trainers in `len(homes)` places, until `finish`.

    Attributes:
        kills: SIGKILLs, by how.
        broken: Sentences about what must not be.
    """

    def __init__(self, folder: Path, homes: list[Path], url: str, seed: int, say: Callable[[str], None]) -> None:
        """`homes[-1]` may be filled: nobody forks there."""
        self.kills: Counter[str] = Counter()
        self.broken: list[str] = []
        self._folder = folder
        self._url = url
        self._say = say
        self._places = [
            Place(number, home, lives(seed, number), may_fork=number < len(homes) - 1)
            for number, home in enumerate(homes)
        ]
        self._trainers: list[Trainer] = []
        self._lossy: set[int] = set()
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._lead, name="fleet", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Let them live."""
        self._thread.start()

    def told(self) -> dict[int, int]:
        """How many calls of each writer have returned."""
        return {
            writer_of(trainer.number, place): rows
            for trainer in self._trainers
            for place, rows in enumerate(trainer.told.rows())
            if rows
        }

    @property
    def lossy(self) -> frozenset[int]:
        """Writers whose disk was full."""
        return frozenset(writer_of(number, 0) for number in self._lossy)

    @contextlib.contextmanager
    def hold_last(self) -> Iterator[Place]:
        """Whoever lives in the last place goes on living while its disk is full, and a little longer.

        Raises:
            TimeoutError: Nobody begins to live there.
        """
        place = self._places[-1]

        def alive() -> bool:
            with self._lock:
                place.held = bool(
                    place.trainers
                    and place.ends_by is None
                    and all(trainer.told.rows()[0] and trainer.process.exit_code is None for trainer in place.trainers)
                )
                return place.held

        wait_until(alive, timeout_seconds=BEGIN_SECONDS_MAX, what="somebody lives in the last place")
        with self._lock:
            for trainer in place.trainers:
                trainer.signal(signal.SIGCONT)
            self._lossy.update(trainer.number for trainer in place.trainers)
        try:
            yield place
            time.sleep(DECLARE_SECONDS)
        finally:
            place.held = False

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nobody logs, sends, begins or ends; `runwire sync` has ended before."""
        with self._lock:
            for place in self._places:
                if place.syncing is not None:
                    self._end_sync(place)
            living = [trainer for trainer in self._trainers if trainer.process.exit_code is None]
            began = time.monotonic()
            for trainer in living:
                trainer.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                for trainer in living:
                    trainer.signal(signal.SIGCONT)
                for place in self._places:
                    if place.ends_by is not None:  # nobody can end who stands still
                        place.ends_by += time.monotonic() - began

    def finish(self) -> None:
        """Let all end by themselves, then send what is left."""
        self._end.set()
        self._thread.join(SYNC_SECONDS_MAX)
        with self._lock:
            living = [trainer for place in self._places for trainer in place.trainers]
            for trainer in living:
                trainer.signal(signal.SIGCONT)
                trainer.stop.touch()
            deadline = time.monotonic() + END_SECONDS_MAX
            for trainer in living:
                with contextlib.suppress(TimeoutError):
                    wait_until(
                        lambda trainer=trainer: trainer.process.exit_code is not None,  # type: ignore[misc]
                        timeout_seconds=max(deadline - time.monotonic(), 0.0),
                        what="it ends",
                    )
                if trainer.process.exit_code is None:
                    self.broken.append(f"trainer {trainer.number} didn't end within {END_SECONDS_MAX:g} s")
                trainer.process.kill()
            for place in self._places:
                if place.syncing is not None:
                    self._end_sync(place)
        for place in self._places:
            self._send_rest(place)
        for trainer in self._trainers:
            if "Traceback" in trainer.process.log.read_text(errors="replace"):
                self.broken.append(f"trainer {trainer.number} raised: see {trainer.process.log}")

    def kill_all(self) -> None:
        """At once; nothing is sent."""
        self._end.set()
        with self._lock:
            for trainer in self._trainers:
                trainer.process.kill()
            for place in self._places:
                if place.syncing is not None:
                    place.syncing.kill()

    def _lead(self) -> None:
        while not self._end.wait(TICK_SECONDS):
            with self._lock:
                for place in self._places:
                    if not self._end.is_set():
                        self._tick(place)

    def _tick(self, place: Place) -> None:
        now = time.monotonic()
        if place.syncing is not None and place.syncing.exit_code is not None:
            self._end_sync(place)
        if place.held:
            return
        if place.life is None:
            self._begin(place, now)
        while place.due and place.due[0][0] <= now:
            place.due.pop(0)[1]()
        if place.ends_by is not None:
            gone = all(trainer.process.exit_code is not None for trainer in place.trainers)
            if place.due or (not gone and now < place.ends_by):
                return
            if not gone:
                self._ask_where(place)
            self._bury(place)
        elif early := [trainer for trainer in place.trainers if trainer.process.exit_code is not None]:
            self.broken += [f"trainer {one.number} ended by itself: {one.process.exit_code}" for one in early]
            self._bury(place)

    def _begin(self, place: Place, now: float) -> None:
        life = place.life = next(place.lives)
        launch = f"chaos-{place.number}-{len(self._trainers)}"
        for rank in range(life.ranks):
            place.trainers.append(self._spawn(place, life, launch, rank))
        place.due = [(now + life.seconds, lambda: self._begin_end(place, life))]
        if life.stopped_seconds:
            stop, go_on = now + life.stopped_at_seconds, now + life.stopped_at_seconds + life.stopped_seconds
            place.due.append((stop, lambda: self._signal(place, signal.SIGSTOP)))
            place.due.append((go_on, lambda: self._signal(place, signal.SIGCONT)))
        place.due.sort(key=lambda one: one[0])

    def _spawn(self, place: Place, life: Life, launch: str, rank: int) -> Trainer:
        number = len(self._trainers)
        told, stop = self._folder / f"told-{number}", self._folder / f"stop-{number}"
        counters = Counters(told)
        command = [
            sys.executable,
            "-P",
            str(TRAINER),
            "--number",
            str(number),
            "--told",
            str(told),
            "--stop",
            str(stop),
        ]
        command += ["--children", str(life.children if place.may_fork else 0)]
        environment = trainer_environment(place.home, self._url)
        if life.ranks > 1:
            environment |= torchrun_environment(launch, rank, life.ranks)
        process = ServiceProcess(
            f"trainer {number}", command, log=self._folder / f"trainer-{number}.log", environment=environment
        )
        trainer = Trainer(number, process, counters, stop)
        self._trainers.append(trainer)
        return trainer

    def _signal(self, place: Place, number: signal.Signals) -> None:
        for trainer in place.trainers:
            trainer.signal(number)

    def _begin_end(self, place: Place, life: Life) -> None:
        self._signal(place, signal.SIGCONT)
        place.due = []
        place.ends_by = time.monotonic() + END_SECONDS_MAX * (life.ranks if life.ending is Ending.TERMINATED else 1)
        match life.ending:
            case Ending.KILLED | Ending.ORPHANED:
                for trainer in place.trainers:
                    self.kills[f"trainer_{life.ending}"] += 1
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(trainer.process.pid, signal.SIGKILL)
                if life.ending is Ending.KILLED or not life.children:
                    self._bury(place)
                else:
                    place.ends_by = time.monotonic() + END_SECONDS_MAX
                    place.due = [(time.monotonic() + life.orphan_seconds, lambda: self._bury(place))]
            case Ending.TERMINATED:
                for trainer in place.trainers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(trainer.process.pid, signal.SIGTERM)
            case Ending.FINISHED:
                for trainer in place.trainers:
                    trainer.stop.touch()

    def _ask_where(self, place: Place) -> None:
        """Who didn't end leaves the stacks of its threads in its log."""
        assert place.life is not None
        for trainer in place.trainers:
            if trainer.process.exit_code is None:
                self.broken.append(
                    f"trainer {trainer.number} of place {place.number} didn't end within {END_SECONDS_MAX:g} s "
                    f"({place.life.ending}, {place.life.children} children): see {trainer.process.log}"
                )
                os.kill(trainer.process.pid, signal.SIGABRT)
                with contextlib.suppress(ServiceFailed):
                    trainer.process.wait(timeout_seconds=ABORT_SECONDS_MAX)

    def _bury(self, place: Place) -> None:
        """Nothing lives here any more, not even what was forked."""
        life = place.life
        for trainer in place.trainers:
            trainer.process.kill()
        if life is not None and life.synced and place.syncing is None:
            place.syncing = self._sync(place)
        place.life, place.trainers, place.due, place.ends_by = None, [], [], None

    def _sync(self, place: Place) -> ServiceProcess:
        return ServiceProcess(
            "runwire sync",
            [RUNWIRE, "sync"],
            log=self._folder / f"sync-{place.number}.log",
            environment=trainer_environment(place.home, self._url),
        )

    def _end_sync(self, place: Place) -> None:
        """Exit code 1 says that something still waits: another will send it."""
        assert place.syncing is not None
        code = place.syncing.wait(timeout_seconds=SYNC_SECONDS_MAX)
        if code not in {0, 1} or "Traceback" in place.syncing.log.read_text(errors="replace"):
            self.broken.append(f"runwire sync failed: {code}, see {place.syncing.log}")
        place.syncing.kill()
        place.syncing = None

    def _send_rest(self, place: Place) -> None:
        """With everything healed, `runwire sync` leaves nothing."""
        deadline = time.monotonic() + REST_SECONDS_MAX
        told = ""
        while time.monotonic() < deadline:
            done = subprocess.run(
                [RUNWIRE, "sync"],
                env=trainer_environment(place.home, self._url),
                capture_output=True,
                text=True,
                check=False,
                timeout=SYNC_SECONDS_MAX,
            )
            told = done.stdout + done.stderr
            if done.returncode == 0 and "still run" not in told:
                left = [path.name for path in (place.home / "journal").glob("*") if path.is_dir()]
                if not left:
                    return
                told += f"left in the journal: {left}"
            time.sleep(1)
        self.broken.append(f"runwire sync didn't send everything of place {place.number}: {told.strip()[-500:]}")
