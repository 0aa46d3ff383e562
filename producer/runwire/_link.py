"""A link: everything that a relay delivers to one destination, by one connection, one window and one send at a time.

Journals take turns, a few messages each, those that waited longest first; of the dead, one at a time. One send at a
time, because a refusal hits all that was sent together, and only what was sent alone may be given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from runwire._delivery import Window
from runwire._errors import TransportError
from runwire._sender import HEARTBEAT_INTERVAL_SECONDS, RECONNECT_SECONDS_MAX, RECONNECT_SECONDS_MIN
from runwire._transport import make_transport
from runwire_schemas.topics import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runwire._batch import Message
    from runwire._delivery import Origin
    from runwire._following import LiveJournal
    from runwire._recovery import DeadJournal
    from runwire._transport import Transport

POLL_INTERVAL_SECONDS = 0.2
SETTLE_INTERVAL_SECONDS = 1.0
PASS_SECONDS = 1.0
TURN_MESSAGES = 4


class Burial:
    """What a dead emitter left, on its way: its rows, and when all of those are acknowledged, its end."""

    def __init__(self, folder: Path, journal: DeadJournal, rows_before: int) -> None:
        """Begin with the rows; `rows_before` were sent while the emitter lived."""
        self.folder = folder
        self.journal = journal
        self._rows_before = rows_before
        self._found = journal.found()
        self._is_closing = False
        self._is_exhausted = False

    @property
    def rows(self) -> int:
        """Rows and records sent, in life and after."""
        return self._rows_before + self.journal.rows

    def take(self, count: int) -> list[Message]:
        """The next messages."""
        taken = list(islice(self._found, count))
        self._is_exhausted = len(taken) < count
        return taken

    def go_on(self) -> bool:
        """All that was taken is acknowledged: go on to the end behind the last row; True when that is sent too."""
        if not self._is_exhausted:
            return False
        if not self._is_closing:
            # Not before: what is refused until then has to be declared lost in front of the end.
            self._is_closing, self._is_exhausted, self._found = True, False, self.journal.closing()
            return False
        return True


class Link:
    """The journals of one destination.

    Attributes:
        live: Those that are followed, by the name of their folder.
        dead: Those that are recovered, the first one now.
        rows: Rows and records acknowledged.
    """

    def __init__(
        self,
        url: str,
        *,
        on_buried: Callable[[Burial], None],
        on_trouble: Callable[[Path, Exception], None],
        warn: Callable[[str, str], None],
    ) -> None:
        """`run` does the work; the callbacks are called from there.

        Args:
            url: The destination.
            on_buried: A dead emitter's journal is delivered, with its end.
            on_trouble: The journal in this folder can't be read.
            warn: Gets a sentence and its cause, once a minute of which is enough.
        """
        self.live: dict[str, LiveJournal] = {}
        self.dead: deque[Burial] = deque()
        self.rows = self._rows_taken = 0
        self._url = url
        self._on_buried = on_buried
        self._on_trouble = on_trouble
        self._warn = warn
        self._window = Window(self._origin_of)
        self._taken: deque[Message] = deque()  # from a journal, and not in the window yet
        self._origins: dict[str, Origin] = {}
        self._heartbeat_at = self._settle_at = 0.0
        self._finishing = asyncio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Deliver until `finish` was called and what is there is delivered, or can't be now."""
        if warning := parse_url(self._url).plaintext_warning:
            self._warn(warning, f"plaintext {self._url}")
        pause_seconds = RECONNECT_SECONDS_MIN
        while not self._is_over:
            if not (self.live or self.dead):
                self._is_over = self._finishing.is_set()
                await is_set(self._finishing, POLL_INTERVAL_SECONDS)
                continue
            # Segments are deleted behind it, whatever their writers promise of power loss.
            transport = make_transport(parse_url(self._url), is_durable=True)
            try:
                await transport.open()
                while (self.live or self.dead) and not self._is_over:
                    is_last = self._finishing.is_set()
                    has_more = await self._pass(transport)
                    pause_seconds = RECONNECT_SECONDS_MIN
                    if not has_more:
                        self._is_over = is_last
                        await is_set(self._finishing, POLL_INTERVAL_SECONDS)
            except TransportError as error:
                if error.refused:  # halved or set aside by now: the rest goes at once
                    continue
                self._warn(f"{error} Rows wait in the journals.", self._url)
                self._is_over = self._finishing.is_set()
                await is_set(self._finishing, pause_seconds)
                pause_seconds = min(2 * pause_seconds, RECONNECT_SECONDS_MAX)
            except Exception as error:  # noqa: BLE001 - a relay serves many, and goes on
                self._warn(f"Relaying to {self._url} failed, the journals keep everything: {error!r}.", self._url)
                self._is_over = self._finishing.is_set()
                await is_set(self._finishing, RECONNECT_SECONDS_MAX)
            finally:
                self.settle()  # a journal at its cap must not lose, or write again, what arrived before the link broke
                await transport.close()

    def finish(self) -> None:
        """Deliver what is there now, then end."""
        self._finishing.set()

    def drop(self, name: str) -> None:
        """Know nothing more of the journal in the folder of this name."""
        self.live.pop(name, None)
        self.dead = deque(burial for burial in self.dead if burial.folder.name != name)

    def settle(self) -> None:
        """Tell the writers how far all is acknowledged."""
        for journal in self.live.values():
            journal.settle()

    async def _pass(self, transport: Transport) -> bool:
        """Deliver what is there, for about PASS_SECONDS; whether there is more."""
        until = time.monotonic() + PASS_SECONDS
        await self._window.send(transport, self._found(until))
        self._origins.clear()  # all that was taken is acknowledged
        self.rows, self._rows_taken = self.rows + self._rows_taken, 0
        now = time.monotonic()
        if now >= self._settle_at:
            self._settle_at = now + SETTLE_INTERVAL_SECONDS
            self.settle()
        if self.dead:
            burial = self.dead[0]
            if burial.go_on():
                self.dead.popleft()
                self._on_buried(burial)
        return now >= until or bool(self.dead)

    def _found(self, until: float) -> Iterator[Message]:
        """Signs of life where they are due, then a few messages of each in turn, until that time or to the end."""
        yield from self._handed_out()  # a failed send left them: nobody would read them again
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_INTERVAL_SECONDS
            for alive in list(self.live.values()):
                self._taken += self._guarded(alive, partial(alive.signs_of_life, HEARTBEAT_INTERVAL_SECONDS))
                yield from self._handed_out()
        turns: deque[LiveJournal | Burial] = deque([*islice(self.dead, 1), *self.live.values()])
        while turns and time.monotonic() < until:
            journal = turns.popleft()
            taken = self._guarded(journal, partial(journal.take, TURN_MESSAGES))
            self._taken += taken
            yield from self._handed_out()
            if len(taken) == TURN_MESSAGES:
                turns.append(journal)

    def _handed_out(self) -> Iterator[Message]:
        while self._taken:
            yield self._taken.popleft()

    def _guarded(self, journal: LiveJournal | Burial, take: Callable[[], list[Message]]) -> list[Message]:
        try:
            taken = take()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others go on
            self._on_trouble(journal.folder, error)
            return []
        if taken:
            origin: Origin = journal.journal if isinstance(journal, Burial) else journal
            self._origins[origin.header.emitter_id] = origin
            name = journal.folder.name
            if name in self.live:  # whoever was served last is the next pass's last
                self.live[name] = self.live.pop(name)
        self._rows_taken += sum(message.envelope.count for message in taken)
        return taken

    def _origin_of(self, message: Message) -> Origin:
        return self._origins[message.envelope.emitter_id]


async def is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, so long at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
