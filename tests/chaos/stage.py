"""What chaos plays on: a broker with a proxy for trainers and one for the consumer, small disks, a supervised consumer.

The consumer is restarted at once whenever it ends and nobody wanted it to, as a supervisor would.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from tests.chaos.disks import Disk
from tests.services.consumer import RUNWIRE, ConsumerProcess
from tests.services.fault_proxy import FaultProxy
from tests.services.kafka import KafkaBroker, KafkaTopics
from tests.services.process import ServiceFailed, ServiceProcess, free_ports, run_blocking, wait_until

TOPIC = "runwire.chaos"
PARTITIONS = 3
PARTITIONS_MAX = 12
PLACES = 4
CONSUMER_DISK_BYTES = 8 * 2**30
TRAINER_DISK_BYTES = 256 * 2**20
ANSWER_TIMEOUT_SECONDS = 10.0
SUPERVISOR_INTERVAL_SECONDS = 0.02
RESTART_PAUSE_SECONDS = 0.5  # for one that ended at once, as a supervisor waits
COMMAND_TIMEOUT_SECONDS = 120.0
TAIL_TIMEOUT_SECONDS = 90.0
SECOND_CONSUMER_SECONDS_MAX = 120.0
RESTORE_KILLED_SHARE = 0.4
RESTORE_SECONDS_MAX = 2.0
WAL_DAMAGED_SHARE = 0.3
# A DuckDB file's main header, and its two database headers, of which the newer one counts; each has a checksum.
HEADERS = (0, 4096, 8192)
TURNED_BYTES = 64
GROUP = "runwire-consumer"
_STORED = "SELECT coalesce(sum(stored), 0) AS rows FROM emitters"
_COUNTER = re.compile(r"^(runwire_duplicate_rows_total|runwire_messages_read_total) (\S+)$", re.MULTILINE)


class Supervised:
    """`runwire up` that comes back.

    Attributes:
        kills: SIGKILLs so far.
        exits: Exit codes of those that ended by themselves.
        counters: Sums of what its incarnations counted, as far as they were asked.
    """

    def __init__(self, url: str, home: Path) -> None:
        """Not yet started."""
        self.kills = 0
        self.exits: Counter[int] = Counter()
        self.counters: Counter[str] = Counter()
        self.process = ConsumerProcess(url, home=home)
        self._lock = threading.RLock()
        self._wanted = False
        self._spawned_at = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Bring it up, and keep it up; whether it answers is another question."""
        with self._lock:
            self._wanted = True
            self._spawn()

    def kill(self) -> None:
        """SIGKILL; it is started again at once."""
        with self._lock:
            self.kills += 1
            self.process.kill()
            self._spawn()

    def signal(self, number: signal.Signals) -> None:
        """To it, whoever it is by now."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def stop(self, *, killed: bool = False) -> int:
        """SIGTERM, or SIGKILL; it stays away. Returns the exit code."""
        with self._lock:
            self._wanted = False
            self.signal(signal.SIGCONT)
            if killed:
                self.kills += 1
                self.process.kill()
            return self.process.process.stop(timeout_seconds=90)

    def close(self) -> None:
        """For good, and at once."""
        self._end.set()
        with self._lock:
            self._wanted = False
            self.process.kill()

    def rows(self) -> int | None:
        """Rows stored, as it says itself; None while it doesn't answer."""
        body = self._ask("POST", "/api/sql?format=json", _STORED)
        return None if body is None else int(json.loads(body)[0]["rows"])

    def complete(self) -> bool:
        """Whether all receipts are closed."""
        query = "SELECT count(*) AS open FROM emitters WHERE NOT complete"
        body = self._ask("POST", "/api/sql?format=json", query)
        return body is not None and int(json.loads(body)[0]["open"]) == 0

    def take_counters(self) -> None:
        """Add what this incarnation counted, before it goes."""
        body = self._ask("GET", "/metrics", None, timeout_seconds=2.0)
        for name, value in _COUNTER.findall(body or ""):
            self.counters[name] += int(float(value))

    def _ask(
        self, method: str, path: str, body: str | None, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS
    ) -> str | None:
        host, _, port = self.process.address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout_seconds)
        try:
            headers = {"Authorization": f"Bearer {self.process.token}", "Content-Type": "text/plain"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        else:
            return text if answer.status == http.HTTPStatus.OK else None
        finally:
            connection.close()

    def _spawn(self) -> None:
        self._spawned_at = time.monotonic()
        self.process.spawn()

    def _supervise(self) -> None:
        while not self._end.wait(SUPERVISOR_INTERVAL_SECONDS):
            with self._lock:
                if not self._wanted or self.process.process.exit_code is None:
                    continue
                code = self.process.process.exit_code
                if time.monotonic() - self._spawned_at >= RESTART_PAUSE_SECONDS:
                    self.exits[code] += 1
                    self.process.kill()  # its group, should it have left something
                    self._spawn()


class Snapshots:
    """Backups of the consumer's file: by `runwire snapshot` and `runwire restore` where they are there, else by hand.

    By hand is the same law: a file of a consumer that was stopped is put back later, also where it is stopped.

    Attributes:
        by_command: Whether there are these commands.
        usable: How many may be restored.
        kills: SIGKILLs of `runwire restore`.
    """

    def __init__(self, consumer: Supervised, folder: Path) -> None:
        """None yet; `folder` takes those made by hand."""
        self._consumer = consumer
        self._folder = folder
        self._environment = consumer.process.environment
        self.by_command = self._run("restore", "--help").returncode == 0
        self.usable = 0
        self.kills = 0

    def take(self) -> str:
        """One more; returns what kept it from being taken, or nothing."""
        if self.by_command:
            done = self._run("snapshot")
            if done.returncode:
                return (done.stderr or done.stdout).strip()[-200:]
        else:
            self._consumer.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            for path in self._files():
                shutil.copy2(path, self._folder)
            self._consumer.start()
        self.usable += 1
        return ""

    def forget(self) -> None:
        """Those that were taken may not be restored any more."""
        self.usable = 0

    def restore(self, draw: float) -> str:
        """Put the newest back, and start the consumer; returns what went wrong, or nothing.

        With a `draw` below RESTORE_KILLED_SHARE the command is killed on its way first.
        """
        self._stop()
        trouble = ""
        if self.by_command and draw < RESTORE_KILLED_SHARE:
            killed = subprocess.Popen(
                [RUNWIRE, "restore"],
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                killed.wait(RESTORE_SECONDS_MAX * draw / RESTORE_KILLED_SHARE)
            killed.kill()
            killed.wait()
            self.kills += 1
            self._consumer.start()
            time.sleep(RESTORE_SECONDS_MAX * draw)
            self._consumer.stop()
        if self.by_command:
            done = self._run("restore")
            if done.returncode:
                trouble = (done.stderr or done.stdout).strip()[-300:]
        else:
            for path in self._files():
                path.unlink()
            for path in self._folder.iterdir():
                shutil.copy2(path, self._consumer.process.home)
        self._consumer.start()
        return trouble

    def damage(self, draw: float) -> None:
        """Bytes of the file turn while nobody has it open; its next start has to find a way.

        They are in its headers, or else of the log beside it that a killed consumer leaves.
        """
        in_wal = draw < WAL_DAMAGED_SHARE
        self._stop(killed=in_wal)
        path = self._consumer.process.database
        wal = path.with_name(f"{path.name}.wal")
        if in_wal and wal.exists():
            _turn(wal, int(wal.stat().st_size * draw / WAL_DAMAGED_SHARE))
        else:
            for at in HEADERS if draw < 1 / 2 else HEADERS[1:]:
                _turn(path, at + 8)
        self._consumer.start()

    def _stop(self, *, killed: bool = False) -> None:
        self._consumer.take_counters()
        self._consumer.stop(killed=killed)
        for path in self._consumer.process.home.glob("runwire.duckdb.*-*"):
            path.unlink()  # set aside before: nobody needs it, and the disk is memory

    def _files(self) -> list[Path]:
        return [*self._consumer.process.home.glob("runwire.duckdb"), *self._consumer.process.home.glob("*.duckdb.wal")]

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RUNWIRE, *command],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )


class Stage:
    """Broker, proxies, disks, consumer.

    Attributes:
        kills: SIGKILLs of the broker.
        disks: By who lives on it; empty where nothing can be mounted.
        proxies: By who goes through it.
    """

    def __init__(self, folder: Path, *, with_disks: bool) -> None:
        """Nothing runs yet."""
        self.kills = 0
        self.broker = KafkaBroker(folder / "kafka")
        self.proxies: dict[str, FaultProxy] = {}
        self.disks: dict[str, Disk] = {}
        self.partitions = PARTITIONS
        self._folder = folder
        self._with_disks = with_disks
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start all but the consumer.

        Raises:
            ServiceMissing: There is no broker to be had.
        """
        with contextlib.ExitStack() as stack:
            if self._with_disks:
                for who, size_bytes in (("consumer", CONSUMER_DISK_BYTES), ("trainer", TRAINER_DISK_BYTES)):
                    self.disks[who] = Disk(self._folder / f"{who}-disk", size_bytes)
                    stack.callback(self.disks[who].close)
            self.broker.start()
            stack.callback(self.broker.close)
            self.proxies = {
                "trainers": stack.enter_context(self.broker.faulty()),
                "consumer": stack.enter_context(self.broker.faulty_too()),
            }
            self.broker.create_topic(TOPIC, PARTITIONS)
            home = self._folder / ("consumer-disk" if self._with_disks else "consumer") / "home"
            self.consumer = Supervised(self._url("consumer"), home)
            stack.callback(self.consumer.close)
            self.snapshots = Snapshots(self.consumer, self._folder / "snapshot")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End all."""
        self._stack.close()

    @property
    def trainers_url(self) -> str:
        """Where trainers send."""
        return self._url("trainers")

    @property
    def homes(self) -> list[Path]:
        """The homes of trainers; the last one's disk can be filled where there are disks."""
        homes = [self._folder / f"place-{number}" for number in range(PLACES)]
        return [*homes[:-1], self._folder / "trainer-disk" / "home"] if self._with_disks else homes

    @contextlib.contextmanager
    def broker_killed(self) -> Iterator[None]:
        """SIGKILL; at the end it is up again, with the same data."""
        self.kills += 1
        self.broker.kill()
        yield
        self.broker.restart()

    @contextlib.contextmanager
    def broker_stopped(self) -> Iterator[None]:
        """SIGSTOP until the end."""
        os.kill(self.broker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.broker.pid, signal.SIGCONT)

    def raise_partitions(self) -> None:
        """One partition more."""
        if self.partitions < PARTITIONS_MAX:
            self.partitions += 1
            run_blocking(_as_admin(self.broker, lambda admin: _raise(admin, self.partitions)))

    def at_tail(self) -> bool:
        """Whether the consumer has stored everything that is in the topic, by the offsets that it commits."""
        try:
            ends = run_blocking(_ends(self.broker.bootstrap))
            read = run_blocking(_as_admin(self.broker, _committed))
        except (KafkaError, OSError, TimeoutError):
            return False
        # Offsets of a topic that was there before may be beyond.
        return bool(ends) and all(read.get(partition, 0) == end for partition, end in ends.items() if end)

    def recreate_topic(self) -> bool:
        """Delete the topic and make it anew; False, and nothing is done, where the consumer doesn't reach its end."""
        try:
            wait_until(self.at_tail, timeout_seconds=TAIL_TIMEOUT_SECONDS, what="the consumer is at the tail")
        except TimeoutError:
            return False
        run_blocking(_as_admin(self.broker, _delete))

        def made() -> bool:
            try:
                run_blocking(_as_admin(self.broker, lambda admin: _create(admin, self.partitions)))
            except TopicAlreadyExistsError:
                # Still the old one, or the consumer was faster, with as many partitions as it likes.
                return True
            except KafkaError:
                return False
            return True

        wait_until(made, timeout_seconds=TAIL_TIMEOUT_SECONDS, what="the topic is there again")
        return True

    def start_second_consumer(self) -> ServiceProcess:
        """Another `runwire up` in the same home."""
        environment = self.consumer.process.environment | {"RUNWIRE_PORT": str(free_ports(1)[0])}
        log = self._folder / "second-consumer.log"
        return ServiceProcess("second consumer", [RUNWIRE, "up"], log=log, environment=environment)

    def heal(self) -> None:
        """As if nothing had been, whatever a step that broke off has left."""
        for proxy in self.proxies.values():
            proxy.heal()
        for disk in self.disks.values():
            disk.free()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.broker.pid, signal.SIGCONT)
        self.consumer.signal(signal.SIGCONT)
        if not self.broker.answers():
            self.broker.restart()

    def _url(self, who: str) -> str:
        return KafkaTopics(self.proxies[who].address).url(TOPIC)


def second_refuses(second: ServiceProcess) -> str:
    """What is wrong with how a second consumer ended, or nothing."""
    try:
        code = second.wait(timeout_seconds=SECOND_CONSUMER_SECONDS_MAX)
    except ServiceFailed:
        second.kill()
        return "it went on beside the first one"
    return "" if code not in {0, None} and "in use by pid" in second.log_tail() else f"it ended with {code}"


def _turn(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        data = file.read(TURNED_BYTES)
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in data))


async def _ends(bootstrap: str) -> dict[int, int]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, request_timeout_ms=5_000) as consumer:
        cluster = await consumer._client.fetch_all_metadata()  # aiokafka shows it nowhere else
        numbers = cluster.partitions_for_topic(TOPIC) or set()
        ends = await consumer.end_offsets([TopicPartition(TOPIC, number) for number in numbers])
        return {where.partition: end for where, end in ends.items()}


async def _as_admin(broker: KafkaTopics, work: Callable[[AIOKafkaAdminClient], Any]) -> Any:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap, request_timeout_ms=10_000)
    try:
        await admin.start()
        return await work(admin)
    finally:
        await admin.close()


async def _committed(admin: AIOKafkaAdminClient) -> dict[int, int]:
    found = await admin.list_consumer_group_offsets(GROUP)
    return {where.partition: told.offset for where, told in found.items() if where.topic == TOPIC}


async def _raise(admin: AIOKafkaAdminClient, partitions: int) -> None:
    await admin.create_partitions({TOPIC: NewPartitions(partitions)})


async def _delete(admin: AIOKafkaAdminClient) -> None:
    await admin.delete_topics([TOPIC])


async def _create(admin: AIOKafkaAdminClient, partitions: int) -> None:
    answer = await admin.create_topics([NewTopic(TOPIC, partitions, 1)])
    for _, code, *_ in answer.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            raise TopicAlreadyExistsError
        if code:
            raise KafkaError(code)
