"""Reading from Python: tables in four shapes from a real consumer's face, and a sentence where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import runwire
from runwire import _query
from runwire._magic import load_ipython_extension, params_in
from runwire_consumer import answers
from runwire_consumer.database import Database
from runwire_consumer.limits import Limits
from tests.cli.face import TOKEN, served
from tests.consumer.small_store import DIGITS, OLD, small_store


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = small_store()
    yield database
    database.close()


@pytest.fixture(scope="module")
def port(database: Database) -> Iterator[int]:
    with served(database, limits=Limits(seconds_max=2.0)) as port:
        yield port


@pytest.fixture
def server(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of somebody who asks that consumer."""
    monkeypatch.setenv("RUNWIRE_SERVER", f"127.0.0.1:{port}")
    monkeypatch.setenv("RUNWIRE_TOKEN", TOKEN)
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))


@pytest.mark.usefixtures("server")
def test_a_result_in_every_shape() -> None:
    """The same values, asked once; NaN and ±inf are themselves, NULL is none of them."""
    sql = (
        "SELECT * FROM (VALUES (1, 'nan'::DOUBLE, 'a'), (2, 'inf'::DOUBLE, NULL), (3, NULL, 'b')) t(i, x, s) ORDER BY i"
    )
    asked = runwire.query(sql)
    assert "not run yet" in repr(asked)
    table = asked.arrow()
    assert table is asked.arrow()
    assert str(table.schema.field("i").type) == "int32"
    assert "3 rows" in repr(asked)
    rows = asked.rows()
    assert math.isnan(rows[0]["x"])
    assert rows[1:] == [{"i": 2, "x": math.inf, "s": None}, {"i": 3, "x": None, "s": "b"}]
    assert asked.pandas()["i"].tolist() == [1, 2, 3]
    frame = asked.polars()
    assert isinstance(frame, pl.DataFrame)
    assert frame["x"].null_count() == 1
    assert frame["x"].is_nan().sum() == 1
    assert len(asked) == 3


@pytest.mark.usefixtures("server")
def test_runs_and_curves() -> None:
    """All runs, of one project, one by name or id, and a curve of it."""
    assert len(runwire.runs()) == 3
    (old,) = runwire.runs("old").rows()
    assert (old["run_id"], old["params"]) == (OLD, {"opt": "adam"})
    found = runwire.run("aaaa")
    assert (found.id, found.name, found.state, found.params) == (DIGITS, "brave-fox-1", "running", {"lr": "0.1"})
    assert math.isinf(found.best["val/acc"])
    curve = found.curve("train/loss").rows()
    assert [point["step"] for point in curve] == [0, 1]
    assert math.isnan(curve[0]["value"])
    assert curve[0]["min"] == 3.0
    with pytest.raises(runwire.QueryError, match="2 runs are called"):
        runwire.run("brave-fox-1")
    with pytest.raises(runwire.QueryError, match="There is no run 'a/b c'"):
        runwire.run("a/b c")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, "INTEGER", 3),
        (True, "BOOLEAN", True),
        ("'; DROP VIEW runs; --", "VARCHAR", "'; DROP VIEW runs; --"),
        (0.5, "DOUBLE", 0.5),
        (-math.inf, "DOUBLE", -math.inf),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "TIMESTAMP", datetime(2026, 1, 31, 12)),  # noqa: DTZ001 - times are UTC
        (datetime.fromisoformat("2026-01-31T13:00:00+01:00"), "TIMESTAMP", datetime(2026, 1, 31, 12)),  # noqa: DTZ001
        (np.int64(7), "INTEGER", 7),
        (np.array([1.5, 2.0]), "DOUBLE[]", [1.5, 2.0]),
        (["a", "b"], "VARCHAR[]", ["a", "b"]),
        ((1, None), "INTEGER[]", [1, None]),
    ],
)
def test_parameters_arrive_with_their_type(value: Any, kind: str, expected: Any) -> None:
    """By name and by place."""
    for sql, params in (
        ("SELECT $v AS v, typeof($v) AS t", {"v": value}),
        ("SELECT ? AS v, typeof(?) AS t", [value] * 2),
    ):
        (row,) = runwire.query(sql, params).rows()
        assert (row["v"], row["t"]) == (expected, kind)


@pytest.mark.usefixtures("server")
def test_lists_of_runs_and_wrong_parameters() -> None:
    """`run_id = ANY($runs)`; what can't travel is named."""
    asked = runwire.query("SELECT DISTINCT run_id FROM curves WHERE run_id = ANY($runs)", {"runs": {DIGITS, OLD}})
    assert {row["run_id"] for row in asked.rows()} == {DIGITS, OLD}
    assert runwire.query("SELECT 1 AS x WHERE 'a' = ANY($runs)", {"runs": []}).rows() == []
    with pytest.raises(runwire.UsageTypeError, match="params: can't hold"):
        runwire.query("SELECT $x", {"x": object()}).arrow()
    with pytest.raises(runwire.UsageTypeError, match="sql: must be a string"):
        runwire.query(3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("server")
def test_what_the_consumer_refuses_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query's fault, a token's, an answer's."""
    with pytest.raises(runwire.QueryError, match="send a SELECT"):
        runwire.query("DROP VIEW runs").arrow()
    with pytest.raises(runwire.QueryError, match="longer than 2 s"):
        runwire.query("SELECT count(*) FROM range(1000000) a, range(1000000) b").arrow()
    monkeypatch.setenv("RUNWIRE_TOKEN", "wrong" * 5)
    with pytest.raises(runwire.ServerError, match="refuses the token"):
        runwire.runs().arrow()


@pytest.mark.usefixtures("server")
def test_a_query_that_fails_behind_its_first_rows_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentence arrives behind 100,000 good rows."""
    monkeypatch.setattr(answers, "HEAD_BYTES", 1_000)
    sql = "SELECT CASE WHEN range < 1000000 THEN range ELSE error('here it ends') END AS i FROM range(2000000)"
    with pytest.raises(runwire.QueryError, match="here it ends"):
        runwire.query(sql).arrow()


def test_an_answer_that_is_cut_is_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever it is cut, between two batches too: a table that looks whole is whole."""
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))
    whole = _arrow_stream()
    for cut in (0, 10, len(whole) // 2, len(whole) - 8, len(whole)):
        with _one_answer(whole[:cut], ends=False) as port:
            monkeypatch.setenv("RUNWIRE_SERVER", f"http://127.0.0.1:{port}")
            with pytest.raises(runwire.ServerError, match="broke off"):
                runwire.query("SELECT 1").arrow()
    with _one_answer(whole, ends=True) as port:
        monkeypatch.setenv("RUNWIRE_SERVER", f"http://127.0.0.1:{port}")
        assert len(runwire.query("SELECT 1")) == 4


def _arrow_stream() -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - here only

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("i", pa.int64())])) as writer:
        writer.write_batch(pa.RecordBatch.from_pydict({"i": [1, 2]}))
        writer.write_batch(pa.RecordBatch.from_pydict({"i": [3, 4]}))
    return bytes(sink.getvalue())


@contextlib.contextmanager
def _one_answer(body: bytes, *, ends: bool) -> Iterator[int]:
    """A server that answers one request with chunks, with or without the last one."""
    loop = asyncio.new_event_loop()
    bound = threading.Event()
    port = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if body:
            writer.write(b"%x\r\n" % len(body) + body + b"\r\n")
        writer.write(b"0\r\n\r\n" if ends else b"")
        await writer.drain()
        writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        bound.set()
        await stop.wait()
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert bound.wait(10)
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def test_without_a_consumer_it_says_what_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No home, no server file, nobody behind it, an address that is none."""
    monkeypatch.delenv("RUNWIRE_SERVER", raising=False)
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))
    with pytest.raises(runwire.ServerError, match=r"No consumer runs in .*start it with `runwire up`"):
        runwire.runs().arrow()
    (tmp_path / "server.json").write_text(json.dumps({"host": "0.0.0.0", "port": 1, "pid": 1}))  # noqa: S104 - as written
    with pytest.raises(runwire.ServerError, match=r"127\.0\.0\.1:1 can't be reached"):
        runwire.run("x")
    monkeypatch.setenv("RUNWIRE_SERVER", "ftp://x")
    with pytest.raises(runwire.SettingsError, match="RUNWIRE_SERVER"):
        runwire.runs().arrow()


def test_the_local_consumer_is_found(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the home's server file and token; a live run asks its own home's."""
    monkeypatch.delenv("RUNWIRE_SERVER", raising=False)
    monkeypatch.delenv("RUNWIRE_TOKEN", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    (home / "server.json").write_text(json.dumps({"host": "127.0.0.1", "port": port, "pid": 1}))
    (home / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("RUNWIRE_HOME", str(home))
    assert len(runwire.runs()) == 3
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path / "elsewhere"))
    with runwire.init(project="p", home=home, auto_metrics=False) as run:
        assert run.curve("train/loss").rows() == []


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(runwire.ServerError, match=r"polars isn't installed here: pip install 'runwire\[query\]'"):
        _query._need("polars")


def test_the_magic_takes_the_notebooks_variables() -> None:
    """Those that the text names outside of quotes and comments."""
    names = {"a": 1, "b": 2, "c": 3, "runs": ["x"]}
    sql = "SELECT $a, '$b', \"$b\" -- $c\n/* $c */ FROM runs WHERE run_id = ANY($runs) AND x = $unknown"
    assert params_in(sql, names) == {"a": 1, "runs": ["x"]}
    assert params_in("SELECT 1", names) is None


@pytest.mark.usefixtures("server")
def test_the_magics_in_a_shell() -> None:
    """What a line and a cell give; the cell's name holds the result."""
    made: dict[str, Any] = {}

    class Shell:
        user_ns: dict[str, Any] = {"step": 1}  # noqa: RUF012 - as IPython's

        def register_magic_function(self, function: Any, _kind: str, name: str) -> None:
            made[name] = function

    load_ipython_extension(Shell())
    assert made["runwire_sql"]("SELECT $step AS s").rows() == [{"s": 1}]
    made["runwire"]("found", "SELECT count(*) AS n FROM runs")
    assert Shell.user_ns["found"].rows() == [{"n": 3}]


@pytest.mark.usefixtures("server")
def test_a_notebook_shows_the_first_rows_escaped() -> None:
    """As HTML, and how many more there are."""
    html = runwire.query("SELECT '<b>' || range AS x FROM range(50)")._repr_html_()
    assert html.count("<tr>") == 21
    assert "&lt;b&gt;0" in html
    assert "50 rows, 20 shown" in html
