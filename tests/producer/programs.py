"""Real programs for tests of the producer: a training script in a process of its own, and what arrived from it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TypeVar

from runwire_schemas.codec import decode
from runwire_schemas.events import Event, MetricBatch, RunEnded
from runwire_schemas.folder import SUFFIX, RawBlock, decode_block, parse_header, split_blocks

Kind = TypeVar("Kind", bound=Event)

TIMEOUT_SECONDS = 150.0
_LAUNCHERS = ("RUNWIRE_", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_")


class Program:
    """A Python program that tracks into a folder.

    Args:
        folder: Gets the program, its home and the topic folder.
        source: Its text; `runwire` is imported.
        url: Where it sends; by default `dir:` of the topic folder.
    """

    def __init__(self, folder: Path, source: str, *, url: str | None = None) -> None:
        self.folder = folder
        self.timeout_seconds = TIMEOUT_SECONDS
        self.topic = folder / "topic"
        self.home = folder / "home"
        self.path = folder / "train.py"
        # Into a folder all is delivered, however busy the machine is. In one line: tests know the others' numbers.
        patient = "" if url else "; from runwire import _start; _start.FINISH_TIMEOUT_SECONDS = 60; del _start"
        self.path.write_text(f"import runwire{patient}\n{textwrap.dedent(source)}", encoding="utf-8")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
        self.environment = {
            **inherited,
            "RUNWIRE_HOME": str(self.home),
            "RUNWIRE_URL": url or f"dir:{self.topic}",
            "RUNWIRE_PROJECT": "programs",
            "RUNWIRE_AUTO_METRICS": "off",
        }

    def run(self, *, shell: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end; `shell` holds redirections."""
        command = ["sh", "-c", f'exec "$0" "$@" {shell}', sys.executable, self.path.name]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout_seconds,
            check=False,
        )

    def interrupt(self, *signums: int, **variables: str) -> subprocess.CompletedProcess[str]:
        """Start it, send it signals once it has printed `ready`, and wait for its end."""
        self.environment |= variables
        with self.start() as process:
            assert process.stdout is not None
            assert process.stderr is not None
            watchdog = threading.Timer(TIMEOUT_SECONDS, process.kill)
            watchdog.start()
            line = process.stdout.readline()
            assert line == "ready\n", line or process.stderr.read()
            for signum in signums:
                process.send_signal(signum)
            # Not `communicate`: it leaves out what `readline` has taken ahead.
            stdout, stderr = process.stdout.read(), process.stderr.read()
            watchdog.cancel()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def start(self) -> subprocess.Popen[str]:
        """Start it, its standard output to be read."""
        return subprocess.Popen(
            [sys.executable, "-u", self.path.name],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(self) -> list[Event]:
        """What arrived in the topic folder, file by file."""
        return read_topic(self.topic)

    def endings(self) -> list[tuple[str, int | None, str | None]]:
        """(status, exit code, error) of each `RunEnded`."""
        return [(event.status, event.exit_code, event.error) for event in of_kind(self.events(), RunEnded)]

    def points(self) -> list[tuple[str, int, float]]:
        """(metric, step, value) of everything that arrived, sorted."""
        return sorted(points(self.events()))

    def journals(self) -> list[Path]:
        """Journals that wait in the home."""
        return sorted((self.home / "journal").iterdir())


def read_topic(folder: Path) -> list[Event]:
    """Events of a `dir:` topic folder."""
    events: list[Event] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        data = path.read_bytes()
        header = parse_header(data)
        if header is None:
            continue
        for block in split_blocks(data[header[1] :], header[0]):
            assert isinstance(block, RawBlock)
            events += [decode(record.payload) for record in decode_block(block)]
    return events


def of_kind(events: list[Event], kind: type[Kind]) -> list[Kind]:
    """The events of one class."""
    return [event for event in events if isinstance(event, kind)]


def points(events: list[Event]) -> list[tuple[str, int, float]]:
    """(metric, step, value), row by row."""
    return [
        (key, block.steps[row], block.values[at * len(block.steps) + row])
        for event in of_kind(events, MetricBatch)
        for block in event.blocks
        for row in range(len(block.steps))
        for at, key in enumerate(block.keys)
    ]
