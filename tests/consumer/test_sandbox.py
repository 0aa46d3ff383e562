"""The sandbox passes one harmless SELECT and refuses everything else, in one sentence."""
# ruff: noqa: E501, S608 - a query a line reads best, and building hostile SQL is the point

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import cast

import duckdb
import pyarrow as pa
import pytest

from runwire_consumer.allowlist import FUNCTIONS, RELATIONS
from runwire_consumer.errors import QueryError, QueryTimeout, QueryTooLarge, SelectRefused
from runwire_consumer.limits import Limits
from runwire_consumer.results import Result
from runwire_consumer.sandbox import Sandbox
from tests.consumer.attacks import ATTACKS, HARMLESS

VIEWS = """
CREATE SCHEMA store;
CREATE TABLE store.points AS SELECT 1 AS emitter_key, 2.5 AS value;
CREATE SEQUENCE ids;
CREATE MACRO peek() AS (SELECT max(value) FROM store.points);
CREATE VIEW runs AS SELECT
    'abcdefghijklmnop' AS run_id, 'brave-fox-1' AS name, 'digits' AS project, 'ada' AS "user", ['base'] AS tags,
    map {'lr': '0.1'} AS params, map {'val/acc': 0.9::DOUBLE} AS best, TIMESTAMP '2025-01-01' AS started_at;
CREATE VIEW curves AS SELECT
    'abcdefghijklmnop' AS run_id, 'train/loss' AS metric, i AS step,
    make_timestamp(1700000000000000 + 1000000 * i) AS "time", (100 - i)::DOUBLE AS "value"
    FROM range(100) t(i);
"""


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"python_enable_replacements": False, "threads": 2})
    connection.execute(VIEWS)
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def sandbox(connection: duckdb.DuckDBPyConnection) -> Sandbox:
    return Sandbox(connection.cursor, Limits(seconds_max=20.0))


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_harmless_select_runs(sandbox: Sandbox, sql: str) -> None:
    """What people and dashboards ask is answered."""
    sandbox.run(sql)


ADVICE = [
    *((sql, False) for sql in ("DELETE FROM runs", "insert into runs values (1)", "UPDATE runs SET name = 'x'", "DROP VIEW runs")),
    ("PIVOT curves ON metric USING sum(value)", True), ("SELECT * FROM (PIVOT curves ON metric)", True),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "pivots"), ADVICE)
def test_advice_about_pivot_is_for_pivot(sandbox: Sandbox, sql: str, *, pivots: bool) -> None:
    """Who wanted to change something is told what is allowed."""
    with pytest.raises(SelectRefused, match=r"^Only one SELECT is allowed here") as refusal:
        sandbox.run(sql)
    assert ("PIVOT" in str(refusal.value)) is pivots


@pytest.mark.parametrize("sql", ATTACKS, ids=lambda sql: sql[:60])
def test_an_attack_is_refused_before_it_runs(sandbox: Sandbox, sql: str) -> None:
    """Nothing but one harmless SELECT reaches the engine, and the refusal is one sentence."""
    with pytest.raises(SelectRefused) as refusal:
        sandbox.check(sql)
    sentence = str(refusal.value)
    assert sentence.endswith((".", "?", ":"))
    assert "\n" not in sentence
    assert len(sentence) < 700


def test_the_corpus_is_large() -> None:
    """At least 500 attacks are tried."""
    assert len(set(ATTACKS)) >= 500


def test_the_lists_agree_with_the_engine(connection: duckdb.DuckDBPyConnection) -> None:
    """Every name on the list is a function of this DuckDB, or grammar that looks like one; none reads the outside."""
    known = {
        str(row[0]).lower()
        for row in connection.execute(
            "SELECT function_name FROM duckdb_functions() WHERE function_type <> 'table'"
        ).fetchall()
    }
    assert set(FUNCTIONS) - known == {"!", "->", "current_timestamp", "grouping", "unnest"} - known
    assert not {name for name in FUNCTIONS if name.startswith(("read_", "duckdb_", "pragma_", "pg_get"))}
    assert "runs" in RELATIONS


def test_every_function_of_the_engine_is_allowed_by_name_or_refused(
    connection: duckdb.DuckDBPyConnection, sandbox: Sandbox
) -> None:
    """What a new version of the engine brings is refused until somebody has looked at it."""
    for name, kind in connection.execute(
        "SELECT DISTINCT function_name, function_type FROM duckdb_functions() WHERE function_name SIMILAR TO '[a-z].*'"
    ).fetchall():
        if kind in {"table", "table_macro"}:
            if name not in {"range", "generate_series", "unnest"}:
                with pytest.raises(SelectRefused):
                    sandbox.check(f'SELECT * FROM "{name}"(1)')
        elif name.lower() not in FUNCTIONS:
            with pytest.raises(SelectRefused):
                sandbox.check(f'SELECT "{name}"(1)')


def test_parameters_are_bound(sandbox: Sandbox) -> None:
    """Values travel beside the text, by name or by place."""
    named = sandbox.run("SELECT $a::INT + 1 AS x, $b AS y", {"a": 1, "b": "'; DROP VIEW runs; --"})
    assert list(named.rows()) == [(2, "'; DROP VIEW runs; --")]
    placed = sandbox.run("SELECT ?::INT + 1 AS x, list_contains(?, 'a') AS y", [1, ["a", "b"]])
    assert list(placed.rows()) == [(2, True)]


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT nothing FROM runs", None),
        ("SELECT 1 / 'a'", None),
        ("SELECT $a", None),
        ("SELECT $a", {"b": 1}),
        ("SELECT ?", [1, 2]),
        ("SELECT ?", [object()]),
        ("SELECT error('no')", None),
        ("SELECT replace()", None),
        ("SELECT concat_ws()", None),
        ("SELECT lpad('x', 1)", None),
        ("SELECT 170141183460469231731687303715884105727 + 1", None),
    ],
)
def test_what_the_engine_refuses_is_one_sentence(
    sandbox: Sandbox, sql: str, params: list[object] | dict[str, object] | None
) -> None:
    """An author's mistake is an error of theirs, without a trace."""
    with pytest.raises(QueryError) as error:
        sandbox.run(sql, params)
    assert "\n" not in str(error.value)


def test_a_long_query_is_interrupted(connection: duckdb.DuckDBPyConnection) -> None:
    """A cross join that would take hours ends soon after its time; the next query runs."""
    sandbox = Sandbox(connection.cursor, Limits(seconds_max=0.3))
    started = time.monotonic()
    with pytest.raises(QueryTimeout, match=r"longer than 0\.3 s"):
        sandbox.run(
            "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c WHERE a.range + b.range = c.range"
        )
    assert time.monotonic() - started < 60
    assert list(sandbox.run("SELECT 1").rows()) == [(1,)]


def test_a_swelling_query_is_interrupted(connection: duckdb.DuckDBPyConnection) -> None:
    """What grows row by row is stopped when the process has grown too much."""
    sandbox = Sandbox(connection.cursor, Limits(seconds_max=60, pool_bytes_max=200 * 2**20))
    with pytest.raises(QueryTimeout, match="200 MiB"):
        sandbox.run("SELECT length(string_agg(repeat('x', 5000) || range, '')) FROM range(10000000)")


def test_queries_end_when_the_consumer_goes_down(connection: duckdb.DuckDBPyConnection) -> None:
    """Nobody waits half a minute for a query whose database is about to close."""
    sandbox = Sandbox(connection.cursor)
    stopping = threading.Timer(0.2, sandbox.stop)
    stopping.start()
    with pytest.raises(QueryTimeout, match="going down"):
        sandbox.run("SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c")
    stopping.join()


def test_where_the_engine_loses_the_reason_the_sentence_says_so(connection: duckdb.DuckDBPyConnection) -> None:
    """One thread of a query fails, the error of another that was interrupted for it arrives: nobody's limit was met."""

    class Interrupted:
        schema = pa.schema([])

        def read_next_batch(self) -> pa.RecordBatch:
            raise OSError("INTERRUPT Error: Interrupted!")

    class Cursor:
        def __init__(self) -> None:
            self.cursor = connection.cursor()

        def __getattr__(self, name: str) -> object:
            return getattr(self.cursor, name)

        def to_arrow_reader(self, _rows: int) -> Interrupted:
            return Interrupted()

    with pytest.raises(QueryError, match="the engine lost the reason: ask again") as error:
        Sandbox(lambda: cast("duckdb.DuckDBPyConnection", Cursor())).run("SELECT 1")
    assert not isinstance(error.value, QueryTimeout)


def test_a_result_above_a_cap_is_refused_not_cut(connection: duckdb.DuckDBPyConnection) -> None:
    """A cut table would look like a whole one."""
    rows = Sandbox(connection.cursor, Limits(rows_max=1_000))
    assert len(list(rows.run("SELECT * FROM range(1000)").rows())) == 1_000
    with pytest.raises(QueryTooLarge, match="more than 1,000 rows"):
        rows.run("SELECT * FROM range(10000000)")
    size = Sandbox(connection.cursor, Limits(result_bytes_max=2**20))
    with pytest.raises(QueryTooLarge, match="larger than 1 MiB"):
        size.run("SELECT repeat('x', 1000) FROM range(1000000)")


def test_a_wide_result_is_refused_and_its_names_are_made_in_linear_time(connection: duckdb.DuckDBPyConnection) -> None:
    """Thousands of columns of one name end in a sentence, not in minutes of counting."""
    with pytest.raises(QueryTooLarge, match="more than 2,000 columns"):
        Sandbox(connection.cursor).run("SELECT " + ", ".join("1" for _ in range(2_001)))
    wide = Result(pa.schema([("loss", pa.int64())] * 20_000 + [("loss_1", pa.int64()), ("loss", pa.int64())]), ())
    began = time.process_time()
    names = wide.unique_columns
    assert time.process_time() - began < 2
    assert (names[:3], names[-2:]) == (("loss", "loss_1", "loss_2"), ("loss_1_1", "loss_20000"))
    assert len(set(names)) == len(names)


def test_queries_run_beside_each_other_and_a_writer(connection: duckdb.DuckDBPyConnection) -> None:
    """Each query has a cursor of its own: none ends another's transaction or sees half of one."""
    writer = connection.cursor()
    writer.execute("CREATE OR REPLACE TABLE store.pairs AS SELECT 0 AS a, 0 AS b")
    writer.execute("CREATE OR REPLACE VIEW latest AS SELECT * FROM store.pairs")
    sandbox = Sandbox(connection.cursor)
    torn: list[object] = []

    def read() -> None:
        for _ in range(30):
            torn.extend(row for row in sandbox.run("SELECT a, b FROM latest").rows() if row[0] != row[1])

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for count in range(50):
        writer.execute("BEGIN")
        writer.execute("UPDATE store.pairs SET a = ?", [count])
        writer.execute("UPDATE store.pairs SET b = ?", [count])
        writer.execute("COMMIT")
    for reader in readers:
        reader.join()
    assert torn == []


def test_python_variables_are_no_relations(sandbox: Sandbox) -> None:
    """DuckDB would read tables out of the caller's variables; here none is a relation."""
    df = {"x": [1]}
    with pytest.raises(SelectRefused, match="no relation 'df'"):
        sandbox.run("SELECT * FROM df")
    assert df
