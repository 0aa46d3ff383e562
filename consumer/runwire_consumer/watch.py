"""Keeps every live run's state true: after each batch, and as time passes over silent ones.

Committed states live here and in `store.run_states`; `due` hands out the ones that changed, to be written in the
batch's own transaction, and `commit` takes them over once they are.
"""

from __future__ import annotations

from operator import attrgetter

import duckdb

from runwire_consumer.catalog import Catalog, Emitter
from runwire_consumer.change import Change
from runwire_consumer.runstate import RunState, evaluate

LOOK_INTERVAL_MICROS = 1_000_000

_place_of = attrgetter(
    "status", "how", "role", "attempt", "restart_count", "started_at", "next_in_seconds", "overdue_seconds"
)

SETTLED = frozenset({"finished", "failed", "crashed", "preempted", "lost"})


class Watch:
    """States by run key; belongs to the thread that writes."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, catalog: Catalog) -> None:
        """Take up the states of the store; runs that had not ended are watched on."""
        self._cursor = cursor
        self._catalog = catalog
        rows = cursor.execute("SELECT run_key, state, since, reason FROM store.run_states").fetchall()
        self._states = {key: RunState(state, since, reason) for key, state, since, reason in rows}
        self._members: dict[int, set[str]] = {}
        self._looked_at = 0
        self._meet({key for key in catalog.run_keys.values() if self._is_open(key)})

    def due(self, change: Change, now: int, reachable_since: int = 0) -> dict[int, RunState]:
        """States that differ from the committed ones.

        Runs are looked at when the change says more of them than that they live on; every open run, which may have
        fallen silent, once a LOOK_INTERVAL_MICROS.
        """
        touched: dict[int, set[str]] = {}
        looked_at = set()
        for emitter in change.emitters.values():
            touched.setdefault(emitter.run_key, set()).add(emitter.emitter_id)
            if emitter.run_key not in looked_at and self._matters(emitter):
                looked_at.add(emitter.run_key)
        self._meet(touched.keys() - self._members.keys())
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
        return found

    def _matters(self, emitter: Emitter) -> bool:
        """Whether this could change the state of a run that lives."""
        known = self._catalog.emitters.get(emitter.emitter_id)
        return known is None or not self._is_open(emitter.run_key) or _place_of(emitter) != _place_of(known)

    def commit(self, change: Change, states: dict[int, RunState]) -> None:
        """The change and its states are in the store."""
        # While nobody could be judged, `due` met nobody either.
        self._meet({emitter.run_key for emitter in change.emitters.values()} - self._members.keys())
        for emitter in change.emitters.values():
            self._members.setdefault(emitter.run_key, set()).add(emitter.emitter_id)
        self._states.update(states)

    def _meet(self, run_keys: set[int]) -> None:
        if run_keys:
            self._members.update(self._catalog.fetch_runs(self._cursor, run_keys))

    def _is_open(self, run_key: int) -> bool:
        known = self._states.get(run_key)
        return known is None or known.state not in SETTLED

    def _same(self, run_key: int, state: RunState) -> bool:
        known = self._states.get(run_key)
        return known is not None and (known.state, known.reason) == (state.state, state.reason)
