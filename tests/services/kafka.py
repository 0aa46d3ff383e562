"""A real Kafka broker (KRaft, one node) from Maven Central's jars, for tests and benchmarks.

    with KafkaBroker() as broker:
        broker.create_topic("runwire.events", 3)
        broker.kill(); broker.restart()

The jars are fetched once by `mvn` into `.cache/kafka/` (pom.xml beside this file names them).
Topics are created by hand or by the programs under test, never by the broker; a topic's timestamps are
LogAppendTime by default, as in production.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from tests.services.fault_proxy import FaultProxy
from tests.services.process import (
    CACHE,
    LOG_TAIL_LINES,
    ServiceFailed,
    ServiceMissing,
    ServiceProcess,
    free_ports,
    run_blocking,
    wait_until,
)
from tests.services.proxy import SlowProxy

if TYPE_CHECKING:
    from types import TracebackType


POM = Path(__file__).with_name("pom.xml")
HEAP = "512m"
FETCH_TIMEOUT_SECONDS = 300.0

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},DETOUR://127.0.0.1:{behind_proxy_port},BYWAY://127.0.0.1:{behind_byway_port},\
  CONTROLLER://127.0.0.1:{controller_port}
# Who comes by the detour, or the byway, is told to go on by its proxy's port.
advertised.listeners=PLAINTEXT://127.0.0.1:{port},DETOUR://127.0.0.1:{proxy_port},BYWAY://127.0.0.1:{byway_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DETOUR:PLAINTEXT,BYWAY:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
log.message.timestamp.type=LogAppendTime
log.retention.hours=24
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms={session_ms}
broker.heartbeat.interval.ms=500
"""

LOG4J = """
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d %p %m (%c)%n
"""


def fetch_jars() -> Path:
    """Return the folder with the broker's jars, fetching them first if they are missing.

    Raises:
        ServiceMissing: no `java` or `mvn` here, or Maven Central did not answer.
    """
    programs = {"java": "default-jre-headless", "mvn": "maven"}
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if missing:
        install = f"apt-get install {' '.join(missing)}"
        raise ServiceMissing("Kafka", f"{install}, or name a broker: RUNWIRE_TEST_KAFKA=HOST:PORT")
    jars = CACHE / "kafka" / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    with (CACHE / "kafka.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not jars.exists():
            _copy_dependencies(jars)
    return jars


def _copy_dependencies(jars: Path) -> None:
    jars.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="fetching-", dir=jars.parent))
    command = ["mvn", "-B", "-q", "-C", "-f", str(POM), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SECONDS, check=False)
        if done.returncode:
            tail = (done.stdout + done.stderr)[-2000:]
            raise ServiceMissing("Kafka", f"its jars could not be fetched from Maven Central:\n{tail}")
        partial.rename(jars)
    except subprocess.TimeoutExpired as error:
        raise ServiceMissing(
            "Kafka", f"its jars were not fetched from Maven Central within {FETCH_TIMEOUT_SECONDS:g} s"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class KafkaTopics:
    """A broker that someone else runs: an address, and topics on it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def url(self, topic: str) -> str:
        """The `RUNWIRE_URL` of a topic on this broker."""
        return f"kafka://{self.bootstrap}/{topic}"

    def answers(self) -> bool:
        """Whether the broker serves metadata now."""
        host, _, port = self.bootstrap.split(",")[0].rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
            run_blocking(self._describe())
        except (KafkaError, OSError, TimeoutError):
            return False
        return True

    def create_topic(self, name: str, partitions: int = 1, **configs: str) -> str:
        """Create a topic and return its name once the broker serves it.

        Args:
            name: the topic.
            partitions: how many.
            configs: topic settings with `_` for `.`: `max_message_bytes="20000"`.

        Raises:
            KafkaError: it exists already, or a setting is unknown.
        """
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        run_blocking(self._create(NewTopic(name, partitions, 1, topic_configs=settings)))
        wait_until(lambda: name in run_blocking(self._names()), what=f"topic {name} exists")
        return name

    def _client(self) -> AIOKafkaAdminClient:
        return AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=40_000)

    async def _describe(self) -> None:
        client = self._client()
        try:
            await client.start()
            await client.describe_cluster()
        finally:
            await client.close()

    async def _names(self) -> list[str]:
        client = self._client()
        try:
            await client.start()
            return list(await client.list_topics())
        finally:
            await client.close()

    async def _create(self, topic: NewTopic) -> None:
        client = self._client()
        try:
            await client.start()
            answer = await client.create_topics([topic])
        finally:
            await client.close()
        for name, code, text in answer.topic_errors:
            if code:
                raise for_code(code)(f"topic {name}: {text}")


class KafkaBroker(KafkaTopics):
    """A broker of our own on free loopback ports, with its data in a folder of its own.

    Args:
        folder: where configuration, data and log go; a temporary one, deleted at the end, when not given.
        port: listens there; a free one when not given. Kept over restarts.
        is_killed: may be: only when its old session has run out, a killed broker may register again. One that is not
            has a session that outlasts the stand-still of a busy machine.
        heap: the JVM's heap.
        outlives_us: keep it running when this process ends.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        is_killed: bool = True,
        heap: str = HEAP,
        outlives_us: bool = False,
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="runwire-kafka-"))
        self._heap = heap
        self._session_ms = 3_000 if is_killed else 60_000
        self._outlives_us = outlives_us
        self._process: ServiceProcess | None = None
        free, controller_port, behind_proxy_port, proxy_port, behind_byway_port, byway_port = free_ports(6)
        self._ports = {
            "port": port or free,
            "controller_port": controller_port,
            "behind_proxy_port": behind_proxy_port,
            "proxy_port": proxy_port,
            "behind_byway_port": behind_byway_port,
            "byway_port": byway_port,
        }
        super().__init__(f"127.0.0.1:{self._ports['port']}")

    @property
    def address(self) -> str:
        """Its HOST:PORT."""
        return self.bootstrap

    def slow(self, delay_seconds: float) -> SlowProxy:
        """A way to this broker on which each request takes longer: open it, then use `KafkaTopics(proxy.address)`."""
        return SlowProxy(self._ports["proxy_port"], self._ports["behind_proxy_port"], delay_seconds)

    def faulty(self) -> FaultProxy:
        """A way to this broker on which a test plays networks: open it, then use `KafkaTopics(proxy.address)`."""
        return FaultProxy(self._ports["proxy_port"], self._ports["behind_proxy_port"])

    @property
    def log(self) -> Path:
        """The broker's own log."""
        return self.folder / "kafka.log"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Format the storage if it is new, start the broker, return when it answers.

        Raises:
            ServiceMissing: no Java, Maven or jars.
            ServiceFailed: it does not come up; the message carries its log's tail.
        """
        classpath = f"{fetch_jars()}/*"
        properties, log4j, data = (
            self.folder / "server.properties",
            self.folder / "log4j2.properties",
            self.folder / "data",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        properties.write_text(self._properties(data))
        log4j.write_text(LOG4J)
        java = ["java", f"-Dlog4j2.configurationFile={log4j}", "-cp", classpath]
        if not data.exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            done = subprocess.run(
                [
                    *java,
                    "-XX:TieredStopAtLevel=1",
                    "kafka.tools.StorageTool",
                    "format",
                    f"--cluster-id={cluster}",  # it may begin with a dash
                    "-c",
                    properties,
                    *self._format_options(),
                ],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                lines = (done.stdout + done.stderr).splitlines()[-LOG_TAIL_LINES:]
                raise ServiceFailed("\n".join([f"formatting the storage ended with {done.returncode}:", *lines]))
        self._process = ServiceProcess(
            "Kafka",
            [*java, "-Xms128m", f"-Xmx{self._heap}", "-XX:+UseSerialGC", "kafka.Kafka", properties],
            log=self.log,
            outlives_us=self._outlives_us,
        )
        self._process.wait_ready(self.answers)
        return self

    def _properties(self, data: Path) -> str:
        return PROPERTIES.format(data=data, session_ms=self._session_ms, **self._ports)

    def _format_options(self) -> list[str]:
        return []

    def faulty_too(self) -> FaultProxy:
        """Another such way as `faulty`, for others: each has a network of its own."""
        return FaultProxy(self._ports["byway_port"], self._ports["behind_byway_port"])

    def kill(self) -> None:
        """SIGKILL the broker. What it acknowledged is in its files or in the kernel's cache."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> Self:
        """Start again on the same ports and data, after `kill` or instead of it."""
        self.kill()
        return self.start()

    def close(self, *, keep_folder: bool = False) -> None:
        """End the broker; delete its folder if it is a temporary one."""
        self.kill()
        if self._own_folder and not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep_folder=error is not None)


def unused_topic() -> str:
    """Return the name of a topic that nobody has used; it does not exist yet."""
    return f"runwire.test.{uuid.uuid4().hex[:12]}"


def external_broker() -> KafkaTopics | None:
    """The broker that `RUNWIRE_TEST_KAFKA=HOST:PORT` names, if it does.

    Raises:
        ServiceFailed: it is named and does not answer.
    """
    address = os.environ.get("RUNWIRE_TEST_KAFKA", "")
    if not address:
        return None
    broker = KafkaTopics(address)
    if not broker.answers():
        raise ServiceFailed(f"RUNWIRE_TEST_KAFKA names {address}, and no Kafka broker answers there")
    return broker
