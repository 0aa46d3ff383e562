"""Keeps every live run's state true: after each batch, and as time passes over silent ones.

Committed states live here and in `store.run_states`; `due` hands out the ones that changed, to be written in the
batch's own transaction, and `commit` takes them over once they are.

Laws:

1. Every open run, one that may change by time alone, is here with all of its emitters.
2. Of the others the most recently touched are here too, until there are more than SETTLED_EMITTERS_MAX of their
   emitters (`forget`). One that is touched again is read back first: whether a run was forgotten is seen by nobody.
3. What is forgotten is in the store as it was here: signs of life that are not written yet are written before.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

import duckdb

from runwire_consumer.catalog import Catalog, Emitter
from runwire_consumer.change import Change
from runwire_consumer.runstate import SETTLED, RunState, evaluate
from runwire_consumer.wanted import want

LOOK_INTERVAL_MICROS = 1_000_000
SETTLED_EMITTERS_MAX = 10_000

_place_of = attrgetter(
    "status",
    "how",
    "role",
    "attempt",
    "restart_count",
    "started_at",
    "world_size",
    "next_in_seconds",
    "overdue_seconds",
)


class Watch:
    """States by run key; belongs to the thread that writes."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        catalog: Catalog,
        settled_emitters_max: int = SETTLED_EMITTERS_MAX,
    ) -> None:
        """Take up the runs of the store that had not ended; they are watched on."""
        self._cursor = cursor
        self._catalog = catalog
        self._settled_emitters_max = settled_emitters_max
        self._states: dict[int, RunState] = {}
        self._members: dict[int, set[str]] = {}  # of settled runs the least recently touched come first
        self._unjudged: set[int] = set()
        self._judging: set[int] = set()
        self._unwritten: set[str] = set()
        self._looked_at = 0
        want(cursor, sorted(SETTLED))
        rows = cursor.execute(
            "SELECT r.run_key, s.state FROM store.runs r LEFT JOIN store.run_states s USING (run_key) "
            "WHERE s.state IS NULL OR s.state NOT IN (FROM wanted)"
        ).fetchall()
        self._unjudged |= {key for key, state in rows if state is None}
        self._meet({key for key, _ in rows})
        self._forget_above = len(catalog.emitters) + settled_emitters_max

    def due(self, change: Change, now: int | None, reachable_since: int = 0) -> dict[int, RunState]:
        """States that differ from the committed ones; none while `now` is None, for silence can't be judged.

        Runs are looked at when the change says more of them than that they live on; every open run, which may have
        fallen silent, once a LOOK_INTERVAL_MICROS.
        """
        self._judging = set()
        if now is None:
            return {}
        self._write_signs(change)
        touched: dict[int, set[str]] = {}
        looked_at = self._unjudged.copy()
        for emitter in change.emitters.values():
            touched.setdefault(emitter.run_key, set()).add(emitter.emitter_id)
            if emitter.run_key not in looked_at and self._matters(emitter):
                looked_at.add(emitter.run_key)
        self._members.update({key: set() for key, _ in change.runs.values()})  # the store has none of theirs
        self._meet((touched.keys() | looked_at) - self._members.keys())
        if abs(now - self._looked_at) >= LOOK_INTERVAL_MICROS:
            self._looked_at = now
            looked_at |= {key for key in self._members if self._is_open(key)} | touched.keys()
        found = {}
        for key in looked_at:
            ids = self._members[key] | touched.get(key, set())
            emitters = [change.emitters.get(one) or self._catalog.emitters[one] for one in ids]
            state = evaluate([emitter.signs() for emitter in emitters], now, reachable_since)
            if state is not None and not self._same(key, state):
                found[key] = state
        self._judging = looked_at
        return found

    def commit(self, change: Change, states: dict[int, RunState]) -> None:
        """The change and its states are in the store."""
        self._states.update(states)
        self._unjudged -= self._judging
        for emitter in change.emitters.values():
            key = emitter.run_key
            members = self._members.get(key)
            if members is not None:  # else it was not judged, and is met when it is
                members.add(emitter.emitter_id)
                if not self._is_open(key):
                    self._members[key] = self._members.pop(key)
            if key not in self._judging and (members is None or not self._is_open(key)):
                self._unjudged.add(key)

    def forget(self) -> None:
        """Where too much is remembered that has settled, keep what was touched last; not between `due` and `commit`."""
        self._catalog.forget_names()
        emitters = self._catalog.emitters
        if len(emitters) <= self._forget_above:
            return
        kept: set[str] = set()
        room = self._settled_emitters_max // 2
        for key in reversed([*self._members]):
            ids = self._members[key]
            if not self._is_open(key) and key not in self._unjudged:
                room -= len(ids)
                if room < 0:
                    unwritten = {one for one in ids if emitters[one].unwritten}
                    if not unwritten:
                        del self._members[key]
                        self._states.pop(key, None)
                        continue
                    self._unwritten |= unwritten  # to go next time
            kept |= ids
        for one in emitters.keys() - kept:
            if not emitters[one].unwritten:
                self._catalog.forget(one)
        self._forget_above = len(emitters) + self._settled_emitters_max // 2

    def _write_signs(self, change: Change) -> None:
        """Let a transaction write what `forget` found unwritten."""
        if not change.positions:
            return
        for one in self._unwritten - change.emitters.keys():
            known = self._catalog.emitters.get(one)
            if known is not None and known.unwritten:
                known.written_at = 0  # what the store compares with: so they are news
                change.emitters[one] = known.copy()
        self._unwritten = set()

    def _matters(self, emitter: Emitter) -> bool:
        """Whether this could change the state of a run that lives."""
        known = self._catalog.emitters.get(emitter.emitter_id)
        return known is None or not self._is_open(emitter.run_key) or _place_of(emitter) != _place_of(known)

    def _meet(self, run_keys: Collection[int]) -> None:
        """Read back runs that are not here: their emitters and their states."""
        if not run_keys:
            return
        members = self._catalog.fetch_runs(self._cursor, run_keys)
        want(self._cursor, run_keys)
        rows = self._cursor.execute(
            "SELECT run_key, state, since, reason FROM store.run_states WHERE run_key IN (FROM wanted)"
        ).fetchall()
        # Both or neither: who is known by its members alone would pass for a run that has no state.
        self._members.update(members)
        self._states.update({key: RunState(state, since, reason) for key, state, since, reason in rows})

    def _is_open(self, run_key: int) -> bool:
        known = self._states.get(run_key)
        return known is not None and known.state not in SETTLED

    def _same(self, run_key: int, state: RunState) -> bool:
        known = self._states.get(run_key)
        return known is not None and (known.state, known.reason) == (state.state, state.reason)
