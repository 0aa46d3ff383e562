"""An emitter: one process start, with its own id, journal and sender; after a fork the child is another one."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runwire import _signals
from runwire._cap import JOURNAL_BYTES_MAX, segment_bytes_for
from runwire._clock import wall_time_us
from runwire._fsync import IntervalSync, SyncedJournal, open_journal
from runwire._recovery import recover
from runwire._segments import SegmentHeader
from runwire._sender import Sender, import_all
from runwire_schemas.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runwire._batch import Message
    from runwire_schemas.events import Lifecycle
    from runwire_schemas.topics import Destination

SYNC_SECONDS_MIN = 1.0  # what the last fsync gets when the delivery has taken all of the time
_log = logging.getLogger("runwire")


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
            describe: Runs once, in a thread of ours: what takes long to find out.
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
        self.sender: Sender | None = None
        self.header = SegmentHeader(
            identity.project, identity.run_id, self.id, self.attempt, identity.rank, str(destination), 0, 0
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
        self.journal.on_loss(self._lost_payload, _signals.renumbered)

    def start(self, *, deliver: bool) -> None:
        """Begin to describe, and to deliver where that is wanted."""
        if self._fsync == "interval" and isinstance(self.journal, SyncedJournal):
            self._syncer = IntervalSync(self.journal)
            self._syncer.start()
        if deliver:
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

    def heartbeat(self, next_in_seconds: float, next_seq: int, waiting_rows: int) -> Message:
        """The emitter lives (asked for by the sender)."""
        return _signals.heartbeat(self.header, wall_time_us(), next_in_seconds, next_seq, waiting_rows)

    def ended(self, next_seq: int, how: str) -> Message:
        """No row comes after `next_seq` (asked for by the sender)."""
        return _signals.ended(self.header, wall_time_us(), next_seq, how)

    def finish(self, timeout_seconds: float) -> bool:
        """Deliver and close; False when the journal keeps a rest for `runwire sync`. Later calls keep nothing."""
        ends_at = time.monotonic() + timeout_seconds
        self.journal.seal()
        delivered = self.sender is not None and self.sender.finish(timeout_seconds)
        if self._syncer is not None:
            self._syncer.finish(0.0 if delivered else max(SYNC_SECONDS_MIN, ends_at - time.monotonic()))
        self.journal.close(delete=delivered)
        return delivered

    async def _beside(self) -> None:
        """Next to the deliveries: send what dead emitters of this home left for the same destination."""
        is_durable = self._fsync != "none"
        for outcome in await recover(self._journals, only=str(self._destination), is_durable=is_durable):
            if outcome.state == "elsewhere":
                self._on_elsewhere(outcome.url)

    def describe(self) -> None:
        """Find out what takes long, and journal it; the sender's thread calls this first, else a thread of its own."""
        try:
            if self._describe is not None:
                self._describe(self)
        except Exception as problem:  # noqa: BLE001 - a description is not worth a run's events
            _log.warning("What this process runs on couldn't be found out: %r.", problem)
        finally:
            self._described.set()

    def _describe_alone(self) -> None:
        import_all("none")
        self.describe()

    def _lost_payload(self, seq: int, first_seq: int, count: int, reason: str) -> bytes:
        return _signals.rows_lost(self.header, wall_time_us(), seq, first_seq, count, reason)
