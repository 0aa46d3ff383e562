"""Rows whose values are still on their way from a device: numbered when they are logged, filled when those arrive.

1. A row takes its place in the journal when it is logged, so that order and sequence numbers are those of the calls.
   Behind the first place that isn't filled nothing is sent.
2. Rows are filled in the order of their calls, by the sender's thread, or by the next such call where there is none.
3. A value that can't be read any more is left out, and said: the rest of its row becomes a row of its own, the place
   is declared lost. So are the places that are still open at the end, and those of a process that was killed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runwire._notices import NOTICES

if TYPE_CHECKING:
    from runwire._device import Copies, Copy
    from runwire._journal_files import Reservation
    from runwire._reservations import ReservingJournal

WAITING_ROWS_MAX = 10_000
_POLL_SECONDS = 0.001
_TOO_MANY = f"{WAITING_ROWS_MAX:,} rows waited for the device already"
_NEVER_CAME = "its values didn't come from the device"


@dataclass(slots=True)
class _Row:
    keys: tuple[str, ...]
    step: int
    time: int
    values: list[float | None]
    copies: Copies
    place: Reservation | None  # None: there was no room; it is appended when it is whole


class Arrivals:
    """The rows of one emitter that wait for values; any thread may call, signal handlers too."""

    def __init__(self, journal: ReservingJournal) -> None:
        self._journal = journal
        self._rows: deque[_Row] = deque()
        self._turn = threading.Lock()

    def __len__(self) -> int:
        """Rows that wait."""
        return len(self._rows)

    def add(self, keys: tuple[str, ...], step: int, time: int, values: list[float | None], copies: Copies) -> None:
        """Keep a row whose values are None where a copy brings them.

        Args:
            keys: K names.
            step: Any int64.
            time: As `Journal.append_row` takes it.
            values: K values or None.
            copies: What brings the others.
        """
        place = self._journal.reserve_row(keys, step, time)
        if len(self._rows) < WAITING_ROWS_MAX:
            self._rows.append(_Row(keys, step, time, values, copies, place))
        elif place is not None:
            self._journal.abandon_row(place, _TOO_MANY)

    def settle(self, *, may_wait: bool) -> None:
        """Fill the rows whose values are there, in order; `may_wait` also reads those of which nobody can tell."""
        if not self._rows or not self._turn.acquire(blocking=False):
            return
        try:
            while self._rows and all(self._is_there(copy, may_wait=may_wait) for copy, _ in self._rows[0].copies):
                self._fill(self._rows.popleft())
        finally:
            self._turn.release()

    def finish(self, timeout_seconds: float) -> None:
        """Wait for what is on its way, at most so long; the rest is declared lost."""
        ends_at = time.monotonic() + timeout_seconds
        while self._rows and time.monotonic() < ends_at:
            self.settle(may_wait=True)
            if self._rows:
                time.sleep(_POLL_SECONDS)
        while self._rows:
            row = self._rows.popleft()
            if row.place is not None:
                self._journal.abandon_row(row.place, _NEVER_CAME)

    def warn(self, what: str, problem: Exception) -> None:
        """Say that values are missing."""
        NOTICES.say("device", f"Values on a device are left out. {what}: {problem!r}.")

    @staticmethod
    def _is_there(copy: Copy, *, may_wait: bool) -> bool:
        try:
            has_arrived = copy.has_arrived()
        except Exception:  # noqa: BLE001 - the framework's, of any kind: reading says it again
            return True
        return may_wait if has_arrived is None else has_arrived

    def _fill(self, row: _Row) -> None:
        for copy, places in row.copies:
            try:
                for at, value in zip(places, copy.read(), strict=True):
                    row.values[at] = value
            except Exception as problem:  # noqa: BLE001 - the framework's, of any kind
                self.warn(f"{row.keys[places[0]]} couldn't be read", problem)
        values = [value for value in row.values if value is not None]
        if row.place is not None and len(values) == len(row.keys):
            self._journal.fill_row(row.place, values)
            return
        if row.place is not None:
            self._journal.abandon_row(row.place, _NEVER_CAME)
        if values:
            keys = tuple(key for key, value in zip(row.keys, row.values, strict=True) if value is not None)
            self._journal.append_row(keys, row.step, row.time, values)
