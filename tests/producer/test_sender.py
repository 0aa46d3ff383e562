"""The sender thread over the in-memory transport: a table of faults in, the messages that arrived out."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runwire import _memory, _sender, _signals
from runwire._batch import Message
from runwire._errors import TransportError
from runwire._journal import Journal
from runwire._memory import FAULTS, REFUSES, TOPICS, Fault
from runwire._sender import Sender
from runwire_schemas.codec import decode
from runwire_schemas.events import Heartbeat
from runwire_schemas.topics import Destination
from tests.producer.journals import EMITTER, Story, log_text, open_journal, recovered, tell
from tests.services.process import wait_until

KEYS = ("loss", "acc")
AWAY = TransportError("the broker is away")


class Speaker:
    """Speaks as an emitter does."""

    def __init__(self, journal: Journal, describe_error: Exception | None = None) -> None:
        self._header = journal.header
        self._describe_error = describe_error
        self.overdue = 0.0

    def describe(self) -> None:
        if self._describe_error is not None:
            raise self._describe_error

    def overdue_seconds(self, now: float) -> float:
        assert now > 0
        return self.overdue

    def heartbeat(self, next_in_seconds: float, next_seq: int, waiting_rows: int, overdue_seconds: float) -> Message:
        return _signals.heartbeat(self._header, 0, next_in_seconds, next_seq, waiting_rows, overdue_seconds)

    def ended(self, next_seq: int, how: str) -> Message:
        return _signals.ended(self._header, 0, next_seq, how)

    def arrive(self) -> None: ...


class Pipe:
    """A journal, its sender and where it sends to."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.name = secrets.token_hex(8)
        self.journal = open_journal(folder / EMITTER, segment_bytes=2048, **options)
        self.speaker = Speaker(self.journal)
        self.sender = Sender(self.journal, Destination("memory", path=self.name), self.speaker)

    @property
    def story(self) -> Story:
        """What arrived."""
        return tell(list(TOPICS[self.name]))

    def log(self, *steps: int) -> None:
        """Rows."""
        for step in steps:
            self.journal.append_row(KEYS, step, 0, [float(step)] * 2)

    def finish(self, timeout_seconds: float = 20.0) -> bool:
        """As an emitter does."""
        self.journal.seal()
        delivered = self.sender.finish(timeout_seconds)
        self.journal.close(delete=delivered)
        return delivered


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the pace of real networks."""
    monkeypatch.setattr(_sender, "FLUSH_INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(_sender, "RECONNECT_SECONDS_MIN", 0.001)
    monkeypatch.setattr(_sender, "RECONNECT_SECONDS_MAX", 0.01)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """A pipe whose sender isn't started."""
    pipe = Pipe(tmp_path)
    yield pipe
    pipe.journal.close(delete=False)


def test_an_overdue_loop_is_told_at_once_and_so_is_its_recovery(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only with the heartbeat every five seconds; while nothing changes that pace stays."""

    def told() -> list[float]:
        heartbeats = [decode(message.payload) for message in list(TOPICS[pipe.name])]
        return [event.overdue_seconds for event in heartbeats if isinstance(event, Heartbeat)]

    monkeypatch.setattr(_sender, "HEARTBEAT_INTERVAL_SECONDS", 1e9)
    pipe.sender.start()
    for overdue, expected in ((0.0, [0.0]), (0.5, [0.0, 0.5]), (0.75, [0.0, 0.5]), (0.0, [0.0, 0.5, 0.0])):
        pipe.speaker.overdue = overdue
        wait_until(lambda: told() == expected, what=f"{expected}")  # noqa: B023 - called at once
    assert pipe.finish()
    assert told() == [0.0, 0.5, 0.0]


TABLE: list[tuple[str, list[Fault | Exception], int]] = [
    ("nothing is wrong", [], 0),
    ("away at first", [AWAY] * 5, 0),
    ("away again and again", [Fault(), AWAY, Fault(), AWAY, AWAY, Fault(), AWAY], 0),
    ("an acknowledgement is lost", [Fault(), Fault(AWAY, appended=1_000_000)], 0),
    ("breaks within a send", [Fault(), Fault(AWAY, appended=1), Fault(), Fault(AWAY, appended=1)], 0),
    ("a heartbeat is refused", [TransportError("no", refused=True)] * 3, 0),
    ("a fault of ours", [Fault(), RuntimeError("a bug")], 0),
]


@pytest.mark.parametrize(("faults", "lost"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_faults_in_rows_out(pipe: Pipe, faults: list[Fault | Exception], lost: int) -> None:
    """Whatever a transport does: every row arrives, in order but for repetitions, then the end; nothing is left."""
    FAULTS[pipe.name] += faults
    pipe.log(*range(50))
    pipe.sender.start()
    log_text(pipe.journal, "between")
    pipe.log(*range(50, 500))
    assert pipe.finish()
    story = pipe.story
    assert story.end == (501, "finished")
    assert list(dict.fromkeys(row[2] for row in story.rows)) == list(range(500))
    assert sorted(set(story.seqs)) == list(range(501))
    assert len(story.lost_seqs) == lost
    assert not pipe.journal.folder.exists()


def test_a_refused_row_is_declared_and_the_others_arrive(pipe: Pipe) -> None:
    """Also when it is met while the run ends, and its declaration comes behind the last row."""
    REFUSES[pipe.name] = lambda message: any(99 in part.steps for part in message.rows)
    pipe.log(*range(100))
    pipe.sender.start()
    assert pipe.finish()
    story = pipe.story
    story.assert_complete()
    assert (story.steps, story.lost) == (set(range(99)), [(99, 1)])
    assert story.end == (101, "finished")


def test_losses_of_a_disk_that_stays_full_are_declared_at_the_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has no room for the declaration: the sender sends it without."""
    pipe.sender.start()
    pipe.log(0)
    wait_until(lambda: pipe.sender.acknowledged_seq == 1, what="the first row")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    pipe.log(*range(1, 300))
    log_text(pipe.journal, "last words")
    assert pipe.finish()
    story = pipe.story
    story.assert_complete()
    assert len(story.lost_seqs) == pipe.journal.rows_lost > 0
    assert [text for _, text in story.texts] == ["last words"]


def test_full_segments_are_deleted_when_acknowledged(pipe: Pipe) -> None:
    """A long run's journal stays small."""
    pipe.sender.start()
    for start in range(0, 1000, 100):
        pipe.log(*range(start, start + 100))
    wait_until(lambda: len(list(pipe.journal.folder.glob("*.seg"))) == 1, what="one segment is left")
    assert pipe.story.steps == set(range(1000))
    assert pipe.finish()


def test_a_broker_that_is_away_costs_nothing_and_bounds_the_end(pipe: Pipe) -> None:
    """Logging goes on, `finish` gives up in time, and the journal holds all rows for whoever comes later."""
    FAULTS[pipe.name] += [AWAY] * 1_000_000
    pipe.sender.start()
    pipe.log(*range(300))
    assert not pipe.finish(0.05)
    FAULTS.pop(pipe.name)
    pipe.sender.join(10)
    story = recovered(pipe.journal.folder)
    assert story.steps == set(range(300))
    assert story.end == (300, "finished")


def test_a_transport_that_hangs_bounds_the_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """`finish` returns on time while a send hangs, and the files can be closed under it."""
    release = threading.Event()

    async def hang(*_: object) -> None:
        release.wait(20)

    monkeypatch.setattr(_memory.MemoryTransport, "send", hang)
    pipe.log(1, 2)
    pipe.sender.start()
    assert not pipe.finish(0.05)
    release.set()
    pipe.sender.join(10)
    assert not pipe.sender.is_alive()
    assert recovered(pipe.journal.folder).steps == {1, 2}


def test_a_description_that_fails_stops_nothing(tmp_path: Path) -> None:
    """Rows matter more than the commit they came from."""
    pipe = Pipe(tmp_path)
    speaker = Speaker(pipe.journal, OSError("no git"))
    pipe.sender = Sender(pipe.journal, Destination("memory", path=pipe.name), speaker)
    pipe.sender.start()
    pipe.log(1)
    assert pipe.finish()
    assert pipe.story.steps == {1}


def test_rows_logged_while_the_run_ends(tmp_path: Path) -> None:
    """Another thread that still logs: what it adds is in the log before the end, or was never taken."""
    pipe = Pipe(tmp_path)
    stop = threading.Event()
    started = threading.Event()

    def work() -> None:
        step = 0
        while not stop.is_set():
            pipe.log(step)
            step += 1
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    pipe.sender.start()
    started.wait(10)
    assert pipe.finish()
    stop.set()
    thread.join()
    story = pipe.story
    story.assert_complete()
    assert story.end == (len(story.rows), "finished")


def test_a_deleted_folder_is_survived(pipe: Pipe) -> None:
    """`rm -rf` of the journal while the broker is away: what was on disk only is declared lost, the rest arrives."""
    FAULTS[pipe.name] += [AWAY] * 1_000_000
    pipe.sender.start()
    pipe.log(*range(200))

    def is_gone() -> bool:
        shutil.rmtree(pipe.journal.folder, ignore_errors=True)
        return not pipe.journal.folder.exists()

    wait_until(is_gone, what="no file of the sender came between")
    pipe.log(*range(200, 400))
    FAULTS.pop(pipe.name)
    assert pipe.finish()
    story = pipe.story
    story.assert_complete()
    assert story.steps >= set(range(300, 400))
