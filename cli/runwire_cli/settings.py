"""What the commands are configured with: option, else environment, else default.

RUNWIRE_SERVER   address of the consumer that readers ask (default: the one that runs in this home, else none)
RUNWIRE_TOKEN    its bearer token (default: the file `token` in the home)
RUNWIRE_HOST     address that `runwire up` listens on (default: 127.0.0.1)
RUNWIRE_PORT     port that `runwire up` listens on (default: 8470)
RUNWIRE_HOSTS    further names under which clients address it, separated by commas
RUNWIRE_RETENTION  how long `runwire up` keeps full resolution of ended runs: PROJECT=30d,*=90d (default: for ever)
RUNWIRE_URL, RUNWIRE_HOME    as in the trainer
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runwire._home import Home
from runwire._settings import read_settings
from runwire_cli.errors import CommandError
from runwire_schemas.topics import Destination

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
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = ()
    retention: tuple[str, ...] = ()


def read_command_settings(
    *,
    url: str | None = None,
    home: str | None = None,
    server: str | None = None,
    host: str | None = None,
    port: int | None = None,
    retention: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> CommandSettings:
    """Settings from options and the environment; an empty variable is as good as absent.

    Raises:
        CommandError: A port or server that can't be understood.
        SettingsError: A URL or home that can't be used.
    """
    variables = dict(os.environ if environ is None else environ)
    shared = read_settings(url=url, home=home, environ=variables)
    return CommandSettings(
        home=shared.home,
        destination=shared.destination,
        has_url=bool(url or variables.get("RUNWIRE_URL")),
        server=_server(server or variables.get("RUNWIRE_SERVER") or None),
        token=variables.get("RUNWIRE_TOKEN") or None,
        host=host or variables.get("RUNWIRE_HOST") or DEFAULT_HOST,
        port=_port(variables.get("RUNWIRE_PORT")) if port is None else port,
        hosts=tuple(name.strip().lower() for name in variables.get("RUNWIRE_HOSTS", "").split(",") if name.strip()),
        retention=tuple(filter(None, (variables.get("RUNWIRE_RETENTION"), *retention))),
    )


def _server(text: str | None) -> str | None:
    if text is None:
        return None
    address = text.rstrip("/") if "://" in text else f"http://{text.rstrip('/')}"
    scheme, _, rest = address.partition("://")
    if scheme not in {"http", "https"} or not rest or "@" in rest or " " in rest:
        raise CommandError("RUNWIRE_SERVER can't be understood: set it to http://HOST:PORT of a consumer.")
    return address


def _port(text: str | None) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isdecimal() or int(text) > PORT_MAX:
        raise CommandError(f"RUNWIRE_PORT must be a number up to {PORT_MAX}, not {text!r}.")
    return int(text)
