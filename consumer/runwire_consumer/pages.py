"""The static shell: files of the page, open to everybody, which hold no data and run nothing but what is among them."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runwire_consumer.access import OPEN, Rules

# A page may load and ask its own server only; nothing of it stands inline, and nobody frames it.
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A file.

    Attributes:
        path: Where it lies, from /.
        content: What is sent.
        media_type: What that is.
    """

    path: str
    content: bytes
    media_type: str


def page_routes(pages: Sequence[Page]) -> list[Route]:
    """A route a file."""

    def showing(page: Page) -> Callable[[Request], Awaitable[Response]]:
        headers = {**PAGE_HEADERS, "etag": f'"{hashlib.sha256(page.content).hexdigest()[:32]}"'}

        async def show(request: Request) -> Response:
            if headers["etag"] in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            return Response(page.content, headers=headers, media_type=page.media_type)

        return show

    return [Route(page.path, showing(page), methods=["GET"]) for page in pages]


def page_rules(pages: Sequence[Page]) -> Rules:
    """Each is open."""
    return {("GET", page.path): OPEN for page in pages}
