"""What the tests of the delivery core share: a journal to write, and what its messages say when they are read back."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runwire import _signals
from runwire._batch import Message, messages
from runwire._journal import Journal
from runwire._journal_files import REST_AT
from runwire._losses import REST_BYTES
from runwire._mark import read_mark
from runwire._recovery import DeadJournal
from runwire._reservations import ReservingJournal
from runwire._segments import OWNER, SegmentHeader
from runwire._sender import Sender
from runwire_schemas.codec import decode, encode
from runwire_schemas.events import EmitterEnded, Heartbeat, Lifecycle, MetricBatch, RowsLost, TextLogged
from runwire_schemas.topics import parse_url

EMITTER = "e" * 32
URL = "memory:journal"
HEADER = SegmentHeader("project", "r" * 16, EMITTER, "attempt", 0, URL, 0, 0)

Row = tuple[int, tuple[str, ...], int, tuple[float, ...]]


def open_journal(
    folder: Path, *, mapped: bool = True, url: str = URL, sender: str = "thread", **options: Any
) -> ReservingJournal:
    """A journal in `folder` that can declare losses."""
    head = SegmentHeader("project", "r" * 16, folder.name, "attempt", 0, url, 0, 0, sender=sender)
    journal = ReservingJournal(folder, head, **options)
    header = journal.header
    journal.on_loss(lambda *lost: _signals.rows_lost(header, 0, *lost), _signals.renumbered)
    if not mapped:
        switch_to_pwrite(journal)
    return journal


def switch_to_pwrite(journal: Journal) -> None:
    """From its next segment on, as on a file system that must not be mapped: at once, the first one being empty."""
    journal._mapped = False
    journal._close_segment()
    journal._full.clear()
    journal._number = -1
    journal._open_segment()


def log_text(journal: Journal, text: str) -> None:
    """A lifecycle record that can be told from others."""
    header = journal.header
    journal.append_event(lambda seq: encode(TextLogged(header.run_id, header.emitter_id, 0, seq, 0, "key", text)))


@dataclass
class Story:
    """What messages say.

    Attributes:
        rows: (seq, keys, step, values) in the order of arrival, duplicates included.
        texts: (seq, text) of TextLogged.
        lost: (first_seq, count) of RowsLost.
        declared: seqs of RowsLost records.
        end: (next_seq, how) of EmitterEnded.
    """

    rows: list[Row] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    declared: list[int] = field(default_factory=list)
    others: list[tuple[int, str]] = field(default_factory=list)
    end: tuple[int, str] | None = None

    @property
    def lost_seqs(self) -> set[int]:
        """Every declared number."""
        return {seq for first, count in self.lost for seq in range(first, first + count)}

    @property
    def seqs(self) -> list[int]:
        """Every number that arrived, sorted."""
        other = [seq for seq, _ in [*self.texts, *self.others]]
        return sorted([row[0] for row in self.rows] + other + self.declared)

    @property
    def steps(self) -> set[int]:
        """Steps of the rows."""
        return {row[2] for row in self.rows}

    def assert_complete(self) -> None:
        """The law: each number below the end has arrived or is declared lost."""
        assert self.end is not None
        assert set(self.seqs) | self.lost_seqs == set(range(self.end[0]))


def tell(found: Iterable[Message]) -> Story:
    """Decode messages."""
    story = Story()
    for message in found:
        event = decode(message.payload)
        if isinstance(event, MetricBatch):
            assert (message.envelope.first_seq, message.envelope.count) == (event.first_seq, event.count)
            seq = event.first_seq
            for block in event.blocks:
                count = len(block.steps)
                for row in range(count):
                    values = tuple(block.values[row + key * count] for key in range(len(block.keys)))
                    story.rows.append((seq, tuple(block.keys), block.steps[row], values))
                    seq += 1
        elif isinstance(event, EmitterEnded):
            story.end = (event.next_seq, event.how)
        elif isinstance(event, RowsLost):
            story.lost.append((event.first_seq, event.count))
            story.declared.append(event.seq)
        elif isinstance(event, TextLogged):
            story.texts.append((event.seq, event.text))
        elif isinstance(event, Lifecycle):
            story.others.append((event.seq, type(event).__name__))
        else:
            assert isinstance(event, Heartbeat)
    return story


def recovered(folder: Path, header: SegmentHeader | None = None) -> Story:
    """What recovery would send of the journal in `folder`."""
    kept = (folder / OWNER).read_bytes()[REST_AT : REST_AT + REST_BYTES] if (folder / OWNER).exists() else b""
    dead = DeadJournal(folder, header or HEADER, kept, read_mark(folder))
    return tell([*dead.found(), *dead.closing()])


def died(journal: Journal, into: Path) -> Path:
    """A copy of the journal as SIGKILL would leave it now: nobody holds its lock."""
    folder = into / journal.folder.name
    shutil.copytree(journal.folder, folder)
    return folder


class Silent:
    """A speaker that has nothing to say."""

    def describe(self) -> None: ...

    def overdue_seconds(self, *_: object) -> float:
        return 0.0

    def heartbeat(self, *_: object) -> object: ...

    def ended(self, *_: object) -> object: ...

    def arrive(self) -> None: ...


class Reader:
    """Reads a journal as its sender does, and tells what it read."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._sender = Sender(journal, parse_url(URL), Silent())  # type: ignore[arg-type]

    def read(self) -> Story:
        """What is new."""
        published = self._journal.published
        found = self._sender._read(published.number, published.offset)
        return tell(messages(found, self._journal.header, 7, 2**20))

    def close(self) -> None:
        """Give the files back."""
        self._sender._close_readers()
