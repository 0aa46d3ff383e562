"""Following a journal that is being written: each row once and in order, whatever the reader meets and when."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire._following import LiveJournal
from runwire._losses import Loss
from runwire._mark import RELAYED, Mark, read_mark, write_mark
from runwire._segments import CRC_AT, RECORD_BYTES, SegmentReader, segment_numbers, segment_path
from tests.producer.journals import EMITTER, URL, Story, died, log_text, open_journal, recovered, tell

SEGMENT_BYTES = 2048
PENDING = 5


class Pair:
    """A journal that is written here, and followed as from another process."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.journal = open_journal(folder / EMITTER, sender="relay", segment_bytes=SEGMENT_BYTES, **options)
        self.follower = self.begin()
        self.story = Story()
        self._step = 0

    def begin(self) -> LiveJournal:
        """Another relay."""
        return LiveJournal(self.journal.folder, self.journal.header, URL)

    def restart(self) -> None:
        """The relay is another one now; what the last one hadn't settled it knows nothing of."""
        self.follower.close()
        self.follower = self.begin()

    def log(self, count: int) -> None:
        """The next rows."""
        for _ in range(count):
            self.journal.append_row(("a", "b"), self._step, 0, [float(self._step), 0.5])
            self._step += 1

    def deliver(self, *, acknowledge: bool = True) -> list[int]:
        """Take all there is; returns the steps."""
        found = []
        while taken := self.follower.take(2):
            found += taken
            for message in taken if acknowledge else ():
                self.follower.acknowledge(message)
        story = tell(found)
        for name in ("rows", "texts", "lost", "declared", "others"):
            getattr(self.story, name).extend(getattr(story, name))
        return [row[2] for row in story.rows]

    def left(self, into: Path) -> Story:
        """What recovery adds when its writer is killed now."""
        shutil.rmtree(into, ignore_errors=True)
        return recovered(died(self.journal, into))


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Both ways in which a journal is written."""
    pair = Pair(tmp_path, mapped=request.param)
    yield pair
    pair.follower.close()
    pair.journal.close(delete=False)


def test_rows_come_as_they_are_written(pair: Pair) -> None:
    """Also over segment changes; a record of a lifecycle is one of them; nothing comes twice."""
    assert pair.deliver() == []
    pair.log(1)
    assert pair.deliver() == [0]
    pair.log(100)
    assert len(segment_numbers(pair.journal.folder)) > 3
    assert pair.deliver() == list(range(1, 101))
    log_text(pair.journal, "between")
    pair.log(1)
    assert pair.deliver() == [101]
    assert pair.story.seqs == list(range(103))
    assert pair.deliver() == []


def test_what_is_acknowledged_is_marked_then_deleted(pair: Pair) -> None:
    """All full segments go, the newest one stays; before the acknowledgement nothing does."""
    pair.log(100)
    pair.deliver(acknowledge=False)
    pair.follower.settle()
    numbers = segment_numbers(pair.journal.folder)
    assert len(numbers) > 3
    pair.restart()
    assert pair.deliver() == list(range(100))
    pair.follower.settle()
    assert read_mark(pair.journal.folder) == Mark(URL, 100)
    assert segment_numbers(pair.journal.folder) == numbers[-1:]
    assert pair.begin().take(10) == []  # the next relay sends nothing again
    elsewhere = LiveJournal(pair.journal.folder, pair.journal.header, "memory:other")
    assert tell(elsewhere.take(10)).steps <= set(range(100))  # but to another URL what still lies there
    assert elsewhere.acknowledged_seq == 0


def record_starts(path: Path) -> list[int]:
    """Where each record of a segment begins."""
    reader = SegmentReader(path)
    at, data = reader.offset, path.read_bytes()
    reader.close()
    starts = []
    while at + RECORD_BYTES <= len(data) and data[at : at + 4] != bytes(4):
        starts.append(at)
        length = struct.unpack_from("<I", data, at + 8)[0]
        at += RECORD_BYTES + length + (-length % 8)
    return starts


def patch(path: Path, at: int, data: bytes) -> None:
    """Overwrite some bytes in place."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def as_kind(record: bytes, kind: int) -> bytes:
    """The same good record of another kind."""
    body = bytearray(record[CRC_AT:])
    body[4] = kind
    return record[:4] + struct.pack("<I", zlib.crc32(body)) + bytes(body)


@pytest.mark.parametrize("rows", [10, 60], ids=["in the newest segment", "in a full one"])
@pytest.mark.parametrize("kind", [PENDING, 77])
def test_a_record_that_isnt_final_keeps_the_rest_waiting(pair: Pair, kind: int, rows: int) -> None:
    """Until it is a row: what is behind it comes then, and in order. What dies before is for recovery."""
    pair.log(rows)
    path = segment_path(pair.journal.folder, 0)
    data, starts = path.read_bytes(), record_starts(path)
    begin, end = starts[5], starts[6]  # the first record defines the keys
    patch(path, begin, as_kind(data[begin:end], kind))
    assert pair.deliver() == [0, 1, 2, 3]
    assert pair.deliver() == []
    pair.follower.settle()
    assert segment_numbers(pair.journal.folder)[0] == 0
    patch(path, begin, data[begin:end])
    assert pair.deliver() == list(range(4, rows))


def test_no_damaged_or_torn_record_is_taken(pair: Pair) -> None:
    """Any byte of it wrong: it isn't handed out, and not what is behind it; when it is whole, all comes."""
    pair.log(6)
    path = segment_path(pair.journal.folder, 0)
    data, starts = path.read_bytes(), record_starts(path)
    begin, end = starts[4], starts[5]
    for at in range(begin, end):
        patch(path, at, bytes([data[at] ^ 0xFF]))
        follower = pair.begin()
        assert tell(follower.take(100)).steps == {0, 1, 2}
        follower.close()
        patch(path, at, data[at : at + 1])
    assert pair.deliver() == list(range(6))


def test_a_jump_in_the_numbers_is_the_writers_to_declare(pair: Pair) -> None:
    """Rows that found no room have numbers and no record."""
    pair.log(3)
    with pair.journal._lock:
        pair.journal._lose()
    pair.log(3)
    pair.journal.declare_loss(3, 1, "no room")
    assert pair.deliver() == [0, 1, 2, 3, 4, 5]
    assert [row[0] for row in pair.story.rows] == [0, 1, 2, 4, 5, 6]
    assert pair.story.lost_seqs == {3}


def test_relayed_rows_are_not_lost_at_the_cap(tmp_path: Path) -> None:
    """Ten times more than the journal may hold: with a relay nothing is lost, without one it is."""
    for relayed in (True, False):
        pair = Pair(tmp_path / str(relayed), journal_bytes_max=4 * SEGMENT_BYTES)
        for _ in range(50):
            pair.log(20)
            if relayed:
                pair.deliver()
                pair.follower.settle()
        assert bool(pair.journal.rows_lost) != relayed
        assert bool(pair.left(tmp_path / "dead").lost) != relayed
        pair.follower.close()
        pair.journal.close(delete=True)


def test_a_mark_that_is_behind_its_deletions_costs_no_row(tmp_path: Path) -> None:
    """Where the disk had no room for the mark, the segments go all the same; nobody takes them for lost at the end."""
    pair = Pair(tmp_path)
    (pair.journal.folder / f".{RELAYED}").mkdir()  # so that it can't be written
    pair.log(100)
    pair.deliver()
    pair.follower.settle()
    assert read_mark(pair.journal.folder) == Mark()
    assert len(segment_numbers(pair.journal.folder)) == 1
    assert pair.left(tmp_path / "dead").lost == []
    (pair.journal.folder / f".{RELAYED}").rmdir()
    pair.follower.settle()
    assert read_mark(pair.journal.folder).acknowledged_seq == 100
    pair.follower.close()
    pair.journal.close(delete=True)


def test_refused_rows_are_declared_when_the_emitter_ends(pair: Pair, tmp_path: Path) -> None:
    """Its numbers are its own while it lives; the mark keeps them over restarts of the relay."""
    pair.log(5)
    pair.deliver()
    pair.follower.declare_loss(3, 1, "too large")
    pair.follower.declare_loss(0, 0, "a sign of life")
    pair.follower.settle()
    pair.restart()
    pair.log(2)
    pair.deliver()
    pair.follower.settle()
    assert read_mark(pair.journal.folder) == Mark(URL, 7, (Loss(3, 1, "too large"),))
    left = pair.left(tmp_path / "dead")
    assert (left.rows, left.lost, left.declared, left.end) == ([], [(3, 1)], [7], (8, "crashed"))


@pytest.mark.parametrize("data", [b"", b"short", bytes(5000), b"\xff" * 5000], ids=["empty", "short", "zeros", "noise"])
def test_an_unreadable_mark_is_none(tmp_path: Path, data: bytes) -> None:
    """Everything that lies there goes again."""
    assert read_mark(tmp_path) == Mark()
    (tmp_path / RELAYED).write_bytes(data)
    assert read_mark(tmp_path).acknowledged_seq == 0
    write_mark(tmp_path, Mark("memory:x", 5))
    assert read_mark(tmp_path) == Mark("memory:x", 5)
    assert read_mark(tmp_path, "memory:y") == Mark("memory:y", 0)


ACTIONS = st.lists(
    st.sampled_from(["log", "log many", "text", "take", "deliver", "settle", "restart", "crash"]), max_size=40
)


@settings(deadline=None, max_examples=60)
@given(actions=ACTIONS, mapped=st.booleans(), capped=st.booleans())
def test_any_history_ends_complete(actions: list[str], *, mapped: bool, capped: bool) -> None:
    """Relays come and go at any moment: with what recovery finds at the end, each number arrived or is declared."""
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), mapped=mapped, journal_bytes_max=(4 if capped else 1000) * SEGMENT_BYTES)
        for action in actions:
            match action:
                case "log" | "log many":
                    pair.log(1 if action == "log" else 60)
                case "text":
                    log_text(pair.journal, "text")
                case "take":  # and killed with it
                    pair.follower.take(1)
                    pair.restart()
                case "deliver":
                    pair.deliver()
                case "settle":
                    pair.follower.settle()
                case "restart":
                    pair.follower.settle()
                    pair.restart()
                case _:
                    pair.restart()  # killed: what was not settled goes again
        left = pair.left(Path(folder) / "dead")
        lost = left.lost_seqs | pair.story.lost_seqs
        assert left.end is not None
        assert set(left.seqs) | set(pair.story.seqs) | lost == set(range(left.end[0]))
        assert capped or not lost
        contents = {(row[0], row[2]) for row in (*left.rows, *pair.story.rows)}
        assert len(contents) == len({seq for seq, _ in contents})  # twice, but the same
        pair.follower.close()
        pair.journal.close(delete=True)
