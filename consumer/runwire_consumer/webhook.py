"""Where notices go: one HTTP endpoint that takes Slack's JSON, {"text": ...}; its address is a secret.

The address is configured by who runs the consumer and never comes out of a message. Redirects are not followed, and an
address of the link itself (169.254.…, where clouds keep credentials) is refused once it is known.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from runwire_consumer.errors import SettingsError

TIMEOUT_SECONDS = 10.0
ANSWER_BYTES_MAX = 1_024
RETRY_AFTER_SECONDS_MAX = 3_600.0
_BUSY = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message.

    Attributes:
        trouble: Why it wasn't taken, in a few words without the address; None when it was.
        retry_after_seconds: What the endpoint asks to wait; 0 where it says nothing.
        refused: The endpoint will not take this message, whenever it is sent.
    """

    trouble: str | None = None
    retry_after_seconds: float = 0.0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint; shows its host and no more.

    Raises:
        SettingsError: The address is none of http or https, or names a user.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        """Turn away what can't be posted to."""
        parts = _split(self.url)
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise SettingsError("The webhook's address must look like https://HOST/PATH, without a user or spaces.")

    def __str__(self) -> str:
        return f"the webhook at {urlsplit(self.url).hostname}"

    def post(self, text: str) -> Delivery:
        """Send one message; returns what became of it, never raises for what the network does."""
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        body = json.dumps({"text": text}).encode()
        try:
            with contextlib.closing(_connection(parts)) as connection:
                connection.connect()
                if _is_link_local(connection):
                    return Delivery("its address belongs to the link itself", refused=True)
                connection.request("POST", target, body, {"Content-Type": "application/json; charset=utf-8"})
                answer = connection.getresponse()
                answer.read(ANSWER_BYTES_MAX)
                return _judge(answer.status, answer.getheader("Retry-After"))
        except ssl.SSLError as error:
            return Delivery(f"no trusted connection: {error.reason or 'TLS failed'}")
        except TimeoutError:
            return Delivery(f"no answer within {TIMEOUT_SECONDS:g} s")
        except OSError as error:
            return Delivery(error.strerror or type(error).__name__)
        except http.client.HTTPException as error:
            return Delivery(f"no HTTP answer: {type(error).__name__}")


def _split(url: str) -> SplitResult | None:
    if not url.isascii() or any(character.isspace() or not character.isprintable() for character in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # not a number?
    except ValueError:
        return None
    return parts


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_SECONDS, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_SECONDS)


def _is_link_local(connection: http.client.HTTPConnection) -> bool:
    address = connection.sock.getpeername()[0].split("%", 1)[0]
    return ipaddress.ip_address(address).is_link_local


def _judge(status: int, retry_after: str | None) -> Delivery:
    if 200 <= status < 300:  # noqa: PLR2004 - what HTTP calls success
        return Delivery()
    asked = retry_after or ""
    seconds = min(float(asked), RETRY_AFTER_SECONDS_MAX) if asked.isascii() and asked.isdecimal() else 0.0
    refused = 300 <= status < 500 and status not in _BUSY  # noqa: PLR2004 - moved elsewhere, or not wanted
    return Delivery(f"HTTP {status}", seconds, refused=refused)
