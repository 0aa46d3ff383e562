"""Stands before every route: who may ask, under which name, and how much of a request is read.

Default-deny: a route is open only when it is named here. Bound to a loopback address, /metrics is open to clients of
the same machine; the Host rule keeps web pages out that make a browser ask in their name (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from runwire_consumer.tokens import Token

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
LOOPBACK_OPEN_PATHS = frozenset({"/metrics"})
UNAUTHORIZED = 401
BODY_BYTES_MAX = 2**20
BODY_SECONDS_MAX = 10.0

_log = logging.getLogger(__name__)


class RequestRefused(Exception):
    """A request can't be served: `str(error)` is the sentence, `status` the HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        """Keep the status beside the sentence."""
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in.

    Attributes:
        token: What `Authorization: Bearer` must carry.
        host: Address that the server is bound to.
        hosts: Further names under which clients may address it.
    """

    token: Token
    host: str
    hosts: frozenset[str] = frozenset()

    def refusal(self, scope: Scope) -> RequestRefused | None:
        """Why the request may not pass; None when it may."""
        headers = Headers(scope=scope)
        if not self._names_us(headers.get("host", "")):
            return RequestRefused(421, "The Host header doesn't name this server: address it by its own name.")
        if self._is_open(scope):
            return None
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            return RequestRefused(UNAUTHORIZED, "The request lacks a token: send 'Authorization: Bearer TOKEN'.")
        if not self.token.matches(presented.strip()):
            return RequestRefused(401, "The token is wrong: it stands in the file 'token' of the consumer's home.")
        return None

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN_PATHS:
            return True
        client = scope.get("client")
        if path not in LOOPBACK_OPEN_PATHS or client is None:
            return False
        return is_loopback(client[0]) and is_loopback(self.host)

    def _names_us(self, header: str) -> bool:
        name = _host_name(header)
        # A name without a dot or an address can't be a page's own public name.
        return bool(name) and (
            name in self.hosts
            or name == self.host.lower()
            or name.endswith(".localhost")
            or _is_address(name)
            or "." not in name
        )


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(app: ASGIApp, door: Door) -> ASGIApp:
    """The app behind the door; a failure inside becomes a sentence without a stack trace."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refused = door.refusal(scope)
        if refused is not None:
            await refusal_response(refused)(scope, receive, send)
            return
        started = False

        async def send_on(message: dict[str, object]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, send_on)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - whatever it was: a sentence for the client, the trace for the log
            _log.exception("The request for %s failed.", scope["path"])
            if not started:
                sentence = "The consumer failed on this request: its log says why."
                await JSONResponse({"error": sentence}, 500)(scope, receive, send)

    return guard


def refusal_response(refused: RequestRefused) -> JSONResponse:
    """The refusal as an answer."""
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == UNAUTHORIZED else None
    return JSONResponse({"error": str(refused)}, refused.status, headers)


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestRefused: It is too large, too slow, or compressed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestRefused(415, "A compressed body isn't taken: send it plain.")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise RequestRefused(408, f"The body didn't arrive within {BODY_SECONDS_MAX:g} s: send it again.") from None
    except ClientDisconnect:
        raise RequestRefused(400, "The client went away before its body ended.") from None
    return bytes(body)


def answering(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose `RequestRefused` becomes an answer."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestRefused as refused:
            return refusal_response(refused)

    return answer


def _too_large() -> RequestRefused:
    return RequestRefused(413, f"The body is larger than {BODY_BYTES_MAX // 2**20} MiB: send a shorter query.")


def _host_name(header: str) -> str:
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
