"""A real browser for tests and benches: Debian's Chromium, driven by Playwright; its complaints are errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOW_TO_GET = "apt-get install chromium"
# Refusals that the page tells people itself: the browser has a line of its own for each.
_EXPECTED = ("status of 401", "status of 404", "status of 400")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; it ends with the block."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a Chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """What pages of a context complain of: errors and warnings of scripts, of the policy, requests to elsewhere."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        """Listen to all of its pages, also to those that come."""
        self.found: list[str] = []
        self._address = address
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.found.append(f"error: {error.error}"))
        context.on("request", lambda request: self._asked(request.url))
        context.on("dialog", self._interrupted)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(text in message.text for text in _EXPECTED):
            self.found.append(f"{message.type}: {message.text}")

    def _interrupted(self, dialog: Dialog) -> None:
        self.found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, url: str) -> None:
        if not url.startswith((self._address, "blob:", "data:")):
            self.found.append(f"request to {url}")


def log_in(page: Page, token: str) -> None:
    """Type the token where it is asked for."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("dialog").wait_for(state="detached")
