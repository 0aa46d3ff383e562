"""Who may come in: every route and method, with every kind of visitor, against the table that stands here."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from runwire_consumer import http
from runwire_consumer.access import ADMIN, OPEN, READ, READ_BY_PROJECT, WRITE, AccessTable, Scope, Visitor
from runwire_consumer.guard import Door, guarded
from runwire_consumer.http import Face, build_app
from runwire_consumer.issued import IssuedTokens
from runwire_consumer.login import login_routes
from runwire_consumer.page.routes import live_routes
from runwire_consumer.pages import Page
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.sessions import CODE_SECONDS_MAX, SESSION_SECONDS_MAX, cookie_name, session_secret
from runwire_consumer.tokens import Token
from tests.consumer.small_store import DIGITS, OLD, small_store

HOME_TOKEN = "h" * 24
READER = "r" * 40
OWN = {"origin": "http://localhost:8470"}
FOREIGN = {"origin": "http://evil.example"}

# What each route wants: o(pen), r(ead), p: read, also with a token of some projects, w(rite), a(dmin).
ROUTES = {
    ("GET", "/"): "o",
    ("GET", "/static/page.js"): "o",
    ("GET", "/healthz"): "o",
    ("GET", "/readyz"): "o",
    ("POST", "/api/login"): "o",
    ("POST", "/api/logout"): "p",
    ("GET", "/api/session"): "p",
    ("POST", "/api/sql"): "p",
    ("GET", "/api/runs"): "p",
    ("GET", "/api/runs/{wanted:path}"): "p",
    ("GET", "/api/table"): "p",
    ("GET", "/api/names"): "p",
    ("GET", "/api/curves"): "p",
    ("GET", "/api/live"): "p",
    ("GET", "/metrics"): "r",
    ("POST", "/api/doctor"): "r",
    ("POST", "/api/snapshots"): "w",
    ("POST", "/api/dead-letters/replay"): "w",
    ("POST", "/api/dead-letters/discard"): "w",
    ("POST", "/api/tokens/create"): "a",
    ("POST", "/api/tokens/list"): "a",
    ("POST", "/api/tokens/revoke"): "a",
}
# Who asks, and what they get where the route wants o, r, p, w, a; 200 stands for whatever a route says to those inside.
VISITORS: dict[str, tuple[int, int, int, int, int]] = {
    "nobody": (200, 401, 401, 401, 401),
    "wrong": (200, 401, 401, 401, 401),
    "empty": (200, 401, 401, 401, 401),
    "basic": (200, 401, 401, 401, 401),
    "a prefix of a token": (200, 401, 401, 401, 401),
    "expired": (200, 401, 401, 401, 401),
    "revoked": (200, 401, 401, 401, 401),
    "read": (200, 200, 200, 403, 403),
    "reader": (200, 200, 200, 403, 403),
    "project": (200, 403, 200, 403, 403),
    "write": (200, 200, 200, 200, 403),
    "admin": (200, 200, 200, 200, 200),
    "home": (200, 200, 200, 200, 200),
    "cookie of read": (200, 200, 200, 403, 403),
    "cookie of project": (200, 403, 200, 403, 403),
    "cookie of admin": (200, 200, 200, 200, 200),
    "cookie of revoked": (200, 401, 401, 401, 401),
    "made-up cookie": (200, 401, 401, 401, 401),
    "wrong beside a good cookie": (200, 401, 401, 401, 401),
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
NOWHERE = (
    "/docs", "/api", "/api/", "/api/sql/", "/METRICS", "//metrics", "/metrics/", "/api/snapshots/x", "/static",
    "/token", "/%2e%2e/token", "/healthz/x",
)  # fmt: skip


@dataclass
class Place:
    """A consumer's face with tokens of all kinds; its clocks stand still until they are told."""

    app: Any
    door: Door
    issued: IssuedTokens
    tokens: dict[str, str]
    wall: list[datetime] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def headers(self, visitor: str) -> dict[str, str]:
        """What a visitor of the table sends."""
        tokens = self.tokens
        plain = {
            "nobody": "",
            "wrong": "Bearer rwt_" + "x" * 43,
            "empty": "Bearer ",
            "basic": f"Basic {tokens['admin']}",
            "a prefix of a token": f"Bearer {tokens['admin'][:-1]}",
            "home": f"Bearer {HOME_TOKEN}",
            "wrong beside a good cookie": "Bearer rwt_x",
        }
        sent = {"cookie": f"{cookie_name(8470)}={tokens[visitor]}"} if "cookie" in visitor else {}
        given = plain.get(visitor, f"Bearer {tokens[visitor]}" if visitor in tokens and not sent else "")
        return {**OWN, **sent, **({"authorization": given} if given else {})}


async def done(_: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    database = small_store()
    yield Sandbox(database.cursor)
    database.close()


@pytest.fixture
def place(sandbox: Sandbox, tmp_path: Path) -> Place:
    wall, seconds = [datetime(2027, 1, 1, tzinfo=UTC)], [1_000.0]
    issued = IssuedTokens(tmp_path, lambda: wall[0])
    door = Door(Token(HOME_TOKEN), "127.0.0.1", issued=issued, reader=Token(READER), clock=lambda: seconds[0])
    orders = dict.fromkeys((path.removeprefix("/api/") for path in ORDERS), done)
    pages = (Page("/", b"<!doctype html>", "text/html"), Page("/static/page.js", b"1", "text/javascript"))
    app = build_app(Face(sandbox, CollectorRegistry(), orders=orders, pages=pages), door)
    tokens = {
        "read": issued.create("read", Scope.READ),
        "reader": READER,
        "project": issued.create("project", Scope.READ, frozenset({"old"})),
        "write": issued.create("write", Scope.WRITE),
        "admin": issued.create("admin", Scope.ADMIN),
        "expired": issued.create("expired", Scope.ADMIN, lifetime_seconds=3_600),
        "revoked": issued.create("revoked", Scope.ADMIN),
    }
    for name in ("read", "project", "admin", "revoked"):
        tokens[f"cookie of {name}"] = door.sessions.begin(door.holder(tokens[name]).digest, seconds[0])
    tokens |= {"made-up cookie": "x" * 43, "wrong beside a good cookie": tokens["cookie of admin"]}
    wall[0] += timedelta(hours=1)
    issued.revoke("revoked")
    return Place(app, door, issued, tokens, wall, seconds)


LOGIN = ("/api/login", "/api/logout")
ORDERS = [path for (method, path) in ROUTES if method == "POST" and path not in {*LOGIN, "/api/sql"}]


def client(app: Any, peer: str = "192.0.2.7", **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=(peer, 1), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8470", headers=headers)


@pytest.fixture
async def asking(place: Place) -> AsyncIterator[httpx.AsyncClient]:
    async with client(place.app) as made:
        yield made


async def ask(asking: httpx.AsyncClient, place: Place, method: str, path: str, headers: dict[str, str]) -> int:
    """The status; nobody asks too often, however many ask."""
    place.seconds[0] += 100
    url = "http://localhost:8470" + path.replace("{wanted:path}", "nothing")
    return (await asking.request(method, url, headers=headers)).status_code


def said(status: int) -> int:
    return status if status in {401, 403} else 200


def test_the_table_names_every_route(place: Place) -> None:
    """No route is missing here, none here is missing there, and each has its rule."""
    face = Face(Sandbox(lambda: None), CollectorRegistry(), orders=dict.fromkeys((p[5:] for p in ORDERS), done))  # type: ignore[arg-type, return-value]
    routes = [*http._routes(face), *login_routes(place.door), *live_routes(None, place.door)]
    there = {(method, route.path) for route in routes for method in (route.methods or ()) if method != "HEAD"}
    here = {key for key in ROUTES if key[1] not in {"/", "/static/page.js"}}
    assert there == here == set(http.ACCESS)


@pytest.mark.parametrize("visitor", VISITORS)
async def test_every_route_and_method(asking: httpx.AsyncClient, place: Place, visitor: str) -> None:
    """Each lets in whom the table lets in; another method and another address are told to those inside only."""
    headers = place.headers(visitor)
    paths = sorted({path for _, path in ROUTES})
    identified = VISITORS[visitor][1:3] != (401, 401)
    cases = itertools.product(METHODS, (*paths, *NOWHERE))
    for method, path in sorted(cases, key=("POST", "/api/logout").__eq__):  # which ends a session: the last one
        asked = ("GET" if method == "HEAD" else method, path)
        status = await ask(asking, place, method, path, headers)
        if asked in ROUTES:
            wanted = VISITORS[visitor]["orpwa".index(ROUTES[asked])]
            assert said(status) == wanted, (method, path)
        elif not identified:
            assert status == 401, (method, path)
        else:
            assert status == (405 if path in paths else 404), (method, path)


@pytest.mark.parametrize(
    ("method", "sent", "status"),
    [
        ("POST", OWN, 200),
        ("POST", {**OWN, "sec-fetch-site": "same-origin"}, 200),
        ("POST", {"sec-fetch-site": "same-origin"}, 200),
        ("POST", {"origin": "https://localhost:8470"}, 200),  # a proxy that speaks TLS stands before
        ("POST", {"origin": "https://runwire.example.org"}, 200),  # which writes a Host of its own
        ("POST", {}, 403),
        ("POST", FOREIGN, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://localhost:9999"}, 403),
        ("POST", {"origin": "http://localhost"}, 403),
        ("POST", {"origin": "http://localhost:8470.evil.example"}, 403),
        ("POST", {"origin": "http://localhost:8470@evil.example"}, 403),
        ("POST", {"origin": "file://localhost:8470"}, 403),
        ("POST", {"origin": "http://[::1"}, 403),
        ("POST", {**OWN, "sec-fetch-site": "cross-site"}, 403),
        ("POST", {**OWN, "sec-fetch-site": "same-site"}, 403),
        ("GET", {}, 200),
        ("GET", {"sec-fetch-site": "none"}, 200),
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", FOREIGN, 403),
    ],
)
async def test_a_cookie_counts_from_our_own_page_only(
    place: Place, sandbox: Sandbox, method: str, sent: dict[str, str], status: int
) -> None:
    """Another site's page has the browser send the cookie, where SameSite fails, but not our Origin."""
    door = Door(Token(HOME_TOKEN), "127.0.0.1", frozenset({"runwire.example.org"}), place.issued)
    secret = door.sessions.begin(door.holder(place.tokens["admin"]).digest, door.clock())
    app = build_app(Face(sandbox, CollectorRegistry(), orders={"snapshots": done}), door)
    path = "/api/snapshots" if method == "POST" else "/api/session"
    async with client(app, cookie=f"{cookie_name(8470)}={secret}") as browser:
        assert (await browser.request(method, path, headers=sent)).status_code == status


async def test_a_bearer_needs_no_origin(asking: httpx.AsyncClient, place: Place) -> None:
    """No page of another site can make a browser send one."""
    sent = {"authorization": f"Bearer {place.tokens['write']}", **FOREIGN}
    assert (await asking.post("/api/snapshots", headers=sent)).status_code == 200


async def test_log_in_and_out(asking: httpx.AsyncClient, place: Place) -> None:
    """The token becomes a cookie that no script reads and no other site sends; both its ends end it."""
    answer = await asking.post("/api/login", json={"token": place.tokens["read"] + "\n"}, headers=OWN)
    assert (answer.status_code, answer.json()) == (200, {"name": "read", "scope": "read", "projects": None})
    cookie = answer.headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    secret, _, attributes = rest.partition("; ")
    assert (name, len(secret)) == ("runwire_session_8470", 43)
    assert attributes == "Path=/; HttpOnly; SameSite=Strict; Max-Age=86400"
    assert place.tokens["read"] not in str(answer.headers)
    assert (await asking.get("/api/session")).json()["name"] == "read"
    gone = await asking.post("/api/logout", headers=OWN)
    assert gone.headers["set-cookie"].startswith("runwire_session_8470=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0")
    sent = {"cookie": f"{name}={secret}"}
    assert (await asking.get("/api/session", headers=sent)).status_code == 401


async def test_a_session_ends_with_its_token_and_with_its_time(asking: httpx.AsyncClient, place: Place) -> None:
    """Revoked or expired while somebody is logged in; and after a day in any case."""
    text = place.issued.create("short", Scope.READ, lifetime_seconds=60)
    for name, token in (("short", text), ("read", place.tokens["read"]), ("home", HOME_TOKEN)):
        secret = place.door.sessions.begin(place.door.holder(token).digest, place.seconds[0])
        place.tokens[f"cookie: {name}"] = secret

    async def status(name: str) -> int:
        sent = {"cookie": f"{cookie_name(8470)}={place.tokens[f'cookie: {name}']}"}
        return (await asking.get("/api/session", headers=sent)).status_code

    assert [await status(name) for name in ("short", "read", "home")] == [200, 200, 200]
    place.wall[0] += timedelta(seconds=60)
    place.issued.revoke("read")
    assert [await status(name) for name in ("short", "read", "home")] == [401, 401, 200]
    place.issued.create("read", Scope.READ)
    place.seconds[0] += SESSION_SECONDS_MAX - 1
    assert [await status(name) for name in ("short", "read", "home")] == [401, 401, 200]
    place.seconds[0] += 1
    assert await status("home") == 401


@pytest.mark.parametrize(
    ("cookies", "secret"),
    [
        ("", None),
        ("s=abc", "abc"),
        ("a=b; s=abc; c=d", "abc"),
        ("a=b;s=abc", "abc"),
        ("s=", None),
        ("s", None),
        ("S=abc", None),
        ("xs=abc", None),
        ('s="abc"', None),
        ("s=a b", None),
        ("s=abc=", None),
        (f"s={'a' * 129}", None),
        ('s="' + "\\" * 30_000, None),
        (";" * 30_000 + "s=abc", "abc"),
    ],
)
def test_the_cookie_is_found_among_others(cookies: str, secret: str | None) -> None:
    """Plainly: what another program has set is passed over."""
    assert session_secret(cookies, "s") == secret


@pytest.mark.parametrize(
    ("sent", "body", "status"),
    [
        (OWN, b'{"token": "rwt_wrong"}', 401),
        (OWN, b'{"token": 1}', 400),
        (OWN, b'{"code": "wrong"}', 401),
        (OWN, b'{"code": "wrong", "token": "rwt_wrong"}', 400),
        (OWN, b'{"key": "rwt_wrong"}', 400),
        (OWN, b"[]", 400),
        (OWN, b"{", 400),
        ({}, b'{"token": "rwt_wrong"}', 403),
        (FOREIGN, b'{"token": "rwt_wrong"}', 403),
        ({**OWN, "content-type": "text/plain"}, b'{"token": "rwt_wrong"}', 415),
        ({**OWN, "content-type": "application/x-www-form-urlencoded"}, b"token=x", 415),
    ],
)
async def test_a_bad_login_sets_nothing(
    asking: httpx.AsyncClient, sent: dict[str, str], body: bytes, status: int
) -> None:
    answer = await asking.post("/api/login", content=body, headers={"content-type": "application/json", **sent})
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert list(answer.json()) == ["error"]


async def test_a_code_begins_one_session(asking: httpx.AsyncClient, place: Place) -> None:
    """It stands for the home's token, is used up by its use, ends after two minutes, and is no bearer token."""
    code, late, other = (place.door.invite() for _ in range(3))
    assert (await asking.get("/api/session", headers={"authorization": f"Bearer {code}"})).status_code == 401
    assert (await asking.post("/api/login", json={"token": code}, headers=OWN)).status_code == 401
    assert (await asking.post("/api/login", json={"code": code}, headers=FOREIGN)).status_code == 403
    answer = await asking.post("/api/login", json={"code": code}, headers=OWN)
    assert (answer.status_code, answer.json()) == (200, {"name": "home", "scope": "admin", "projects": None})
    assert (await asking.get("/api/session")).json()["name"] == "home"
    assert (await asking.post("/api/login", json={"code": code}, headers=OWN)).status_code == 401
    place.seconds[0] += CODE_SECONDS_MAX - 1
    assert (await asking.post("/api/login", json={"code": other}, headers=OWN)).status_code == 200
    place.seconds[0] += 1
    assert (await asking.post("/api/login", json={"code": late}, headers=OWN)).status_code == 401


@pytest.mark.parametrize(("scheme", "sent"), [("https", {}), ("http", {"x-forwarded-proto": "https"})])
async def test_under_tls_the_cookie_is_secure(place: Place, scheme: str, sent: dict[str, str]) -> None:
    """Also where a proxy speaks it."""
    transport = httpx.ASGITransport(app=place.app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://localhost:8470") as browser:
        told = {"token": HOME_TOKEN}
        origin = {"origin": f"{scheme}://localhost:8470"}
        answer = await browser.post("/api/login", json=told, headers={**origin, **sent})
    assert answer.headers["set-cookie"].endswith("; Secure")


async def test_wrong_tokens_are_slowed_down_and_right_ones_are_not(asking: httpx.AsyncClient, place: Place) -> None:
    """Ten at once, then one in five seconds, by address; logins count alike; who holds a token isn't locked out."""
    wrong, right = {"authorization": "Bearer rwt_wrong"}, {"authorization": f"Bearer {place.tokens['read']}"}
    statuses = [(await asking.get("/api/session", headers=wrong)).status_code for _ in range(9)]
    statuses.append((await asking.post("/api/login", json={"token": "rwt_wrong"}, headers=OWN)).status_code)
    assert statuses == [401] * 10
    for answer in (
        await asking.get("/api/session", headers=wrong),
        await asking.post("/api/login", json={"token": "rwt_wrong"}, headers=OWN),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert "try again in 5 s" in answer.json()["error"]
    assert (await asking.get("/api/session", headers=right)).status_code == 200
    async with client(place.app, "192.0.2.8") as other:
        assert (await other.get("/api/session", headers=wrong)).status_code == 401
    place.seconds[0] += 5
    assert (await asking.get("/api/session", headers=wrong)).status_code == 401
    assert (await asking.get("/api/session", headers=wrong)).status_code == 429


async def test_who_asks_too_often_waits(place: Place) -> None:
    """By token, whatever the address; by address where no token is needed."""
    read, write = ({"authorization": f"Bearer {place.tokens[name]}"} for name in ("read", "write"))
    async with client(place.app) as one, client(place.app, "192.0.2.8") as other:
        for asked, path in ((read, "/api/session"), ({}, "/healthz")):
            statuses = [(await one.get(path, headers=asked)).status_code for _ in range(1_001)]
            assert (set(statuses[:1_000]), statuses[1_000]) == ({200}, 429)
        assert (await other.get("/api/session", headers=read)).status_code == 429
        assert (await other.get("/api/session", headers=write)).status_code == 200
        assert (await other.get("/healthz")).status_code == 200


METRICS_CASES = [
    ("127.0.0.1", "127.0.0.1", {}, 200),
    ("127.0.0.1", "::1", {}, 200),
    ("127.0.0.1", "192.0.2.7", {}, 401),
    ("192.0.2.1", "127.0.0.1", {}, 401),
    ("127.0.0.1", "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, 401),
    ("127.0.0.1", "127.0.0.1", {"X-Forwarded-Host": "localhost"}, 401),
    ("127.0.0.1", "127.0.0.1", {"forwarded": "for=127.0.0.1"}, 401),
    ("127.0.0.1", "127.0.0.1", {"via": "1.1 proxy"}, 401),
    ("127.0.0.1", "127.0.0.1", {"x-real-ip": "127.0.0.1"}, 401),
    ("127.0.0.1", "127.0.0.1", {"host": "runwire.example.org"}, 401),
    ("127.0.0.1", "127.0.0.1", {"host": "consumer"}, 401),
    ("127.0.0.1", "127.0.0.1", {"host": "192.0.2.1"}, 401),
]


@pytest.mark.parametrize(("bound", "peer", "sent", "status"), METRICS_CASES)
async def test_metrics_are_open_to_this_machine_itself(
    sandbox: Sandbox, bound: str, peer: str, sent: dict[str, str], status: int
) -> None:
    """The peer counts, what a header says of it only against it; and the setting closes it for all."""
    for metrics_open in (True, False):
        door = Door(Token(HOME_TOKEN), bound, frozenset({"runwire.example.org"}), metrics_open=metrics_open)
        async with client(build_app(Face(sandbox, CollectorRegistry()), door), peer) as asking:
            assert (await asking.get("/metrics", headers=sent)).status_code == (status if metrics_open else 401)
            sent_with = {**sent, "authorization": f"Bearer {HOME_TOKEN}"}
            assert (await asking.get("/metrics", headers=sent_with)).status_code == 200


async def test_every_answer_has_strict_headers(asking: httpx.AsyncClient, place: Place) -> None:
    """Data is kept and framed by nobody; the page may load itself only."""
    admin = place.headers("admin")
    for path, sent in (("/healthz", {}), ("/api/runs", {}), ("/nothing", admin), ("/api/session", admin)):
        headers = (await asking.get(path, headers=sent)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "access-control-allow-origin" not in headers
    page = await asking.get("/")
    assert (page.text, page.headers["cache-control"]) == ("<!doctype html>", "no-cache")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


async def test_what_no_rule_names_is_never_reached() -> None:
    """Whatever is mounted in the application."""

    async def anybody(_: Any) -> PlainTextResponse:
        return PlainTextResponse("inside")

    inner = Starlette(routes=[Mount("/mounted", routes=[Route("/x", anybody)]), Route("/known", anybody)])
    app = guarded(inner, Door(Token(HOME_TOKEN), "127.0.0.1"), {("GET", "/known"): READ})
    async with client(app, authorization=f"Bearer {HOME_TOKEN}") as asking:
        assert (await asking.get("/known")).text == "inside"
        assert (await asking.get("/mounted/x")).status_code == 404
        assert (await asking.get("/mounted")).status_code == 404
        answer = await asking.post("/known")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


RULES = {
    ("GET", "/a"): OPEN,
    ("GET", "/a/{x}"): READ_BY_PROJECT,
    ("GET", "/a/b"): WRITE,
    ("POST", "/b/{x:path}"): ADMIN,
    ("GET", "/c.d"): READ,
}


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/a", OPEN),
        ("HEAD", "/a", OPEN),
        ("POST", "/a", None),
        ("GET", "/a/", None),
        ("GET", "/a/x", READ_BY_PROJECT),
        ("GET", "/a/x/y", None),
        ("GET", "/a/b", WRITE),  # two match: the strictest holds
        ("POST", "/b/x/y", ADMIN),
        ("POST", "/b/x\ny", ADMIN),
        ("GET", "/c.d", READ),
        ("GET", "/cxd", None),
        ("GET", "/c.d\n", None),
    ],
)
def test_rules_are_found_by_method_and_path(method: str, path: str, rule: Any) -> None:
    assert AccessTable(RULES).find(method, path) == rule


@pytest.mark.parametrize(
    ("scope", "projects", "passes"),
    [(Scope.READ, None, "orp"), (Scope.READ, {"a"}, "op"), (Scope.WRITE, None, "orpw"), (Scope.ADMIN, None, "orpwa")],
)
def test_scopes_contain_each_other(scope: Scope, projects: set[str] | None, passes: str) -> None:
    visitor = Visitor("v", scope, b"", None if projects is None else frozenset(projects))
    rules = {"o": OPEN, "r": READ, "p": READ_BY_PROJECT, "w": WRITE, "a": ADMIN}
    assert "".join(word for word, rule in rules.items() if visitor.refusal(rule) is None) == passes


async def test_a_project_token_sees_its_project_everywhere(asking: httpx.AsyncClient, place: Place) -> None:
    """Runs, a run by id, name and begin, and SQL."""
    sent = {"authorization": f"Bearer {place.tokens['project']}"}
    assert [run["run_id"] for run in (await asking.get("/api/runs", headers=sent)).json()] == [OLD]
    assert (await asking.get("/api/runs?project=digits", headers=sent)).json() == []
    assert (await asking.get(f"/api/runs/{OLD[:6]}", headers=sent)).json()["project"] == "old"
    for hidden in (DIGITS, DIGITS[:6], "brave-fox-1"):
        answer = await asking.get(f"/api/runs/{hidden}", headers=sent)
        assert (answer.status_code, DIGITS in answer.text.replace(hidden, "")) == (404, False)
    sql = "SELECT run_id FROM runs UNION ALL SELECT run_id FROM params UNION ALL SELECT DISTINCT run_id FROM curves"
    assert {row["run_id"] for row in (await asking.post("/api/sql", content=sql, headers=sent)).json()} == {OLD}
