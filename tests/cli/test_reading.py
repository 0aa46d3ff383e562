"""What the reading commands print, the same from a file and from a consumer behind HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest

from runwire_cli import reading
from runwire_cli.client import FileReader, HttpReader, Reader
from runwire_cli.errors import ServerRefused, ServerUnreachable
from runwire_cli.output import Form, Output
from runwire_consumer.errors import RunAmbiguous, RunNotFound, SelectRefused
from tests.cli.face import TOKEN, served
from tests.consumer.small_store import DIGITS, OLD, OTHER, small_store

SIGN = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module", params=["file", "http"])
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    if request.param == "file":
        file_reader = FileReader(small_store())
        yield file_reader
        file_reader.close()
        return
    database = small_store()
    with served(database) as port:
        http_reader = HttpReader(f"http://127.0.0.1:{port}", TOKEN)
        yield http_reader
        http_reader.close()
    database.close()


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capfd


def test_runs_as_a_table(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """Name, id, state, parameters and best values, without control characters of names."""
    assert reading.runs(reader, Output(Form.TABLE), None, 10) == 0
    text = printed.readouterr().out
    assert text.split()[:4] == ["run", "id", "project", "state"]
    assert all(part in text for part in (DIGITS, OTHER, OLD, "running", "lr=0.01", "val/acc=Infinity", "c0ffee"))
    assert f'odd "name"{SIGN}=1' in text


def test_runs_for_programs(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """JSON keeps maps, CSV is one line a run with formulas disarmed."""
    assert reading.runs(reader, Output(Form.JSON), "digits", 10) == 0
    rows = json.loads(printed.readouterr().out)
    assert [row["run_id"] for row in rows] == [OTHER, DIGITS]
    assert rows[1]["last"] == {"train/loss": "NaN", "val/acc": "Infinity"}
    assert reading.runs(reader, Output(Form.CSV), None, 10) == 0
    lines = list(csv.DictReader(io.StringIO(printed.readouterr().out)))
    assert [line["run_id"] for line in lines] == [OTHER, DIGITS, OLD]
    assert lines[0]["params"] == '{"lr": "0.01"}'


def test_no_runs_is_a_sentence(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """On stderr; programs get an empty list."""
    assert reading.runs(reader, Output(Form.TABLE), "nothing", 10) == 0
    assert "No runs of project 'nothing' yet" in printed.readouterr().err
    assert reading.runs(reader, Output(Form.JSON), "nothing", 10) == 0
    assert json.loads(printed.readouterr().out) == []


def test_show_tells_everything(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """Facts, parameters, metrics, attempts, ranks, alerts, events and the receipt's line."""
    assert reading.show(reader, Output(Form.TABLE), DIGITS) == 0
    text = printed.readouterr().out
    for part in (
        "brave-fox-1", "running: because", "c0ffee", "train.py", "parameters", "lr", "metrics", "val/acc", "attempts",
        "ranks", "alerts", "look", "events", "AlertRaised", "faulty", "missing 2",
    ):  # fmt: skip
        assert part in text, part
    assert reading.show(reader, Output(Form.JSON), DIGITS) == 0
    run = json.loads(printed.readouterr().out)
    assert (run["params"], run["receipt"]["verdict"]) == ({"lr": "0.1"}, "faulty")
    assert reading.show(reader, Output(Form.CSV), DIGITS) == 0
    rows = list(csv.DictReader(io.StringIO(printed.readouterr().out)))
    assert {"section": "params", "key": "lr", "value": "0.1"} in rows


def test_sql_in_three_forms(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """Names of columns stay, also of an empty result."""
    query = "SELECT run_id, points, 'nan'::DOUBLE AS \"not\" FROM runs ORDER BY run_id LIMIT 1"
    assert reading.sql(reader, Output(Form.TABLE), query) == 0
    assert printed.readouterr().out.split() == ["run_id", "points", "not", DIGITS, "10", "NaN"]
    assert reading.sql(reader, Output(Form.JSON), query) == 0
    assert json.loads(printed.readouterr().out) == [{"run_id": DIGITS, "points": 10, "not": "NaN"}]
    assert reading.sql(reader, Output(Form.CSV), query) == 0
    assert printed.readouterr().out.replace("\r", "") == f"run_id,points,not\n{DIGITS},10,NaN\n"
    assert reading.sql(reader, Output(Form.TABLE), "SELECT run_id, name FROM runs WHERE false") == 0
    assert printed.readouterr().out.split() == ["run_id", "name"]


def test_a_long_table_is_cut_and_says_so(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """Programs get everything."""
    assert reading.sql(reader, Output(Form.TABLE), "SELECT * FROM range(1500)") == 0
    shown = printed.readouterr()
    assert len(shown.out.splitlines()) == 1_001
    assert "1,500 rows, 1,000 shown" in shown.err
    assert reading.sql(reader, Output(Form.CSV), "SELECT * FROM range(1500)") == 0
    assert len(printed.readouterr().out.splitlines()) == 1_501


@pytest.mark.parametrize(
    ("wanted", "code", "verdict", "part"),
    [
        (OTHER, 0, "complete", "sent 4 = stored 4, dead 0, lost 0, missing 0, twice 0"),
        (DIGITS, 1, "faulty", "1 of 3 emitters open"),
        (OLD, 1, "faulty", "dead 1"),
    ],
)
def test_verify_exits_with_the_verdict(  # noqa: PLR0917 - a column each of the table
    reader: Reader, printed: pytest.CaptureFixture[str], wanted: str, code: int, verdict: str, part: str
) -> None:
    """1 for rows that are dead or missing without an explanation."""
    assert reading.verify(reader, Output(Form.TABLE), wanted) == code
    text = printed.readouterr().out
    assert text.split()[:5] == ["rank", "attempt", "role", "ended", "sent"]
    assert f": {verdict}: " in text
    assert part in text
    assert reading.verify(reader, Output(Form.JSON), wanted) == code
    assert json.loads(printed.readouterr().out)["verdict"] == verdict
    assert reading.verify(reader, Output(Form.CSV), wanted) == code
    assert printed.readouterr().out.startswith("emitter_id,rank,attempt,role,ended,sent,stored,dead,lost,missing,twice")


def test_an_emitter_that_has_not_ended_is_open(reader: Reader, printed: pytest.CaptureFixture[str]) -> None:
    """Nobody knows yet how much it will have sent."""
    reading.verify(reader, Output(Form.JSON), DIGITS)
    emitters = json.loads(printed.readouterr().out)["emitters"]
    assert [emitter["sent"] for emitter in emitters] == [10, None, 10]
    reading.verify(reader, Output(Form.TABLE), DIGITS)
    assert "open" in printed.readouterr().out


def test_wrong_questions(reader: Reader) -> None:
    """An unknown run, an ambiguous one, no SELECT: one sentence each, wherever the answer comes from."""
    output = Output(Form.TABLE)
    with pytest.raises(RunNotFound, match="There is no run 'nothing'"):
        reading.show(reader, output, "nothing")
    with pytest.raises(RunAmbiguous, match="2 runs are called"):
        reading.verify(reader, output, "brave-fox-1")
    for query in ("DROP VIEW runs", "SELECT 1; SELECT 2", "SELECT * FROM store.points", ""):
        with pytest.raises((SelectRefused, ServerRefused)) as refusal:
            reading.sql(reader, output, query)
        assert "\n" not in str(refusal.value)


def test_a_wrong_token_is_one_sentence() -> None:
    """And so is a missing one."""
    database = small_store()
    with served(database) as port:
        for token in ("w" * 24, None):
            reader = HttpReader(f"http://127.0.0.1:{port}", token)
            with pytest.raises(ServerRefused, match="refuses the token: set RUNWIRE_TOKEN"):
                reader.table("SELECT 1")
            reader.close()
    reader = HttpReader(f"http://127.0.0.1:{port}", TOKEN)
    with pytest.raises(ServerUnreachable, match="can't be reached"):
        reader.table("SELECT 1")
    assert not reader.answers()
    reader.close()
    database.close()
