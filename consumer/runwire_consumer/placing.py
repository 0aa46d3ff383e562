"""Keeps what queries would have to work out again: places of emitters, hidden steps, which runs' summaries hold.

All of it follows from other tables; the transaction that changes those writes it too, run by run. Laws:

1. `store.senders` has one row for each emitter that is no mere editor, of each run that is not deleted: number of its
   attempt, standing and run's name as emitters, starts and edits of its run say.
2. `store.series.hidden_from` is the step from which on a later attempt supersedes the series: what that attempt
   declared, else where it logged the metric first. It can differ from NULL in runs with several attempts alone.
3. A run is in `store.unsettled` or has its row in `store.summaries`, never both. Whatever touches a run makes it
   unsettled; compaction settles it (settling.py).
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

import duckdb

from runwire_consumer.catalog import Catalog
from runwire_consumer.change import Change
from runwire_consumer.wanted import want

_place_of = attrgetter("run_key", "rank", "role", "attempt", "restart_count", "started_at", "resumed_from_step")

_DELETE_SENDERS = "DELETE FROM store.senders WHERE run_key IN (FROM wanted)"
_INSERT_SENDERS = """
INSERT INTO store.senders BY NAME
WITH members AS (
    SELECT e.*, r.run_id, r.project
    FROM store.emitters e JOIN store.live_runs r USING (run_key)
    WHERE e.run_key IN (FROM wanted)
),
grouped AS (
    SELECT
        run_key, attempt AS token, max(restart_count) AS restart_count, min(started_at) AS started_at,
        min(resumed_from_step) + 1 AS declared_start
    FROM members WHERE role = 'train'
    GROUP BY run_key, attempt
),
attempts AS (
    SELECT
        *,
        row_number() OVER story AS number,
        min(declared_start) OVER (story ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS declared_later
    FROM grouped
    WINDOW story AS (PARTITION BY run_key ORDER BY restart_count, started_at, token)
),
placed AS (
    SELECT
        e.emitter_key, e.emitter_id, e.run_id, e.run_key, e.project, e."rank", e.role, e.attempt AS token,
        a.number AS attempt, a.declared_start, a.declared_later,
        row_number() OVER (
            PARTITION BY e.run_key ORDER BY coalesce(a.number, 0), e.started_at, e.emitter_id
        ) AS standing,
        count(*) OVER (PARTITION BY e.run_key, e."rank") = 1 AS alone
    FROM members e
    LEFT JOIN attempts a ON a.run_key = e.run_key AND a.token = CASE WHEN e.role = 'train' THEN e.attempt END
    WHERE e.role <> 'edit'
),
told AS (
    SELECT t.run_key, arg_max(st.name, (coalesce(t.attempt, 0), -t."rank", t.standing, st.seq)) AS name
    FROM store.starts st JOIN placed t USING (emitter_key)
    GROUP BY t.run_key
),
edited AS (
    SELECT e.run_key, arg_max(d.name, (d.time, d.seq)) AS name
    FROM store.edits d JOIN members e USING (emitter_key)
    WHERE d.name IS NOT NULL
    GROUP BY e.run_key
)
SELECT placed.*, coalesce(edited.name, told.name, placed.run_id) AS run
FROM placed
LEFT JOIN told ON told.run_key = placed.run_key
LEFT JOIN edited ON edited.run_key = placed.run_key
"""
_RESTARTED = "SELECT DISTINCT run_key FROM store.senders WHERE attempt > 1"
_HIDE = """
WITH members AS (FROM store.senders WHERE run_key IN (FROM wanted)),
starts AS (
    SELECT
        t.run_key, s.metric_key, t.attempt, coalesce(min(t.declared_start), min(s.first_step)) AS start_step
    FROM store.series s JOIN members t USING (emitter_key)
    WHERE t.attempt IS NOT NULL
    GROUP BY t.run_key, s.metric_key, t.attempt
),
hiding AS (
    SELECT
        run_key, metric_key, attempt,
        min(start_step) OVER (
            PARTITION BY run_key, metric_key ORDER BY attempt ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ) AS start_later
    FROM starts
)
UPDATE store.series AS s SET hidden_from = f.hidden_from
FROM (
    SELECT o.emitter_key, o.metric_key, least(h.start_later, t.declared_later) AS hidden_from
    FROM store.series o
    JOIN members t USING (emitter_key)
    LEFT JOIN hiding h ON h.run_key = t.run_key AND h.metric_key = o.metric_key AND h.attempt = t.attempt
) AS f
WHERE f.emitter_key = s.emitter_key AND f.metric_key = s.metric_key AND s.hidden_from IS DISTINCT FROM f.hidden_from
"""
_FRESH_SERIES = """
SELECT 1 FROM incoming n LEFT JOIN store.series t ON t.emitter_key = n.emitter_key AND t.metric_key = n.metric_key
WHERE t.emitter_key IS NULL OR n.first_seq < t.first_seq LIMIT 1
"""
_DELETE_SUMMARIES = "DELETE FROM store.summaries WHERE run_key IN (FROM wanted)"
_UNSETTLE = """
INSERT INTO store.unsettled
SELECT value, false FROM wanted WHERE value NOT IN (SELECT run_key FROM store.unsettled)
"""


class Places:
    """Called inside of the writer's transaction; what is in memory changes by `commit`, after COMMIT."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Read which runs were restarted and which are unsettled."""
        self._restarted = {key for (key,) in cursor.execute(_RESTARTED).fetchall()}
        self._unsettled = {key for (key,) in cursor.execute("SELECT run_key FROM store.unsettled").fetchall()}
        self._moved: set[int] = set()
        self._restarted_now: set[int] = set()
        self._touched: set[int] = set()
        self._unsettled_now: set[int] = set()
        self._described: set[int] = set()
        self._begins_anew = False

    def look(self, cursor: duckdb.DuckDBPyConnection, change: Change) -> None:
        """Before the series of a batch, as `incoming`, are merged: note whether one begins, or begins earlier."""
        keys = {emitter.run_key for emitter in change.emitters.values()}
        self._begins_anew = not keys.isdisjoint(self._restarted) and bool(cursor.execute(_FRESH_SERIES).fetchall())

    def write(
        self, cursor: duckdb.DuckDBPyConnection, change: Change, catalog: Catalog, judged: Collection[int]
    ) -> None:
        """Behind everything else of a transaction; `judged` are runs whose state it writes."""
        runs = {emitter.emitter_key: emitter.run_key for emitter in change.emitters.values()}
        self._moved = {*change.deleted}
        for emitter in change.emitters.values():
            known = catalog.emitters.get(emitter.emitter_id)
            if known is None or _place_of(known) != _place_of(emitter):
                self._moved.add(emitter.run_key)
        for table in ("starts", "edits"):
            self._moved |= {runs[row["emitter_key"]] for row in change.tables.get(table, ())}
        self._restarted_now = set()
        if self._moved:
            want(cursor, self._moved)
            cursor.execute(_DELETE_SENDERS)
            cursor.execute(_INSERT_SENDERS)
            found = cursor.execute(_RESTARTED + " AND run_key IN (FROM wanted)").fetchall()
            self._restarted_now = {key for (key,) in found}
        # A run that was restarted may be one no more: an emitter takes its attempt back when RunStarted comes.
        hiding = self._restarted_now | (self._moved & self._restarted)
        if self._begins_anew:
            hiding |= self._restarted & {*runs.values()}
        if hiding:
            want(cursor, hiding)
            cursor.execute(_HIDE)
        self._touched = {*runs.values()} | {*judged} | {*change.deleted}
        self._unsettled_now = self._touched - self._unsettled
        if self._unsettled_now:
            want(cursor, self._unsettled_now)
            cursor.execute(_DELETE_SUMMARIES)
            cursor.execute(_UNSETTLE)

    def commit(self) -> None:
        """The transaction is in the store."""
        self._restarted = (self._restarted - self._moved) | self._restarted_now
        self._unsettled |= self._unsettled_now
        self._described -= self._touched
        self._begins_anew = False

    @property
    def unsettled(self) -> frozenset[int]:
        """Runs without a summary."""
        return frozenset(self._unsettled)

    def describing(self, run_keys: Collection[int]) -> None:
        """From now on it is noted which of these are touched."""
        self._described = {*run_keys}

    @property
    def untouched(self) -> frozenset[int]:
        """Those that were not."""
        return frozenset(self._described)

    def settled(self, run_keys: Collection[int]) -> None:
        """These have summaries now, in the store."""
        self._unsettled -= {*run_keys}
