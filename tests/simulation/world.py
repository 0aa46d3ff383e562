"""The world of one history: loop, broker, disk, processes; and the real code's clocks and doors turned towards it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from runwire import _delivery as delivery_module
from runwire import (
    _following,
    _fsync,
    _journal,
    _journal_files,
    _link,
    _recovery,
    _relay,
    _segment_writer,
    _sender,
)
from runwire_consumer import service as service_module
from runwire_consumer import writing as writing_module
from runwire_consumer.errors import Fenced
from runwire_consumer.service import Service, ServiceLimits
from runwire_consumer.sources import kafka as kafka_module
from runwire_consumer.sources.kafka import KafkaSource
from runwire_schemas.topics import parse_url
from tests.simulation.broker import Broker, BrokerTransport
from tests.simulation.client import Client
from tests.simulation.disk import Durable
from tests.simulation.laws import Laws, Violation
from tests.simulation.loop import CURRENT, Process, VirtualLoop, task_factory
from tests.simulation.store import CrashPoint, ModelEngine, RealEngine
from tests.simulation.trainer import KEY_SETS, URL, Trainer, Truth

TRACE_LINES_MAX = 4_000
EPOCH_SECONDS = 1_700_000_000


@dataclass(frozen=True)
class Knobs:
    """What a history's sizes and times are; drawn from its seed, so that every limit is met early."""

    segment_bytes: int
    journal_bytes_max: int
    batch_rows_max: int
    window_messages: int
    flush_seconds: float
    message_bytes_max: int
    pwrite: bool
    key_sets: tuple[tuple[str, ...], ...]
    bursts_max: int
    burst_rows_max: int
    pause_seconds: float
    partitions: int
    batch_seconds: float
    batch_messages_max: int

    @classmethod
    def drawn(cls, rng: random.Random) -> Knobs:
        segment_bytes = rng.choice((1024, 2048, 4096, 8192))
        return cls(
            segment_bytes=segment_bytes,
            journal_bytes_max=segment_bytes * rng.choice((4, 6, 40)),
            batch_rows_max=rng.choice((3, 10, 50)),
            window_messages=rng.choice((1, 3, 16)),
            flush_seconds=rng.choice((0.3, 1.0, 2.0)),
            message_bytes_max=rng.choice((700, 100_000, 100_000)),
            pwrite=rng.random() < 0.25,
            key_sets=tuple(rng.sample(KEY_SETS, rng.randrange(1, 4))),
            bursts_max=rng.choice((3, 8)),
            burst_rows_max=rng.choice((6, 20, 40)),
            pause_seconds=rng.choice((0.3, 1.0, 3.0)),
            partitions=rng.choice((1, 2, 3)),
            batch_seconds=rng.choice((0.0, 0.5)),
            batch_messages_max=rng.choice((1, 5, 1000)),
        )


class Silence:
    """In the place of notices: nobody reads them."""

    def say(self, *_: object) -> None:
        return None


class VirtualTime:
    """In the place of the module `time`."""

    def __init__(self, loop: VirtualLoop, wall_us: Callable[[], int]) -> None:
        self.monotonic = self.perf_counter = loop.time
        self.time_ns = lambda: wall_us() * 1000
        self.time = lambda: wall_us() / 1e6

    def thread_time(self) -> float:
        return 0.0

    def sleep(self, _: float) -> None:
        return None


class Held(MutableMapping[str, object]):
    """In the place of `_journal_files._OURS`, which belongs to one process: each simulated one has its own."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def _mine(self) -> dict[str, object]:
        process = CURRENT.get()
        return self._world.nobody if process is None else process.folders

    def __getitem__(self, name: str) -> object:
        return self._mine[name]

    def __setitem__(self, name: str, holder: object) -> None:
        self._mine[name] = holder
        self._world.take_lock(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        return self._mine.setdefault(name, default)

    def __delitem__(self, name: str) -> None:
        del self._mine[name]
        self._world.give_lock(name)

    def pop(self, name: str, default: Any = None) -> Any:
        self._world.give_lock(name)
        return self._mine.pop(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._mine)

    def __len__(self) -> int:
        return len(self._mine)


class ConsumerProcess(Process):
    """The real `Service` with the real `KafkaSource`, over the engine."""

    def __init__(self, world: World) -> None:
        super().__init__(world.loop, f"consumer {next(world.numbers)}")
        self.world = world
        self.crash = CrashPoint(lambda: self.alive, lambda: self.kill("at a statement"))
        self.task = self.spawn(self._main())

    async def _main(self) -> None:
        world = self.world
        await asyncio.sleep(world.rng.random() * 0.3)
        limits = ServiceLimits(
            batch_seconds=world.knobs.batch_seconds,
            backlog_batch_seconds=world.knobs.batch_seconds,
            batch_messages_max=world.knobs.batch_messages_max,
            poll_seconds=1.0,
            full_retry_seconds=1.0,
        )
        try:
            store = world.engine.open(self.crash)
            service = Service(
                store, [KafkaSource(parse_url(URL))], limits=limits, clock=lambda: world.wall_us("consumer")
            )
            await service.run(asyncio.Event())
        except Fenced:
            world.tell(self.name, "fenced")
            world.fenced += 1
            self.die()
        except asyncio.CancelledError:
            raise
        except Violation as violation:
            world.fail(str(violation))
        except Exception as error:  # noqa: BLE001 - a consumer that ends by an error of its own is a finding
            world.fail(f"{self.name} ended: {error!r}")

    def kill(self, how: str) -> None:
        """SIGKILL."""
        if self.alive:
            self.world.tell(self.name, "killed", how)
            self.die()


class Helper(Process):
    """A process that does one thing: a recovery, a relay."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.loop, f"{name} {next(world.numbers)}")
        self.world = world


@dataclass
class World:
    """Everything of one history.

    Attributes:
        truths: What the emitters promised, by id.
        trace: What happened, in short lines.
    """

    seed: int
    folder: Path
    is_real: bool = False
    truths: dict[str, Truth] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    trainers: list[Trainer] = field(default_factory=list)
    consumers: list[ConsumerProcess] = field(default_factory=list)
    helpers: list[Helper] = field(default_factory=list)
    violation: str = ""
    fenced: int = 0
    restores: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._timing = random.Random(self.seed ^ 0x5EED)
        self.knobs = Knobs.drawn(self.rng)
        self.loop = VirtualLoop(lambda: self._timing.random() * 0.05)
        self.loop.set_task_factory(task_factory)  # type: ignore[arg-type]
        self.broker = Broker(
            self.loop, random.Random(self.rng.getrandbits(64)), self.knobs.partitions, self.knobs.message_bytes_max
        )
        self.numbers = iter(range(10**9))
        self.notices = Silence()
        self.durable = Durable()
        self.disk_is_full = False
        self.journals = self.folder / "journal"
        self.nobody: dict[str, object] = {}
        self.locks: dict[str, Process | None] = {}
        self.offset_seconds = {"trainer": 0.0, "consumer": 0.0}
        self.laws = Laws(self)
        self.engine: ModelEngine | RealEngine = (
            RealEngine(self.folder) if self.is_real else ModelEngine(self.laws.committed)
        )
        self._digest = hashlib.blake2b(digest_size=16)

    # Clocks, words, ends.

    def wall_us(self, whose: str) -> int:
        """Somebody's wall clock, microseconds."""
        return int((EPOCH_SECONDS + self.loop.time() + self.offset_seconds[whose]) * 1e6)

    def tell(self, *words: object) -> None:
        """One line of the trace."""
        line = f"{self.loop.time():9.3f} " + " ".join(map(str, words))
        self._digest.update(line.encode())
        if len(self.trace) < TRACE_LINES_MAX:
            self.trace.append(line)

    @property
    def digest(self) -> str:
        """Equal for equal histories."""
        return self._digest.hexdigest()

    def fail(self, text: str) -> None:
        """A law is broken; the first word counts."""
        if not self.violation:
            self.violation = text
            self.tell("VIOLATION", text)

    # Locks of folders, as the kernel keeps them.

    def take_lock(self, name: str) -> None:
        self.locks[name] = CURRENT.get()

    def give_lock(self, name: str) -> None:
        if self.locks.get(name) is CURRENT.get():
            self.locks.pop(name, None)

    def try_lock(self, fd: int) -> bool:
        """In the place of `_recovery.try_lock`: lockf knows real processes only."""
        path = Path(f"/proc/self/fd/{fd}").readlink()
        name = path.parent.name if path.name == "owner" else str(path)
        holder = self.locks.get(name)
        if holder is not None and holder.alive and holder is not CURRENT.get():
            return False
        self.take_lock(name)
        return True

    # Processes.

    def start_trainer(self, **fields: Any) -> Trainer:
        trainer = Trainer(self, **fields)
        self.trainers.append(trainer)
        self.tell(trainer.name, "starts", fields["attempt"], fields["rank"], fields["delivers"], fields["fsync"])
        return trainer

    def start_consumer(self) -> ConsumerProcess:
        consumer = ConsumerProcess(self)
        self.consumers.append(consumer)
        self.tell(consumer.name, "starts")
        return consumer

    def living_consumers(self) -> list[ConsumerProcess]:
        return [one for one in self.consumers if one.alive]

    async def recover(self) -> list[Any]:
        """`runwire sync`, inside of the calling process."""
        return await _recovery.recover(self.journals, only=parse_url(URL))

    def start_recovery(self) -> Helper:
        helper = Helper(self, "recovery")
        self.helpers.append(helper)

        async def main() -> None:
            await asyncio.sleep(self.rng.random())
            outcomes = await self.recover()
            self.tell(helper.name, "ends", sorted((one.emitter_id[:4], one.state) for one in outcomes))
            helper.alive = False

        helper.spawn(main())
        self.tell(helper.name, "starts")
        return helper

    def start_relay(self) -> Helper:
        helper = Helper(self, "relay")
        self.helpers.append(helper)

        async def main() -> None:
            relay = _relay.Relay(self.journals, None, lambda _: None)
            await relay.run(asyncio.Event())

        helper.spawn(main())
        self.tell(helper.name, "starts")
        return helper

    def kill_helper(self, helper: Helper) -> None:
        if helper.alive:
            self.tell(helper.name, "killed")
            helper.die()
            helper.folders.clear()

    def waiting_journals(self) -> list[str]:
        """Folders that hold something yet."""
        return sorted(path.name for path in self.journals.iterdir() if not path.name.startswith("."))

    # The real code's doors.

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Time, destinations, locks and limits of this history."""
        with Patches() as patch:
            self._patch_clocks(patch)
            self._patch_files(patch)
            self._patch_log(patch)
            yield

    def _patch_clocks(self, patch: Patches) -> None:
        time = VirtualTime(self.loop, lambda: self.wall_us("trainer"))
        consumer_time = VirtualTime(self.loop, lambda: self.wall_us("consumer"))
        for module in (_sender, _segment_writer, _link, _relay, _fsync):
            patch.set(module, "time", time)
        for module in (service_module, writing_module, kafka_module):
            patch.set(module, "time", consumer_time)
        patch.set(_journal, "_monotonic", self.loop.time)
        for module in (_recovery, _following):
            patch.set(module, "wall_time_us", lambda: self.wall_us("trainer"))
        patch.set(_segment_writer, "NOTICES", self.notices)
        patch.set(_relay, "Notices", Silence)

    def _patch_log(self, patch: Patches) -> None:
        knobs = self.knobs
        for module in (_sender, _recovery, _link):
            patch.set(module, "make_transport", lambda destination, **_: BrokerTransport(self.broker, destination))
        for module in (_sender, _recovery, _following):
            patch.set(module, "BATCH_ROWS_MAX", knobs.batch_rows_max)
        patch.set(delivery_module, "WINDOW_MESSAGES", knobs.window_messages)
        patch.set(_sender, "FLUSH_INTERVAL_SECONDS", knobs.flush_seconds)
        patch.set(_link, "POLL_INTERVAL_SECONDS", knobs.flush_seconds)
        patch.set(kafka_module, "AIOKafkaConsumer", type("SimulatedClient", (Client,), {"broker": self.broker}))

    def _patch_files(self, patch: Patches) -> None:
        allocate, remove = _journal_files.allocate, _journal_files.remove_journal
        settle = _following.LiveJournal.settle

        def allocate_here(path: Path, size_bytes: int, *, mapped: bool) -> Any:
            if self.disk_is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return allocate(path, size_bytes, mapped=mapped)

        def remove_here(folder: Path) -> None:
            process = CURRENT.get()
            if process is None or process.alive:
                self._note_removal(folder.name, process)
                remove(folder)

        def settle_here(journal: Any) -> None:
            process = CURRENT.get()
            if process is None or process.alive:
                before = {number for number, _ in journal._segments}
                settle(journal)
                gone = before - {number for number, _ in journal._segments}
                truth = self.truths.get(journal.header.emitter_id)
                if gone and truth is not None:
                    self.laws.deleted(truth, lambda row: row.segment in gone)

        for module in (_recovery, _relay):
            patch.set(module, "try_lock", self.try_lock)
            patch.set(module, "remove_journal", remove_here)
        patch.set(_segment_writer, "remove_journal", remove_here)
        patch.set(_segment_writer, "allocate", allocate_here)
        patch.set(_segment_writer, "populate", lambda _: None)
        patch.set(_following.LiveJournal, "settle", settle_here)
        patch.set(_journal_files, "_OURS", Held(self))
        patch.set(_fsync, "to_disk", self.durable.sync_file)
        patch.set(_fsync, "folder_to_disk", self.durable.sync_folder)

    def _note_removal(self, name: str, process: Process | None) -> None:
        """Somebody deletes a journal that isn't its own: all of it has to be in the log."""
        owner = process.emitter_id if isinstance(process, Trainer) else ""
        if name in self.truths and name != owner:
            self.tell(process.name if process else "nobody", "removes the journal of", name[:4])
            self.laws.deleted(self.truths[name], lambda _: True)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """The world with its loop; everything is let go of behind it."""
        logging.getLogger("runwire_consumer").setLevel(logging.CRITICAL)
        before = logging.getLogger("asyncio").level
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self.journals.mkdir(parents=True, exist_ok=True)
        asyncio.set_event_loop(self.loop)
        try:
            with self.patched():
                try:
                    yield
                finally:
                    self._end()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            logging.getLogger("asyncio").setLevel(before)

    def _end(self) -> None:
        processes: list[Process] = [*self.consumers, *self.helpers, *self.trainers]
        for process in processes:
            if isinstance(process, Trainer) and process.alive:
                process.run(process.journal.forget)
                if process.sender is not None:
                    process.sender._close_readers()
            process.die()
        for _ in range(20):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        self.engine.close()


class Patches:
    """Attributes that are others for a while."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def set(self, where: Any, name: str, value: Any) -> None:
        self._before.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    def __exit__(self, *_: object) -> None:
        for where, name, value in reversed(self._before):
            setattr(where, name, value)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: a history writes some hundred small files."""
    shm = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of its own there
    folder = Path(tempfile.mkdtemp(prefix="runwire-simulation-", dir=shm if shm.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
