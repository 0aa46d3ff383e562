"""The consumer that is asked: where it is, with which token, and by which certificate it is known.

As the commands do it: RUNWIRE_TOKEN, else what `runwire login` kept for the address, else the home's own token, which
may do everything and so goes to this machine only, or where the home's consumer says it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runwire._errors import ServerError
from runwire._home import running_in

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from pathlib import Path
    from ssl import SSLContext

    from runwire._settings import ServerSettings

CONNECT_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Server:
    """A consumer.

    Attributes:
        address: http://HOST:PORT or https://HOST:PORT.
        token: Bearer token; None: asked without one.
        ca: File of authorities that its certificate is trusted by; None: the system's.
        certificate: PEM of its own certificate, known from the home; None: any that is trusted.
    """

    address: str
    token: str | None = field(repr=False)
    ca: Path | None = None
    certificate: str | None = field(default=None, repr=False)


def find_server(settings: ServerSettings) -> Server:
    """The consumer of these settings.

    Raises:
        ServerError: None runs in the home and none is named, or the kept tokens can't be read.
    """
    own = running_in(settings.home.path)
    address = settings.address or (own and own.address)
    if not address:
        raise ServerError(
            f"No consumer runs in {settings.home.path}: start it with `runwire up`, or set RUNWIRE_SERVER to one "
            "elsewhere."
        )
    is_own = own is not None and own.address == address
    token = settings.token or (None if is_own else _kept_token(settings.credentials, address))
    if token is None and (is_own or is_loopback(address)):
        token = settings.home.read_token()
    return Server(address, token, settings.ca, own.certificate if own and is_own else None)


def connect(server: Server, timeout_seconds: float) -> HTTPConnection:
    """A connection that waits so long for each part of an answer.

    Raises:
        ServerError: It can't be reached, or isn't trusted.
    """
    import ssl  # noqa: PLC0415 - readers only, not trainers
    from http.client import HTTPConnection, HTTPException, HTTPSConnection  # noqa: PLC0415 - as above

    try:
        parts = urlsplit(server.address)
        where = (parts.hostname or "", parts.port)
    except ValueError:
        raise ServerError(f"{server.address} is no address of a consumer: set it to http://HOST:PORT.") from None
    connection = (
        HTTPSConnection(*where, timeout=CONNECT_TIMEOUT_SECONDS, context=client_context(server.ca, server.certificate))
        if parts.scheme == "https"
        else HTTPConnection(*where, timeout=CONNECT_TIMEOUT_SECONDS)
    )
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise ServerError(
            f"The certificate of {server.address} isn't trusted ({error.verify_message}): set RUNWIRE_CA to the file "
            "of the authority that signed it, and address the consumer by a name that stands in it."
        ) from None
    except (OSError, HTTPException, UnicodeError) as error:
        raise unreachable(server, error) from None
    connection.sock.settimeout(timeout_seconds)
    return connection


def unreachable(server: Server, error: Exception) -> ServerError:
    """It doesn't answer."""
    return ServerError(
        f"The consumer at {server.address} can't be reached ({str(error) or type(error).__name__}): "
        "start it with `runwire up`, or correct RUNWIRE_SERVER."
    )


def client_context(ca: Path | None, certificate: str | None) -> SSLContext:
    """What a client speaks TLS with: 1.2 at least, the other side always verified.

    Args:
        ca: File of authorities (RUNWIRE_CA); None: the system's.
        certificate: PEM of the one server that is meant, whatever name it bears; None: any that is trusted.

    Raises:
        ServerError: The file of authorities can't be used.
    """
    import ssl  # noqa: PLC0415 - readers only, not trainers

    try:
        if certificate is not None:
            context = ssl.create_default_context(cadata=certificate)
            # It came from the home, as the token did: its name may be that of another address.
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        else:
            context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServerError(f"RUNWIRE_CA can't be used ({ca}): {reason}.") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _kept_token(path: Path, address: str) -> str | None:
    """What `runwire login` kept for an address."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["tokens"].get(address)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServerError(f"The kept tokens in {path} can't be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        kept = 0
    if kept is not None and not isinstance(kept, str):
        raise ServerError(f"The kept tokens in {path} can't be understood: delete it and log in again.")
    return kept


def is_loopback(address: str) -> bool:
    """Whether an address, http(s)://HOST:PORT, means this machine by its name alone."""
    from ipaddress import ip_address  # noqa: PLC0415 - readers only, not trainers

    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
