"""Following: hands out what the journal of another, living process holds, as its writer goes on.

1. Nothing is taken on trust: a record counts when its commit word, check sum and number are right (`_segments.py`).
2. The next segment is begun when the last one is read to its end. A record that isn't whole or final keeps what is
   behind it waiting, for as long as its writer lives; what is damaged, recovery declares after that.
3. Rows are acknowledged in the mark first (`_mark.py`), then their segments are deleted; the newest one never is.
4. Interrupted anywhere, the next one begins at the mark: what goes twice, the ledger drops.
"""

from __future__ import annotations

import contextlib
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from runwire import _signals
from runwire._batch import Message, messages
from runwire._clock import wall_time_us
from runwire._losses import Loss, Losses
from runwire._mark import Mark, read_mark, write_mark
from runwire._segments import SegmentHeader, SegmentReader, StoredEvent, segment_numbers, segment_path
from runwire._sender import BATCH_BYTES_MAX, BATCH_ROWS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runwire._segments import Rows


class LiveJournal:
    """The messages of a journal that is being written, in order.

    Attributes:
        folder: The emitter's.
        header: Who it is.
        rows: How many rows and records were acknowledged here.
        next_seq: Number behind the last row that was read.
        acknowledged_seq: Rows 0 .. this - 1 are settled: durable, refused, or declared lost by the writer.
    """

    def __init__(self, folder: Path, header: SegmentHeader, url: str) -> None:
        """`url` is where the rows go: what another URL has acknowledged goes there again, as far as it still lies."""
        self.folder = folder
        self.header = header
        self.rows = 0
        self._written = read_mark(folder, url)
        self.acknowledged_seq = self.next_seq = self._written.acknowledged_seq
        self._losses = Losses()
        for loss in self._written.losses:
            self._losses.add(loss)
        self._url = url
        self._is_closed = False
        self._reader: SegmentReader | None = None
        self._segments: deque[tuple[int, int]] = deque()  # (number, first seq) of those that lie there, read or begun
        self._found: Iterator[Message] = iter(())

    def take(self, count: int) -> list[Message]:
        """The next messages; fewer than `count` when that is all for now.

        Raises:
            JournalError: A segment's header can't be read.
            OSError: The disk doesn't answer.
        """
        taken = list(islice(self._found, count))
        if len(taken) < count and not self._is_closed:
            self._found = messages(self._read(), self.header, BATCH_ROWS_MAX, BATCH_BYTES_MAX)
            taken += islice(self._found, count - len(taken))
        return taken

    def acknowledge(self, message: Message) -> None:
        """It is durable in the log, as all before it."""
        self.acknowledged_seq = max(self.acknowledged_seq, message.end_seq)
        self.rows += message.envelope.count

    def declare_loss(self, first_seq: int, count: int, reason: str) -> None:
        """The log will never take these rows: kept in the mark until the emitter ends, whose numbers are its own."""
        if count:
            self._losses.add(Loss(first_seq, count, reason))
            self.acknowledged_seq = max(self.acknowledged_seq, first_seq + count)

    def signs_of_life(self, next_in_seconds: float) -> list[Message]:
        """The emitter lives; the next sign is due in `next_in_seconds`."""
        waiting = self.next_seq - self.acknowledged_seq
        return [_signals.heartbeat(self.header, wall_time_us(), next_in_seconds, self.next_seq, waiting)]

    def settle(self) -> None:
        """Tell how far all is acknowledged, and delete the segments that hold nothing else: law 3. Never raises."""
        mark = Mark(self._url, self.acknowledged_seq, tuple(self._losses))
        if mark != self._written:
            # Where the disk is too full for it, deleting makes room: the next time it is told.
            with contextlib.suppress(OSError):
                write_mark(self.folder, mark)
                self._written = mark
        while len(self._segments) > 1 and self._segments[1][1] <= self.acknowledged_seq:
            with contextlib.suppress(OSError):
                segment_path(self.folder, self._segments.popleft()[0]).unlink()

    def close(self) -> None:
        """Give the file back; what is taken later is nothing."""
        self._is_closed, self._found = True, iter(())
        self._change_reader(None)

    def _read(self) -> Iterator[Rows | StoredEvent]:
        while True:
            # Asked before: where there is a next segment, the current one is read to what its end will always be.
            following = self._following()
            if self._reader is not None:
                for item in self._reader.follow(self.next_seq, BATCH_ROWS_MAX):
                    self.next_seq = item.first_seq + item.count
                    if self.next_seq > self.acknowledged_seq:
                        yield item
                if not self._reader.is_at_end:
                    return
            if following is None:
                return
            try:
                reader = SegmentReader(segment_path(self.folder, following))
            except FileNotFoundError:
                return  # dropped by the writer just now
            self._change_reader(reader)
            self.next_seq = reader.header.first_seq
            self._segments.append((following, reader.header.first_seq))

    def _change_reader(self, reader: SegmentReader | None) -> None:
        old, self._reader = self._reader, reader
        if old is not None:
            old.close()

    def _following(self) -> int | None:
        """The next segment behind the one that is read; some between may be missing, dropped by the writer."""
        current = self._segments[-1][0] if self._segments else -1
        return next((number for number in segment_numbers(self.folder) if number > current), None)
