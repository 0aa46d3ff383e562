"""Reduction: which settled runs give up their full resolution, by the rule of their project, and the record of it.

A rule keeps full resolution for so many days after a run was last heard of; then its points go and its rollups stay, so
that curves still answer, in buckets. There is no rule unless somebody sets one. Laws:

1. Nothing of a run that may still change: it has ended, nothing of it is missing, no rank was never heard of, no dead
   letter stands for rows of it. A lost run's receipt is open: it is never touched.
2. Ledger, parameters, events, first and last values stay as they are: the receipt says stored as before.
3. What was reduced stands in `removals`. A run that goes on afterwards is reduced again in its time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from runwire_consumer.database import translated
from runwire_consumer.errors import SettingsError
from runwire_consumer.store import Store

EVERY_OTHER = "*"
DAYS_MAX = 36_500
DAY_MICROS = 86_400_000_000

_RULE = re.compile(r"\s*(.+?)=\s*(\d{1,6})\s*d\s*(?:,|$)", re.DOTALL)

_MISPRINT = re.compile(r"=\s*\d+\s*d\b")  # another rule inside of a project's name

_DUE = """
WITH ended AS (
    SELECT r.run_key, r.project, max(e.seen_at) AS heard_at
    FROM store.live_runs r
    JOIN store.run_states s USING (run_key)
    JOIN store.emitters e USING (run_key)
    WHERE ($only::INTEGER IS NULL OR r.run_key = $only) AND e.role <> 'edit'
        AND s.state IN ('finished', 'failed', 'crashed', 'preempted')
    GROUP BY r.run_key, r.project
    HAVING bool_and(e.next_seq IS NOT NULL)
),
old AS (
    SELECT e.run_key, coalesce(u.days, $others) AS days, e.heard_at
    FROM ended e LEFT JOIN rules u USING (project)
    LEFT JOIN (SELECT run_key, max(time) AS time FROM store.removals GROUP BY run_key) m USING (run_key)
    WHERE e.heard_at < $now - coalesce(u.days, $others)::BIGINT * $day AND e.heard_at > coalesce(m.time, -1)
),
accounted AS (
    SELECT
        e.run_key, e.emitter_key, greatest(e.next_seq, coalesce(max(l.end_seq), 0)) AS "end",
        coalesce(sum(l.end_seq - l.first_seq), 0) AS named, count(*) FILTER (l.disposition = 'dead') AS dead
    FROM store.emitters e JOIN old USING (run_key) LEFT JOIN store.ledger l USING (emitter_key)
    WHERE e.role <> 'edit'
    GROUP BY e.run_key, e.emitter_key, e.next_seq
),
whole AS (
    SELECT run_key FROM accounted GROUP BY run_key HAVING bool_and(named >= "end" AND dead = 0)
),
ranks AS (
    SELECT a.run_key, arg_max(a.world_size, a.number) AS world_size, arg_max(a.token, a.number) AS token
    FROM store.numbered_attempts a JOIN whole USING (run_key) GROUP BY a.run_key
),
heard AS (
    SELECT k.run_key FROM ranks k JOIN store.emitters e ON e.run_key = k.run_key AND e.attempt = k.token
    WHERE e.role = 'train'
    GROUP BY k.run_key, k.world_size
    HAVING count(DISTINCT e."rank") FILTER (e."rank" BETWEEN 0 AND k.world_size - 1) >= k.world_size
)
SELECT o.run_key, o.days FROM old o JOIN heard USING (run_key) ORDER BY o.heard_at, o.run_key
"""


_DONE = """
INSERT INTO store.removals BY NAME SELECT
    $run_key AS run_key, 'reduced' AS kind, $now AS time, coalesce(sum(dropped), 0)::BIGINT AS points, $reason AS reason
FROM store.series JOIN store.emitters USING (emitter_key) WHERE run_key = $run_key
"""


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days the runs of a project keep their full resolution.

    Attributes:
        days: By project.
        others: Of every other project; None keeps it for ever.
    """

    days: Mapping[str, int] = field(default_factory=dict)
    others: int | None = None

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self.days) or self.others is not None

    @classmethod
    def of(cls, texts: Iterable[str]) -> Retention:
        """From texts such as `digits=30d` or `digits=30d,*=90d`; `*` is every other project.

        Of two rules for a project the later one counts. A project's name may have commas of its own.

        Raises:
            SettingsError: Something in a text is no rule.
        """
        days: dict[str, int] = {}
        for text in texts:
            rules = _RULE.findall(text)
            wrong = _RULE.sub("", text) or any(
                _MISPRINT.search(project) or not 1 <= int(count) <= DAYS_MAX for project, count in rules
            )
            if wrong:
                raise SettingsError(
                    f"{text[:80]!r} is no rule of retention: write PROJECT=30d, or *=30d for every other project, with "
                    f"commas between several; 1 to {DAYS_MAX:,} days."
                )
            days.update({project: int(count) for project, count in rules})
        others = days.pop(EVERY_OTHER, None)
        return cls(days, others)


@dataclass(frozen=True, slots=True)
class Due:
    """A run whose full resolution is to go; `days` is its rule."""

    run_key: int
    days: int


def due(store: Store, retention: Retention, now: int, only: int | None = None) -> list[Due]:
    """Runs whose time has come, longest silent first, or `only` one of them by its key; `now` in microseconds."""
    rules = pa.table(
        {
            "project": pa.array(list(retention.days), pa.string()),
            "days": pa.array(list(retention.days.values()), pa.int64()),
        }
    )
    with translated(), contextlib.closing(store.cursor()) as cursor:
        cursor.register("rules", rules)
        given = {"others": retention.others, "now": now, "day": DAY_MICROS, "only": only}
        return [Due(*row) for row in cursor.execute(_DUE, given).fetchall()]


def is_done(store: Store, run_key: int) -> bool:
    """Whether a run of which nothing more goes was reduced; else it is not settled yet."""
    with translated(), contextlib.closing(store.cursor()) as cursor:
        found = cursor.execute("SELECT full_resolution FROM store.summaries WHERE run_key = ?", [run_key]).fetchall()
    return found == [(False,)]


def record(store: Store, one: Due, now: int) -> None:
    """One transaction: it is done."""
    given = {"run_key": one.run_key, "now": now, "reason": f"full resolution is kept for {one.days} days"}
    with translated(), contextlib.closing(store.cursor()) as cursor:
        cursor.execute(_DONE, given)
