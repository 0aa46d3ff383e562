"""The relay: one process of a node delivers the journals of all others, of the living as they write and of the dead.

1. It follows journals whose header says that no thread of their own delivers (`sender` is relay or none). Whether an
   emitter lives is told by the lock of its folder; where that can be taken it is dead, whatever its sender was, and
   the rest of its journal goes as recovery sends it, end and all.
2. One link a destination: one connection, one window, one send at a time. Journals take turns in it, the dead one after
   the other, so that a long backlog keeps nobody waiting and memory stays bounded.
3. Every living emitter's sign of life goes out each HEARTBEAT_INTERVAL_SECONDS.
4. What is wrong with one journal or one destination is said once a minute, and tried again; the others go on.
5. Killed anywhere, the next relay begins at the marks; two relays of one folder are prevented by a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runwire._errors import JournalError
from runwire._following import LiveJournal
from runwire._journal_files import REST_AT, SENT, claim, release, remove_journal
from runwire._link import Burial, Link, is_set
from runwire._losses import REST_BYTES
from runwire._mark import read_mark
from runwire._notices import Notices
from runwire._recovery import DeadJournal, Outcome, any_header, is_there, try_lock, without_header
from runwire._segments import OWNER, SegmentHeader, segment_numbers
from runwire_schemas.topics import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable

SCAN_INTERVAL_SECONDS = 1.0
ASIDE_SECONDS = 10.0
LAST_PASS_SECONDS = 10.0
DEAD_WAITING_MAX = 64
LOCK = ".relay"
JOURNALS = "journal"  # as a home names the folder


@dataclass(slots=True)
class Totals:
    """What a relay did: journals delivered to their end, rows and records acknowledged, journals not at their end."""

    journals: int = 0
    rows: int = 0
    followed: int = 0


@dataclass(slots=True)
class _Watched:
    """A folder whose lock file is open here: closed by `_forget` alone, for any close would give the lock back."""

    folder: Path
    owner: int
    header: SegmentHeader
    journal: LiveJournal | Burial | None = None


def find_journals(place: Path) -> Path | None:
    """The folder of journals that `place` is or holds, as a home does; None while it can't be told."""
    for folder in (place / JOURNALS, place):
        if folder.name == JOURNALS and folder.is_dir():
            return folder
    with contextlib.suppress(OSError):
        if any((folder / OWNER).exists() for folder in place.iterdir()):
            return place
    return None


def follow(
    place: Path,
    to: str | None = None,
    *,
    on_start: Callable[[Path], None] = lambda _: None,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> Totals:
    """Deliver what the processes of a home write, until SIGTERM or SIGINT; then what is there now, within 10 s.

    Args:
        place: A home or a folder of journals; it need not exist yet.
        to: URL to send to; by default each journal goes where its emitter wanted it.
        on_start: Gets the folder of journals when there is one.
        on_outcome: Called for each journal that is delivered to its end.

    Raises:
        DestinationError: `to` is no URL that Runwire can send to.
        JournalError: Another relay follows this folder, or it can't be written.
    """
    url = None if to is None else str(parse_url(to))
    return asyncio.run(_follow(place, url, on_start, on_outcome))


async def _follow(
    place: Path, to: str | None, on_start: Callable[[Path], None], on_outcome: Callable[[Outcome], None]
) -> Totals:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):  # the second one ends at once
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    while (journals := find_journals(place)) is None:
        if await is_set(stop, SCAN_INTERVAL_SECONDS):
            return Totals()
    relay = Relay(journals, to, on_outcome)
    on_start(journals)
    return await relay.run(stop)


class Relay:
    """Watches a folder of journals, and gives each of them to the link of its destination."""

    def __init__(self, journals: Path, to: str | None, on_outcome: Callable[[Outcome], None]) -> None:
        """Take the folder's relay lock.

        Raises:
            JournalError: Another relay has it, or the folder can't be written.
        """
        self._journals = journals
        self._to = to
        self._on_outcome = on_outcome
        self._watched: dict[str, _Watched] = {}
        self._aside_until: dict[str, float] = {}
        self._links: dict[str, Link] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._notices = Notices()
        self._buried = 0
        self._lock = _hold(journals)

    async def run(self, stop: asyncio.Event) -> Totals:
        """Relay until `stop` is set, then once more what is there."""
        try:
            while True:
                self._keep_lock()
                self._scan()
                if await is_set(stop, SCAN_INTERVAL_SECONDS):
                    break
            self._scan()
            for link in self._links.values():
                link.finish()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=LAST_PASS_SECONDS)
            followed = sum(watched.journal is not None for watched in self._watched.values())
            return Totals(self._buried, sum(link.rows for link in self._links.values()), followed)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for name in list(self._watched):
                self._forget(name)
            if self._lock >= 0:
                os.close(self._lock)

    def _keep_lock(self) -> None:
        """A folder that was deleted and made again has another lock file."""
        path = self._journals / LOCK
        with contextlib.suppress(OSError):
            if path.exists() and os.path.samestat(os.fstat(self._lock), path.stat()):
                return
        if self._journals.is_dir():
            lock, self._lock = self._lock, -1
            os.close(lock)
            self._lock = _hold(self._journals)

    def _scan(self) -> None:
        """Look which journals came, ended or went."""
        present = self._present()
        for name in self._watched.keys() - present:
            self._forget(name)
        now = time.monotonic()
        self._aside_until = {name: at for name, at in self._aside_until.items() if name in present and at > now}
        for name in sorted(present - self._aside_until.keys()):
            try:
                self._look_at(name)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others go on
                self._set_aside(self._journals / name, error)

    def _present(self) -> set[str]:
        present = set()
        try:
            with os.scandir(self._journals) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    if not entry.name.startswith("."):
                        present.add(entry.name)
                    elif entry.name.endswith(SENT):  # a deletion that was interrupted
                        remove_journal(Path(entry.path))
        except FileNotFoundError:
            pass  # deleted; it may come again
        except OSError as error:
            self._warn(f"Folder {self._journals} can't be read: {error.strerror}.", LOCK)
        return present

    def _look_at(self, name: str) -> None:
        watched = self._watched.get(name) or self._open(self._journals / name)
        if watched is None or isinstance(watched.journal, Burial):
            return
        if try_lock(watched.owner):
            if is_there(watched.folder, watched.owner):
                self._bury(watched)
            else:
                self._forget(name)
        elif watched.journal is None and watched.header.sender != "thread":
            url = self._url(watched)
            watched.journal = self._link(url).live[name] = LiveJournal(watched.folder, watched.header, url)

    def _open(self, folder: Path) -> _Watched | None:
        """Begin to watch a folder, unless it is this process's own, or there is nothing in it."""
        if not claim(folder):
            return None
        owner = -1
        try:
            owner = os.open(folder / OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            header = any_header(folder, owner)
            if header is not None and header.emitter_id == folder.name:
                watched = self._watched[folder.name] = _Watched(folder, owner, header)
                return watched
            if header is not None:
                raise JournalError(f"it holds the journal of another emitter, {header.emitter_id!r:.80}")
            if segment_numbers(folder) or not try_lock(owner):
                raise JournalError("it has no readable header")
            without_header(folder)
        finally:
            if folder.name not in self._watched:
                if owner >= 0:
                    os.close(owner)
                release(folder)
        return None

    def _bury(self, watched: _Watched) -> None:
        """Its lock is ours now: hand the journal to its link, when that has a place for it."""
        url, name = self._url(watched), watched.folder.name
        link = self._link(url)
        if watched.journal is None and len(link.dead) >= DEAD_WAITING_MAX:
            self._forget(name)  # gives the lock back; a later scan meets it again
            return
        rows = 0
        if isinstance(watched.journal, LiveJournal):
            rows = watched.journal.rows
            watched.journal.settle()
            watched.journal.close()
            link.drop(name)
        rest = os.pread(watched.owner, REST_BYTES, REST_AT)
        dead = DeadJournal(watched.folder, watched.header, rest, read_mark(watched.folder, url))
        watched.journal = Burial(watched.folder, dead, rows)
        link.dead.append(watched.journal)

    def _url(self, watched: _Watched) -> str:
        return self._to or str(parse_url(watched.header.url))

    def _link(self, url: str) -> Link:
        link = self._links.get(url)
        if link is None:
            link = Link(url, on_buried=self._end, on_trouble=self._set_aside, warn=self._warn)
            self._links[url] = link
            self._tasks.append(asyncio.get_running_loop().create_task(link.run()))
        return link

    def _end(self, burial: Burial) -> None:
        """A dead emitter's journal is delivered, with its end: its folder goes."""
        header, lost = burial.journal.header, burial.journal.lost
        remove_journal(burial.folder)
        self._forget(burial.folder.name)
        self._buried += 1
        outcome = Outcome(header.emitter_id, header.run_id, header.url, rows=burial.rows, lost=lost, state="sent")
        self._on_outcome(outcome)

    def _forget(self, name: str) -> None:
        watched = self._watched.pop(name)
        for link in self._links.values():
            link.drop(name)
        if isinstance(watched.journal, LiveJournal):
            watched.journal.settle()
            watched.journal.close()
        os.close(watched.owner)
        release(watched.folder)

    def _set_aside(self, folder: Path, error: Exception) -> None:
        """Leave a journal alone for a while."""
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        self._warn(f"Journal {folder} is left alone for now: {reason.rstrip('.')}.", folder.name)
        self._aside_until[folder.name] = time.monotonic() + ASIDE_SECONDS
        if folder.name in self._watched:
            self._forget(folder.name)

    def _warn(self, text: str, cause: str) -> None:
        """Say it, once a minute a cause."""
        self._notices.say(cause, text)


def _hold(journals: Path) -> int:
    """The open relay lock of a folder.

    Raises:
        JournalError: Another relay has it, or the folder can't be written.
    """
    try:
        lock = os.open(journals / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise JournalError(f"Folder {journals} can't be relayed: {error.strerror}.") from error
    if try_lock(lock):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return lock
    holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
    os.close(lock)
    raise JournalError(f"The journals in {journals} are relayed by {holder} already: one relay a folder is enough.")
