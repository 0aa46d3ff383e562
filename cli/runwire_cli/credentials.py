"""Tokens that `runwire login` keeps: by server, in a file of this user (mode 0600) outside of every home."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runwire_cli.errors import CommandError


class Credentials:
    """The file; it is replaced whole, by one command at a time.

    Args:
        path: Where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self.path = path

    def token(self, server: str) -> str | None:
        """The token for a server; None when none is kept.

        Raises:
            CommandError: The file can't be read or understood.
        """
        return self._read().get(server)

    def servers(self) -> list[str]:
        """Those that a token is kept for.

        Raises:
            CommandError: The file can't be read or understood.
        """
        return sorted(self._read())

    def keep(self, server: str, token: str) -> None:
        """Keep a server's token in place of an earlier one.

        Raises:
            CommandError: The file can't be read, understood or written.
        """
        with self._changing() as kept:
            kept[server] = token

    def forget(self, server: str) -> bool:
        """Forget a server's token; False when none was kept.

        Raises:
            CommandError: The file can't be read, understood or written.
        """
        if self.token(server) is None:
            return False
        with self._changing() as kept:
            return kept.pop(server, None) is not None

    def _read(self) -> dict[str, str]:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))["tokens"]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CommandError(f"The kept tokens in {self.path} can't be read: {error.strerror or error}.") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            kept = None
        if not isinstance(kept, dict) or not all(isinstance(token, str) for token in kept.values()):
            raise CommandError(f"The kept tokens in {self.path} can't be understood: delete it and log in again.")
        return kept

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, str]]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                kept = self._read()
                yield kept
                self._write(kept)
            finally:
                os.close(lock)
        except OSError as error:
            raise CommandError(f"The token can't be kept in {self.path}: {error.strerror or error}.") from None

    def _write(self, kept: dict[str, str]) -> None:
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump({"tokens": kept}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
