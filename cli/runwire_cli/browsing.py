"""`runwire up --open`: the page in a browser, logged in by a code that works once and that no command line shows."""

from __future__ import annotations

import logging
import os
import webbrowser
from html import escape
from pathlib import Path

OPENING_FILE = "open.html"

_log = logging.getLogger("runwire")


def open_page(home: Path, address: str, code: str) -> bool:
    """Open the page; False: there is no browser here, which is said with the address.

    The browser is given a file of the user's own (mode 0600) that leads there: what a process is started with can be
    read by everybody on the machine.
    """
    path = home / OPENING_FILE
    path.unlink(missing_ok=True)
    target = escape(f"{address}/#code={code}", quote=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(
            '<!doctype html><meta charset="utf-8"><title>Runwire</title>'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Runwire</a>\n'
        )
    if webbrowser.open(path.as_uri()):
        return True
    close_page(home)
    _log.warning("There is no browser to open here: go to %s and log in with the token in %s.", address, home / "token")
    return False


def close_page(home: Path) -> None:
    """Take the file away."""
    (home / OPENING_FILE).unlink(missing_ok=True)
