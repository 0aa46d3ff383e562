"""The page's files: one shell for all its addresses, and below /static/ what that loads."""

from __future__ import annotations

from pathlib import Path

from runwire_consumer.pages import Page

VIEWS = ("/", "/runs/{wanted:path}", "/compare", "/sql")
"""Addresses of the page: each can be opened and sent to others."""

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_files() -> list[Page]:
    """Every file as it is served; what has no type of ours (licences, notes) stays in the package."""
    shell = Page("/", (_FOLDER / "index.html").read_bytes(), _TYPES[".html"])
    files = [
        Page(f"/static/{path.relative_to(_FOLDER).as_posix()}", path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _TYPES and path.name != "index.html"
    ]
    return [*(Page(view, shell.content, shell.media_type) for view in VIEWS), *files]
