"""`runwire token`: makes, lists and revokes tokens, in the home's own file or at the consumer of RUNWIRE_SERVER."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from runwire_cli.client import named_consumer
from runwire_cli.errors import CommandError
from runwire_cli.output import Form, Grid, Output, cell
from runwire_cli.settings import CommandSettings
from runwire_consumer import token_orders
from runwire_consumer.issued import IssuedTokens

COLUMNS = ("name", "scope", "projects", "created_at", "expires_at", "expired")

_LIFETIME = re.compile(r"(?P<count>[1-9]\d{0,5})(?P<unit>[dhm])")
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60}


def create(
    settings: CommandSettings,
    output: Output,
    name: str,
    *,
    scope: str,
    projects: Sequence[str] = (),
    expires: str | None = None,
) -> int:
    """Make a token and print it, this once; returns the exit code.

    Raises:
        CommandError: The time can't be understood, or the consumer refuses.
        TokenRefused: Name, scope, projects and time don't go together.
    """
    asked = {
        "name": name,
        "scope": scope,
        "projects": list(projects) or None,
        "lifetime_seconds": None if expires is None else _seconds(expires),
    }
    made = _order(settings, "create", asked)
    if output.form is Form.JSON:
        output.json(made)
        return 0
    sys.stdout.write(made["token"] + "\n")
    output.say(
        f"This is the only time that token {name!r} is shown: it {_described(made)}. "
        "Whoever has it keeps it with `runwire login` or in RUNWIRE_TOKEN."
    )
    return 0


def list_tokens(settings: CommandSettings, output: Output) -> int:
    """Print what is kept of all tokens; returns the exit code.

    Raises:
        CommandError: The consumer refuses.
        TokenRefused: The file can't be read.
    """
    tokens = _order(settings, "list", {})["tokens"]
    if output.form is Form.JSON:
        output.json(tokens)
        return 0
    grid = Grid("name", "scope", "projects", "created", "expires", prose=("projects",))
    for token in tokens:
        projects = "all" if token["projects"] is None else ", ".join(token["projects"])
        expires = "never" if token["expires_at"] is None else token["expires_at"]
        grid.add_row(
            cell(token["name"]),
            cell(token["scope"]),
            cell(projects),
            cell(token["created_at"]),
            cell(f"{expires} (expired)" if token["expired"] else expires, "red" if token["expired"] else ""),
        )
    if tokens:
        output.console.print(grid)
    else:
        output.say("There are no tokens but the home's own: `runwire token create NAME` makes one.")
    return 0


def revoke(settings: CommandSettings, output: Output, name: str) -> int:
    """Take a token back; returns the exit code.

    Raises:
        CommandError: The consumer refuses.
        TokenRefused: There is none of this name.
    """
    _order(settings, "revoke", {"name": name})
    output.say(f"Token {name!r} is revoked: it opens nothing from now on, nor do sessions that began with it.")
    return 0


def _order(settings: CommandSettings, order: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    if settings.server is not None:
        reader = named_consumer(settings, settings.server)
        try:
            return reader.order(f"tokens/{order}", asked)
        finally:
            reader.close()
    tokens = IssuedTokens(settings.home.create().path)
    match order:
        case "create":
            return token_orders.create(tokens, asked)
        case "revoke":
            return token_orders.revoke(tokens, asked)
        case _:
            return token_orders.listed(tokens)


def _seconds(text: str) -> int:
    found = _LIFETIME.fullmatch(text)
    if found is None:
        raise CommandError(f"--expires {text!r} can't be understood: write it as in 30d, 12h or 45m.", 2)
    return int(found["count"]) * _UNIT_SECONDS[found["unit"]]


def _described(made: Mapping[str, Any]) -> str:
    may = {"read": "may read", "write": "may read and give orders", "admin": "may do everything"}[made["scope"]]
    where = "" if made["projects"] is None else f" what belongs to {', '.join(made['projects'])}"
    until = "never expires" if made["expires_at"] is None else f"expires at {made['expires_at']}"
    return f"{may}{where}, and {until}"
