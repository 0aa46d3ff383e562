"""Whom a client trusts behind https://, and which addresses mean this machine."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runwire_cli.errors import CommandError


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates are taken.

    Attributes:
        ca: File of authorities (RUNWIRE_CA); None: the system's.
        certificate: PEM of the one server that is meant: only this very certificate, whatever name it bears.
    """

    ca: Path | None = None
    certificate: str | None = None


def client_context(trust: Trust) -> ssl.SSLContext:
    """What a client speaks TLS with: 1.2 at least, always verified.

    Raises:
        CommandError: The file of RUNWIRE_CA can't be used.
    """
    try:
        if trust.certificate is not None:
            context = ssl.create_default_context(cadata=trust.certificate)
            # The certificate came from the home, as the token did: its name may be that of another address.
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        else:
            context = ssl.create_default_context(cafile=None if trust.ca is None else str(trust.ca))
    except (OSError, ssl.SSLError, ValueError) as error:
        raise CommandError(
            f"RUNWIRE_CA can't be used ({trust.ca}): {getattr(error, 'strerror', None) or error}."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def is_loopback(address: str) -> bool:
    """Whether an address, http(s)://HOST:PORT, means this machine by its name alone."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
