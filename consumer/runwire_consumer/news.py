"""What people are told without asking: runs that broke, losses that aren't numbers, alerts, dead letters.

News is what the store says of the last day; each has a key, by which it is told once. Everything is read from small
tables by columns of their own, never from points. Names, titles and errors are anybody's text: cut, on one line, and
without what Slack takes for markup (`<!channel>` would call everybody).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import duckdb

NEWS_SECONDS = 86_400.0
SAME_ALERT_SECONDS = 3_600.0
TEXT_CHARACTERS_MAX = 300
READ_MAX = 1_000

_STATES_SQL = """
SELECT r.run_id, r.project, s.state, s.reason, s.since
FROM store.run_states s JOIN store.live_runs r USING (run_key)
WHERE s.state IN ('failed', 'crashed', 'lost', 'stuck') AND s.since >= $begin ORDER BY s.since DESC LIMIT $limit
"""

_ALERTS_SQL = """
SELECT r.run_id, r.project, l.body, l.time
FROM store.lifecycle l JOIN store.emitters e USING (emitter_key) JOIN store.live_runs r USING (run_key)
WHERE l.type = 'AlertRaised' AND l.time >= $begin ORDER BY l.time DESC LIMIT $limit
"""

_NONFINITE_SQL = """
SELECT r.run_id, r.project, m.name, max(s.last_time)
FROM store.series s JOIN store.metrics m USING (metric_key) JOIN store.emitters e USING (emitter_key)
JOIN store.live_runs r USING (run_key)
WHERE s.nonfinite > 0 AND s.last_time >= $begin AND contains(lower(m.name), 'loss')
GROUP BY ALL ORDER BY 4 DESC LIMIT $limit
"""

_LETTERS_SQL = """
SELECT letter_id, source, reason, appended_at FROM store.dead_letters
WHERE status = 'dead' AND appended_at >= $begin ORDER BY appended_at DESC LIMIT $limit
"""

_NAMES_SQL = "SELECT run_id, name FROM store.descriptions WHERE run_id IN (SELECT unnest($ids::VARCHAR[]))"


@dataclass(frozen=True, slots=True)
class News:
    """One thing to tell.

    Attributes:
        key: It is told once.
        time: When it happened, microseconds since the epoch, by whoever says it.
        text: One line.
        run_id: Of a run, whose name stands in front; None where it is about none.
        project: Of that run.
    """

    key: str
    time: int
    text: str
    run_id: str | None = None
    project: str = ""


def read_news(cursors: Callable[[], duckdb.DuckDBPyConnection], now: int) -> list[News]:
    """What happened within the last NEWS_SECONDS, oldest first.

    Args:
        cursors: Makes a connection of its own.
        now: Microseconds since the epoch.
    """
    asked = {"begin": now - int(NEWS_SECONDS * 1e6), "limit": READ_MAX}
    found: list[News] = []
    with closing(cursors()) as cursor:
        for sql, tell in ((_STATES_SQL, _states), (_ALERTS_SQL, _alerts), (_NONFINITE_SQL, _nonfinite)):
            found += tell(cursor.execute(sql, asked).fetchall())
        found += _letters(cursor.execute(_LETTERS_SQL, asked).fetchall())
    return sorted(found, key=lambda one: one.time)


def named(cursors: Callable[[], duckdb.DuckDBPyConnection], news: Sequence[News]) -> list[str]:
    """A line for each, with the names of runs."""
    ids = sorted({one.run_id for one in news if one.run_id is not None})
    names: dict[str, str] = {}
    if ids:
        with closing(cursors()) as cursor:
            names = dict(cursor.execute(_NAMES_SQL, {"ids": ids}).fetchall())
    return [
        one.text
        if one.run_id is None
        else f"{harmless(names.get(one.run_id, one.run_id))} ({harmless(one.project)}, {one.run_id}) {one.text}"
        for one in news
    ]


def harmless(text: object) -> str:
    """Anybody's text as a part of one line that calls nobody."""
    line = " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())
    if len(line) > TEXT_CHARACTERS_MAX:
        line = line[: TEXT_CHARACTERS_MAX - 1] + "…"
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _states(rows: Sequence[tuple[Any, ...]]) -> Iterator[News]:
    words = {"failed": "failed", "crashed": "crashed", "lost": "is lost", "stuck": "is stuck"}
    for run_id, project, state, reason, since in rows:
        key = f"state:{run_id}:{state}:{since}"
        yield News(key, since, f"{words[state]}: {harmless(reason)}", run_id, project)


def _alerts(rows: Sequence[tuple[Any, ...]]) -> Iterator[News]:
    """The same title of a run, by whichever rank, is told once an hour."""
    for run_id, project, body, at in reversed(rows):
        told = json.loads(body)
        title, text = told.get("title"), told.get("text")
        hour = at // int(SAME_ALERT_SECONDS * 1e6)
        line = f"alert, {harmless(told.get('level'))}: {harmless(title)}" + (f": {harmless(text)}" if text else "")
        yield News(f"alert:{run_id}:{hour}:{title}", at, line, run_id, project)


def _nonfinite(rows: Sequence[tuple[Any, ...]]) -> Iterator[News]:
    for run_id, project, metric, at in rows:
        text = f"diverges: {harmless(metric)} is NaN or infinite"
        yield News(f"nonfinite:{run_id}:{metric}", at, text, run_id, project)


def _letters(rows: Sequence[tuple[Any, ...]]) -> Iterator[News]:
    for letter_id, source, reason, at in rows:
        yield News(
            f"letter:{letter_id}", at, f"A message of {harmless(source)} could not be stored: {harmless(reason)}"
        )
