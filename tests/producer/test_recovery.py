"""Recovery of dead emitters' journals: raced, interrupted, damaged and repeated, it sends the same, and all of it."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire import _recovery
from runwire._errors import TransportError
from runwire._journal_files import remove_journal
from runwire._memory import FAULTS, REFUSES, TOPICS, Fault
from runwire._recovery import DeadJournal, Outcome, recover, sync
from runwire._segments import SegmentHeader, segment_numbers
from runwire_schemas.errors import DestinationError
from runwire_schemas.topics import parse_url
from tests.producer.journals import Story, died, log_text, open_journal, recovered, tell

AWAY = TransportError("away")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses."""
    monkeypatch.setattr(_recovery, "RETRY_SECONDS", 0.0)


class Home:
    """Journals of dead emitters that wanted to send to one in-memory destination."""

    def __init__(self, folder: Path) -> None:
        self.journals = folder / "journal"
        self.journals.mkdir()
        self._alive = folder / "alive"
        self.name = secrets.token_hex(8)

    @property
    def url(self) -> str:
        """Where they wanted to send."""
        return f"memory:{self.name}"

    @property
    def story(self) -> Story:
        """What arrived."""
        return tell(TOPICS[self.name])

    def add(self, rows: int, *, url: str | None = None, ended: bool = False) -> Path:
        """One more."""
        emitter = secrets.token_hex(16)
        journal = open_journal(self._alive / emitter, url=url or self.url, segment_bytes=2048)
        for step in range(rows):
            journal.append_row(("a",), step, 0, [float(step)])
        log_text(journal, "last")
        if ended:
            journal.seal()
        folder = died(journal, self.journals)
        journal.close(delete=True)
        return folder

    def sync(self) -> list[Outcome]:
        """Once."""
        return sync(self.journals)

    @property
    def left(self) -> list[str]:
        """What lies in the folder of journals."""
        return sorted(path.name for path in self.journals.iterdir())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty one."""
    home = Home(tmp_path)
    yield home
    for table in (TOPICS, FAULTS, REFUSES):
        table.pop(home.name, None)


def test_a_dead_emitters_rows_arrive_and_its_folder_goes(home: Home) -> None:
    """Rows, records, the end and how it came; an outcome that says so; nothing to do the second time."""
    folder = home.add(100)
    assert home.sync() == [Outcome(folder.name, "r" * 16, home.url, rows=101, lost=0, state="sent")]
    assert home.story.steps == set(range(100))
    assert home.story.end == (101, "crashed")
    assert home.left == []
    assert home.sync() == []


def test_an_emitter_that_ended_by_itself_has_not_crashed(home: Home) -> None:
    """Its broker was away, that is all."""
    home.add(3, ended=True)
    home.sync()
    assert home.story.end == (4, "finished")


def test_an_own_and_a_foreign_living_journal_are_left_alone(home: Home) -> None:
    """Its writer holds the lock; asking doesn't take it away."""
    journal = open_journal(home.journals / ("a" * 32))
    journal.append_row(("a",), 0, 0, [1.0])
    assert [outcome.state for outcome in home.sync()] == ["alive"]
    script = (
        "import sys, pathlib; from runwire._recovery import sync;"
        "print([outcome.state for outcome in sync(pathlib.Path(sys.argv[1]))])"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, home.journals], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip() == "['alive']"
    assert recovered(journal.folder).steps == {0}
    journal.close(delete=True)


def test_journals_for_another_destination_are_named_and_left(home: Home) -> None:
    """Recovery beside a running emitter sends nothing to a place it wasn't meant for; `sync --to` does."""
    other = home.add(5, url="memory:elsewhere")
    home.add(6)
    outcomes = asyncio.run(recover(home.journals, only=parse_url(home.url)))
    assert {(outcome.url, outcome.state) for outcome in outcomes} == {
        ("memory:elsewhere", "elsewhere"),
        (home.url, "sent"),
    }
    assert home.left == [other.name]
    assert [outcome.state for outcome in sync(home.journals, to=home.url)] == ["sent"]
    assert len(home.story.rows) == 11
    assert TOPICS["elsewhere"] == []


def test_a_destination_that_is_none(home: Home) -> None:
    """Said before anything is touched."""
    home.add(1)
    with pytest.raises(DestinationError):
        sync(home.journals, to="nowhere://")
    assert len(home.left) == 1


def test_a_broker_that_is_away_keeps_the_journal(home: Home) -> None:
    """The outcome says why; the next try sends all."""
    home.add(20)
    FAULTS[home.name] += [AWAY] * 100
    (outcome,) = home.sync()
    assert (outcome.state, outcome.error) == ("waiting", "away")
    FAULTS.pop(home.name)
    (outcome,) = home.sync()
    assert outcome.state == "sent"
    assert home.story.steps == set(range(20))


class KilledError(BaseException):
    """Stands for SIGKILL in the middle of a send."""


def test_interrupted_anywhere_and_repeated_it_sends_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before, in or behind any send, the next recovery makes the same messages with the same numbers."""
    monkeypatch.setattr(_recovery, "BATCH_ROWS_MAX", 10)
    folder = home.add(200)
    path = folder / "000001.seg"
    data = path.read_bytes()
    path.write_bytes(data[:900] + bytes([data[900] ^ 0xFF]) + data[901:])  # so that there is a loss to declare
    expected = recovered(folder, DeadJournal(folder, header_of(folder)).header)
    assert expected.lost
    for sends in range(3):
        for appended in (0, 1, 1_000_000):
            FAULTS[home.name] += [*[Fault()] * sends, Fault(KilledError(), appended)]  # type: ignore[arg-type]
            try:
                home.sync()
            except KilledError:
                assert home.left == [folder.name]
                FAULTS.pop(home.name, None)
                continue
            raise AssertionError(f"{sends} sends were all")
    (outcome,) = home.sync()
    assert outcome.state == "sent"
    story = home.story
    assert list(dict.fromkeys(story.rows)) == expected.rows
    assert set(story.lost) == set(expected.lost)
    assert set(story.declared) == set(expected.declared)
    assert story.end == expected.end
    story.assert_complete()


def header_of(folder: Path) -> SegmentHeader:
    """The first segment's."""
    header = _recovery.any_header(folder, None)
    assert header is not None
    return header


def test_interrupted_while_it_deletes(home: Home) -> None:
    """A folder that is half deleted is deleted, not sent again as a journal with fewer rows."""
    folder = home.add(100)
    gone = home.journals / f".{folder.name}.sent"
    folder.rename(gone)
    (gone / "000000.seg").unlink()
    assert home.sync() == []
    assert home.left == []
    assert TOPICS[home.name] == []


RACER = """
import json, sys, pathlib, dataclasses
from runwire._recovery import sync
sys.stdin.readline()
print(json.dumps([dataclasses.asdict(outcome) for outcome in sync(pathlib.Path(sys.argv[1]))]))
"""


def test_raced_by_processes_each_journal_is_sent_by_one(home: Home, tmp_path: Path) -> None:
    """Ranks that start together recover together: each journal is sent once, by one of them."""
    topic = tmp_path / "topic"
    folders = [home.add(50, url=f"dir:{topic}") for _ in range(8)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, home.journals], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outcomes = [outcome for racer in racers for outcome in json.loads(racer.communicate(timeout=60)[0])]
    sent = [outcome["emitter_id"] for outcome in outcomes if outcome["state"] == "sent"]
    assert sorted(sent) == sorted(folder.name for folder in folders)
    assert not [outcome for outcome in outcomes if outcome["error"]]
    assert home.left == []


def test_one_that_somebody_recovered_between_open_and_lock(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is free and its header can be read, but it is gone: nothing is said in its name."""
    folder, real = home.add(50), _recovery.try_lock

    def late(owner: int) -> bool:
        remove_journal(folder)
        return real(owner)

    monkeypatch.setattr(_recovery, "try_lock", late)
    assert home.sync() == []
    assert TOPICS.get(home.name, []) == []


def test_a_refused_row_is_declared_behind_the_last(home: Home) -> None:
    """The others arrive, and the folder goes."""
    home.add(30)
    REFUSES[home.name] = lambda message: any(17 in part.steps for part in message.rows)
    (outcome,) = home.sync()
    assert (outcome.state, outcome.lost) == ("sent", 1)
    story = home.story
    story.assert_complete()
    assert (story.lost, story.declared, story.end) == ([(17, 1)], [31], (32, "crashed"))


@pytest.mark.parametrize("damage", ["first header", "all headers", "owner", "empty segment", "cut segment"])
def test_a_damaged_journal_is_sent_as_far_as_it_can_be_read(home: Home, damage: str) -> None:
    """The identity stands in each segment and in the lock file; one of them is enough."""
    folder = home.add(200)
    numbers = segment_numbers(folder)
    assert len(numbers) > 3
    victims = {"first header": numbers[:1], "all headers": numbers, "owner": []}.get(damage, numbers[1:2])
    for number in victims:
        path = folder / f"{number:06d}.seg"
        data = path.read_bytes()
        if "header" in damage:
            data = data[:20] + b"!" + data[21:]
        path.write_bytes({"empty segment": b"", "cut segment": data[:700]}.get(damage, data))
    if damage == "owner":
        (folder / "owner").write_bytes(b"")
    (outcome,) = home.sync()
    assert outcome.state == "sent"
    story = home.story
    story.assert_complete()
    assert {0, 199} <= story.steps
    assert bool(outcome.lost) == (damage in {"empty segment", "cut segment"})


def test_one_unreadable_journal_keeps_no_other(home: Home) -> None:
    """It stays, with the reason; the others are sent."""
    first, second = sorted([home.add(5), home.add(5)])
    for path in first.iterdir():
        path.write_bytes(b"noise" * 100)
    outcomes = {outcome.emitter_id: outcome for outcome in home.sync()}
    assert "No segment" in outcomes[first.name].error
    assert outcomes[second.name].state == "sent"
    assert home.left == [first.name]


def test_a_folder_without_a_segment_goes(home: Home) -> None:
    """Its emitter died before its first row."""
    folder = home.journals / ("b" * 32)
    folder.mkdir()
    (folder / "owner").write_bytes(b"")
    assert home.sync() == []
    assert home.left == []
