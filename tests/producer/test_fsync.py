"""Power loss against a model of the disk: what was fsynced is there and nothing else, what was promised is in it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire import _signals
from runwire._directory import DirectoryTransport
from runwire._fsync import REFUSED_SECONDS_MIN, IntervalSync, SyncedJournal, open_journal
from runwire._reservations import ReservingJournal
from runwire._segments import SegmentHeader
from runwire_schemas.folder import parse_header, split_blocks
from runwire_schemas.topics import Destination
from tests.producer.journals import EMITTER, URL, Reader, log_text, recovered
from tests.services.process import wait_until

SEGMENT_BYTES = 1024


class Disk:
    """Remembers what each fsync brought to the disk; the n-th one fails where the plan says so, and keeps nothing."""

    def __init__(self, patch: pytest.MonkeyPatch, plan: tuple[bool, ...] = ()) -> None:
        self._files: dict[int, bytes] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._bad: dict[int, int] = {}
        self._one_at_a_time = threading.Lock()  # what is on the disk never becomes older again
        self.plan = list(plan)
        self.calls = 0
        patch.setattr(os, "fdatasync", self._file)
        patch.setattr(os, "fsync", self._folder)

    def _file(self, fd: int) -> None:
        with self._one_at_a_time:
            self.calls += 1
            inode = os.fstat(fd).st_ino
            if self.plan and self.plan.pop(0):
                self._bad[inode] = os.dup(fd)  # open, lest its number becomes another file's
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if inode not in self._bad:  # the kernel says yes the second time, and has forgotten the pages
                self._files[inode] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def _folder(self, fd: int) -> None:
        with self._one_at_a_time:
            folder = str(Path(f"/proc/self/fd/{fd}").readlink())
            names = self._names[folder] = {}
            for name in os.listdir(fd):
                with contextlib.suppress(FileNotFoundError):  # of a program beside us, where the folder is everybody's
                    names[name] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino

    def close(self) -> None:
        """Give the files back."""
        for fd in self._bad.values():
            os.close(fd)

    def after_power_loss(self, folder: Path, into: Path) -> Path:
        """A copy of a folder as the next boot finds it."""
        found = into / folder.name
        found.mkdir(parents=True)
        with self._one_at_a_time:
            for name, inode in self._names.get(str(folder.resolve()), {}).items():
                (found / name).write_bytes(self._files.get(inode, b""))
        return found


def new_journal(mode: str, folder: Path) -> ReservingJournal:
    """A journal of tiny segments that can declare losses."""
    header = SegmentHeader("project", "r" * 16, EMITTER, "attempt", 0, URL, 0, 0)
    journal = open_journal(mode, folder / EMITTER, header, segment_bytes=SEGMENT_BYTES)
    journal.on_loss(lambda *lost: _signals.rows_lost(header, 0, *lost), _signals.renumbered)
    return journal


def log(journal: ReservingJournal, step: int, key: str = "a") -> None:
    """One row."""
    journal.append_row((key,), step, 0, [float(step)])


def test_plain_journals_never_ask_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`none` costs nothing."""
    disk = Disk(monkeypatch)
    journal = new_journal("none", tmp_path)
    for step in range(100):
        log(journal, step)
    journal.close(delete=False)
    assert (type(journal), disk.calls) == (ReservingJournal, 0)


@given(st.lists(st.sampled_from(["row", "rows", "text", "sync"]), max_size=30), st.lists(st.booleans(), max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("mode", ["each", "interval"])
def test_what_was_promised_survives_power_loss(mode: str, history: list[str], failures: list[bool]) -> None:
    """Any history, any fsync failing: what returned (each), or was there at the last sync (interval), is recovered."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("runwire._fsync.REFUSED_SECONDS_MIN", 0.0)
        patch.setattr("runwire._fsync.REFUSED_SECONDS_MAX", 0.0)
        folder = Path(name)
        journal = new_journal(mode, folder)
        assert isinstance(journal, SyncedJournal)
        journal._pause_seconds = 0.0
        disk = Disk(patch, tuple(failures))
        steps: set[int] = set()
        texts: set[str] = set()
        promised: tuple[set[int], set[str]] = (set(), set())
        for number, action in enumerate(history):
            if action == "text":
                log_text(journal, str(number))
                texts.add(str(number))
            elif action != "sync":
                for step in range(100 * number, 100 * number + (1 if action == "row" else 15)):
                    log(journal, step)
                    steps.add(step)
            if mode == "each" or action == "sync":
                # A disk that refuses even the copy is asked again at the next call.
                is_kept = journal.sync()
                if is_kept:
                    promised = set(steps), set(texts)
                assert is_kept or failures
            story = recovered(disk.after_power_loss(journal.folder, folder / f"boot-{number}"))
            assert promised[0] <= story.steps
            assert promised[1] <= {text for _, text in story.texts}
        for _ in failures:
            journal.sync()
        assert journal.sync()
        story = recovered(disk.after_power_loss(journal.folder, folder / "last boot"))
        assert (story.steps, {text for _, text in story.texts}, story.lost) == (steps, texts, [])
        journal.close(delete=True)
        disk.close()


@pytest.mark.parametrize("mode", ["interval", "each"])
def test_a_loss_declared_behind_the_seal_survives_power_loss(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused at the very end: the lock file names it, and is brought to the disk."""
    disk = Disk(monkeypatch)
    journal = new_journal(mode, tmp_path)
    log(journal, 0)
    log(journal, 1)
    journal.seal()
    journal.declare_loss(0, 1, "refused")
    story = recovered(disk.after_power_loss(journal.folder, tmp_path / "later"))
    assert 0 in story.lost_seqs
    journal.close(delete=True)
    disk.close()


def test_a_declared_loss_survives_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record's number may be sent as soon as the call returns: recovery must not give it to another record."""
    disk = Disk(monkeypatch)
    journal = new_journal("each", tmp_path)
    log(journal, 0)
    log(journal, 1)
    journal.declare_loss(0, 1, "refused")
    story = recovered(disk.after_power_loss(journal.folder, tmp_path / "later"))
    assert 0 in story.lost_seqs
    assert journal.next_seq == 3
    journal.close(delete=True)
    disk.close()


def test_a_refused_file_is_copied_and_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name belongs to another file then; the sender goes on in that one, and one line says so."""
    journal = new_journal("each", tmp_path)
    reader = Reader(journal)
    for step in range(5):
        log(journal, step)
    assert reader.read().steps == set(range(5))
    path = journal.folder / "000000.seg"
    inode = path.stat().st_ino
    disk = Disk(monkeypatch, (True,))
    log(journal, 5)
    assert path.stat().st_ino != inode
    assert journal.published.number == 0  # closed, and the next one not begun
    for step in range(6, 10):
        log(journal, step)
    story = reader.read()
    assert story.steps == set(range(5, 10))
    assert story.seqs == list(range(5, 10))
    assert [record.getMessage() for record in caplog.records] == [
        f"{journal.folder}: the disk refused what was written. Those rows were copied to another file."
    ]
    reader.close()
    disk.close()
    journal.close(delete=True)


def test_a_disk_that_goes_on_refusing_is_asked_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are kept as without fsync, one line says so; when it takes them again, all are on the disk."""
    now = 1000.0
    monkeypatch.setattr("runwire._fsync.time.monotonic", lambda: now)
    journal = new_journal("each", tmp_path)
    disk = Disk(monkeypatch, (True,) * 6)
    asked: list[tuple[int, float]] = []
    for step in range(40):
        log(journal, step)
        if disk.calls and disk.calls not in [calls for calls, _ in asked]:
            asked.append((disk.calls, now - 1000.0))
        now += 0.5
    assert [seconds for _, seconds in asked][:3] == [0.0, REFUSED_SECONDS_MIN, 3 * REFUSED_SECONDS_MIN]
    assert journal.rows_lost == 0
    story = recovered(disk.after_power_loss(journal.folder, tmp_path / "boot"))
    assert story.steps == set(range(40))
    assert sum("the disk doesn't keep the journal: Input/output error" in line for line in caplog.messages) == 1
    disk.close()
    journal.close(delete=True)


def test_threads_share_the_wait_and_each_has_its_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a call returns, the row is on the disk, whoever asked for it."""
    journal = new_journal("each", tmp_path)
    disk = Disk(monkeypatch)
    missing: list[tuple[str, int]] = []

    def work(name: str) -> None:
        for step in range(40):
            log(journal, step, name)
            if step % 10 == 9:
                story = recovered(disk.after_power_loss(journal.folder, tmp_path / f"boot-{name}-{step}"))
                kept = {row[2] for row in story.rows if row[1] == (name,)}
                missing.extend((name, step) for step in set(range(step + 1)) - kept)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    journal.close(delete=True)


def test_a_handler_that_logs_interrupts_a_call_that_waits_for_the_disk(tmp_path: Path) -> None:
    """Nobody waits for himself; every row is there."""
    journal = new_journal("each", tmp_path)
    fired = 0

    rings = True

    def handler(*_: object) -> None:
        nonlocal fired
        fired += 1
        log(journal, fired, "handler")
        if rings:  # only now: where the disk is slower than a timer that repeats, handlers would nest without end
            signal.setitimer(signal.ITIMER_REAL, 0.001)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    stop = threading.Event()

    def work() -> None:
        step = 0
        while not stop.is_set():
            log(journal, step, "thread")
            step += 1

    thread = threading.Thread(target=work)
    thread.start()
    steps = 0
    deadline = time.monotonic() + 120  # pytest's own timeout is the timer that is used here
    try:
        while fired < 60 and time.monotonic() < deadline:
            log(journal, steps)
            steps += 1
    finally:
        rings = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop.set()
        thread.join(90)
    assert not thread.is_alive()
    assert fired >= 60
    story = recovered(journal.folder)
    assert sorted(row[2] for row in story.rows if row[1] == ("handler",)) == list(range(1, fired + 1))
    assert [row[2] for row in story.rows if row[1] == ("a",)] == list(range(steps))
    journal.close(delete=True)


def test_the_interval_is_kept_by_a_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk takes its time, rows are appended; in the end everything is on it."""
    monkeypatch.setattr("runwire._fsync.SYNC_INTERVAL_SECONDS", 0.001)
    journal = new_journal("interval", tmp_path)
    assert isinstance(journal, SyncedJournal)
    disk = Disk(monkeypatch)
    entered, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(fd: int) -> None:
        entered.set()
        go_on.wait(20)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    log(journal, 0)
    thread = IntervalSync(journal)
    thread.start()
    assert entered.wait(20)
    for step in range(1, 100):
        log(journal, step)
    go_on.set()
    journal.seal()
    thread.finish(20)
    assert not thread.is_alive()
    story = recovered(disk.after_power_loss(journal.folder, tmp_path / "boot"))
    assert (story.steps, story.end) == (set(range(100)), (100, "finished"))
    journal.close(delete=True)


def test_a_full_segment_is_synced_without_a_descriptor_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `dup` finds none, the file is opened again by its name later."""
    journal = new_journal("interval", tmp_path)
    assert isinstance(journal, SyncedJournal)
    disk = Disk(monkeypatch)

    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", none_left)
    for step in range(60):
        log(journal, step)
    assert journal.published.number > 1
    assert journal.sync()
    story = recovered(disk.after_power_loss(journal.folder, tmp_path / "boot"))
    assert story.steps == set(range(60))
    journal.close(delete=True)


@pytest.mark.parametrize(("is_durable", "is_there"), [(True, True), (False, False)])
def test_a_folder_keeps_what_the_journal_may_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_durable: bool, is_there: bool
) -> None:
    """`dir:` acknowledges what is on its disk, where the journal promises power loss."""
    disk = Disk(monkeypatch)
    topic = tmp_path / "topic"
    transport = DirectoryTransport(Destination("dir", path=str(topic)), is_durable=is_durable)
    journal = new_journal("none", tmp_path)
    header = journal.header

    async def send() -> None:
        await transport.open()
        await transport.send([_signals.ended(header, 0, 1, "finished")])

    asyncio.run(send())
    files = list(disk.after_power_loss(topic, tmp_path / "boot").iterdir())
    blocks = 0
    for path in files:
        found = parse_header(path.read_bytes())
        assert found is not None
        blocks += len(list(split_blocks(path.read_bytes()[found[1] :], found[0])))
    assert (blocks == 1) == is_there
    journal.close(delete=True)
    asyncio.run(transport.close())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("mode", ["each", "interval"])
def test_a_forked_child_forgets_it(tmp_path: Path, mode: str) -> None:
    """Also when a thread of the parent was just waiting for the disk with the lock in its hands."""
    journal = new_journal(mode, tmp_path)
    assert isinstance(journal, SyncedJournal)
    for step in range(60):
        log(journal, step)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with journal._sync_lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(90)
    child = os.fork()
    if not child:
        signal.alarm(120)
        log(journal, -1)
        journal.close(delete=True)
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert code == 0
    wait_until(journal.sync, what="the parent syncs")
    assert recovered(journal.folder).steps == set(range(60))
    journal.close(delete=True)
