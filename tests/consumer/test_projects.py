"""A statement that is limited to projects sees as if nothing else were in the store, whatever it tries."""
# ruff: noqa: E501, S608 - a query a line reads best, and building hostile SQL is the point

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer import projects, queries, selects
from runwire_consumer.allowlist import FUNCTIONS, RELATIONS, TABLE_FUNCTIONS, Growth
from runwire_consumer.database import Database
from runwire_consumer.errors import QueryError, QueryTooLarge
from runwire_consumer.sandbox import Sandbox
from tests.consumer.small_store import DIGITS, OLD, OTHER, place, small_store

OURS = frozenset({"digits"})


class Two:
    """Two stores that differ in the other project only: in one it is there, in the other everything of it is another."""

    def __init__(self) -> None:
        self.full, self.other = small_store(), small_store()
        # As long as it is one store, a macro of ours may come to read it.
        for database in (self.full, self.other):
            cursor = database.cursor()
            cursor.execute("CREATE MACRO main.spied() AS TABLE SELECT run_id, project FROM store.runs")
            cursor.execute("CREATE MACRO main.spied_one() AS (SELECT max(project) FROM store.runs)")
            cursor.execute(
                'INSERT INTO store.dead_letters (letter_key, letter_id, source, partition, "offset", appended_at, reason, run_id, bytes, head, status, whole) '
                "VALUES (1, 'x', 's', '0', 0, 0, 'odd', NULL, 1, 'secret', 'dead', false), "
                f"(2, 'y', 's', '0', 1, 0, 'odd', '{OLD}', 1, 'secret', 'dead', false), "
                f"(3, 'z', 's', '0', 2, 0, 'odd', '{DIGITS}', 1, 'mine', 'dead', false)"
            )
            cursor.close()
        cursor = self.other.cursor()
        cursor.execute("UPDATE store.runs SET project = '1', run_id = 'dddddddddddddddd' WHERE project = 'old'")
        cursor.execute(
            "UPDATE store.starts SET name = '7', host = 'elsewhere', packages = map {'a': 'b'} WHERE emitter_key = 5"
        )
        cursor.execute("UPDATE store.points SET value = 7 WHERE emitter_key = 5")
        cursor.execute("UPDATE store.params SET value = '7' WHERE emitter_key = 5")
        cursor.execute("DELETE FROM store.dead_letters WHERE letter_key < 3")
        place(cursor)
        cursor.close()

    def outcomes(self, sql: str, params: projects.Params = None) -> tuple[Any, Any]:
        """What a token of ours gets from each."""
        return tuple(outcome(database, sql, params, OURS) for database in (self.full, self.other))


def outcome(database: Database, sql: str, params: projects.Params, limited: frozenset[str] | None) -> Any:
    try:
        rows = Sandbox(database.cursor).run(sql, params, limited).rows()
    except QueryError as error:
        return f"{type(error).__name__}: {error}"
    return sorted(map(repr, rows))  # in which NaN is itself


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    made = Two()
    yield made
    made.full.close()
    made.other.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[Database]:
    """A store in which the other project never was."""
    database = _without_old()
    cursor = database.cursor()
    cursor.execute(
        'INSERT INTO store.dead_letters (letter_key, letter_id, source, partition, "offset", appended_at, reason, run_id, bytes, head, status, whole) '
        f"VALUES (3, 'z', 's', '0', 2, 0, 'odd', '{DIGITS}', 1, 'mine', 'dead', false)"
    )
    cursor.close()
    yield database
    database.close()


HONEST: list[tuple[str, projects.Params]] = [
    ("SELECT 1", None),
    *((f"SELECT * FROM {relation}", None) for relation in sorted(RELATIONS)),
    *((f"SELECT * FROM {relation} WHERE run_id = $r", {"r": run}) for relation in sorted(RELATIONS) for run in (DIGITS, OLD)),
    ("SELECT r.name, c.metric, c.value FROM runs r JOIN curves c USING (run_id) WHERE c.metric = 'train/loss'", None),
    ("SELECT * FROM runs r LEFT JOIN params p ON p.run_id = r.run_id AND p.run_id = 'aaaaaaaaaaaaaaaa'", None),
    ("SELECT * FROM curves a, curves b WHERE a.run_id = 'aaaaaaaaaaaaaaaa' AND b.run_id = 'bbbbbbbbbbbbbbbb'", None),
    ("SELECT * FROM curves WHERE run_id = 'aaaaaaaaaaaaaaaa' UNION ALL SELECT * FROM curves WHERE run_id = 'bbbbbbbbbbbbbbbb'", None),
    ("SELECT * FROM curves WHERE run_id = 'aaaaaaaaaaaaaaaa' UNION ALL SELECT * FROM curves", None),
    ("SELECT run_id FROM curves WHERE run_id = 'aaaaaaaaaaaaaaaa' UNION ALL SELECT c.run_id FROM curves c JOIN runs r USING (run_id)", None),
    ("SELECT count(*) FROM curves WHERE run_id = 'aaaaaaaaaaaaaaaa' AND EXISTS (SELECT 1 FROM curves x WHERE x.metric = 'val/acc')", None),
    ("SELECT * FROM curves WHERE run_id IN (?, ?) AND metric = ?", [DIGITS, OLD, "train/loss"]),
    ("SELECT * FROM curves WHERE run_id IN ('aaaaaaaaaaaaaaaa', $r) AND 'val/acc' = metric", {"r": OTHER}),
    ("SELECT * FROM curves WHERE (run_id = 'aaaaaaaaaaaaaaaa' OR metric = 'train/loss')", None),
    ("SELECT * FROM curves WHERE NOT (run_id = 'aaaaaaaaaaaaaaaa')", None),
    ("SELECT * FROM curves WHERE run_id = 'aaaaaaaaaaaaaaaa' AND run_id = 'bbbbbbbbbbbbbbbb'", None),
    ("SELECT 'bbbbbbbbbbbbbbbb' AS run_id, metric FROM curves WHERE run_id = 'aaaaaaaaaaaaaaaa'", None),
    ("SELECT metric AS run_id FROM curves WHERE run_id = 'train/loss'", None),
    ("SELECT * FROM curves AS c(metric, run, run_id, step, time, value, min, max, ranks, nonfinite) WHERE run_id = 'train/loss'", None),
    ("SELECT * FROM curves c WHERE c.run_id = $r", {"r": DIGITS}),
    ("SELECT * FROM curves WHERE curves.run_id = $r", {"r": DIGITS}),
    ("SELECT * FROM curves WHERE run_id = $r", {"r": None}),
    ("SELECT * FROM curves WHERE run_id = $r", {"r": 7}),
    ("SELECT * FROM params WHERE metric = 'x'", None),
    ("SELECT (SELECT count(*) FROM params WHERE metric = 'train/loss') FROM latest WHERE run_id = 'aaaaaaaaaaaaaaaa'", None),
    ("SELECT run_id, (SELECT max(value) FROM curves WHERE run_id = runs.run_id) FROM runs", None),
    ("WITH runs AS (SELECT * FROM params) SELECT * FROM runs", None),
    ("WITH c AS (SELECT * FROM curves WHERE metric = 'val/acc') SELECT * FROM c WHERE run_id = 'aaaaaaaaaaaaaaaa'", None),
    ('SELECT * FROM "RUNS" AS "events", events', None),
    ("SELECT * FROM alerts, events, artifacts", None),
    ("SELECT * FROM events, alerts WHERE events.run_id = 'bbbbbbbbbbbbbbbb'", None),
    ("SELECT count(*) FROM runs WHERE error(name)", None),
    ("DESCRIBE runs", None),
    ("SUMMARIZE params", None),
    (queries.RECEIPT_SQL, {"run_id": DIGITS}),
    (queries.RUNS_SQL, {"project": None, "limit": 10}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "params"), HONEST)
def test_it_sees_what_a_store_of_its_own_would_hold(
    two: Two, alone: Database, sql: str, params: projects.Params
) -> None:
    """Row by row, error by error."""
    assert two.outcomes(sql, params) == (outcome(alone, sql, params, None),) * 2


ATTACKS = [
    # what the engine evaluates before a filter of ours would tell by an error
    "SELECT count(*) FROM runs WHERE error(project)",
    "SELECT count(*) FROM runs WHERE project::INTEGER = 1",
    "SELECT count(*) FROM runs WHERE CASE WHEN project LIKE 'o%' THEN error('yes') ELSE true END",
    "SELECT count(*) FROM runs WHERE 1 / (length(project) - 3) > 0 AND error(name)",
    "SELECT count(*) FROM params WHERE value::DOUBLE > 0",
    "SELECT count(*) FROM curves WHERE CASE WHEN value = '-inf'::DOUBLE THEN error('yes') ELSE true END",
    "SELECT count(*) FROM metrics WHERE CASE WHEN rank = 0 AND value = 7 THEN error('yes') ELSE true END",
    "SELECT count(*) FROM curves WHERE metric = 'odd \"metric\"\n' AND error(run_id)",
    f"SELECT count(*) FROM curves WHERE run_id = '{OLD}' AND error(run)",
    "SELECT count(*) FROM dead_letters WHERE error(head::VARCHAR)",
    "SELECT map_keys(packages)[1]::INTEGER FROM runs",
    # other ways to a relation
    "SELECT * FROM main.runs", 'SELECT * FROM "main"."runs"', "SELECT * FROM memory.runs", "SELECT * FROM memory.main.runs",
    "SELECT * FROM temp.runs", "SELECT * FROM temp.main.runs", "SELECT * FROM store.runs", "SELECT * FROM store.live_runs",
    "SELECT * FROM (SELECT * FROM main.runs)", "SELECT (SELECT max(project) FROM main.runs)",
    "WITH x AS (SELECT * FROM main.runs) SELECT * FROM x", "DESCRIBE main.runs", "SUMMARIZE main.runs", "TABLE main.runs",
    "SELECT * FROM runs WHERE run_id IN (SELECT run_id FROM main.runs)", "SELECT * FROM runs ORDER BY (SELECT max(project) FROM main.runs)",
    "WITH main AS (SELECT 1) SELECT * FROM main.runs", "SELECT * FROM __runs", "SELECT * FROM temp.main.__runs",
    "SELECT * FROM information_schema.tables", "SELECT * FROM duckdb_tables()", "SELECT * FROM duckdb_views()", "SHOW TABLES",
    "SELECT * FROM pragma_storage_info('runs')", "SELECT * FROM query_table('runs')", "SELECT * FROM query('SELECT * FROM main.runs')",
    "SELECT * FROM sqlite_master", "SELECT * FROM pg_class", "SELECT getvariable('x')", "SELECT current_setting('memory_limit')",
    # macros of ours, once they are on the list
    "SELECT * FROM spied()", "SELECT spied_one()", "SELECT * FROM runs, spied()", "SELECT * FROM runs WHERE name = spied_one()", "SELECT * FROM main.spied()",
    "SELECT list_transform([1], lambda x: spied_one())",
]  # fmt: skip


@pytest.mark.parametrize("sql", ATTACKS)
def test_no_statement_tells_what_others_have(two: Two, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    """What it says is the same, whatever stands in the other project: rows, errors, all."""
    monkeypatch.setattr(selects, "TABLE_FUNCTIONS", TABLE_FUNCTIONS | {"spied"})
    monkeypatch.setitem(FUNCTIONS, "spied", Growth.FIXED)
    monkeypatch.setitem(FUNCTIONS, "spied_one", Growth.FIXED)
    full, other = two.outcomes(sql)
    assert full == other
    assert "old" not in str(full).replace("older", "")


def test_macros_are_refused_and_stay_for_others(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selects, "TABLE_FUNCTIONS", TABLE_FUNCTIONS | {"spied"})
    monkeypatch.setitem(FUNCTIONS, "spied_one", Growth.FIXED)
    for sql in ("SELECT spied_one()", "SELECT upper(spied_one())"):
        assert "'spied_one' reads all projects" in two.outcomes(sql)[0]
        assert outcome(two.full, sql, None, None)[0].lower() == "('old',)"


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM main.runs", "SELECT (SELECT max(name) FROM main.runs)", "DESCRIBE main.runs"]
)
def test_names_with_a_schema_are_refused(two: Two, sql: str) -> None:
    """Which of two relations such a name means is the engine's affair, so none is asked."""
    assert "name a relation alone, without its schema" in two.outcomes(sql)[0]
    assert "name a relation alone" not in str(outcome(two.full, sql, None, None))


def test_no_project_is_nothing(two: Two) -> None:
    """A token of a project that isn't there yet."""
    assert outcome(two.full, "SELECT run_id FROM runs", None, frozenset({"new"})) == []
    assert outcome(two.full, "SELECT run_id FROM runs", None, frozenset()) == []
    all_runs = [repr((run,)) for run in (DIGITS, OTHER, OLD)]
    assert outcome(two.full, "SELECT run_id FROM runs", None, frozenset({"digits", "old"})) == all_runs


def test_copies_are_of_one_statement(two: Two) -> None:
    """The next one, with another token or none, begins anew."""
    for limited, count in ((OURS, 2), (None, 3), (frozenset({"old"}), 1)):
        assert outcome(two.full, "SELECT count(*) FROM runs", None, limited) == [repr((count,))]


def test_too_much_is_refused_and_narrowed(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are bounded, all of a statement together; what a statement demands of each row makes them small."""
    monkeypatch.setattr(projects, "COPIED_ROWS_MAX", 4)
    sandbox = Sandbox(two.full.cursor)
    for sql in ("SELECT count(*) FROM metrics", "SELECT count(*) FROM runs, params, emitters"):
        with pytest.raises(QueryTooLarge, match=r"WHERE run_id = '...' AND metric = '...'"):
            sandbox.run(sql, None, OURS)
    narrow = "SELECT count(*) FROM metrics WHERE run_id = $r AND metric IN ('val/acc', 'x')"
    assert list(sandbox.run(narrow, {"r": DIGITS}, OURS).rows()) == [(4,)]


COLUMN = st.sampled_from(["run_id", "c.run_id", "metric", "C.METRIC", "run", "c.run"])
TEXT = st.sampled_from(
    [f"'{DIGITS}'", f"'{OTHER}'", f"'{OLD}'", "'train/loss'", "'val/acc'", "$a", "$b", "metric", "NULL"]
)
LEAF = st.one_of(
    st.builds("{} = {}".format, COLUMN, TEXT),
    st.builds("{} = {}".format, TEXT, COLUMN),
    st.builds("{} IN ({}, {})".format, COLUMN, TEXT, TEXT),
    st.builds("{} <> {}".format, COLUMN, TEXT),
    st.just("step = 1"),
)
CONDITION = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=5,
)
SELECT = st.builds("SELECT c.run_id, c.metric, c.step, c.value FROM curves c WHERE {}".format, CONDITION)
STATEMENT = st.one_of(
    SELECT,
    st.builds("{} UNION ALL {}".format, SELECT, SELECT),
    st.builds("SELECT count(*) FROM ({}) AS s JOIN ({}) AS t USING (run_id)".format, SELECT, SELECT),
    st.builds("{} AND EXISTS ({} AND run_id = c.run_id)".format, SELECT, SELECT),
)


@settings(max_examples=30, deadline=None)
@given(sql=STATEMENT, a=st.sampled_from([DIGITS, OLD, "train/loss"]), b=st.sampled_from([OTHER, "val/acc"]))
def test_narrowing_never_changes_an_answer(sql: str, a: str, b: str) -> None:
    """Copies of what the conditions leave answer as the whole would."""
    params = {name: value for name, value in (("a", a), ("b", b)) if f"${name}" in sql}
    database = _alone()
    assert outcome(database, sql, params, OURS) == outcome(database, sql, params, None)


_KEPT: list[Database] = []


def _alone() -> Database:
    if not _KEPT:
        _KEPT.append(_without_old())
    return _KEPT[0]


def _without_old() -> Database:
    """A store in which the other project never was."""
    database = small_store()
    cursor = database.cursor()
    cursor.execute("DELETE FROM store.runs WHERE project = 'old'")
    cursor.execute("DELETE FROM store.senders WHERE project = 'old'")
    cursor.close()
    return database
