"""Whom a client trusts behind https://."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runwire import _server
from runwire._errors import ServerError
from runwire_cli.errors import CommandError

if TYPE_CHECKING:
    from ssl import SSLContext


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates are taken.

    Attributes:
        ca: File of authorities (RUNWIRE_CA); None: the system's.
        certificate: PEM of the one server that is meant: only this very certificate, whatever name it bears.
    """

    ca: Path | None = None
    certificate: str | None = None


def client_context(trust: Trust) -> SSLContext:
    """What a client speaks TLS with, as `runwire.query` does.

    Raises:
        CommandError: The file of RUNWIRE_CA can't be used.
    """
    try:
        return _server.client_context(trust.ca, trust.certificate)
    except ServerError as error:
        raise CommandError(str(error)) from None
