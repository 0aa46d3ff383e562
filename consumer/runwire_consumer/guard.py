"""Stands before every route: who may ask, under which name, how often, and how much of a request is read.

Default-deny: what the table of rules (`access.py`) doesn't name never reaches the application, whatever is mounted
there. /metrics is open to clients of this machine where the server is bound to loopback; the peer's address counts, so
a header that a proxy adds closes it, and so does a Host that is no name of loopback (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runwire_consumer.access import AccessTable, Rule, Rules, Visitor
from runwire_consumer.access import Scope as TokenScope
from runwire_consumer.issued import IssuedTokens, digest_of
from runwire_consumer.rates import FAILURES, REQUESTS, Buckets
from runwire_consumer.sessions import Sessions, cookie_name, foreign_origin, session_secret
from runwire_consumer.tokens import Token

UNAUTHORIZED = 401
HEADERS_MAX = 100
HEADERS_BYTES_MAX = 32_768
URL_BYTES_MAX = 8_192
BODY_BYTES_MAX = 2**20
BODY_SECONDS_MAX = 10.0
HOME_TOKEN_NAME = "home"  # noqa: S105 - how the token of the home is called
READER_NAME = "reader"

_VISITOR = "runwire.visitor"
_FORWARDED = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")

# Answers are data for programs: no page may frame them, guess their type, keep them, or learn where one came from.
_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_log = logging.getLogger(__name__)


class RequestRefused(Exception):
    """A request can't be served: `str(error)` is the sentence, `status` the HTTP status."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        """Keep status and headers of the answer beside the sentence."""
        super().__init__(sentence)
        self.status = status
        self.headers = headers or ({"WWW-Authenticate": "Bearer"} if status == UNAUTHORIZED else {})


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in.

    Attributes:
        token: The home's: it may do everything.
        host: Address that the server is bound to.
        hosts: Further names under which clients may address it.
        issued: Further tokens, each with its scope.
        reader: One for reading, given at the start: for dashboards that start together with the server.
        metrics_open: /metrics needs no token on loopback; off, where a proxy on this machine hands on to the server.
        sessions: Of browsers.
        clock: Seconds that never go back.
    """

    token: Token
    host: str
    hosts: frozenset[str] = frozenset()
    issued: IssuedTokens | None = None
    reader: Token | None = None
    metrics_open: bool = True
    sessions: Sessions = field(default_factory=Sessions)
    clock: Callable[[], float] = time.monotonic
    _requests: Buckets = field(default_factory=lambda: Buckets(REQUESTS), repr=False)
    _failures: Buckets = field(default_factory=lambda: Buckets(FAILURES), repr=False)

    def admit(self, scope: Scope, table: AccessTable) -> Visitor | None:
        """Who comes in; None: anybody, the route is open.

        Raises:
            RequestRefused: They may not.
        """
        headers = Headers(scope=scope)
        _check_head(scope)
        if not self._names_us(headers.get("host", "")):
            raise RequestRefused(421, "The Host header doesn't name this server: address it by its own name.")
        method, path = str(scope["method"]), str(scope["path"])
        rule = table.find(method, path)
        if rule is not None and (rule.scope is None or self._is_local(rule, scope, headers)):
            self._count(_address(scope))
            return None
        visitor, by_cookie = self._identify(scope, headers)
        self._count(visitor.digest)
        if rule is None:
            raise _nothing_there(table.methods(path))
        refused = visitor.refusal(rule)
        if refused is None and by_cookie:
            refused = self.foreign(scope)
        if refused is not None:
            raise RequestRefused(403, refused)
        return visitor

    def still_knows(self, scope: Scope) -> bool:
        """Whether the session or token holds on that a long answer began with."""
        try:
            self._identify(scope, Headers(scope=scope))
        except RequestRefused:
            return False
        return True

    def foreign(self, scope: Scope) -> str | None:
        """Why the request may not be that of this server's own page, a sentence; None when it is."""
        headers = Headers(scope=scope)
        plain = {name: headers[name] for name in ("origin", "sec-fetch-site") if name in headers}
        return foreign_origin(str(scope["method"]), plain, headers.get("host", ""), self.hosts)

    def holder(self, presented: str) -> Visitor:
        """Who comes with a token.

        Raises:
            RequestRefused: It is wrong, revoked or expired.
        """
        return self._visitor(digest_of(presented), "The token is wrong, or it has been revoked: ask for another.")

    def invite(self) -> str:
        """A code that begins one session of the home's token, soon."""
        return self.sessions.offer(digest_of(self.token.text), self.clock())

    def guest(self, code: str) -> Visitor:
        """Who comes with a code that `sessions` offered.

        Raises:
            RequestRefused: It is wrong, too old, or has been used.
        """
        gone = "The code is too old or has been used: log in with a token."
        token_digest = self.sessions.take_offer(code, self.clock())
        if token_digest is None:
            raise RequestRefused(UNAUTHORIZED, gone)
        return self._visitor(token_digest, gone)

    def check_failures(self, scope: Scope) -> None:
        """Count a failure of the client's address, or a try that may become one.

        Raises:
            RequestRefused: There were too many.
        """
        seconds = self._failures.take(_address(scope), self.clock())
        if seconds:
            raise RequestRefused(
                429,
                f"Too many wrong tokens came from this address: try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )

    def _identify(self, scope: Scope, headers: Headers) -> tuple[Visitor, bool]:
        """(who asks, whether a cookie says so); a valid token passes however often others failed at this address."""
        given = headers.get("authorization")
        secret = session_of(scope, headers) if given is None else None
        try:
            return (self._bearer(given), False) if secret is None else (self._session_holder(secret), True)
        except RequestRefused:
            if given is not None:
                self.check_failures(scope)
            self._count(_address(scope))
            raise

    def _bearer(self, given: str | None) -> Visitor:
        scheme, _, presented = (given or "").partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            raise RequestRefused(UNAUTHORIZED, "The request lacks a token: send 'Authorization: Bearer TOKEN'.")
        return self.holder(presented.strip())

    def _session_holder(self, secret: str) -> Visitor:
        ended = "The session has ended: log in again."
        token_digest = self.sessions.token_of(secret, self.clock())
        if token_digest is None:
            raise RequestRefused(UNAUTHORIZED, ended)
        return self._visitor(token_digest, ended)

    def _visitor(self, digest: bytes, unknown: str) -> Visitor:
        # All are always looked through: the time says nothing about which one a wrong token resembles.
        kept = self.issued.holder(digest) if self.issued is not None else None
        is_reader = self.reader is not None and self.reader.has_digest(digest)
        if self.token.has_digest(digest):
            return Visitor(HOME_TOKEN_NAME, TokenScope.ADMIN, digest)
        if is_reader:
            return Visitor(READER_NAME, TokenScope.READ, digest)
        if kept is None or self.issued is None:
            raise RequestRefused(UNAUTHORIZED, unknown)
        if self.issued.expired(kept):
            raise RequestRefused(UNAUTHORIZED, f"The token {kept.name!r} has expired: ask for another.")
        return kept.visitor()

    def _count(self, client: object) -> None:
        seconds = self._requests.take(client, self.clock())
        if seconds:
            raise RequestRefused(429, f"Too many requests: try again in {seconds} s.", {"Retry-After": str(seconds)})

    def _is_local(self, rule: Rule, scope: Scope, headers: Headers) -> bool:
        """Whether a client of this machine asks for what is open to those, by no detour."""
        client = scope.get("client")
        return (
            rule.open_on_loopback
            and self.metrics_open
            and client is not None
            and is_loopback(client[0])
            and is_loopback(self.host)
            and is_loopback(_host_name(headers.get("host", "")))
            and not any(name in _FORWARDED or name.startswith("x-forwarded") for name in headers)
        )

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
        return host == "localhost" or host.endswith(".localhost")


def visitor_of(request: Request) -> Visitor | None:
    """Who asks; None on an open route."""
    found: Visitor | None = request.scope.get(_VISITOR)
    return found


def session_of(scope: Scope, headers: Headers) -> str | None:
    """The secret of the session that a browser sends."""
    server = scope.get("server")
    return session_secret(headers.get("cookie", ""), cookie_name(server[1] if server else 0))


def guarded(app: ASGIApp, door: Door, rules: Rules) -> ASGIApp:
    """The app behind the door; a `RequestRefused` inside becomes its answer, a failure a sentence without a trace."""
    table = AccessTable(rules)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        try:
            scope[_VISITOR] = door.admit(scope, table)
            await app(scope, receive, answer.send)
        except RequestRefused as error:
            refused = error
        except asyncio.CancelledError:  # the server ends, and has waited for this one as long as it does
            refused = RequestRefused(503, "The consumer is ending: ask again when it is back.")
        except Exception:  # noqa: BLE001 - whatever it was: a sentence for the client, the trace for the log
            _log.exception("The request for %s failed.", scope["path"])
            refused = RequestRefused(500, "The consumer failed on this request: its log says why.")
        else:
            return
        if not answer.started:
            await refusal_response(refused)(scope, receive, answer.send)

    return guard


class _Answer:
    """What is sent of an answer gets our headers.

    Attributes:
        started: Its status is out: it can't become another.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def refusal_response(refused: RequestRefused) -> JSONResponse:
    """The refusal as an answer."""
    return JSONResponse({"error": str(refused)}, refused.status, refused.headers)


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


def _too_large() -> RequestRefused:
    return RequestRefused(413, f"The body is larger than {BODY_BYTES_MAX // 2**20} MiB: send a shorter query.")


def _check_head(scope: Scope) -> None:
    url_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    if url_bytes > URL_BYTES_MAX:
        raise RequestRefused(414, f"The URL is longer than {URL_BYTES_MAX:,} bytes: send a query in the body.")
    headers = scope["headers"]
    if len(headers) > HEADERS_MAX or sum(len(name) + len(value) for name, value in headers) > HEADERS_BYTES_MAX:
        raise RequestRefused(
            431, f"The request has more than {HEADERS_MAX} headers or {HEADERS_BYTES_MAX:,} bytes of them: send fewer."
        )
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
        # A proxy in front might believe the other one, and take the rest for another client's request.
        raise RequestRefused(400, "The body has two lengths: send Content-Length or Transfer-Encoding.")


def _nothing_there(methods: tuple[str, ...]) -> RequestRefused:
    if methods:
        sentence = f"This address takes another method: {', '.join(methods)}."
        return RequestRefused(405, sentence, {"Allow": ", ".join(methods)})
    return RequestRefused(404, "There is nothing at this address: see /api/sql, /api/runs, /metrics and /healthz.")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


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
