"""Issued tokens: each with a name, a scope, projects and an end, made and revoked while the consumer runs.

They stand in `tokens.json` of the home, readable by its owner only, never in the database: users' SQL, snapshots and
copies of the store must not hold them. Of a token only the SHA-256 is kept. That is enough, where a password would need
a slow hash: a token is 256 random bits, which nobody can try out.

Laws:

1. The file is replaced whole (written beside, fsynced, renamed), under a lock: it is never half-written, and of two
   commands at once none undoes the other.
2. Who reads looks at the file's place, size and time before each answer: what was revoked is out with the next request.
3. A file that can't be read or understood means no issued token at all, never an old list.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runwire_consumer.access import SCOPES, Scope, Visitor
from runwire_consumer.errors import TokenRefused

ISSUED_FILE = "tokens.json"
TOKEN_PREFIX = "rwt_"  # noqa: S105 - what scanners for leaked secrets know one by, not a token
TOKENS_MAX = 1_000
PROJECTS_MAX = 100
NAME_CHARACTERS_MAX = 64
PROJECT_CHARACTERS_MAX = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Issued:
    """What is kept of a token.

    Attributes:
        name: What it is revoked by.
        scope: What it is for.
        projects: Those it is limited to; None: all.
        created_at: When, UTC.
        expires_at: From then on it is refused; None: never.
        digest: SHA-256 of the token.
    """

    name: str
    scope: Scope
    projects: frozenset[str] | None
    created_at: datetime
    expires_at: datetime | None
    digest: bytes = field(repr=False, default=b"")

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def visitor(self) -> Visitor:
        """Who comes with it."""
        return Visitor(self.name, self.scope, self.digest, self.projects)


def digest_of(text: str) -> bytes:
    """What is kept of a token, and compared."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def new_token() -> str:
    """256 random bits behind the prefix."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


class IssuedTokens:
    """The issued tokens of a home.

    Args:
        home: The folder of the file; it may appear later.
        now: The wall clock, UTC.
    """

    def __init__(self, home: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Nothing is read yet."""
        self._path = home / ISSUED_FILE
        self._now = now
        self._seen: tuple[int, ...] = ()
        self._tokens: tuple[Issued, ...] = ()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def holder(self, digest: bytes) -> Issued | None:
        """The token with this digest, expired or not; every one is compared, each in constant time."""
        found = None
        for token in self._current():
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def expired(self, token: Issued) -> bool:
        """Whether its time is over now."""
        return token.expired(self._now())

    def listed(self) -> tuple[Issued, ...]:
        """All of them, the oldest first.

        Raises:
            TokenRefused: The file can't be read or understood.
        """
        return _read(self._path)

    def create(
        self,
        name: str,
        scope: Scope,
        projects: frozenset[str] | None = None,
        lifetime_seconds: float | None = None,
    ) -> str:
        """Make a token; the answer is its text, which is kept nowhere.

        Raises:
            TokenRefused: The name is taken or odd, or scope, projects and time don't go together.
            OSError: The file can't be written.
        """
        _check(name, scope, projects, lifetime_seconds)
        text, created_at = new_token(), self._now().replace(microsecond=0)
        expires_at = None
        if lifetime_seconds is not None:
            try:
                expires_at = datetime.fromtimestamp(created_at.timestamp() + lifetime_seconds, UTC)
            except (OverflowError, ValueError, OSError):
                raise TokenRefused("The token would expire too far in the future: leave out --expires.") from None
        made = Issued(name, scope, projects, created_at, expires_at, digest_of(text))
        with self._changing() as tokens:
            if any(token.name == name for token in tokens):
                raise TokenRefused(f"There is a token {name!r} already: revoke it first, or choose another name.")
            if len(tokens) >= TOKENS_MAX:
                raise TokenRefused(f"There are {TOKENS_MAX:,} tokens already: revoke those that nobody uses.")
            tokens.append(made)
        return text

    def revoke(self, name: str) -> Issued:
        """Take a token back; the consumer refuses it from the next request on.

        Raises:
            TokenRefused: There is none with this name.
            OSError: The file can't be written.
        """
        with self._changing() as tokens:
            found = next((token for token in tokens if token.name == name), None)
            if found is None:
                raise TokenRefused(f"There is no token {name!r}: `runwire token list` shows those there are.")
            tokens.remove(found)
        return replace(found, digest=b"")

    def _current(self) -> tuple[Issued, ...]:
        """As the file says now."""
        try:
            status = self._path.stat()
        except OSError:
            self._seen, self._tokens = (), ()
            return ()
        seen = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if seen != self._seen:
            try:
                self._tokens = _read(self._path)
            except TokenRefused as error:
                self._tokens = ()
                _log.warning("No issued token is taken: %s", error)
            self._seen = seen
        return self._tokens

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Issued]]:
        """The list, to be changed by one process at a time; it is written where the block ends well."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_name(f".{ISSUED_FILE}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            tokens = list(_read(self._path))
            yield tokens
            _write(self._path, tokens)
        finally:
            os.close(descriptor)


def _check(name: str, scope: Scope, projects: frozenset[str] | None, lifetime_seconds: float | None) -> None:
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise TokenRefused(
            f"A token's name has letters, digits, dots, dashes and underscores, {NAME_CHARACTERS_MAX} at most."
        )
    if lifetime_seconds is not None and not lifetime_seconds > 0:
        raise TokenRefused("A token must be good for some time: write --expires as in 30d, 12h or 45m.")
    if projects is None:
        return
    if scope is not Scope.READ:
        raise TokenRefused(
            f"A token limited to projects can only read: what {scope.word} allows concerns the whole store."
        )
    if not 0 < len(projects) <= PROJECTS_MAX or any(not 0 < len(one) <= PROJECT_CHARACTERS_MAX for one in projects):
        raise TokenRefused(f"A token is limited to 1 up to {PROJECTS_MAX} projects, each by its name.")


def _read(path: Path) -> tuple[Issued, ...]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise TokenRefused(f"The tokens in {path} can't be read: {error.strerror or error}.") from None
    try:
        found = tuple(_token(each) for each in json.loads(content)["tokens"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TokenRefused(f"The tokens in {path} can't be understood: delete it and make new ones.") from None
    return found


def _token(kept: dict[str, Any]) -> Issued:
    digest, projects, expires_at = bytes.fromhex(kept["sha256"]), kept["projects"], kept["expires_at"]
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("no SHA-256")
    if projects is not None and not (isinstance(projects, list) and all(isinstance(one, str) for one in projects)):
        raise ValueError("no names of projects")
    return Issued(
        name=str(kept["name"]),
        scope=SCOPES[kept["scope"]],
        projects=None if projects is None else frozenset(projects),
        created_at=_time(kept["created_at"]),
        expires_at=None if expires_at is None else _time(expires_at),
        digest=digest,
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time


def _write(path: Path, tokens: list[Issued]) -> None:
    kept = [
        {
            "name": token.name,
            "scope": token.scope.word,
            "projects": None if token.projects is None else sorted(token.projects),
            "created_at": token.created_at.isoformat(),
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "sha256": token.digest.hex(),
        }
        for token in tokens
    ]
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "tokens": kept}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
