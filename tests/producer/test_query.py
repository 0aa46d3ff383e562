"""Reading from Python: tables in four shapes from a real consumer's face, and a sentence where there is none."""

from __future__ import annotations

import json
import math
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
from runwire._server import find_server
from runwire._settings import read_server_settings
from runwire_cli.client import ServerFile
from runwire_cli.credentials import Credentials
from runwire_consumer import answers
from runwire_consumer.database import Database
from runwire_consumer.limits import Limits
from runwire_consumer.tls import own_certificate
from tests.cli.face import TOKEN, one_answer, served
from tests.consumer.certificates import make_certificate
from tests.consumer.small_store import DIGITS, OLD, small_store


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = small_store()
    yield database
    database.close()


@pytest.fixture(scope="module")
def port(database: Database) -> Iterator[int]:
    with served(database, limits=Limits(seconds_max=60.0)) as port:
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
def test_a_query_that_takes_too_long_is_an_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(database, limits=Limits(seconds_max=1.0)) as port:
        monkeypatch.setenv("RUNWIRE_SERVER", f"127.0.0.1:{port}")
        with pytest.raises(runwire.QueryError, match="longer than 1 s"):
            runwire.query("SELECT count(*) FROM range(1000000) a, range(1000000) b").arrow()


@pytest.mark.usefixtures("server")
def test_what_the_consumer_refuses_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query's fault, a token's, an answer's."""
    with pytest.raises(runwire.QueryError, match="send a SELECT"):
        runwire.query("DROP VIEW runs").arrow()
    monkeypatch.setenv("RUNWIRE_TOKEN", "wrong" * 5)
    with pytest.raises(runwire.ServerError, match="refuses the token"):
        runwire.runs().arrow()


@pytest.mark.usefixtures("server")
def test_a_query_that_fails_behind_its_first_rows_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentence arrives behind 100,000 good rows."""
    monkeypatch.setattr(answers, "HEAD_BYTES", 1_000)
    sql = "SELECT CASE WHEN range < 1000000 THEN range ELSE error('here it ends') END AS i FROM range(2000000)"
    while True:
        with pytest.raises(runwire.QueryError) as error:
            runwire.query(sql).arrow()
        if "the engine lost the reason: ask again" not in str(error.value):  # now and then it does (`sandbox.py`)
            break
    assert "here it ends" in str(error.value)


def test_an_answer_that_is_cut_is_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever it is cut, between two batches too: a table that looks whole is whole."""
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))
    whole = _arrow_stream()
    between = len(whole) - len(_arrow_stream(batches=1)) + len(_arrow_stream(batches=0)) - 8  # behind the first batch
    for cut in (0, 10, between, len(whole) // 2, len(whole) - 8, len(whole)):
        for answer in (_chunked(whole[:cut], ends=False), _sized(whole[:cut], len(whole) + (cut == len(whole)))):
            with one_answer(answer) as port:
                monkeypatch.setenv("RUNWIRE_SERVER", f"http://127.0.0.1:{port}")
                with pytest.raises(runwire.ServerError, match="broke off"):
                    runwire.query("SELECT 1").arrow()
    for answer in (_chunked(whole, ends=True), _sized(whole, len(whole))):
        with one_answer(answer) as port:
            monkeypatch.setenv("RUNWIRE_SERVER", f"http://127.0.0.1:{port}")
            assert len(runwire.query("SELECT 1")) == 4


def _chunked(body: bytes, *, ends: bool) -> bytes:
    """With or without the last chunk."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    if body:
        answer += b"%x\r\n" % len(body) + body + b"\r\n"
    return answer + (b"0\r\n\r\n" if ends else b"")


def _sized(body: bytes, promised_bytes: int) -> bytes:
    """With the length that it should have."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % promised_bytes + body


def _arrow_stream(batches: int = 2) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - here only

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("i", pa.int64())])) as writer:
        for first in range(batches):
            writer.write_batch(pa.RecordBatch.from_pydict({"i": [2 * first, 2 * first + 1]}))
    return bytes(sink.getvalue())


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


@pytest.mark.parametrize(
    ("server", "environ", "sent"),
    [
        ("", {}, "home-home-home-home"),
        ("http://127.0.0.1:1", {}, "home-home-home-home"),
        ("http://localhost:1/", {}, "home-home-home-home"),
        ("[::1]:1", {}, "home-home-home-home"),
        ("node-7:8470", {}, "home-home-home-home"),  # where the home's own consumer says it is
        ("http://node-7:8471", {}, None),
        ("https://Runwire.Example.org/", {}, "kept-kept-kept-kept"),
        ("https://other.example.org", {}, None),
        ("https://127.0.0.1.example.org", {}, None),
        ("https://runwire.example.org", {"RUNWIRE_TOKEN": "given-given-given"}, "given-given-given"),
        ("http://127.0.0.1:1", {"RUNWIRE_TOKEN": "given-given-given"}, "given-given-given"),
    ],
)
def test_which_token_goes_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, environ: dict[str, str], sent: str | None
) -> None:
    """As with the commands: the one that is set, the one kept, the home's to its own consumer and to this machine."""
    (tmp_path / "token").write_text("home-home-home-home")
    ServerFile("node-7", 8470, 1).write(tmp_path)
    Credentials(tmp_path / "runwire" / "credentials.json").keep("https://runwire.example.org", "kept-kept-kept-kept")
    monkeypatch.delenv("RUNWIRE_TOKEN", raising=False)
    for name, value in {
        "RUNWIRE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "RUNWIRE_SERVER": server, **environ,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = find_server(read_server_settings())
    assert found.token == sent
    assert "home-home" not in repr(found)


def test_behind_tls(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The home's own consumer is known by its certificate; another by RUNWIRE_CA; a sentence says so."""
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("RUNWIRE_TOKEN", TOKEN)
    files = make_certificate(tmp_path)
    with served(database, files=files) as port:
        monkeypatch.setenv("RUNWIRE_SERVER", f"https://localhost:{port}")
        for ca, words in (("", "isn't trusted .*: set RUNWIRE_CA"), (str(files.key), "RUNWIRE_CA can't be used")):
            monkeypatch.setenv("RUNWIRE_CA", ca)
            with pytest.raises(runwire.ServerError, match=words):
                runwire.runs().arrow()
        monkeypatch.setenv("RUNWIRE_CA", str(files.certificate))
        assert len(runwire.runs()) == 3
        monkeypatch.delenv("RUNWIRE_CA")
        monkeypatch.delenv("RUNWIRE_SERVER")
        ServerFile("127.0.0.1", port, 1, own_certificate(files.certificate)).write(tmp_path)
        assert runwire.run("aaaa").name == "brave-fox-1"
        other = make_certificate(tmp_path, "other")
        ServerFile("127.0.0.1", port, 1, own_certificate(other.certificate)).write(tmp_path)
        with pytest.raises(runwire.ServerError, match="isn't trusted"):
            runwire.runs().arrow()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RUNWIRE_TOKEN", "two words", "RUNWIRE_TOKEN may only hold visible ASCII"),
        ("RUNWIRE_SERVER", "http://user:secret@a", "RUNWIRE_SERVER can't be understood"),
        ("RUNWIRE_SERVER", "http://a:port", "is no address of a consumer"),
        ("RUNWIRE_SERVER", "http://nobody.invalid", "can't be reached"),
    ],
)
def test_what_can_not_be_asked_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("RUNWIRE_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises((runwire.ServerError, runwire.SettingsError), match=words):
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
