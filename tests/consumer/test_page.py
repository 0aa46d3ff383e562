"""What the page asks for: its files, the table of runs, curves in buckets on four axes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from runwire_consumer.access import Scope
from runwire_consumer.database import Database
from runwire_consumer.errors import QueryError, RunNotFound
from runwire_consumer.guard import Door
from runwire_consumer.http import Face, build_app
from runwire_consumer.issued import IssuedTokens
from runwire_consumer.page.curves import AXES, CurvesAsked, curves_asked, read_curves
from runwire_consumer.page.files import VIEWS, page_files
from runwire_consumer.page.table import read_names, read_table
from runwire_consumer.queries import Ask
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.tokens import Token
from tests.consumer.small_store import DIGITS, OLD, OTHER, small_store

TOKEN = "t" * 24
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = small_store()
    yield database
    database.close()


@pytest.fixture(scope="module")
def ask(database: Database) -> Ask:
    return Face(Sandbox(database.cursor), CollectorRegistry()).asking(None)


@pytest.fixture
def app(database: Database, tmp_path: Any) -> ASGIApp:
    issued = IssuedTokens(tmp_path)
    door = Door(Token(TOKEN), "127.0.0.1", issued=issued)
    (tmp_path / "given").write_text(issued.create("old", Scope.READ, frozenset({"old"})))
    return build_app(Face(Sandbox(database.cursor), CollectorRegistry(), pages=page_files()), door)


def client(app: ASGIApp, token: str = "") -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8470", headers=headers)


def curve(ask: Ask, run_id: str, metric: str, **given: Any) -> dict[str, Any]:
    (found,) = read_curves(ask, ask, CurvesAsked((run_id,), (metric,), **given))["curves"]
    return dict(found)


def test_a_curve_is_columns_and_what_is_not_finite_is_counted(ask: Ask) -> None:
    """One rank's NaN makes the mean none, the other rank's value is still least and greatest; JSON has no NaN."""
    assert curve(ask, OTHER, "train/loss") == {
        "run_id": OTHER, "metric": "train/loss", "x": [0, 1], "first_step": [0, 1], "last_step": [0, 1],
        "value": [1.0, 0.5], "min": [1.0, 0.5], "max": [1.0, 0.5], "nonfinite": [0, 0], "points": 2,
    }  # fmt: skip
    ranks = curve(ask, DIGITS, "train/loss")
    assert (ranks["min"], ranks["max"], ranks["nonfinite"]) == ([3.0, 2.0], [3.0, 2.0], [1, 1])
    infinite = curve(ask, OLD, 'odd "metric"\n')
    assert (infinite["value"], infinite["min"], infinite["nonfinite"]) == ([1.0, None], [1.0, None], [0, 1])
    assert curve(ask, OTHER, "there is none")["x"] == []


def test_buckets_keep_the_extremes(ask: Ask) -> None:
    """However few they are; a stretch of steps is cut out by the server."""
    one = curve(ask, OTHER, "train/loss", buckets=1)
    assert (one["x"], one["first_step"], one["last_step"]) == ([0.5], [0], [1])
    assert (one["min"], one["max"], one["points"]) == ([0.5], [1.0], 2)
    assert curve(ask, OTHER, "train/loss", first_step=1)["x"] == [1]
    assert curve(ask, OTHER, "train/loss", last_step=0)["x"] == [0]


@pytest.mark.parametrize(
    ("axis", "x"), [("step", [0, 1]), ("time", [4e9, 4e9]), ("relative", [90.0, 90.0]), ("active", [60.0, 60.0])]
)
def test_axes(ask: Ask, axis: str, x: list[float]) -> None:
    """Rows were logged at the present, 90 s after the run's start, which lived for the first 60 s of these."""
    assert axis in AXES
    assert curve(ask, OTHER, "train/loss", axis=axis)["x"] == x


def test_a_run_that_is_not_there(ask: Ask) -> None:
    with pytest.raises(RunNotFound, match=r"There is no run 'nobody'\."):
        curve(ask, "nobody", "train/loss")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ([], "Say which curves"),
        ([("run", "a")], "Say which curves"),
        ([("run", "a"), ("metric", "m"), ("buckets", "0")], "'buckets' must be between 1 and 5,000."),
        ([("run", "a"), ("metric", "m"), ("buckets", "many")], "'buckets' must be a whole number"),
        ([("run", "a"), ("metric", "m"), ("from", str(2**64))], "'from' must be a whole number"),
        ([("run", "a"), ("metric", "m"), ("axis", "east")], "The axis 'east' is unknown"),
        ([("run", "a"), ("metric", "m"), ("colour", "red")], "'colour' is unknown"),
        ([("run", f"{n}") for n in range(61)] + [("metric", "m")], "At most 60 curves come at once, these are 61"),
    ],
)
def test_questions_that_make_no_sense(query: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(QueryError, match=re.escape(sentence)):
        curves_asked(query)


def test_a_question_says_everything() -> None:
    query = "run=a run=b run=a metric=m buckets=7 from=-3 to=9 axis=active"
    asked = curves_asked([(name, text) for name, _, text in (part.partition("=") for part in query.split())])
    assert asked == CurvesAsked(("a", "b"), ("m",), 7, -3, 9, "active")


def test_the_table_shows_what_tells_most(ask: Ask) -> None:
    """Newest first; a metric with a best value before others, by that value; params that differ."""
    told = read_table(ask, None)
    columns = told["columns"]
    assert columns["run_id"] == [OTHER, DIGITS, OLD]
    assert columns["state"] == ["finished", "running", "failed"]
    assert list(told["metrics"]) == ["val/acc", "train/loss", 'odd "metric"\n']
    assert told["metrics"]["train/loss"] == [0.5, "NaN", None]
    assert (told["best"], told["note"]) == (["val/acc"], None)
    assert told["params"] == {"lr": ["0.01", "0.1", None], "opt": [None, None, "adam"]}
    chosen = read_table(ask, "old", ["train/loss"], [])
    assert (chosen["columns"]["run_id"], chosen["metrics"], chosen["params"]) == ([OLD], {"train/loss": [None]}, {})
    assert read_names(ask) == {"metrics": ['odd "metric"\n', "train/loss", "val/acc"], "params": ["lr", "opt"]}
    with pytest.raises(QueryError, match="choose fewer"):
        read_table(ask, None, [str(n) for n in range(21)], [])


def test_what_comes_by_itself_is_not_shown_unasked(ask: Ask) -> None:
    """`system/...` and `time/...` tell nothing of a model."""

    def asking(sql: str, params: Any) -> Any:
        own = {"metrics": ["system/cpu", "time/step", "loss"], "best": [], "params": {}}
        return [own] if "map_keys" in sql else ask(sql, params)

    assert list(read_table(asking, None)["metrics"]) == ["loss"]


async def test_a_token_of_some_projects_sees_their_curves_only(app: ASGIApp, tmp_path: Any) -> None:
    """Another project's run is not there: neither in the table nor by its id."""
    async with client(app, (tmp_path / "given").read_text()) as limited:
        assert (await limited.get("/api/table")).json()["columns"]["run_id"] == [OLD]
        seen = await limited.get("/api/curves", params={"run": OLD, "metric": 'odd "metric"\n'})
        assert seen.json()["curves"][0]["points"] == 2
        hidden = await limited.get("/api/curves", params={"run": DIGITS, "metric": "train/loss"})
        assert (hidden.status_code, hidden.json()) == (404, {"error": f"There is no run '{DIGITS}'."})
        assert (await limited.get("/api/names")).json()["metrics"] == ['odd "metric"\n']


async def test_files_are_open_strict_and_known_again(app: ASGIApp) -> None:
    """The shell stands at every address of the page, asks nobody for a token, and isn't sent twice."""
    async with client(app) as anybody:
        for path in (*VIEWS, "/static/app.js", "/static/style.css", "/static/icon.svg", "/static/vendor/uplot.js"):
            answer = await anybody.get(path.replace("{wanted:path}", "a/b"))
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
            again = await anybody.get(answer.url, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (await anybody.get("/static/vendor/uplot.LICENSE")).status_code == 401
        assert (await anybody.get("/static/../page.py")).status_code == 401


def test_the_shell_holds_no_script_and_no_style_of_its_own() -> None:
    """What the policy would refuse isn't written; every file that one names is there."""
    files = {page.path: page.content.decode() for page in page_files()}
    ours = {path: text for path, text in files.items() if "/vendor/" not in path}
    forbidden = re.compile(r"<script>|<style|\sstyle=|\son\w+=\"|innerHTML|outerHTML =|insertAdjacentHTML|eval\(")
    assert [path for path, text in ours.items() if forbidden.search(text)] == []
    named = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', files["/"]))
    for text in files.values():
        named |= {f"/static/{name}" for name in re.findall(r'(?:from |import\()"\./([^"]+)"', text)}
    assert named <= set(files)
    assert {path for path in ours if path.startswith("/static/")} == {path for path in named if "/vendor/" not in path}


def test_modules_of_the_page_can_be_read_in_a_sitting() -> None:
    long = {page.path: page.content.count(b"\n") for page in page_files() if "/vendor/" not in page.path}
    assert {path: lines for path, lines in long.items() if lines > 350} == {}
