"""The routes of a browser's session: log in with a token, log out, and who asks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runwire_consumer.access import Visitor
from runwire_consumer.guard import Door, RequestRefused, read_body, session_of, visitor_of
from runwire_consumer.sessions import cookie_header, cookie_name


def login_routes(door: Door) -> list[Route]:
    """POST /api/login {"token": ...} or {"code": ...}, POST /api/logout, GET /api/session."""

    async def login(request: Request) -> Response:
        if (refused := door.foreign(request.scope)) is not None:
            raise RequestRefused(403, refused)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused(415, 'Log in with JSON: {"token": "..."}.')
        kind, presented = _presented(await read_body(request))
        try:
            visitor = door.holder(presented) if kind == "token" else door.guest(presented)
        except RequestRefused:
            door.check_failures(request.scope)
            raise
        answer = JSONResponse(_told(visitor))
        _set_cookie(request, answer, door.sessions.begin(visitor.digest, door.clock()))
        return answer

    async def logout(request: Request) -> Response:
        if (secret := session_of(request.scope, request.headers)) is not None:
            door.sessions.end(secret)
        answer = JSONResponse({})
        _set_cookie(request, answer, "")
        return answer

    async def session(request: Request) -> Response:
        visitor = visitor_of(request)
        return JSONResponse(_told(visitor) if visitor is not None else {})

    routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
        ("POST", "/api/login"): login,
        ("POST", "/api/logout"): logout,
        ("GET", "/api/session"): session,
    }
    return [Route(path, endpoint, methods=[method]) for (method, path), endpoint in routes.items()]


def _presented(body: bytes) -> tuple[str, str]:
    """What a browser shows, and which of both it is: a token, or a code that was offered to it."""
    try:
        [(kind, presented)] = json.loads(body).items()
    except (ValueError, AttributeError, RecursionError):
        kind, presented = "", None
    if kind not in {"token", "code"} or not isinstance(presented, str):
        raise RequestRefused(400, 'Log in with JSON: {"token": "..."}.')
    return kind, presented.strip()


def _told(visitor: Visitor) -> dict[str, object]:
    projects = None if visitor.projects is None else sorted(visitor.projects)
    return {"name": visitor.name, "scope": visitor.scope.word, "projects": projects}


def _set_cookie(request: Request, answer: Response, secret: str) -> None:
    server = request.scope.get("server")
    # A proxy that says it speaks TLS is believed: it makes the cookie stricter, never more open.
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    answer.headers["set-cookie"] = cookie_header(cookie_name(server[1] if server else 0), secret, secure=secure)
