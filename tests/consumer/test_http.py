"""The HTTP face: answers in three forms, a door on every route, limits, and errors in one sentence."""
# ruff: noqa: E501, S104 - a case a line reads best; addresses are cases

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from runwire_consumer import guard, http
from runwire_consumer.access import OPEN, WRITE
from runwire_consumer.database import Database
from runwire_consumer.errors import FaceError, PortInUse, QueryTimeout, StoreEnding, StoreError
from runwire_consumer.guard import Door, guarded, is_loopback
from runwire_consumer.http import Face, build_app, serve
from runwire_consumer.limits import Limits
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.self_metrics import SelfMetrics
from runwire_consumer.tokens import Token
from tests.consumer.small_store import DIGITS, OLD, small_store

TOKEN = "t" * 24
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = small_store()
    yield database
    database.close()


@pytest.fixture(scope="module")
def face(database: Database) -> Face:
    registry = CollectorRegistry()
    SelfMetrics(registry, "1")
    return Face(Sandbox(database.cursor, Limits(seconds_max=60.0, rows_max=10_000)), registry)


def door(host: str = "127.0.0.1", *hosts: str) -> Door:
    return Door(Token(TOKEN), host, frozenset(hosts))


def patient_door() -> Door:
    """Time passes so fast that nobody asks too often."""
    return Door(Token(TOKEN), "127.0.0.1", clock=itertools.count(step=100.0).__next__)


def client(app: ASGIApp, peer: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
    """A client inside this process that the server sees as `peer`."""
    transport = httpx.ASGITransport(app=app, client=(peer, 1), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8470", headers=headers)


@pytest.fixture
async def http_client(face: Face) -> AsyncIterator[httpx.AsyncClient]:
    async with client(build_app(face, door()), **AUTHORIZED) as made:
        yield made


async def test_every_route_wants_the_token(face: Face) -> None:
    """Whatever the route and the method, an unknown one too; health alone is open, metrics on this machine."""
    paths = {str(route.path) for route in http._routes(face)} | {
        "/",
        "/docs",
        "/api",
        "/api/sql/",
        "/METRICS",
        "//metrics",
    }
    assert {"/api/sql", "/metrics", "/healthz"} <= paths
    async with client(build_app(face, patient_door()), peer="192.0.2.7") as stranger:
        for path in sorted(paths - {"/healthz", "/readyz"}):
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"):
                for given in (
                    {},
                    {"authorization": "Bearer wrong"},
                    {"authorization": f"Basic {TOKEN}"},
                    {"authorization": "Bearer "},
                ):
                    answer = await stranger.request(method, path.replace("{wanted:path}", DIGITS), headers=given)
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert method == "HEAD" or list(answer.json()) == ["error"]
        assert (await stranger.get("/healthz")).text == "ok\n"
        assert (await stranger.get("/readyz")).text == "ready\n"


@pytest.mark.parametrize(
    ("bound", "peer", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("::1", "::1", 200),
        ("localhost", "127.0.0.1", 200),
        ("0.0.0.0", "127.0.0.1", 401),
        ("127.0.0.1", "192.0.2.7", 401),
        ("192.0.2.1", "192.0.2.7", 401),
    ],
)
async def test_metrics_are_open_on_loopback_only(face: Face, bound: str, peer: str, status: int) -> None:
    """Both ends must be this machine; with the token it works from everywhere."""
    app = build_app(face, door(bound))
    async with client(app, peer=peer) as asking:
        answer = await asking.get("/metrics")
        assert answer.status_code == status
        answer = await asking.get("/metrics", headers=AUTHORIZED)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "runwire_points_stored_total 0.0" in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8470", 200), ("127.0.0.1:8470", 200), ("[::1]:8470", 200), ("consumer:8470", 401), ("CONSUMER", 401),
        ("runwire.localhost", 200), ("runwire.example.org", 401), ("192.0.2.1:8470", 401), ("evil.example.com", 421), ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8470", 421), ("", 421), ("[::1", 200),
    ],
)  # fmt: skip
async def test_a_foreign_host_name_is_refused(face: Face, host: str, status: int) -> None:
    """A web page that rebinds its own name to this machine gets nothing; metrics are open by names of loopback only."""
    async with client(build_app(face, door("127.0.0.1", "runwire.example.org"))) as asking:
        answer = await asking.get("/metrics", headers={"host": host})
    assert answer.status_code == status


async def test_json_rows_are_objects_with_plain_numbers(http_client: httpx.AsyncClient) -> None:
    """What JSON lacks becomes a string; a repeated name gets a number."""
    sql = (
        "SELECT 1 AS a, 1.5 AS b, sum(x::BIGINT) AS c, 'nan'::DOUBLE AS d, 'inf'::DOUBLE AS e, '-inf'::FLOAT AS f, "
        "map {'k': 1} AS g, [1, NULL] AS h, {'x': true} AS i, NULL AS j, TIMESTAMP '2025-01-01 00:00:00.5' AS k, 2 AS a, "
        "'infinity'::TIMESTAMP AS l, DATE '2025-01-01' AS m FROM range(3) t(x)"
    )
    answer = await http_client.post("/api/sql", content=sql)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {
            "a": 1, "b": 1.5, "c": 3, "d": "NaN", "e": "Infinity", "f": "-Infinity", "g": {"k": 1}, "h": [1, None],
            "i": {"x": True}, "j": None, "k": "2025-01-01T00:00:00.500000Z", "a_1": 2, "l": "infinity", "m": "2025-01-01",
        }
    ]  # fmt: skip
    assert json.loads(answer.headers["runwire-columns"])[:3] == ["a", "b", "c"]


async def test_csv_disarms_formulas_in_texts_only(http_client: httpx.AsyncClient) -> None:
    """Numbers below zero stay numbers."""
    sql = "SELECT * FROM (VALUES ('=1+1', -1.5, '@x'), ('+1', 2, '-x'), ('plain', NULL, 'a,\"b\"')) AS t(\"=name\", v, \"w\")"
    answer = await http_client.post("/api/sql?format=csv", content=sql)
    assert answer.headers["content-type"].startswith("text/csv")
    assert sorted(csv.reader(io.StringIO(answer.text))) == sorted(
        [["'=name", "v", "w"], ["'=1+1", "-1.5", "'@x"], ["'+1", "2.0", "'-x"], ["plain", "", 'a,"b"']]
    )


async def test_arrow_keeps_types(http_client: httpx.AsyncClient) -> None:
    """The stream is Arrow's own, for polars, pandas and DuckDB."""
    answer = await http_client.post("/api/sql?format=arrow", content="SELECT 1::INTEGER AS a, 'nan'::DOUBLE AS b")
    table = pa.ipc.open_stream(answer.content).read_all()
    assert (str(table.schema.field("a").type), table.num_rows) == ("int32", 1)


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "*/*", "application/json"),
        ("", "application/json;q=0.9,text/plain", "application/json"),
        ("", "text/csv", "text/csv"),
        ("", "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("?format=json", "text/csv", "application/json"),
        ("?format=csv", "application/json", "text/csv"),
        ("?format=arrow", "text/csv", "application/vnd.apache.arrow.stream"),
    ],
)
async def test_format_beats_accept(http_client: httpx.AsyncClient, query: str, accept: str, kind: str) -> None:
    """Grafana's Accept can't be chosen, its URL can."""
    answer = await http_client.post(f"/api/sql{query}", content="SELECT 1", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ({"sql": "SELECT $x::INT AS x", "params": {"x": 3}}, [{"x": 3}]),
        ({"sql": "SELECT ?::INT AS x, ? AS y", "params": [3, "' OR 1"]}, [{"x": 3, "y": "' OR 1"}]),
        ({"sql": "SELECT 1 AS x", "params": None}, [{"x": 1}]),
        ({"sql": "SELECT list_contains($ids, 'a') AS x", "params": {"ids": ["a", "b"]}}, [{"x": True}]),
    ],
)
async def test_a_json_body_carries_parameters(http_client: httpx.AsyncClient, body: Any, rows: Any) -> None:
    """By name or by place."""
    assert (await http_client.post("/api/sql", json=body)).json() == rows


JSON = {"content-type": "application/json"}
BAD_REQUESTS: list[tuple[str, str, bytes, dict[str, str], int, str]] = [
    ("POST", "/api/sql", b"DROP VIEW runs", {}, 400, "Only one SELECT"),
    ("POST", "/api/sql", b"SELECT 1; SELECT 2", {}, 400, "2 statements"),
    ("POST", "/api/sql", b"", {}, 400, "is empty"),
    ("POST", "/api/sql", b"SELECT * FROM read_csv('/etc/passwd')", {}, 400, "isn't allowed"),
    ("POST", "/api/sql", b"SELECT nothing FROM runs", {}, 400, "nothing"),
    ("POST", "/api/sql", b"\xff\xfe", {}, 400, "UTF-8"),
    ("POST", "/api/sql", b"{", JSON, 400, "no JSON"),
    ("POST", "/api/sql", b"[" * 100_000, JSON, 400, "no JSON"),
    ("POST", "/api/sql", b"[]", JSON, 400, "must be"),
    ("POST", "/api/sql", b'{"sql": 1}', JSON, 400, "must be"),
    ("POST", "/api/sql", b'{"sql": "SELECT 1", "more": 1}', JSON, 400, "must be"),
    ("POST", "/api/sql", b'{"sql": "SELECT 1", "params": "x"}', JSON, 400, "params"),
    ("POST", "/api/sql", b'{"sql": "SELECT $x", "params": {}}', JSON, 400, "x"),
    ("POST", "/api/sql?format=xml", b"SELECT 1", {}, 400, "json, csv, arrow, parquet"),
    ("POST", "/api/sql", b"x" * (2**20 + 1), {}, 413, "larger than 1 MiB"),
    ("POST", "/api/sql", b"SELECT '" + b"x" * 200_000 + b"'", {}, 400, "100,000 characters"),
    ("POST", "/api/sql", b"SELECT " + b"1, " * 2_000 + b"1", {}, 413, "more than 2,000 columns"),
    ("POST", "/api/sql?nan=maybe", b"SELECT 1", {}, 400, "string or null"),
    ("POST", "/api/sql?nan=null&format=arrow", b"SELECT 1", {}, 400, "for json and csv"),
    ("POST", "/api/sql?format=parquet", b"SELECT INTERVAL 1 DAY", {}, 400, "Parquet lacks a type"),
    ("POST", "/api/sql", b'{"sql": "SELECT $t", "params": {"t": {"$time": "x"}}}', JSON, 400, "is no time"),
    ("POST", "/api/sql", b'{"sql": "SELECT $t", "params": {"t": {"$number": "x"}}}', JSON, 400, "is no number"),
    ("POST", "/api/sql", b'{"sql": "SELECT ?", "params": ["\\ud800"]}', JSON, 400, "half a character"),
    ("POST", "/api/sql", b'{"sql": "SELECT 1 AS \\ud800"}', JSON, 400, "half a character"),
    ("POST", "/api/sql", b'{"sql": "SELECT ?", "params": [1' + b"0" * 50 + b"]}", JSON, 400, "128 bits"),
    ("POST", "/api/sql", b"\x1f\x8b", {"content-encoding": "gzip"}, 415, "compressed"),
    ("GET", "/api/sql", b"", {}, 405, "another method"),
    ("GET", "/nothing", b"", {}, 404, "nothing at this address"),
    ("GET", "/api/runs/nothing", b"", {}, 404, "There is no run 'nothing'"),
    ("GET", "/api/runs/brave-fox-1", b"", {}, 409, "2 runs are called"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "part"), BAD_REQUESTS)
async def test_bad_input_gets_one_sentence(  # noqa: PLR0917 - a column each of the table
    http_client: httpx.AsyncClient, method: str, path: str, body: bytes, headers: dict[str, str], status: int, part: str
) -> None:
    """JSON with an error, a fitting status, no trace."""
    answer = await http_client.request(method, path, content=body, headers=headers)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert part in answer.json()["error"]
    assert "Traceback" not in answer.text


async def test_an_order_takes_and_gives_an_object(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes the store: obeyed with the token, refused in a sentence."""

    async def count(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if "to" not in asked:
            raise StoreError("Say how far.")
        if asked["to"] == "end":
            raise StoreEnding("The consumer is ending.")
        return {"counted": asked["to"]}

    monkeypatch.setitem(http.ACCESS, ("POST", "/api/count/up"), WRITE)
    app = build_app(replace(face, orders={"count/up": count}), door())
    async with client(app, **AUTHORIZED) as asking:
        done = await asking.post("/api/count/up", json={"to": 3})
        assert (done.status_code, done.json()) == (200, {"counted": 3})
        refused = await asking.post("/api/count/up")
        assert (refused.status_code, refused.json()) == (409, {"error": "Say how far."})
        late = await asking.post("/api/count/up", json={"to": "end"})
        assert (late.status_code, late.json()) == (503, {"error": "The consumer is ending."})
        assert (await asking.post("/api/count/up", content=b"[1]")).status_code == 400
        assert (await asking.get("/api/count/up")).status_code == 405
    async with client(app) as stranger:
        assert (await stranger.post("/api/count/up", json={"to": 3})).status_code == 401


async def test_runs_are_json(http_client: httpx.AsyncClient) -> None:
    """All, of one project, and one by id or by the begin of one."""
    assert len((await http_client.get("/api/runs")).json()) == 3
    assert [run["run_id"] for run in (await http_client.get("/api/runs?project=old")).json()] == [OLD]
    assert (await http_client.get(f"/api/runs/{DIGITS}")).json()["params"] == {"lr": "0.1"}
    assert (await http_client.get("/api/runs/cccc")).json()["name"] == 'odd "name"\n=1'


async def test_unready_says_what_is_missing(database: Database) -> None:
    """Health answers as long as the process does; readiness tells the reason."""
    face = Face(Sandbox(database.cursor), CollectorRegistry(), lambda: "The broker can't be reached.")
    async with client(build_app(face, door())) as asking:
        assert (await asking.get("/healthz")).status_code == 200
        answer = await asking.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"error": "The broker can't be reached."})


async def test_a_failure_inside_shows_no_trace(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a sentence, the log the trace."""

    async def broken(_asked: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RuntimeError("secret detail")

    app = build_app(replace(face, orders={"snapshots": broken}), door())
    async with client(app, **AUTHORIZED) as asking:
        answer = await asking.post("/api/snapshots")
    assert answer.status_code == 500
    assert answer.json() == {"error": "The consumer failed on this request: its log says why."}
    assert "secret detail" in caplog.text


async def test_a_query_that_takes_too_long_is_ended(database: Database) -> None:
    face = Face(Sandbox(database.cursor, Limits(seconds_max=1.5)), CollectorRegistry())
    async with client(build_app(face, door()), **AUTHORIZED) as asking:
        endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(9999) c"
        answer = await asking.post("/api/sql", content=endless)
    assert answer.status_code == 408
    assert "longer than 1.5 s" in answer.json()["error"]


async def test_too_many_queries_are_turned_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of bounded length: the rest is told to come back."""
    monkeypatch.setattr(http, "QUERIES_WAITING_MAX", 0)
    monkeypatch.setattr(http, "QUERIES_PARALLEL", 1)
    face = Face(Sandbox(database.cursor, Limits(seconds_max=1.5)), CollectorRegistry())
    async with client(build_app(face, door()), **AUTHORIZED) as asking:
        slow = "SELECT count(*) FROM range(1000000) a, range(1000000) b"
        answers = await asyncio.gather(*(asking.post("/api/sql", content=slow) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [408, 503, 503]


async def test_a_scrape_and_a_small_query_dont_wait_for_heavy_ones(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heavy readers hold every thread of theirs: /metrics answers at once, a further query is soon told to come back."""
    monkeypatch.setattr(http, "QUERIES_WAIT_SECONDS", 0.1)
    held, began = threading.Event(), threading.Semaphore(0)

    def hold(*_: Any) -> Any:
        began.release()
        held.wait(120)
        raise QueryTimeout("held")

    monkeypatch.setattr(Sandbox, "reading", hold)
    async with client(build_app(face, door()), **AUTHORIZED) as asking:
        heavy = [asyncio.create_task(asking.post("/api/sql", content="SELECT 1")) for _ in range(http.QUERIES_PARALLEL)]
        for _ in heavy:
            await asyncio.to_thread(began.acquire)
        try:
            async with asyncio.timeout(60):
                assert (await asking.get("/metrics")).status_code == 200
                assert (await asking.get("/healthz")).status_code == 200
                refused = await asking.post("/api/sql", content="SELECT 1")
        finally:
            held.set()
        assert (refused.status_code, refused.json()["error"]) == (
            503,
            "No query ended within 0.1 s to make room for this one: try again in a moment.",
        )
        assert [(await answer).status_code for answer in heavy] == [408] * http.QUERIES_PARALLEL
        # Every thread is free again, when it has left what it did.
        async with asyncio.timeout(60):
            while (await asking.post("/api/sql", content="SELECT 1")).status_code != 408:
                pass
        monkeypatch.setattr(http, "QUERIES_WAIT_SECONDS", 60.0)
        again = await asyncio.gather(*(asking.post("/api/sql", content="SELECT 1") for _ in heavy))
        assert [answer.status_code for answer in again] == [408] * http.QUERIES_PARALLEL


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[int]:
    """The app on a free port of 127.0.0.1."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(serve(app, "127.0.0.1", 0, port.set_result, stop))
    try:
        yield await asyncio.wait_for(port, 60)
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def test_it_serves_on_a_socket_and_ends_when_told(face: Face) -> None:
    """A real connection, and a second server on the same port gets one sentence."""
    async with (
        served(build_app(face, door())) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as asking,
    ):
        assert (await asking.get("/healthz")).text == "ok\n"
        assert (await asking.get("/metrics")).status_code == 200
        with pytest.raises(PortInUse, match=f"Port {port} on 127.0.0.1 is in use"):
            await serve(build_app(face, door()), "127.0.0.1", port)
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient().get(f"http://127.0.0.1:{port}/healthz")
    with pytest.raises(FaceError, match="can't be bound"):
        await serve(build_app(face, door()), "192.0.2.1", 0)


async def _raw(port: int, request: bytes, *, seconds: float = 60.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    with contextlib.suppress(TimeoutError, ConnectionError):
        answer = await asyncio.wait_for(reader.read(65_536), seconds)
        writer.close()
        return answer
    writer.close()
    return b""


async def test_a_slow_or_endless_request_ends(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles gets 408, one that never ends 413, headers without end 400."""
    head = f"POST /api/sql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    async with served(build_app(face, door())) as port:
        with monkeypatch.context() as hurry:
            hurry.setattr(guard, "BODY_SECONDS_MAX", 0.2)
            assert b" 408 " in await _raw(port, head + b"Content-Length: 100\r\n\r\nSELECT")
        assert b" 413 " in await _raw(port, head + b"Content-Length: 99999999\r\n\r\nSELECT")
        chunk = b"20000\r\n" + b"x" * 0x20000 + b"\r\n"
        assert b" 413 " in await _raw(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 9)
        assert b" 400 " in await _raw(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert b" 400 " in await _raw(port, b"nonsense\r\n\r\n")
        assert b" 200 " in await _raw(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("x", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:  # noqa: FBT001 - a column of the table
    """Only addresses of this machine."""
    assert is_loopback(host) is expected


async def test_a_request_that_outlasts_the_end_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """Not that something broke, and the log has no trace."""
    arrived = asyncio.Event()

    async def endless(_scope: Scope, _receive: Receive, _send: Send) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with httpx.AsyncClient(timeout=30) as asking:
        async with served(guarded(endless, door(), {("GET", "/healthz"): OPEN})) as port:
            answering = asyncio.create_task(asking.get(f"http://127.0.0.1:{port}/healthz"))
            await asyncio.wait_for(arrived.wait(), 10)
        answer = await answering
    assert (answer.status_code, answer.json()) == (503, {"error": "The consumer is ending: ask again when it is back."})
    assert "Traceback" not in caplog.text
