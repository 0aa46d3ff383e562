"""The routes that the page asks, beside those of everybody.

GET  /api/table[?project=&metric=&param=]    the newest runs, as columns
GET  /api/names                              of metrics and params
GET  /api/curves?run=&metric=[&buckets=&from=&to=&axis=step|time|relative|active]    curves in buckets
GET  /api/live[?run=&metric=]                server-sent events: states and last values, as they change
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from runwire_consumer.access import READ_BY_PROJECT, Rule
from runwire_consumer.guard import Door, RequestRefused, visitor_of
from runwire_consumer.page.curves import curves_asked, read_curves
from runwire_consumer.page.feed import METRICS_FOLLOWED_MAX, RUNS_FOLLOWED_MAX, Following, LiveFeed
from runwire_consumer.page.table import read_names, read_table
from runwire_consumer.queries import Ask

PAGE_ACCESS: dict[tuple[str, str], Rule] = {
    ("GET", "/api/table"): READ_BY_PROJECT,
    ("GET", "/api/names"): READ_BY_PROJECT,
    ("GET", "/api/curves"): READ_BY_PROJECT,
    ("GET", "/api/live"): READ_BY_PROJECT,
}
RETRY_MS = 2_000


class Working(Protocol):
    """Runs a query in one of a few threads; its `QueryError` becomes an answer."""

    def __call__(self, work: Callable[[], Response], /) -> Awaitable[Response]:
        """Raises RequestRefused."""


def data_routes(working: Working, asking: Callable[[frozenset[str] | None], Ask]) -> list[Route]:
    """Those that answer at once."""

    async def table(request: Request) -> Response:
        ask, query = asking(_projects(request)), request.query_params
        chosen = {kind: query.getlist(kind) if kind in query else None for kind in ("metric", "param")}
        # A name is never empty: `metric=` chooses none.
        metrics, params = ([name for name in names if name] if names is not None else None for names in chosen.values())
        return await working(lambda: _json(read_table(ask, query.get("project"), metrics, params)))

    async def names(request: Request) -> Response:
        ask = asking(_projects(request))
        return await working(lambda: _json(read_names(ask)))

    async def curves(request: Request) -> Response:
        ask, query = asking(_projects(request)), request.query_params.multi_items()
        return await working(lambda: _json(read_curves(ask, asking(None), curves_asked(query))))

    routes = {"/api/table": table, "/api/names": names, "/api/curves": curves}
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in routes.items()]


def live_routes(feed: LiveFeed | None, door: Door) -> list[Route]:
    """The one that goes on."""

    async def live(request: Request) -> Response:
        following = _following(request)
        if feed is None or feed.is_full:
            raise RequestRefused(
                503, "Too many pages follow the runs already: close one, or load this one again later."
            )
        return StreamingResponse(
            _events(feed, following, lambda: door.still_knows(request.scope)), media_type="text/event-stream"
        )

    return [Route("/api/live", live, methods=["GET"])]


async def _events(feed: LiveFeed, following: Following, welcome: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Ends with the session or the token that it began with."""
    yield b"retry: %d\n\n" % RETRY_MS
    async with aclosing(feed.follow(following)) as heard:
        async for told in heard:
            if not welcome():
                yield b"event: ended\ndata: {}\n\n"
                return
            yield b"data: " + json.dumps(told, allow_nan=False).encode() + b"\n\n" if told else b": alive\n\n"


def _following(request: Request) -> Following:
    runs, metrics = (frozenset(request.query_params.getlist(name)) for name in ("run", "metric"))
    if len(runs) > RUNS_FOLLOWED_MAX or len(metrics) > METRICS_FOLLOWED_MAX:
        raise RequestRefused(
            400, f"At most {RUNS_FOLLOWED_MAX} runs or {METRICS_FOLLOWED_MAX} metrics can be followed: name fewer."
        )
    return Following(runs, metrics, _projects(request))


def _projects(request: Request) -> frozenset[str] | None:
    visitor = visitor_of(request)
    return frozenset() if visitor is None else visitor.projects


def _json(content: Any) -> Response:
    return Response(json.dumps(content, allow_nan=False).encode(), media_type="application/json")
