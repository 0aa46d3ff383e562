"""Where the measured tool's rows go: to a topic or a folder, or into one of the troubles that a cluster has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.broker import new_topic
from tests.services.kafka import KafkaBroker, KafkaTopics
from tests.services.process import free_ports

SLOW_SECONDS = 2.0
DISK_BYTES = 48 * 2**20


def missing_for(trouble: str, broker: KafkaTopics | None) -> str:
    """What a trouble needs and isn't here, as a sentence; empty when it can be had."""
    if trouble == "broker_slow" and not isinstance(broker, KafkaBroker):
        return "needs a Kafka broker of our own, to put a proxy before it (apt-get install maven default-jre-headless)."
    if trouble == "disk_full" and not (sys.platform == "linux" and os.geteuid() == 0):
        return "needs root on Linux, to mount a small file system."
    return ""


@contextmanager
def destination(trouble: str, data: Path, broker: KafkaTopics | None) -> Iterator[str]:
    """The URL that a tool with its data folder `data` logs to, for as long as the block lasts."""
    match trouble:
        case "broker_down":
            yield _nobody()
        case "broker_slow":
            assert isinstance(broker, KafkaBroker)
            with broker.slow(SLOW_SECONDS) as proxy:
                yield KafkaTopics(proxy.address).url(new_topic(broker))
        case "disk_full":
            with _small_disk(data):
                yield _nobody()
        case _:
            yield broker.url(new_topic(broker)) if broker else f"dir:{data / 'topic'}"


def _nobody() -> str:
    return f"kafka://127.0.0.1:{free_ports(1)[0]}/bench"


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "runwire-bench", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
