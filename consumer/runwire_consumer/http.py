"""The HTTP face: SQL, runs, metrics and health, each in one route.

    POST /api/sql?format=json|csv|arrow|parquet[&nan=null|string]
                                           body: the SELECT as text, or JSON {"sql": ..., "params": {...} or [...]}
    GET  /api/runs[?project=NAME]          the runs, newest first
    GET  /api/runs/{id or name}            everything about one run
    POST /api/{order}                      what changes the store, one route an order; JSON object in and out
    GET  /api/session                      who asks: name, scope and projects of the token
    POST /api/login, /api/logout           a browser's token for a cookie, and the end of that
    GET  /metrics                          gauges for Prometheus
    GET  /healthz, /readyz                 the process answers; the store is open and the source is read

`ACCESS` says who may ask what; a route without an entry there is denied. Every error is JSON {"error": "one sentence"}.
Queries run in a few threads, so the service's loop never waits for one; /metrics has a thread of its own, so it never
waits for a query either.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from runwire_consumer import queries
from runwire_consumer.access import ADMIN, OPEN, READ, READ_BY_PROJECT, READ_OR_LOOPBACK, WRITE, Rule
from runwire_consumer.answers import answer, read_asked
from runwire_consumer.connections import CONNECTIONS_MAX, Server
from runwire_consumer.errors import (
    ConsumerError,
    FaceError,
    PortInUse,
    QueryError,
    QueryTimeout,
    QueryTooLarge,
    RunAmbiguous,
    RunNotFound,
    StoreEnding,
)
from runwire_consumer.exposition import Exposition
from runwire_consumer.guard import HEADERS_BYTES_MAX, Door, RequestRefused, guarded, read_body, visitor_of
from runwire_consumer.leaving import leaving_if_invalidated
from runwire_consumer.login import login_routes
from runwire_consumer.page.feed import LiveFeed
from runwire_consumer.page.routes import PAGE_ACCESS, data_routes, live_routes
from runwire_consumer.pages import Page, page_routes, page_rules
from runwire_consumer.priority import step_back
from runwire_consumer.sandbox import Sandbox

QUERIES_PARALLEL = 4
QUERIES_WAITING_MAX = 32
QUERIES_WAIT_SECONDS = 2.0
SCRAPES_WAITING_MAX = 8
SCRAPES_WAIT_SECONDS = 10.0

# A route that isn't here is denied. An order that changes what all projects share can't be given to a token of some.
ACCESS: dict[tuple[str, str], Rule] = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): READ_OR_LOOPBACK,
    ("POST", "/api/login"): OPEN,
    ("POST", "/api/logout"): READ_BY_PROJECT,
    ("GET", "/api/session"): READ_BY_PROJECT,
    ("POST", "/api/sql"): READ_BY_PROJECT,
    ("GET", "/api/runs"): READ_BY_PROJECT,
    ("GET", "/api/runs/{wanted:path}"): READ_BY_PROJECT,
    ("POST", "/api/doctor"): READ,
    ("POST", "/api/snapshots"): WRITE,
    ("POST", "/api/dead-letters/replay"): WRITE,
    ("POST", "/api/dead-letters/discard"): WRITE,
    ("POST", "/api/tokens/create"): ADMIN,
    ("POST", "/api/tokens/list"): ADMIN,
    ("POST", "/api/tokens/revoke"): ADMIN,
    **PAGE_ACCESS,
}

Order = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Changes the store: what is asked in, what was done out; raises ConsumerError with a sentence."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Face:
    """What the routes show.

    Attributes:
        sandbox: Runs the SELECTs.
        registry: What /metrics renders.
        unready: A sentence that says what is missing; None when everything stands.
        orders: What changes the store, by the path below /api/ that orders it.
        pages: The static shell.
        feed: What pages follow.
    """

    sandbox: Sandbox
    registry: CollectorRegistry
    unready: Callable[[], str | None] = lambda: None
    orders: Mapping[str, Order] = field(default_factory=dict)
    pages: Sequence[Page] = ()
    feed: LiveFeed | None = None

    def asking(self, projects: frozenset[str] | None) -> queries.Ask:
        """The `Ask` of `queries` on the open database, limited to some projects."""
        return lambda sql, params: list(self.sandbox.run(sql, params, projects).objects())


def build_app(face: Face, door: Door) -> ASGIApp:
    """The application, guarded on every route."""
    routes = [*_routes(face), *login_routes(door), *live_routes(face.feed, door), *page_routes(face.pages)]
    return guarded(Router(routes), door, {**page_rules(face.pages), **ACCESS})


def _routes(face: Face) -> list[Route]:
    worker = _Worker("runwire-query", QUERIES_PARALLEL, QUERIES_WAITING_MAX, QUERIES_WAIT_SECONDS)
    scraper = _Worker("runwire-scrape", 1, SCRAPES_WAITING_MAX, SCRAPES_WAIT_SECONDS)
    exposition = Exposition(face.registry)

    async def sql(request: Request) -> Response:
        asked = read_asked(request, await read_body(request), _projects(request))
        return await answer(request, asked, face.sandbox, worker.start, _status)

    async def runs(request: Request) -> Response:
        project, ask = request.query_params.get("project"), face.asking(_projects(request))
        return await worker.run(lambda: _json(queries.list_runs(ask, project)))

    async def run(request: Request) -> Response:
        wanted, ask = request.path_params["wanted"], face.asking(_projects(request))
        return await worker.run(lambda: _json(queries.show_run(ask, queries.find_run(ask, wanted))))

    async def metrics(request: Request) -> Response:
        scraped = await scraper.run(exposition.answer)
        body, headers = scraped.suiting(request.headers.get("accept-encoding", ""))
        return Response(body, headers=headers)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reason = face.unready()
        return PlainTextResponse("ready\n") if reason is None else JSONResponse({"error": reason}, 503)

    def obeying(order: Order) -> Callable[[Request], Awaitable[Response]]:
        async def obey(request: Request) -> Response:
            asked = _object(await read_body(request))
            try:
                return _json(await order(asked))
            except ConsumerError as error:
                raise RequestRefused(503 if isinstance(error, StoreEnding) else 409, str(error)) from None

        return obey

    return [
        *(Route(f"/api/{path}", obeying(order), methods=["POST"]) for path, order in face.orders.items()),
        *data_routes(worker.run, face.asking),
        Route("/api/sql", sql, methods=["POST"]),
        Route("/api/runs", runs, methods=["GET"]),
        Route("/api/runs/{wanted:path}", run, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
    ]


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    bound: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
    *,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve in the running loop until `stop` is set or the task is cancelled.

    Args:
        app: What `build_app` made.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        bound: Called with the port once clients can connect.
        stop: Set to end, requests in progress are finished first.
        tls: What the server speaks TLS with; None: it doesn't.

    Raises:
        PortInUse: Another program listens there.
        FaceError: The address can't be bound.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        ws="none",
        # A client's address is its peer's: a header may say anything.
        proxy_headers=False,
    )
    server = Server(config, tls)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line an odd request would fill the log
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        if bound is not None:
            bound(listener.getsockname()[1])
        waits = [serving] if stop is None else [serving, asyncio.ensure_future(stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=5)
        listener.close()


class _Worker:
    """Runs queries in a few threads; what doesn't fit in the queue, or waits there too long, is refused."""

    def __init__(self, name: str, parallel: int, waiting_max: int, wait_seconds: float) -> None:
        self._threads = ThreadPoolExecutor(parallel, name, initializer=step_back)
        self._free = asyncio.Semaphore(parallel)
        self._waiting = 0
        self._waiting_max = waiting_max
        self._wait_seconds = wait_seconds

    async def run(self, work: Callable[[], _Made]) -> _Made:
        working = await self.start(work)
        try:
            return await asyncio.wrap_future(working)
        except QueryError as error:
            raise RequestRefused(_status(error), str(error)) from None

    async def start(self, work: Callable[[], _Made]) -> Future[_Made]:
        """Begin as soon as a thread is free."""
        await self._enter()
        loop = asyncio.get_running_loop()

        def leave(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._free.release)

        # The thread is taken until the work ends, even where its client has gone.
        working = self._threads.submit(_unless_invalidated, work)
        working.add_done_callback(leave)
        return working

    async def _enter(self) -> None:
        """Wait for a free thread, briefly."""
        if not self._free.locked():
            await self._free.acquire()  # at once
            return
        if self._waiting >= self._waiting_max:
            raise RequestRefused(503, "Too many queries are waiting: try again in a moment.")
        self._waiting += 1
        try:
            await asyncio.wait_for(self._free.acquire(), self._wait_seconds)
        except TimeoutError:
            raise RequestRefused(
                503, f"No query ended within {self._wait_seconds:g} s to make room for this one: try again in a moment."
            ) from None
        finally:
            self._waiting -= 1


def _unless_invalidated(work: Callable[[], _Made]) -> _Made:
    with leaving_if_invalidated():
        return work()


def _projects(request: Request) -> frozenset[str] | None:
    """Those that the answer is limited to; None: all."""
    visitor = visitor_of(request)
    return frozenset() if visitor is None else visitor.projects


def _status(error: QueryError) -> int:
    match error:
        case RunNotFound():
            return 404
        case RunAmbiguous():
            return 409
        case QueryTimeout():
            return 408
        case QueryTooLarge():
            return 413
        case _:
            return 400


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        asked = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise RequestRefused(400, "The body must be a JSON object.")
    return asked


def _json(content: Any) -> Response:
    return Response(json.dumps(content, allow_nan=False).encode(), media_type="application/json")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is in use by another program: stop it or choose another port."
            ) from None
        raise FaceError(f"The address {host}:{port} can't be bound: {error.strerror or error}.") from None
    listener.setblocking(False)
    return listener
