"""Browser sessions: a token exchanged for a cookie that scripts can't read, and how a request proves its own origin.

A session lives in this process, is known by the SHA-256 of its secret, and is nothing but a reference to the token it
was made with: where that is revoked or expires, the session ends with it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import urlsplit

from runwire_consumer.issued import digest_of

SESSION_SECONDS_MAX = 24 * 3_600.0
SESSIONS_MAX = 1_000
CODE_SECONDS_MAX = 120.0
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OWN_SITES = frozenset({"same-origin", "none"})


class Sessions:
    """Who is logged in; bounded: of too many, the oldest ends."""

    def __init__(self) -> None:
        """Nobody is."""
        self._held: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()  # digest -> (the token's digest, its end)
        self._offered: dict[bytes, tuple[bytes, float]] = {}  # a code's digest -> likewise

    def begin(self, token_digest: bytes, now: float) -> str:
        """A new session's secret, for the cookie."""
        secret = secrets.token_urlsafe(32)
        self._held[digest_of(secret)] = (token_digest, now + SESSION_SECONDS_MAX)
        if len(self._held) > SESSIONS_MAX:
            self._held.popitem(last=False)
        return secret

    def token_of(self, secret: str, now: float) -> bytes | None:
        """Digest of the token that the session was made with; None: there is no such session."""
        asked, found = digest_of(secret), None
        for kept, (token_digest, ends_at) in self._held.items():
            if hmac.compare_digest(kept, asked) and now < ends_at:
                found = token_digest
        return found

    def offer(self, token_digest: bytes, now: float) -> str:
        """A code that begins one session within CODE_SECONDS_MAX, for a browser that shall not see the token."""
        code = secrets.token_urlsafe(32)
        self._offered[digest_of(code)] = (token_digest, now + CODE_SECONDS_MAX)
        return code

    def take_offer(self, code: str, now: float) -> bytes | None:
        """Digest of the token that the code stands for, which is used up by that; None: there is no such code."""
        token_digest, ends_at = self._offered.pop(digest_of(code), (None, now))
        return token_digest if now < ends_at else None

    def end(self, secret: str) -> None:
        """Log out."""
        self._held.pop(digest_of(secret), None)


def cookie_name(port: int) -> str:
    """Browsers share cookies among all ports of a host: each consumer's has a name of its own."""
    return f"runwire_session_{port}"


def session_secret(cookies: str, name: str) -> str | None:
    """The secret in a `Cookie` header; what we never set, quotes and escapes, is not looked into."""
    for cookie in cookies.split(";"):
        known, _, secret = cookie.strip().partition("=")
        if known == name and _SECRET.fullmatch(secret):
            return secret
    return None


def cookie_header(name: str, secret: str, *, secure: bool) -> str:
    """`Set-Cookie` of a session; an empty secret takes the cookie away."""
    lifetime_seconds = int(SESSION_SECONDS_MAX) if secret else 0
    parts = [f"{name}={secret}", "Path=/", "HttpOnly", "SameSite=Strict", f"Max-Age={lifetime_seconds}"]
    return "; ".join([*parts, "Secure"] if secure else parts)


def foreign_origin(method: str, headers: Mapping[str, str], host: str, hosts: frozenset[str]) -> str | None:
    """Why a request that comes with a cookie may not be its own page's, a sentence; None when it is.

    Args:
        method: GET changes nothing, so a browser that sends no Origin with it is believed.
        headers: Of the request, by lower-case name.
        host: The Host header, which is known to name us.
        hosts: Names of ours behind which a proxy may stand that writes another Host.
    """
    if headers.get("sec-fetch-site", "same-origin") not in _OWN_SITES:
        return "The request comes from another site's page: open Runwire's own."
    origin = headers.get("origin")
    if origin is None:
        if method in _SAFE_METHODS or "sec-fetch-site" in headers:
            return None
        return "The request doesn't say which page it comes from (Origin): send the token as a bearer instead."
    try:
        named = urlsplit(origin)
        own = named.scheme in {"http", "https"} and (
            named.netloc.lower() == host.lower() or (named.hostname or "") in hosts
        )
    except ValueError:
        own = False
    if own:
        return None
    return "The request comes from another origin's page; a proxy in front must pass the Host header on unchanged."
