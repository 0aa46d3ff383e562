"""Who may do what: scopes, a rule for each route and method, and visitors; pure, nothing here knows a request.

Laws:

1. What no rule names is denied, whoever asks.
2. Scopes contain each other: admin may what write may, write may what read may.
3. A token that is limited to projects gets to a route only where the rule says that the route limits its answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

_PARAMETER = re.compile(r"\{\w+(?P<path>:path)?\}")


class Scope(IntEnum):
    """What a token is for; a higher one contains the lower."""

    READ = 1
    WRITE = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """As commands and files write it."""
        return self.name.lower()


SCOPES = {scope.word: scope for scope in Scope}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route wants of who asks.

    Attributes:
        scope: The least scope; None: it is open to everybody.
        by_project: Its answers are limited to a token's projects, so that such a token may ask.
        open_on_loopback: Clients of this machine need no token, where that is not switched off.
    """

    scope: Scope | None
    by_project: bool = False
    open_on_loopback: bool = False


OPEN = Rule(None)
READ = Rule(Scope.READ)
READ_BY_PROJECT = Rule(Scope.READ, by_project=True)
READ_OR_LOOPBACK = Rule(Scope.READ, open_on_loopback=True)
WRITE = Rule(Scope.WRITE)
ADMIN = Rule(Scope.ADMIN)

Rules = Mapping[tuple[str, str], Rule]
"""(method, path as the router writes it) -> rule."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, as the token says.

    Attributes:
        name: Of the token.
        scope: What it is for.
        digest: SHA-256 of the token: sessions and rates know the visitor by it.
        projects: Those it is limited to; None: all.
    """

    name: str
    scope: Scope
    digest: bytes = field(repr=False)
    projects: frozenset[str] | None = None

    def refusal(self, rule: Rule) -> str | None:
        """Why the visitor may not do what the rule guards, a sentence; None when they may."""
        if rule.scope is not None and self.scope < rule.scope:
            return f"The token {self.name!r} may only {self.scope.word}: this takes one with scope {rule.scope.word}."
        if rule.scope is not None and self.projects is not None and not rule.by_project:
            return f"The token {self.name!r} is limited to projects: this takes one for all of them."
        return None


class AccessTable:
    """The rules of all routes, found by a request's method and path; where several match, the strictest holds."""

    def __init__(self, rules: Rules) -> None:
        """Make the paths ready to be matched."""
        self._rules = [(method, _pattern(path), rule) for (method, path), rule in rules.items()]

    def find(self, method: str, path: str) -> Rule | None:
        """The rule; None: denied. HEAD is a GET."""
        asked = "GET" if method == "HEAD" else method
        found = [rule for known, pattern, rule in self._rules if known == asked and pattern.fullmatch(path)]
        if not found:
            return None
        scopes = [rule.scope for rule in found if rule.scope is not None]
        return Rule(
            max(scopes, default=None),
            all(rule.by_project for rule in found),
            all(rule.open_on_loopback for rule in found),
        )

    def methods(self, path: str) -> tuple[str, ...]:
        """Those that some rule allows at this path."""
        return tuple(sorted({known for known, pattern, _ in self._rules if pattern.fullmatch(path)}))


def _pattern(path: str) -> re.Pattern[str]:
    text, at = "", 0
    for parameter in _PARAMETER.finditer(path):
        text += re.escape(path[at : parameter.start()]) + (".*" if parameter["path"] else "[^/]+")
        at = parameter.end()
    return re.compile(text + re.escape(path[at:]), re.DOTALL)
