"""The sender: the one thread of an emitter that touches the network; reads the journal, sends, trims.

A child that is forked while another thread imports inherits a module's lock that nobody will ever give back: its own
import of that module would hang. So what this thread needs is imported at once when it starts, under a lock that a
fork waits for (`_forks.py`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - by whoever imports it first; while Python ends that is an error
import contextlib
import errno
import importlib
import os
import socket
import threading
import time
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from runwire._batch import Message, messages
from runwire._cap import GONE
from runwire._delivery import Delivery
from runwire._errors import JournalError, TransportError
from runwire._forks import ForkLock
from runwire._notices import NOTICES, Notices
from runwire._segments import SegmentReader, segment_path
from runwire._transport import make_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from runwire._journal import Journal
    from runwire._journal_files import Published
    from runwire._segments import Rows, StoredEvent
    from runwire._transport import Transport
    from runwire_schemas.topics import Destination

BATCH_ROWS_MAX = 1_000
BATCH_BYTES_MAX = 512 * 2**10
FLUSH_INTERVAL_SECONDS = 0.1
HEARTBEAT_INTERVAL_SECONDS = 5.0
RECONNECT_SECONDS_MIN = 0.2
RECONNECT_SECONDS_MAX = 5.0
STARTS_MAX = 3
FORK_WAIT_SECONDS = 10.0  # a fork inside of an import that the sender waits for must not wait forever
# A loop needs descriptors and memory of its own; when a process has none left, that passes.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
BESIDE_SECONDS = 2.0  # how long the end of a run waits for the recovery of others

# What would be imported on the way, by the libraries too.
_MODULES = (
    *("encodings.idna", "ssl", "subprocess", "importlib.metadata", "platform", "glob", "multiprocessing.process"),
    *("numpy", "runwire_schemas.columns", "runwire_schemas.codec"),
    *("runwire._context.git", "runwire._context.host", "runwire._context.packages", "runwire._context.redaction"),
)
_TRANSPORTS = {
    "kafka": (
        "lz4.frame",
        "aiokafka.codec",
        "aiokafka.record.default_records",
        "runwire._kafka",
    ),
    "dir": ("runwire._directory",),
    "mqtt": ("aiomqtt", "runwire._mqtt"),
    "memory": ("runwire._memory",),
}


_importing = ForkLock(FORK_WAIT_SECONDS)


def import_all(kind: str) -> None:
    """Import what a thread of ours needs for a destination of this kind; a fork waits until that is done."""
    with _importing:
        for name in (*_MODULES, *_TRANSPORTS.get(kind, ())):
            # What is missing is said by whoever needs it.
            with contextlib.suppress(Exception):
                importlib.import_module(name)


class Speaker(Protocol):
    """The emitter, as its sender needs it: makes the messages that lie outside the sequence."""

    def describe(self) -> None:
        """Journal what takes long to find out; called once, first."""

    def overdue_seconds(self, now: float) -> float:
        """How long the loop is past its promise, by `time.monotonic`."""

    def heartbeat(self, next_in_seconds: float, next_seq: int, waiting_rows: int, overdue_seconds: float) -> Message:
        """The emitter lives."""

    def ended(self, next_seq: int, how: str) -> Message:
        """No row comes after `next_seq`."""

    def arrive(self) -> None:
        """Take up values that have come from devices; called often."""


class Sender(threading.Thread):
    """Delivers one journal until it is told to finish, and all is acknowledged."""

    def __init__(
        self,
        journal: Journal,
        destination: Destination,
        speaker: Speaker,
        beside: Callable[[], Coroutine[None, None, None]] | None = None,
        *,
        notices: Notices = NOTICES,
        is_durable: bool = False,
    ) -> None:
        """A thread that isn't started yet.

        Args:
            journal: What it sends.
            destination: Where to.
            speaker: Makes the messages that lie outside the sequence.
            beside: Runs next to the deliveries, once: recovery of dead emitters' journals.
            notices: Says what lasts.
            is_durable: What it trims from the journal must survive power loss elsewhere: see `make_transport`.
        """
        super().__init__(name="runwire-sender", daemon=True)
        self._journal = journal
        self._destination = destination
        self._speaker = speaker
        self._delivery = self._new_delivery(0)
        self._beside = beside
        self._is_durable = is_durable
        self._found: Iterator[Message] = iter(())
        self._readers: list[SegmentReader] = []
        self._at_number = -1
        self._rest: list[StoredEvent] = []
        self._finishing = threading.Event()
        self._abandoned = False
        self._wake: Callable[[], None] = lambda: None
        self._notices = notices
        self.delivered = False
        self.cpu_seconds = 0.0
        self.last_error: str | None = None

    @property
    def acknowledged_seq(self) -> int:
        """Rows 0 .. this - 1 are durable in the log."""
        return self._delivery.acknowledged_seq

    def finish(self, timeout_seconds: float) -> bool:
        """Deliver what is there, then end; False when that took too long and the rest waits in the journal."""
        self._finishing.set()
        self._wake()
        self.join(timeout_seconds)
        self._abandoned = True
        self._wake()
        return self.delivered

    def run(self) -> None:
        """The thread's whole life."""
        for first in (partial(import_all, self._destination.kind), self._speaker.describe):
            try:
                first()
            except Exception as error:  # noqa: BLE001 - nothing of ours may reach the training process
                self._notices.say("description", f"Git, host and packages stay unknown: {error!r}.")
        if self._destination.plaintext_warning:
            self._notices.say("plaintext", self._destination.plaintext_warning)
        starts = 0
        while starts < STARTS_MAX:
            try:
                _check_descriptors()
                with asyncio.Runner() as runner:
                    runner.run(self._main())
                break
            except Exception as error:  # noqa: BLE001 - as above
                if self._abandoned:
                    break
                self.last_error = repr(error)
                self._notices.say("sender", f"Sending failed, the journal keeps everything: {error!r}.")
                self._rewind()
                if isinstance(error, OSError) and error.errno in _PASSING:
                    time.sleep(RECONNECT_SECONDS_MIN)
                else:
                    starts += 1
        self._close_readers()

    async def _main(self) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(changed.set)

        self._wake = wake
        loop.getaddrinfo = _getaddrinfo  # type: ignore[method-assign]
        arriving = asyncio.ensure_future(self._arrive())
        beside = asyncio.ensure_future(self._beside()) if self._beside else None
        self._beside = None
        pause_seconds = RECONNECT_SECONDS_MIN
        while not (self.delivered or self._abandoned):
            transport = make_transport(self._destination, is_durable=self._is_durable)
            before_seq = self.acknowledged_seq
            try:
                await transport.open()
                await self._deliver(transport, changed)
            except TransportError as error:
                self.last_error = str(error)
                cause = "refused" if error.refused else "destination"
                self._notices.say(cause, f"{error} Training goes on; events wait in {self._journal.folder}.")
                if self.acknowledged_seq > before_seq:
                    pause_seconds = RECONNECT_SECONDS_MIN
                if not error.refused:  # what was refused is halved or set aside by now: the rest goes at once
                    self._journal.prepare()
                    await _wait(changed, pause_seconds)
                    pause_seconds = min(2 * pause_seconds, RECONNECT_SECONDS_MAX)
            finally:
                await transport.close()
        arriving.cancel()
        await asyncio.gather(arriving, return_exceptions=True)
        if beside is not None:
            # A run shorter than a recovery would leave the dead where they are, every time.
            await asyncio.wait({beside}, timeout=0 if self._abandoned else BESIDE_SECONDS)
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)

    async def _arrive(self) -> None:
        """Also while the log is away: a value that has come from a device survives the process only then."""
        while True:
            self._speaker.arrive()
            await asyncio.sleep(FLUSH_INTERVAL_SECONDS)

    async def _deliver(self, transport: Transport, changed: asyncio.Event) -> None:
        """Read, send, trim, until the emitter has ended and everything is acknowledged."""
        heartbeat_at = 0.0
        was_overdue = False
        read_until: Published | None = None
        while not self._abandoned:
            finishing = self._finishing.is_set()
            now = time.monotonic()
            overdue_seconds = self._speaker.overdue_seconds(now)
            if now >= heartbeat_at or (overdue_seconds > 0) != was_overdue:  # a change is told at once
                heartbeat_at = now + HEARTBEAT_INTERVAL_SECONDS
                was_overdue = overdue_seconds > 0
                await _tell(transport, self._heartbeat(overdue_seconds))
            # 1. what an earlier transport left over, 2. what was published since.
            await self._delivery.send(transport, self._found)
            # Finishing was seen, and so the journal sealed, before it is read: nothing can be missed.
            if finishing:
                self._rest += self._journal.take_rest()
            published = self._journal.published
            if finishing or published != read_until:  # a quiet run costs next to nothing
                read = chain(self._read(published.number, published.offset), self._rest)
                self._found = messages(read, self._journal.header, BATCH_ROWS_MAX, BATCH_BYTES_MAX)
                await self._delivery.send(transport, self._found)
                self._make_room()
                read_until = published
            self.cpu_seconds = time.thread_time()
            if not finishing:
                await _wait(changed, FLUSH_INTERVAL_SECONDS)
            elif not self._journal.has_rest:
                await _tell(transport, self._speaker.ended(published.next_seq, "finished"))
                self.delivered = True
                return

    def _heartbeat(self, overdue_seconds: float) -> Message:
        next_seq = self._journal.next_seq
        waiting_rows = next_seq - self.acknowledged_seq
        return self._speaker.heartbeat(HEARTBEAT_INTERVAL_SECONDS, next_seq, waiting_rows, overdue_seconds)

    def _read(self, number: int, offset: int) -> Iterator[Rows | StoredEvent]:
        """What was published up to byte `offset` of segment `number` and not read yet."""
        while True:
            if self._readers and self._readers[-1].header.number == self._at_number:
                end = offset if self._at_number == number else self._journal.end_of(self._at_number)
                if self._at_number in self._journal.replaced:
                    self._journal.replaced.discard(self._at_number)
                    self._readers[-1].reopen()
                if end is not None:
                    yield from self._readers[-1].read(end, BATCH_ROWS_MAX)
            following = self._journal.following(self._at_number)
            if following is None or following > number:
                return
            try:
                self._readers.append(SegmentReader(segment_path(self._journal.folder, following)))
            except (OSError, JournalError) as error:
                if self._journal.end_of(following) is None:
                    return  # its end isn't known yet, and so not what is lost with it
                reason = getattr(error, "strerror", "it is damaged")  # no path: the log is read elsewhere
                if isinstance(error, OSError) and error.errno not in GONE:
                    # Too many open files, permissions: what is on the disk is read when that has passed.
                    self._rewind()
                    raise TransportError(f"The journal can't be read: {reason}.") from error
                self._journal.give_up(following, f"the journal couldn't be read: {reason}")
            self._at_number = following

    def _trim(self) -> None:
        """Delete the segments whose rows are all acknowledged."""
        while len(self._readers) > 1 and self._readers[1].header.first_seq <= self.acknowledged_seq:
            self._readers.pop(0).close()
        if self._readers and not self._abandoned:
            self._journal.trim(self._readers[0].header.number, self.acknowledged_seq)

    def _rewind(self) -> None:
        """Read again from the oldest segment on: nobody knows what was lost on the way; the ledger drops the rest."""
        self._close_readers()
        self._at_number = -1
        self._found = iter(())
        self._delivery = self._new_delivery(self.acknowledged_seq)

    def _new_delivery(self, acknowledged_seq: int) -> Delivery:
        journal = self._journal
        return Delivery(
            journal.header,
            journal.declare_loss,
            acknowledged_seq,
            moved=journal.moved,
            on_acknowledged=self._make_room,
        )

    def _make_room(self) -> None:
        """After each window, for what waits may take minutes: the journal shrinks, and has its next file ready."""
        self._trim()
        self._journal.prepare()

    def _close_readers(self) -> None:
        while self._readers:
            self._readers.pop().close()


async def _tell(transport: Transport, message: Message) -> None:
    """Send what lies outside the sequence: refused, it can't be halved, so that is an error like any other."""
    try:
        await transport.send([message])
    except TransportError as error:
        raise TransportError(str(error)) from error


async def _getaddrinfo(
    host: Any,
    port: Any,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002 - asyncio's names
    proto: int = 0,
    flags: int = 0,
) -> Any:
    """In this thread: asyncio's own way takes a thread pool, and none may work while Python ends."""
    return socket.getaddrinfo(host, port, family, type, proto, flags)


def _check_descriptors() -> None:
    """A loop that is only half made for want of descriptors says so on standard error: ask before.

    Raises:
        OSError: This process has none left.
    """
    fds = [*os.pipe()]
    try:
        fds += os.pipe()
    finally:
        for fd in fds:
            os.close(fd)


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
    changed.clear()
