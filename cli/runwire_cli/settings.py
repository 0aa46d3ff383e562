"""What the commands are configured with: option, else environment, else default.

RUNWIRE_SERVER   address of the consumer that readers ask (default: the one that runs in this home, else none)
RUNWIRE_TOKEN    its bearer token (default: what `runwire login` kept for that address, else the home's file `token`)
RUNWIRE_READ_TOKEN  a further token that `runwire up` takes, for reading alone (default: none)
RUNWIRE_CA       certificates in PEM form that https:// consumers, and brokers by TLS, are trusted by (default: the
                 system's)
RUNWIRE_HOST     address that `runwire up` listens on (default: 127.0.0.1)
RUNWIRE_PORT     port that `runwire up` listens on (default: 8470)
RUNWIRE_HOSTS    further names under which clients address it, separated by commas
RUNWIRE_TLS_CERT, RUNWIRE_TLS_KEY    certificate and key in PEM form: `runwire up` speaks TLS (default: it doesn't)
RUNWIRE_METRICS  `token`: /metrics wants a token on loopback too (default: `open` there)
RUNWIRE_WEBHOOK  address that `runwire up` tells of runs that break, a secret (default: nobody is told)
RUNWIRE_WEBHOOK_FILE    file that holds that address instead
RUNWIRE_RETENTION  how long `runwire up` keeps full resolution of ended runs: PROJECT=30d,*=90d (default: for ever)
RUNWIRE_URL, RUNWIRE_HOME, RUNWIRE_KAFKA_..., RUNWIRE_CLIENT_...    as in the trainer
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runwire._home import Home
from runwire._settings import read_settings
from runwire_cli.errors import CommandError
from runwire_schemas.topics import Destination, need_no_password

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8470
PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """Where events come from, where the store is, and who is asked.

    Attributes:
        has_url: Somebody said where the log is; else it is the home's own folder.
        retention: Rules of how long projects keep full resolution, as they were given; later ones count.
    """

    home: Home
    destination: Destination
    has_url: bool = False
    server: str | None = None
    token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = ()
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    metrics_open: bool = True
    credentials: Path = field(default_factory=lambda: credentials_path({}))
    webhook: str | None = field(default=None, repr=False)
    retention: tuple[str, ...] = ()


def read_command_settings(
    *,
    url: str | None = None,
    home: str | None = None,
    server: str | None = None,
    host: str | None = None,
    port: int | None = None,
    certificate: str | None = None,
    key: str | None = None,
    retention: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> CommandSettings:
    """Settings from options and the environment; an empty variable is as good as absent.

    Raises:
        CommandError: A port or server that can't be understood, or a file that can't be read.
        SettingsError: A URL or home that can't be used.
        DestinationError: A URL with a password on the command line.
    """
    need_no_password(url, "--url")
    variables = dict(os.environ if environ is None else environ)
    shared = read_settings(url=url, home=home, environ=variables)
    tls = _pair(certificate or variables.get("RUNWIRE_TLS_CERT"), key or variables.get("RUNWIRE_TLS_KEY"))
    return CommandSettings(
        home=shared.home,
        destination=shared.destination,
        has_url=bool(url or variables.get("RUNWIRE_URL")),
        server=_server(server or variables.get("RUNWIRE_SERVER") or None),
        token=variables.get("RUNWIRE_TOKEN") or None,
        read_token=variables.get("RUNWIRE_READ_TOKEN") or None,
        host=host or variables.get("RUNWIRE_HOST") or DEFAULT_HOST,
        port=_port(variables.get("RUNWIRE_PORT")) if port is None else port,
        hosts=tuple(name.strip().lower() for name in variables.get("RUNWIRE_HOSTS", "").split(",") if name.strip()),
        ca=_path(variables.get("RUNWIRE_CA")),
        certificate=tls[0],
        key=tls[1],
        metrics_open=_metrics_open(variables.get("RUNWIRE_METRICS")),
        credentials=credentials_path(variables),
        webhook=variables.get("RUNWIRE_WEBHOOK") or _secret_in(variables.get("RUNWIRE_WEBHOOK_FILE")),
        retention=tuple(filter(None, (variables.get("RUNWIRE_RETENTION"), *retention))),
    )


def credentials_path(variables: Mapping[str, str]) -> Path:
    """Where `runwire login` keeps tokens: a file of this user, in no home and in no repository."""
    folder = variables.get("XDG_CONFIG_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path("~/.config").expanduser()
    return base / "runwire" / "credentials.json"


def server_address(text: str) -> str:
    """An address of a consumer as it is asked and as its token is kept: without a slash at the end, with a scheme.

    Raises:
        CommandError: It can't be understood.
    """
    return str(_server(text, "The server's address"))


def _server(text: str | None, name: str = "RUNWIRE_SERVER") -> str | None:
    if text is None:
        return None
    address = text.rstrip("/") if "://" in text else f"http://{text.rstrip('/')}"
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    if scheme not in {"http", "https"} or not rest or "@" in rest or " " in rest:
        raise CommandError(f"{name} can't be understood: write http://HOST:PORT of a consumer.")
    return f"{scheme}://{rest.lower()}" if "/" not in rest else address


def _pair(certificate: str | None, key: str | None) -> tuple[Path | None, Path | None]:
    if bool(certificate) != bool(key):
        raise CommandError("TLS takes a certificate and a key: give both --tls-cert and --tls-key.")
    return _path(certificate), _path(key)


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _metrics_open(text: str | None) -> bool:
    if text in {None, "", "open", "token"}:
        return text != "token"
    raise CommandError(f"RUNWIRE_METRICS must be open or token, not {text!r}.")


def _port(text: str | None) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isdecimal() or int(text) > PORT_MAX:
        raise CommandError(f"RUNWIRE_PORT must be a number up to {PORT_MAX}, not {text!r}.")
    return int(text)


def _secret_in(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CommandError(f"RUNWIRE_WEBHOOK_FILE, {path}, can't be read: {reason}.") from None
