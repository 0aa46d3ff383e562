"""An emitter: one process start, with its own id, journal and sender; after a fork the child is another one.

Who delivers is written into its journal: its own thread, a relay (then it starts no thread at all), or nobody yet.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runwire import _signals
from runwire._arrivals import Arrivals
from runwire._cap import JOURNAL_BYTES_MAX, segment_bytes_for
from runwire._clock import wall_anchor_ns, wall_time_us
from runwire._device import Copies, Remote, copy_all
from runwire._fsync import IntervalSync, SyncedJournal, open_journal
from runwire._mark import read_mark
from runwire._notices import NOTICES
from runwire._recovery import recover
from runwire._segments import SegmentHeader
from runwire._sender import Sender, import_all
from runwire_schemas.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runwire._batch import Message
    from runwire._progress import Progress
    from runwire_schemas.events import Lifecycle
    from runwire_schemas.topics import Destination

SYNC_SECONDS_MIN = 1.0  # what the last fsync gets when the delivery has taken all of the time


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run and its place in the launch are known by.

    Attributes:
        attempt: The launcher's token of this attempt, or None: then each emitter is an attempt of its own.
    """

    project: str
    run_id: str
    attempt: str | None
    rank: int


class Emitter:
    """Journals rows and records; its sender, where there is one, delivers them."""

    def __init__(
        self,
        identity: Identity,
        journals: Path,
        destination: Destination,
        *,
        sender: str,
        describe: Callable[[Emitter], None] | None,
        on_elsewhere: Callable[[str], None],
        journal_bytes_max: int = JOURNAL_BYTES_MAX,
        fsync: str = "none",
    ) -> None:
        """Open the journal.

        Args:
            identity: Whom it speaks for.
            journals: Folder of all journals of the home.
            destination: Where the sender delivers to.
            sender: Who that is: thread, relay or none.
            describe: Runs once, in a thread of ours where there may be one: what takes long to find out.
            on_elsewhere: Gets the URL of a dead journal in this home that wants to go elsewhere.
            journal_bytes_max: Size that the journal keeps to.
            fsync: What survives power loss: see `_fsync.py`.

        Raises:
            JournalError: The journal can't be made.
        """
        self.id = secrets.token_hex(16)
        self.attempt = identity.attempt or self.id
        self._identity = identity
        self._destination = destination
        self._journals = journals
        self._describe = describe
        self._on_elsewhere = on_elsewhere
        self._described = threading.Event()
        self._relayed_seq = 0
        self.sender: Sender | None = None
        self.progress: Progress | None = None  # of the run, which sets it
        self.header = SegmentHeader(
            identity.project,
            identity.run_id,
            self.id,
            self.attempt,
            identity.rank,
            str(destination),
            number=0,
            first_seq=0,
            anchor_ns=wall_anchor_ns(),
            sender=sender,
        )
        self._fsync = fsync
        self._syncer: IntervalSync | None = None
        self.journal = open_journal(
            fsync,
            journals / self.id,
            self.header,
            segment_bytes=segment_bytes_for(journal_bytes_max),
            journal_bytes_max=journal_bytes_max,
        )
        self.arrivals = Arrivals(self.journal)
        self.journal.on_loss(self._lost_payload, _signals.renumbered)

    @property
    def is_relayed(self) -> bool:
        """Whether a relay delivers."""
        return self.header.sender == "relay"

    @property
    def acknowledged_seq(self) -> int:
        """Rows 0 .. this - 1 are durable in the log, as far as is known here."""
        return self.sender.acknowledged_seq if self.sender else self._relayed_seq

    def start(self) -> None:
        """Begin to describe, and to deliver where that is wanted."""
        if self._fsync == "interval" and isinstance(self.journal, SyncedJournal):
            self._syncer = IntervalSync(self.journal)
            self._syncer.start()
        if self.is_relayed:
            self.describe()  # no thread: git answers within seconds, or isn't waited for
        elif self.header.sender == "thread":
            is_durable = self._fsync != "none"
            self.sender = Sender(self.journal, self._destination, self, self._beside, is_durable=is_durable)
            self.sender.start()
        elif self._describe is None:
            self._described.set()
        else:
            threading.Thread(target=self._describe_alone, name="runwire-describe", daemon=True).start()

    def wait_until_described(self, timeout_seconds: float) -> None:
        """Before the end: a run too short for git to answer in has a commit too."""
        self._described.wait(timeout_seconds)

    def record(self, kind: Callable[..., Lifecycle], **fields: Any) -> None:
        """Journal one lifecycle record of class `kind`."""
        now = wall_time_us()
        identity = self._identity
        self.journal.append_event(lambda seq: encode(kind(identity.run_id, self.id, identity.rank, seq, now, **fields)))

    def overdue_seconds(self, now: float) -> float:
        """How long the loop is past its promise (asked for by the sender)."""
        return 0.0 if self.progress is None else self.progress.overdue_seconds(now)

    def heartbeat(self, next_in_seconds: float, next_seq: int, waiting_rows: int, overdue_seconds: float) -> Message:
        """The emitter lives (asked for by the sender)."""
        now = wall_time_us()
        return _signals.heartbeat(self.header, now, next_in_seconds, next_seq, waiting_rows, overdue_seconds)

    def ended(self, next_seq: int, how: str) -> Message:
        """No row comes after `next_seq` (asked for by the sender)."""
        return _signals.ended(self.header, wall_time_us(), next_seq, how)

    def finish(self, timeout_seconds: float) -> bool:
        """Deliver and close; False when the journal keeps a rest for `runwire sync`. Later calls keep nothing."""
        ends_at = time.monotonic() + timeout_seconds
        self.arrivals.finish(timeout_seconds / 2)
        self.journal.seal()
        delivered = self.sender is not None and self.sender.finish(max(0.0, ends_at - time.monotonic()))
        self._relayed_seq = read_mark(self.journal.folder).acknowledged_seq  # before the relay may remove it
        if self._syncer is not None:
            self._syncer.finish(0.0 if delivered else max(SYNC_SECONDS_MIN, ends_at - time.monotonic()))
        self.journal.close(delete=delivered)
        return delivered

    def arrive(self) -> None:
        """Take up values that have come from devices (the sender asks for it)."""
        self.arrivals.settle(may_wait=True)

    def append_row(self, keys: tuple[str, ...], step: int, time_ns: int, values: Sequence[float | Remote]) -> None:
        """`Journal.append_row` of a row of which some values may be on a device."""
        here = [value for value in values if not isinstance(value, Remote)]
        if len(here) < len(values):
            try:
                copies = copy_all(values)
            except Exception as problem:  # noqa: BLE001 - the device's framework's, of any kind
                self.arrivals.warn("They couldn't be copied", problem)
                keys = tuple(key for key, value in zip(keys, values, strict=True) if not isinstance(value, Remote))
            else:
                self._append_remote(keys, step, time_ns, values, copies)
                return
        if here:
            self.journal.append_row(keys, step, time_ns, here)

    def _append_remote(
        self, keys: tuple[str, ...], step: int, time_ns: int, values: Sequence[float | Remote], copies: Copies
    ) -> None:
        known = [None if isinstance(value, Remote) else value for value in values]
        self.arrivals.add(keys, step, time_ns, known, copies)

    def settle_alone(self) -> bool:
        """Where there is no sender, take up values that have come from devices; whether others are on their way."""
        if self.sender is not None or not len(self.arrivals):
            return False
        try:
            self.arrivals.settle(may_wait=False)
        except Exception as problem:  # noqa: BLE001 - the row that was logged is in the journal
            self.arrivals.warn("They couldn't be taken up", problem)
        return bool(len(self.arrivals))

    async def _beside(self) -> None:
        """Next to the deliveries: send what dead emitters of this home left for the same destination."""
        is_durable = self._fsync != "none"
        for outcome in await recover(self._journals, only=self._destination, is_durable=is_durable):
            if outcome.state == "elsewhere":
                self._on_elsewhere(outcome.url)

    def describe(self) -> None:
        """Find out what takes long, and journal it; the sender's thread calls this first, else a thread of its own."""
        try:
            if self._describe is not None:
                self._describe(self)
        except Exception as problem:  # noqa: BLE001 - a description is not worth a run's events
            NOTICES.say("description", f"What this process runs on couldn't be found out: {problem!r}.")
        finally:
            self._described.set()

    def _describe_alone(self) -> None:
        import_all("none")
        self.describe()

    def _lost_payload(self, seq: int, first_seq: int, count: int, reason: str) -> bytes:
        return _signals.rows_lost(self.header, wall_time_us(), seq, first_seq, count, reason)
