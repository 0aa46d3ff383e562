"""The journal against a list: what was appended is read back, whatever the histories, signals, threads and disks."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire import _disk, _segment_writer
from runwire._batch import messages
from runwire._errors import JournalError
from runwire._journal import Journal
from runwire._segments import OWNER, RECORD, RECORD_BYTES, segment_path
from tests.producer.disks import small_disk
from tests.producer.journals import EMITTER, Reader, Story, died, log_text, open_journal, recovered, tell
from tests.services.process import wait_until

KEYS = ("loss", "acc")
TINY_SEGMENT_BYTES = 2048


def rest(journal: Journal) -> Story:
    """What waited for room."""
    journal.seal()
    return tell(messages(journal.take_rest(), journal.header, 10, 2**20))


def log(journal: Journal, step: int, keys: tuple[str, ...] = KEYS) -> None:
    """One row whose values are known by its step."""
    journal.append_row(keys, step, 0, [float(step)] * len(keys))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal of small segments."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=TINY_SEGMENT_BYTES)
    yield journal
    journal.close(delete=False)


KEY_SETS = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), tuple(f"metric/{i}" for i in range(40)), ("naïve λ",)]
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("row"), st.integers(0, len(KEY_SETS) - 1), st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just("rows"), st.integers(0, len(KEY_SETS) - 1), st.integers(1, 30)),
        st.tuples(st.just("text"), st.integers(0, 700), st.just(0)),
        st.tuples(st.sampled_from(["prepare", "read"]), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(OPERATIONS, st.booleans(), st.floats(allow_nan=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_was_appended_is_read_back_alive_and_dead(
    operations: list[tuple[str, int, int]],
    mapped: bool,  # noqa: FBT001 - Hypothesis hands it over by place
    value: float,
) -> None:
    """Any history of rows, key sets, records and rolls: the sender and a recovery read exactly that, in order."""
    rows: list[tuple[int, tuple[str, ...], int, tuple[float, ...]]] = []
    texts: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder) / EMITTER, mapped=mapped, segment_bytes=TINY_SEGMENT_BYTES)
        reader, alive = Reader(journal), Story()
        for name, first, second in operations:
            if name in {"row", "rows"}:
                keys = KEY_SETS[first]
                for step in [second] if name == "row" else range(second):
                    rows.append((journal.next_seq, keys, step, (value,) * len(keys)))
                    journal.append_row(keys, step, 0, (value,) * len(keys))
            elif name == "text":
                texts.append((journal.next_seq, "x" * first))
                log_text(journal, "x" * first)
            elif name == "prepare":
                journal.prepare()
            else:
                story = reader.read()
                alive.rows += story.rows
                alive.texts += story.texts
        story = reader.read()
        assert (alive.rows + story.rows, alive.texts + story.texts) == (rows, texts)
        dead = recovered(died(journal, Path(folder) / "dead"))
        assert (dead.rows, dead.texts, dead.lost, dead.end) == (rows, texts, [], (len(rows) + len(texts), "crashed"))
        reader.close()
        journal.close(delete=True)
        assert list(Path(folder).iterdir()) == [Path(folder) / "dead"]


@pytest.mark.parametrize("mapped", [True, False])
def test_cut_while_writing_gives_exactly_the_rows_before(tmp_path: Path, *, mapped: bool) -> None:
    """Killed at any byte of a record, written in its order, recovery finds what was whole and misses nothing."""
    journal = open_journal(tmp_path / EMITTER, mapped=mapped, segment_bytes=TINY_SEGMENT_BYTES)
    start = journal.published.offset
    for step, keys in enumerate([KEYS, KEYS, ("other",), KEYS]):
        if step == 3:
            log_text(journal, "said")
        log(journal, step, keys)
    folder = died(journal, tmp_path / "dead")
    last = journal.published
    journal.close(delete=True)
    path = folder / "000000.seg"
    whole = path.read_bytes()
    rows = 0
    while start < last.offset:
        _, _, length, _, seq, _, _ = RECORD.unpack_from(whole, start)
        end = start + RECORD_BYTES + length + -length % 8
        for cut in range(start, start + RECORD_BYTES + length):  # what is padded is whole already
            if mapped:  # bytes behind the commit word come first
                data = whole[:start] + bytes(4) + whole[start + 4 : cut + 4]
                path.write_bytes(data + bytes(len(whole) - len(data)))
            else:
                path.write_bytes(whole[:cut])
            story = recovered(folder)
            assert (story.seqs, story.lost, story.end) == (list(range(rows)), [], (rows, "crashed"))
        rows += seq >= 0
        start = end
    assert rows == last.next_seq


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_is_a_declared_loss_and_nothing_worse(tmp_path: Path, *, mapped: bool, flip: int) -> None:
    """Whichever byte is damaged: no error, no wrong value, and every row arrives or is declared lost."""
    journal = open_journal(tmp_path / EMITTER, mapped=mapped, segment_bytes=1024)
    for step in range(12):
        log(journal, step, KEYS if step % 5 else ("other", "third"))
        if step == 4:
            log_text(journal, "said")
    last = journal.published
    assert last.number >= 1
    folder = died(journal, tmp_path / "dead")
    journal.close(delete=True)
    expected = recovered(folder)
    values = {row[0]: row for row in expected.rows}
    for number in range(last.number + 1):
        path = folder / f"{number:06d}.seg"
        whole = path.read_bytes()
        used = len(whole.rstrip(b"\0"))
        for at in range(used):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            story = recovered(folder)
            assert all(values[row[0]] == row for row in story.rows)
            assert set(story.seqs) - set(story.declared) <= set(expected.seqs)
            if not mapped and number == last.number and story.end == (last.next_seq - 1, "crashed"):
                continue  # cut by the end of the file: can't be told from a write that never returned
            story.assert_complete()
            assert set(range(last.next_seq)) <= set(story.seqs) | story.lost_seqs
        path.write_bytes(whole)


def test_a_page_of_zeros_in_the_middle_is_a_declared_loss(tmp_path: Path) -> None:
    """A hole of any length between good rows is declared, however many records it held."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=TINY_SEGMENT_BYTES)
    for step in range(18):
        log(journal, step)
    folder = died(journal, tmp_path / "dead")
    path = folder / "000000.seg"
    whole = path.read_bytes()
    path.write_bytes(whole[:600] + bytes(400) + whole[1000:])
    story = recovered(folder)
    story.assert_complete()
    assert story.lost_seqs
    assert {0, 17} <= story.steps
    journal.close(delete=True)


def test_random_damage_never_raises(tmp_path: Path) -> None:
    """Segments full of noise, also behind a good header, are read to their end."""
    chance = random.Random(7)
    journal = open_journal(tmp_path / EMITTER, segment_bytes=TINY_SEGMENT_BYTES)
    for step in range(10):
        log(journal, step)
    folder = died(journal, tmp_path / "dead")
    journal.close(delete=True)
    path = folder / "000000.seg"
    whole = path.read_bytes()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 40)):
            at = chance.randrange(len(data))
            data[at : at + 4] = chance.choice([chance.randbytes(4), b"CURW", b"\xff" * 4])
        path.write_bytes(data)
        story = recovered(folder)
        assert all(row[3] == (float(row[2]),) * 2 and row[0] == row[2] for row in story.rows)
        story.assert_complete()


def test_a_signal_handler_that_logs_interrupts_a_loop_that_logs(journal: Journal) -> None:
    """Both keep every row, and nobody waits for himself."""
    fired = 0

    def handler(*_: object) -> None:
        nonlocal fired
        fired += 1
        journal.append_row(("signal",), fired, 0, [1.0])
        log_text(journal, "from a handler")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    steps = 0
    deadline = time.monotonic() + 120  # pytest's own timeout is the timer that is used here
    try:
        while fired < 300 and time.monotonic() < deadline:
            log(journal, steps)
            steps += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fired >= 300
    reader = Reader(journal)
    story = reader.read()
    reader.close()
    assert [row[2] for row in story.rows if row[1] == KEYS] == list(range(steps))
    # A handler that interrupts the writing of what an earlier one left overtakes it.
    assert sorted(row[2] for row in story.rows if row[1] == ("signal",)) == list(range(1, fired + 1))
    assert len(story.texts) == fired
    assert story.seqs == list(range(steps + 2 * fired))


def test_an_exception_out_of_a_handler_leaves_the_journal_usable(journal: Journal) -> None:
    """KeyboardInterrupt at any point of an append: the lock is free, no number is given twice, later rows are kept."""
    raised = 0

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    returned: list[int] = []
    step = 0
    deadline = time.monotonic() + 20
    try:
        while raised < 150 and time.monotonic() < deadline:
            step += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + step % 50 * 1e-6)
                for step in range(step, step + 1000):  # noqa: B020
                    log(journal, step)
                    returned.append(step)
            except KeyboardInterrupt:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    thread = threading.Thread(target=log, args=(journal, -1))
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "the lock was left behind"
    reader = Reader(journal)
    story = reader.read()
    reader.close()
    assert story.seqs == list(range(journal.next_seq))
    assert set(returned) <= story.steps
    assert -1 in story.steps


def test_threads_share_one_sequence(journal: Journal) -> None:
    """Rows of several threads, while the next segments are made ready: each is there once, each thread's in order."""
    done = threading.Event()

    def work(name: str) -> None:
        for step in range(2000):
            log(journal, step, (name,))

    def prepare() -> None:
        while not done.is_set():
            journal.prepare()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    helper = threading.Thread(target=prepare)
    for thread in [helper, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    helper.join()
    reader = Reader(journal)
    story = reader.read()
    reader.close()
    assert story.seqs == list(range(6000))
    for name in ("a", "b", "c"):
        assert [row[2] for row in story.rows if row[1] == (name,)] == list(range(2000))
    assert journal.rows_lost == 0


def test_a_spare_made_while_one_becomes_a_segment_is_another_file(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender prepares the next file at the very moment the writer turns the last one into a segment."""
    write_all = _disk.write_all

    def write_and_prepare(fd: int, data: bytes, at: int) -> None:
        write_all(fd, data, at)
        journal.prepare()

    monkeypatch.setattr(_segment_writer, "write_all", write_and_prepare)
    for step in range(3000):
        log(journal, step, ("a",))
    reader = Reader(journal)
    story = reader.read()
    reader.close()
    assert story.seqs == list(range(3000))
    assert journal.rows_lost == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_leave_the_parents_journal_alone(tmp_path: Path) -> None:
    """Children of a logging parent log into journals of their own; neither hangs, no row is lost or shared."""
    parent = open_journal(tmp_path / EMITTER, segment_bytes=TINY_SEGMENT_BYTES)
    stop = threading.Event()
    steps = 0

    def work() -> None:
        nonlocal steps
        while not stop.is_set():
            log(parent, steps)
            steps += 1

    thread = threading.Thread(target=work)
    thread.start()
    children = []
    for number in range(12):
        wait_until(lambda: steps > 50 * number, what="the parent logs")  # noqa: B023
        pid = os.fork()
        if not pid:
            code = 1
            try:
                log(parent, -1)  # forgotten: kept nowhere
                log_text(parent, "nowhere")
                child = open_journal(tmp_path / f"{number:032x}", segment_bytes=TINY_SEGMENT_BYTES)
                for step in range(100):
                    log(child, step)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    stop.set()
    thread.join()
    assert codes == [0] * 12
    story = recovered(died(parent, tmp_path / "dead"))
    assert [row[2] for row in story.rows] == list(range(steps))
    for number in range(12):
        assert len(recovered(tmp_path / f"{number:032x}").rows) == 100
    parent.close(delete=True)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_inside_an_append_writes_nothing_in_the_child(tmp_path: Path) -> None:
    """A handler that forks in the middle of an append: the child that comes back into it touches no page of it."""
    parent = open_journal(tmp_path / EMITTER)

    def make_payload(_: int) -> bytes:
        pid = os.fork()
        if not pid:
            log(parent, -1)
            parent.close(delete=False)
            os._exit(0)
        os.waitpid(pid, 0)
        return b"payload"

    log(parent, 0)
    before = parent.published.offset
    parent.append_event(make_payload)
    after = (tmp_path / EMITTER / "000000.seg").read_bytes()[parent.published.offset :]
    assert parent.published.offset > before
    assert not any(after)
    parent.close(delete=True)


LOGGER = """
import mmap, sys
from pathlib import Path
from runwire._journal import Journal
from runwire._segments import SegmentHeader
folder, counter = Path(sys.argv[1]), open(sys.argv[2], "r+b")
count = mmap.mmap(counter.fileno(), 8)
header = SegmentHeader("p", "r" * 16, folder.name, "a", 0, "memory:x", 0, 0)
journal = Journal(folder, header, segment_bytes=65536)
journal._mapped = sys.argv[3] == "mapped"
step = 0
while True:
    journal.append_row(("loss", "acc") if step % 7 else ("other",), step, 0, [float(step)] * (2 if step % 7 else 1))
    step += 1
    count[:8] = step.to_bytes(8, "little")
"""


def test_nothing_that_returned_is_lost_by_sigkill(tmp_path: Path) -> None:
    """20 processes, killed at random rows: every row whose append returned is recovered, nothing is declared lost."""
    chance = random.Random(11)
    for number in range(20):
        folder, counter = tmp_path / f"{number:032x}", tmp_path / f"count-{number}"
        counter.write_bytes(bytes(8))
        mode = "mapped" if number % 4 else "pwrite"
        process = subprocess.Popen([sys.executable, "-c", LOGGER, folder, counter, mode])
        target = chance.randint(1, 4_000)

        def count(counter: Path = counter) -> int:
            return int.from_bytes(counter.read_bytes(), "little")

        wait_until(lambda: count() >= target, what=f"{target} rows")  # noqa: B023
        process.kill()
        process.wait()
        story = recovered(folder)
        assert [row[2] for row in story.rows] == list(range(len(story.rows)))
        assert len(story.rows) >= count()
        assert story.lost == []
        assert story.end == (len(story.rows), "crashed")


class Disk:
    """A disk that fails where the journal touches it, until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.broken = False
        for name in ("posix_fallocate", "pwrite"):
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name), code))

    def _guarded(self, call: Callable[..., object], code: int) -> Callable[..., object]:
        def guarded(*arguments: object) -> object:
            if self.broken:
                raise OSError(code, os.strerror(code))
            return call(*arguments)

        return guarded


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
@pytest.mark.parametrize("mapped", [True, False])
def test_rows_without_room_are_declared_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, mapped: bool
) -> None:
    """A full or broken disk raises nothing; rows are declared lost once it works again, records only come late."""
    journal = open_journal(tmp_path / EMITTER, mapped=mapped, segment_bytes=TINY_SEGMENT_BYTES)
    disk = Disk(monkeypatch, code)
    for round_ in range(3):
        for step in range(100):
            disk.broken = 40 <= step < 80
            if not disk.broken:
                journal._retry_at = 0.0
            log(journal, 100 * round_ + step)
            if step == 60:
                log_text(journal, f"round {round_}")
    assert journal.rows_lost > 0
    story = recovered(died(journal, tmp_path / "dead"))
    story.assert_complete()
    assert len(story.lost_seqs) == journal.rows_lost
    assert not story.lost_seqs & set(story.seqs)
    assert [text for _, text in story.texts] == ["round 0", "round 1", "round 2"]
    assert {99, 199, 299} <= story.steps
    journal.close(delete=True)


def test_what_found_no_room_until_the_end_is_handed_to_the_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stays full: `take_rest` gives the waiting records and the declared losses, numbered."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=TINY_SEGMENT_BYTES)
    disk = Disk(monkeypatch, errno.ENOSPC)
    disk.broken = True
    for step in range(100):
        log(journal, step)
    log_text(journal, "last words")
    journal.seal()
    log(journal, 100)
    reader = Reader(journal)
    story = reader.read()
    late = rest(journal)
    assert not journal.has_rest
    assert [text for _, text in late.texts] == ["last words"]
    assert set(story.seqs) | set(late.seqs) | late.lost_seqs == set(range(journal.next_seq))
    assert len(late.lost_seqs) == journal.rows_lost
    reader.close()
    journal.close(delete=True)


@pytest.fixture
def disk_256k(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    with small_disk(tmp_path / "disk", size="256k") as disk:
        yield disk


@pytest.mark.parametrize("mapped", [True, False])
def test_a_really_full_disk(disk_256k: Path, tmp_path: Path, *, mapped: bool) -> None:
    """The same on a real disk: no SIGBUS, no torn row."""
    journal = open_journal(disk_256k / EMITTER, mapped=mapped, segment_bytes=64 * 2**10)
    for step in range(6000):
        if step == 5000:
            journal.trim(journal.published.number, 0)  # as after an acknowledgement: there is space again
            journal._retry_at = 0.0
        log(journal, step)
    assert journal.rows_lost > 0
    folder = died(journal, tmp_path / "dead")
    story = recovered(folder)
    assert story.end is not None
    first = min(story.seqs[0], *story.lost_seqs)  # what came before was trimmed
    assert set(story.seqs) | story.lost_seqs == set(range(first, story.end[0]))
    assert story.steps >= set(range(5001, 6000))
    assert len(story.lost_seqs) >= journal.rows_lost
    assert all(row[3] == (float(row[2]),) * 2 for row in story.rows)
    journal.close(delete=True)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_disk_that_stays_full_until_the_end(disk_256k: Path, *, mapped: bool) -> None:
    """Nobody takes what found no room, and the process ends: recovery declares every row that was lost."""
    journal = open_journal(disk_256k / EMITTER, mapped=mapped, segment_bytes=64 * 2**10)
    for step in range(6000):
        log(journal, step)
    log_text(journal, "last words")
    journal.close(delete=False)
    assert journal.rows_lost > 0
    story = recovered(journal.folder)
    assert story.end is not None
    assert set(story.seqs) | story.lost_seqs == set(range(story.end[0]))
    assert story.steps == set(range(len(story.rows)))
    assert len(story.lost_seqs) == 6000 - len(story.rows) + 1 + len(
        journal._waiting._losses
    )  # the text, and what would tell of it
    assert recovered(journal.folder).lost == story.lost, "the same again in a second recovery"


def test_a_deleted_folder_is_made_again(journal: Journal, tmp_path: Path) -> None:
    """`rm -rf` under a logging process: later rows are kept again, and the sender declares what it can't read."""
    for step in range(100):
        log(journal, step)
    shutil.rmtree(journal.folder)
    for step in range(100, 200):
        log(journal, step)
    reader = Reader(journal)
    story = reader.read()
    reader.close()
    assert story.steps >= set(range(150, 200))
    recovered_story = recovered(died(journal, tmp_path / "dead"))
    assert set(story.seqs) | recovered_story.lost_seqs | rest(journal).lost_seqs >= set(range(200))
    assert (journal.folder / OWNER).exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """`init` gets a JournalError that names the folder, and nothing is left behind."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"Journal folder .*file.* can't be written: Not a directory\. Set"):
        open_journal(tmp_path / "file" / EMITTER)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_at_the_start_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No segment, no journal, and nothing left behind."""
    Disk(monkeypatch, errno.ENOSPC).broken = True
    with pytest.raises(JournalError, match="No space left on device"):
        open_journal(tmp_path / EMITTER)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_belongs_to_one(journal: Journal) -> None:
    """The same folder can't be opened twice."""
    with pytest.raises(JournalError):
        open_journal(journal.folder)
    log(journal, 0)
    assert journal.next_seq == 1


@pytest.mark.parametrize("mapped", [True, False])
def test_at_the_size_cap_rows_go_and_records_stay(tmp_path: Path, *, mapped: bool) -> None:
    """The oldest rows are declared lost; every lifecycle record is still there, and the disk holds the cap."""
    journal = open_journal(
        tmp_path / EMITTER, mapped=mapped, segment_bytes=TINY_SEGMENT_BYTES, journal_bytes_max=8 * TINY_SEGMENT_BYTES
    )
    for step in range(1000):
        if step % 100 == 0:
            log_text(journal, f"text {step}")
        log(journal, step)
    journal.prepare()
    segments = [path for path in journal.folder.iterdir() if path.name != OWNER]
    assert sum(path.stat().st_size for path in segments) <= 9 * TINY_SEGMENT_BYTES
    story = recovered(died(journal, tmp_path / "dead"))
    assert {text for _, text in story.texts} == {f"text {step}" for step in range(0, 1000, 100)}
    assert len({text for _, text in story.texts}) == len(story.texts)
    assert story.end is not None
    assert set(story.seqs) | story.lost_seqs == set(range(story.end[0]))
    assert 999 in story.steps
    assert journal.rows_lost + len(story.rows) == 1000
    reader = Reader(journal)
    assert reader.read().seqs == story.seqs
    reader.close()
    journal.close(delete=True)


def test_a_dropped_segment_does_not_stop_the_sender(tmp_path: Path) -> None:
    """A sender that had opened a segment goes on behind it when the cap took it."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=1024, journal_bytes_max=4096)
    log(journal, 0)
    reader = Reader(journal)
    assert reader.read().steps == {0}
    for step in range(1, 200):
        log(journal, step)
    story = reader.read()
    assert 199 in story.steps
    end = journal.next_seq
    assert set(story.seqs) | story.lost_seqs | rest(journal).lost_seqs | {0} == set(range(end))
    reader.close()
    journal.close(delete=True)


@pytest.mark.parametrize(
    ("keys", "values", "error"),
    [(("a",), (10**400,), OverflowError), (KEYS, (10**400, 1.0), OverflowError)],
)
def test_a_number_beyond_float64_writes_nothing(
    journal: Journal, keys: tuple[str, ...], values: tuple[float, ...], error: type[Exception]
) -> None:
    """The caller can try again with a float."""
    with pytest.raises(error):
        journal.append_row(keys, 0, 0, values)
    assert journal.next_seq == 0
    log(journal, 0)
    assert recovered(journal.folder).steps == {0}


def test_a_row_beyond_a_segment_is_declared_lost(journal: Journal) -> None:
    """It takes its number, and the journal goes on."""
    log(journal, 0, tuple(f"metric/{i}" for i in range(200)))
    log(journal, 1)
    story = recovered(journal.folder)
    story.assert_complete()
    assert story.lost == [(0, 1)]
    assert story.steps == {1}


def test_rows_around_one_beyond_a_segment_keep_their_numbers(journal: Journal) -> None:
    """The sender reads rows of the same keys in one piece, and not over the number that is missing."""
    log(journal, 0)
    log(journal, 1, tuple(f"metric/{i}" for i in range(200)))
    log(journal, 2)
    log(journal, 3)
    reader = Reader(journal)
    assert [(row[0], row[2]) for row in reader.read().rows] == [(0, 0), (2, 2), (3, 3)]
    reader.close()


def test_a_loss_declared_behind_the_seal_outlives_the_process(journal: Journal, tmp_path: Path) -> None:
    """Refused at the very end, and its segment trimmed: nobody but the lock file knows of it then."""
    log(journal, 0)
    log(journal, 1)
    journal.seal()
    journal.declare_loss(0, 1, "refused")
    assert [event.seq for event in journal.take_rest()] == [2]
    journal.declare_loss(1, 1, "refused")
    segment_path(journal.folder, 0).unlink()
    story = recovered(died(journal, tmp_path / "later"))
    story.assert_complete()
    assert {0, 1} <= story.lost_seqs


def test_nothing_is_kept_behind_the_seal(journal: Journal) -> None:
    """What is logged while a run ends can't be half there: the number of rows is final."""
    log(journal, 0)
    journal.seal()
    log(journal, 1)
    log_text(journal, "late")
    assert journal.next_seq == 1
    story = recovered(journal.folder)
    assert (story.steps, story.texts, story.end) == ({0}, [], (1, "finished"))
