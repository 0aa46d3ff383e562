"""The home's token, which may do everything: made at first start (file mode 0600), compared in constant time.

Beside it a token for reading alone may be given at the start.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from runwire_consumer.errors import TokenRefused
from runwire_consumer.issued import digest_of, new_token

TOKEN_FILE = "token"  # noqa: S105 - the file's name, not a token
TOKEN_CHARACTERS_MIN = 16
TOKEN_CHARACTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Token:
    """A secret that masks itself.

    Raises:
        TokenRefused: It is empty, short, very long or holds characters that no header can carry.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        """Turn away what could be guessed or can't be sent."""
        if not TOKEN_CHARACTERS_MIN <= len(self.text) <= TOKEN_CHARACTERS_MAX:
            raise TokenRefused(
                f"The token has {len(self.text)} characters: it must have at least {TOKEN_CHARACTERS_MIN} "
                f"(and at most {TOKEN_CHARACTERS_MAX:,})."
            )
        if not all("!" <= character <= "~" for character in self.text):
            raise TokenRefused("The token may only hold visible ASCII characters and no spaces.")

    def __str__(self) -> str:
        return "***"

    def matches(self, presented: str) -> bool:
        """Compare in a time that says nothing about where the two differ, nor about their lengths."""
        return self.has_digest(digest_of(presented))

    def has_digest(self, digest: bytes) -> bool:
        """Compare with the SHA-256 of what was presented, as `matches` does."""
        return hmac.compare_digest(digest, digest_of(self.text))


def read_token(home: Path) -> Token | None:
    """The token of a home; None when it has none yet.

    Raises:
        TokenRefused: The file holds no usable token.
    """
    try:
        text = (home / TOKEN_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise TokenRefused(f"The token file {home / TOKEN_FILE} can't be read: {error}.") from None
    return _from_file(text, home)


def ensure_token(home: Path, given: str | None = None) -> Token:
    """The given token (`RUNWIRE_TOKEN`), else the home's, else a new random one that is kept in the home.

    Raises:
        TokenRefused: The given or the kept token can't be used.
        OSError: The file can't be written.
    """
    if given is not None:
        return Token(given)
    found = read_token(home)
    if found is not None:
        return found
    made = Token(new_token())
    home.mkdir(parents=True, exist_ok=True)
    # Written beside and linked: the file never exists half-written, and of two first starts one wins.
    draft = home / f".{TOKEN_FILE}.{secrets.token_hex(8)}"  # of this call alone: threads share a process id
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(made.text + "\n")
    try:
        os.link(draft, home / TOKEN_FILE)
    except FileExistsError:
        return ensure_token(home)
    finally:
        draft.unlink()
    return made


def reader_token(home_token: Token, given: str | None) -> Token | None:
    """The token for reading alone (`RUNWIRE_READ_TOKEN`), None where none is given.

    Raises:
        TokenRefused: It can't be used, or is the one that may do everything.
    """
    if given is None:
        return None
    try:
        token = Token(given)
    except TokenRefused as error:
        raise TokenRefused(f"RUNWIRE_READ_TOKEN can't be used: {error}") from None
    if home_token.matches(given):
        raise TokenRefused("RUNWIRE_READ_TOKEN is the token that may do everything: give another.")
    return token


def _from_file(text: str, home: Path) -> Token:
    try:
        return Token(text)
    except TokenRefused as error:
        raise TokenRefused(f"{error} Delete {home / TOKEN_FILE} to get a new one.") from None
