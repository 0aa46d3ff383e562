"""Orders about issued tokens: made, listed and revoked, by commands on the home itself and through the HTTP face."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from runwire_consumer.access import SCOPES
from runwire_consumer.errors import TokenRefused
from runwire_consumer.issued import Issued, IssuedTokens


def create(tokens: IssuedTokens, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Make one: {"name", "scope", "projects", "lifetime_seconds"} gives what is kept of it, and "token" this once.

    Raises:
        TokenRefused: It can't be understood or made.
    """
    name, scope = asked.get("name"), SCOPES.get(str(asked.get("scope", "read")))
    projects, seconds = asked.get("projects"), asked.get("lifetime_seconds")
    if not isinstance(name, str) or scope is None:
        raise TokenRefused(f"A token has a name and a scope: {', '.join(SCOPES)}.")
    if projects is not None and not (isinstance(projects, list) and all(isinstance(one, str) for one in projects)):
        raise TokenRefused("'projects' is a list of names, or absent: then the token is good for all.")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float))):
        raise TokenRefused("'lifetime_seconds' is a number, or absent: then the token never expires.")
    text = tokens.create(name, scope, None if projects is None else frozenset(projects), seconds)
    made = next(token for token in tokens.listed() if token.name == name)
    return {**_told(made, expired=False), "token": text}


def listed(tokens: IssuedTokens) -> dict[str, Any]:
    """All of them, without their texts, which nobody has any more.

    Raises:
        TokenRefused: They can't be read.
    """
    return {"tokens": [_told(token, expired=tokens.expired(token)) for token in tokens.listed()]}


def revoke(tokens: IssuedTokens, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Take one back: {"name"}.

    Raises:
        TokenRefused: There is none of this name.
    """
    return _told(tokens.revoke(str(asked.get("name", ""))), expired=False)


def token_orders(
    tokens: IssuedTokens,
) -> dict[str, Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]]:
    """The orders by their path below /api/; files are written beside the service's loop."""
    return {
        "tokens/create": lambda asked: asyncio.to_thread(create, tokens, asked),
        "tokens/list": lambda _: asyncio.to_thread(listed, tokens),
        "tokens/revoke": lambda asked: asyncio.to_thread(revoke, tokens, asked),
    }


def _told(token: Issued, *, expired: bool) -> dict[str, Any]:
    return {
        "name": token.name,
        "scope": token.scope.word,
        "projects": None if token.projects is None else sorted(token.projects),
        "created_at": token.created_at.isoformat(),
        "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
        "expired": expired,
    }
