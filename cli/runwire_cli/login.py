"""`runwire login` and `runwire logout`: keep a token for a server, once it has been tried there, and forget it."""

from __future__ import annotations

import getpass
import sys
import warnings
from collections.abc import Callable
from typing import Any

from runwire._server import is_loopback
from runwire_cli.client import ServerFile, consumer_at
from runwire_cli.credentials import Credentials
from runwire_cli.errors import CommandError
from runwire_cli.output import Output
from runwire_cli.settings import CommandSettings, server_address

TOKEN_BYTES_MAX = 4_096


def login(
    settings: CommandSettings, output: Output, server: str | None, ask: Callable[[str], str] = getpass.getpass
) -> int:
    """Ask for a token, try it at the server, keep it; returns the exit code.

    Args:
        settings: Where it is kept, and which server is meant by none.
        output: Where it is told.
        server: Address; None: RUNWIRE_SERVER, else the consumer of the home.
        ask: Asks a person, without an echo.

    Raises:
        CommandError: There is no server, it can't be reached, or it refuses the token.
    """
    address = _address(settings, server)
    if address.startswith("http://") and not is_loopback(address):
        output.say(f"WARNING: {address} has no TLS: whoever is on the way can read the token and use it.")
    token = _asked(ask, f"Token for {address}: ")
    reader = consumer_at(settings, address, token)
    try:
        told = reader.session()
    finally:
        reader.close()
    Credentials(settings.credentials).keep(address, token)
    output.say(
        f"Logged in at {address} as {told.get('name')!r}, {_may(told)}. Set RUNWIRE_SERVER={address} to read there."
    )
    return 0


def logout(settings: CommandSettings, output: Output, server: str | None) -> int:
    """Forget a server's token; returns the exit code.

    Raises:
        CommandError: None is kept for it.
    """
    address = _address(settings, server)
    if not Credentials(settings.credentials).forget(address):
        raise CommandError(f"No token is kept for {address}.")
    output.say(f"The token for {address} is forgotten here; `runwire token revoke` ends it everywhere.")
    return 0


def _address(settings: CommandSettings, server: str | None) -> str:
    if server is not None:
        return server_address(server)
    if settings.server is not None:
        return settings.server
    found = ServerFile.read(settings.home.path)
    if found is None:
        raise CommandError("Say where: name the consumer, https://HOST:PORT, or set RUNWIRE_SERVER.")
    return found.address


def _asked(ask: Callable[[str], str], prompt: str) -> str:
    if sys.stdin.isatty():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)
                text = ask(prompt)
        except EOFError:
            text = ""
        except getpass.GetPassWarning:
            raise CommandError("This terminal would show what is typed: pipe the token in instead.") from None
    else:
        text = sys.stdin.read(TOKEN_BYTES_MAX)
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise CommandError("That is no token: it is one word of visible ASCII characters, typed or piped in.")
    return token


def _may(told: dict[str, Any]) -> str:
    projects = told.get("projects")
    limited = "" if projects is None else f" in {', '.join(map(str, projects))}"
    return f"with scope {told.get('scope')}{limited}"
