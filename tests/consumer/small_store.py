"""A store in memory with three runs, filled table by table, for tests of what reads it."""

from __future__ import annotations

import duckdb

from runwire_consumer import placing
from runwire_consumer.database import MEMORY, Database
from runwire_consumer.wanted import want

DIGITS = "aaaaaaaaaaaaaaaa"
OTHER = "bbbbbbbbbbbbbbbb"
OLD = "cccccccccccccccc"
NOW_US = 4_000_000_000_000_000  # 2096: who asks by the real clock must not find it long ago
SECOND_US = 1_000_000

_EMITTER = (
    "INSERT INTO store.emitters (emitter_key, emitter_id, run_key, rank, attempt, restart_count, role, started_at, "
    "world_size, next_seq, how, status, seen_at, next_in_seconds, assigned_seq, journal_rows, row_time) "
    "VALUES (?, ?, ?, ?, ?, ?, 'train', ?, ?, ?, ?, ?, ?, 2.0, 0, 0, ?)"
)
_START = (
    "INSERT INTO store.starts VALUES (?, 0, ?, 'sweep', 'ada', ['base'], NULL, NULL, 'torchrun', NULL, 0, 1, 'node', "
    "'Linux', '3.11', 2, 1, [], 'c0ffee', 'main', NULL, false, ['train.py'], map {}, '0')"
)


def small_store() -> Database:
    """Open it.

    DIGITS: rank 0 and 1 of two; the second attempt of rank 0 still lives, rank 1 ended with 2 rows missing.
    OTHER: same name, one rank, ended complete. OLD: failed a day ago, one row dead.
    """
    database = Database.open(MEMORY)
    cursor = database.cursor()
    for run_key, run_id, project, state, since in (
        (1, DIGITS, "digits", "running", NOW_US - 60 * SECOND_US),
        (2, OTHER, "digits", "finished", NOW_US - 30 * SECOND_US),
        (3, OLD, "old", "failed", NOW_US - 86_400 * SECOND_US),
    ):
        cursor.execute("INSERT INTO store.runs VALUES (?, ?, ?, NULL)", [run_key, run_id, project])
        cursor.execute("INSERT INTO store.run_states VALUES (?, ?, ?, 'because')", [run_key, state, since])
    for emitter, run, rank, attempt, restarts, started, world, next_seq, status, seen in (
        (1, 1, 0, "first", 0, 100, 2, 10, "failed", 50),
        (2, 1, 0, "second", 1, 60, 2, None, None, 5),
        (3, 1, 1, "second", 1, 60, 2, 10, "finished", 40),
        (4, 2, 0, "only", 0, 90, 1, 4, "finished", 30),
        (5, 3, 0, "only", 0, 90_000, 1, 3, "failed", 86_400),
    ):
        ago = [NOW_US - seconds * SECOND_US for seconds in (started, seen)]
        how = None if next_seq is None else "finished"
        cursor.execute(
            _EMITTER,
            [
                emitter,
                f"{emitter:032x}",
                run,
                rank,
                attempt,
                restarts,
                ago[0],
                world,
                next_seq,
                how,
                status,
                ago[1],
                ago[1],
            ],
        )
        cursor.execute(_START, [emitter, 'odd "name"\n=1' if run == 3 else "brave-fox-1"])
    for metric, name in ((1, "train/loss"), (2, "val/acc"), (3, 'odd "metric"\n')):
        cursor.execute("INSERT INTO store.metrics VALUES (?, ?)", [metric, name])
    for emitter, metric, values in (
        (1, 1, (9.0, 8.0)),
        (2, 1, (3.0, 2.0)),
        (3, 1, (float("nan"), float("nan"))),
        (2, 2, (0.5, 0.75)),
        (3, 2, (0.25, float("inf"))),
        (4, 1, (1.0, 0.5)),
        (5, 3, (1.0, float("-inf"))),
    ):
        for seq, value in enumerate(values):
            cursor.execute("INSERT INTO store.points VALUES (?, ?, ?, ?)", [emitter, metric, seq, value])
        changed = NOW_US - emitter * SECOND_US
        cursor.execute(
            "INSERT INTO store.series VALUES (?, ?, 2, 0, 0, 0, 1, ?, ?, ?, 0, 1, true, NULL, 0)",
            [emitter, metric, 10 * emitter, changed, values[-1]],
        )
    for emitter in (1, 2, 3, 4, 5):
        for seq in range(2):
            cursor.execute("INSERT INTO store.rows VALUES (?, ?, ?, ?)", [emitter, seq, seq, NOW_US])
    for emitter, first, end, disposition in (
        (1, 0, 10, "stored"),
        (2, 0, 7, "stored"),
        (3, 0, 5, "stored"),
        (3, 5, 8, "lost"),
        (4, 0, 4, "stored"),
        (5, 0, 2, "stored"),
        (5, 2, 3, "dead"),
    ):
        cursor.execute("INSERT INTO store.ledger VALUES (?, ?, ?, ?)", [emitter, first, end, disposition])
    for emitter, param, text, number, kind in (
        (2, "lr", "0.1", 0.1, "float"),
        (4, "lr", "0.01", 0.01, "float"),
        (5, "opt", "adam", None, "str"),
    ):
        cursor.execute(
            "INSERT INTO store.params VALUES (?, 1, ?, ?, ?, ?, ?)", [emitter, NOW_US, param, text, number, kind]
        )
    cursor.execute("INSERT INTO store.definitions VALUES (2, 2, ?, 2, NULL, 'max')", [NOW_US])
    cursor.execute(
        "INSERT INTO store.lifecycle VALUES (2, 3, 'AlertRaised', ?, ?)",
        [NOW_US, '{"title": "look", "text": "", "level": "error", "step": 1}'],
    )
    place(cursor)
    cursor.close()
    return database


def place(cursor: duckdb.DuckDBPyConnection) -> None:
    """Write what follows from the other tables, as the writer's transactions do."""
    keys = [key for (key,) in cursor.execute("SELECT run_key FROM store.runs").fetchall()]
    want(cursor, keys)
    for statement in (placing._DELETE_SENDERS, placing._INSERT_SENDERS, placing._HIDE, placing._UNSETTLE):
        cursor.execute(statement)
