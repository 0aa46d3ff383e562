"""Journals that survive power loss too, by `fsync="interval"` or `fsync="each"`; a plain one survives the process only.

    mode       power loss, or a crash of the kernel, takes               `log()` waits for the disk
    none       what the kernel hadn't written back: about 30 seconds     never
    interval   the rows of the last 200 ms, and of a sync under way      never: a thread of its own does
    each       nothing whose call has returned                           in every call, as long as the disk takes

That is promised by a disk that keeps what it says it has kept. Where the destination is a folder (`dir:`), a row leaves
the journal only when it is on the disk there. Laws:

1. What was published before `sync` is on the disk when it returns True: the segments that are full meanwhile, the open
   one, and their names in the folder.
2. A failed fsync is final for that file. Its segment is closed, its rows are copied from memory to a fresh file that
   takes its place once it is on the disk, and rows go on in a new segment. That is said, and while the disk goes on
   refusing it is asked again after 1, 2, 4 ... 60 seconds: between, the journal is a plain one.
3. No lock that a training thread needs is held while the disk works, except by `each`, whose calls wait for one
   another: one fsync serves all rows that were there when it began.
4. A scalar on a device is on the disk with its row, once it has come from there.
5. In a signal handler that interrupts an append, nothing waits: the interrupted call brings both rows to the disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from runwire._disk import copy_to_disk, folder_to_disk, to_disk
from runwire._reservations import ReservingJournal
from runwire._segments import segment_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runwire._journal_files import Published, Reservation
    from runwire._segments import SegmentHeader

SYNC_INTERVAL_SECONDS = 0.2
REFUSED_SECONDS_MIN = 1.0
REFUSED_SECONDS_MAX = 60.0


class SyncedJournal(ReservingJournal):
    """A journal with `sync`; who calls it, and when, is the mode's."""

    def __init__(self, folder: Path, header: SegmentHeader, **options: Any) -> None:
        """As `Journal`."""
        self._sync_lock = threading.RLock()
        self._closed: deque[tuple[int, int]] = deque()  # full segments that may not be on the disk: number, descriptor
        self._refused: set[int] = set()
        self._refused_until = 0.0
        self._pause_seconds = REFUSED_SECONDS_MIN
        self._synced: Published | None = None
        self._rest_is_new = False
        self._named = -1
        super().__init__(folder, header, **options)

    def sync(self) -> bool:
        """Bring what was published before this call to the disk; False when the disk refuses it, which is said."""
        with self._sync_lock:
            is_done = self._sync()
        if self._side:  # the lock is free: a handler of the log may log
            self._drain_side()
        return is_done

    def declare_loss(self, first_seq: int, count: int, reason: str) -> None:
        """As `Journal`; behind the seal nobody syncs any more."""
        super().declare_loss(first_seq, count, reason)
        if self._sealed:
            self.sync()

    def _keep_rest(self) -> None:
        super()._keep_rest()
        self._rest_is_new = True

    def fill_row(self, place: Reservation, values: Sequence[float]) -> None:
        """As `Journal`; where its segment is full, that has to be synced again."""
        super().fill_row(place, values)
        if place.number != self._number:
            self._closed.append((place.number, -1))

    def forget(self) -> None:
        """In a forked child: as `Journal`."""
        super().forget()
        self._sync_lock = threading.RLock()
        self._close_files()

    def close(self, *, delete: bool) -> None:
        """As `Journal`."""
        super().close(delete=delete)
        self._close_files()

    def _sync(self) -> bool:
        published, number = self.published, self._number
        if self._rest_is_new and self._owner >= 0:
            self._rest_is_new = False
            with contextlib.suppress(OSError):  # a count of what is lost: not worth another file
                to_disk(self._owner)
        if published == self._synced or self._is_closed:
            return True
        if time.monotonic() < self._refused_until:
            return False
        # The open one first: where the writer closes it meanwhile, it is among the closed ones below.
        self._sync_open()
        while self._closed:
            self._sync_closed(*self._closed.popleft())
        try:
            if number > self._named:
                self._sync_names()
                self._named = number
            for refused in sorted(self._refused):
                self._rescue(refused)
        except OSError as error:
            if not self.folder.exists():
                return True  # all is acknowledged, or somebody deleted it: nothing is there to be kept
            self._refused_until = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, REFUSED_SECONDS_MAX)
            self._notice(f"the disk doesn't keep the journal: {error.strerror}", "Power loss now would cost rows.")
            return False
        self._pause_seconds = REFUSED_SECONDS_MIN
        self._synced = published
        return True

    def _sync_open(self) -> None:
        segment = self._segment
        if segment is None or segment.number in self._refused:
            return
        try:
            to_disk(segment.fd)
        except OSError:
            if self._segment is segment:  # else it wasn't our file any more
                self._refused.add(segment.number)

    def _sync_closed(self, number: int, fd: int) -> None:
        try:
            if fd < 0:
                fd = os.open(segment_path(self.folder, number), os.O_RDONLY | os.O_CLOEXEC)
            if number not in self._refused:
                to_disk(fd)
        except FileNotFoundError:
            pass  # acknowledged, and trimmed
        except OSError:
            self._refused.add(number)
        finally:
            if fd >= 0:
                os.close(fd)

    def _sync_names(self) -> None:
        folder_to_disk(self.folder)
        if self._named < 0:
            to_disk(self._owner)
            for folder in (self.folder.parent, self.folder.parent.parent):
                folder_to_disk(folder)

    def _rescue(self, number: int) -> None:
        """Law 2.

        Raises:
            OSError: The disk takes no copy either.
        """
        with self._lock:
            segment = self._segment
            if segment is not None and segment.number == number:
                super()._close_segment()
        end = self.end_of(number)
        if end is not None:
            try:
                copy_to_disk(segment_path(self.folder, number), self.folder / f"rescued-{number}", end)
            except FileNotFoundError:
                if self.end_of(number) is not None:  # else it was trimmed meanwhile
                    raise
            self.replaced.add(number)
            self._notice("the disk refused what was written", "Those rows were copied to another file.")
        self._refused.discard(number)

    def _close_segment(self) -> None:
        segment = self._segment
        if segment is not None and not self._is_closed:
            fd = -1
            with contextlib.suppress(OSError):  # no descriptor is left: it is opened by its name then
                fd = os.dup(segment.fd)
            self._closed.append((segment.number, fd))
        super()._close_segment()

    def _close_files(self) -> None:
        while self._closed:
            _, fd = self._closed.popleft()
            with contextlib.suppress(OSError):
                os.close(fd)


class EachSyncedJournal(SyncedJournal):
    """Every append returns when it is on the disk."""

    def __init__(self, folder: Path, header: SegmentHeader, **options: Any) -> None:
        """As `Journal`."""
        self._inside: set[int] = set()
        super().__init__(folder, header, **options)

    def append_row(self, keys: tuple[str, ...], step: int, time: int, values: tuple[float, ...] | list[float]) -> None:
        """As `Journal`, and on the disk."""
        self._durably(super().append_row, keys, step, time, values)

    def append_event(self, make_payload: Callable[[int], bytes]) -> None:
        """As `Journal`, and on the disk."""
        self._durably(super().append_event, make_payload)

    def declare_loss(self, first_seq: int, count: int, reason: str) -> None:
        """As `Journal`, and on the disk: what it names is trimmed now, and the record's number may be sent at once."""
        self._durably(super().declare_loss, first_seq, count, reason)

    def give_up(self, number: int, reason: str) -> None:
        """As `Journal`, and on the disk."""
        self._durably(super().give_up, number, reason)

    def seal(self) -> None:
        """As `Journal`, and on the disk."""
        self._durably(super().seal)

    def forget(self) -> None:
        """In a forked child: as `Journal`."""
        super().forget()
        self._inside = set()

    def _durably(self, append: Callable[..., None], *arguments: Any) -> None:
        thread = threading.get_ident()
        if thread in self._inside:  # law 5
            append(*arguments)
            return
        self._inside.add(thread)
        try:
            append(*arguments)
        finally:
            self._inside.discard(thread)
        self.sync()


def open_journal(fsync: str, folder: Path, header: SegmentHeader, **options: Any) -> ReservingJournal:
    """A journal that keeps what the mode promises.

    Raises:
        JournalError: The folder can't be made or written.
    """
    kinds: dict[str, type[ReservingJournal]] = {
        "none": ReservingJournal,
        "interval": SyncedJournal,
        "each": EachSyncedJournal,
    }
    return kinds[fsync](folder, header, **options)


class IntervalSync(threading.Thread):
    """Calls `sync` every 200 ms until it is told to finish; a forked child has its own, or none."""

    def __init__(self, journal: SyncedJournal) -> None:
        """Not started yet."""
        super().__init__(name="runwire-fsync", daemon=True)
        self._journal = journal
        self._finishing = threading.Event()

    def run(self) -> None:
        """The thread's whole life."""
        while not self._finishing.wait(SYNC_INTERVAL_SECONDS):
            self._journal.sync()
        self._journal.sync()

    def finish(self, timeout_seconds: float) -> None:
        """Once more, then end; a disk that takes longer is left alone with it."""
        self._finishing.set()
        self.join(timeout_seconds)
