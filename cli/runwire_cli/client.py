"""Readers of a store: a consumer behind HTTP, or the file itself when no consumer runs.

Which one a command gets: RUNWIRE_SERVER, with RUNWIRE_TOKEN or the token that `runwire login` kept for it, else the
consumer that runs in the home (its address stands in `server.json`, its token in `token`), else the file, under its
lock, after what waits has been materialized.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from runwire._server import is_loopback
from runwire_cli.credentials import Credentials
from runwire_cli.errors import CommandError, ServerRefused, ServerUnreachable
from runwire_cli.settings import CommandSettings
from runwire_cli.trust import Trust, client_context

if TYPE_CHECKING:
    from runwire_consumer.database import Database

Row = dict[str, Any]
Params = Mapping[str, Any] | Sequence[Any] | None
_Body = bytes | Mapping[str, Any] | None

OpenFile = Callable[[float], "Database"]
"""Opens the home's database with what waits in it, after a wait for the lock of so many seconds."""

_Opened = TypeVar("_Opened")

SERVER_FILE = "server.json"
LOCK_WAIT_SECONDS = 10.0
LOCK_SLICE_SECONDS = 0.3
CONNECT_TIMEOUT_SECONDS = 3.0
ANSWER_TIMEOUT_SECONDS = 120.0
CHUNK_BYTES = 256 * 1024
HEALTH_TIMEOUT_SECONDS = 5.0
FILE_QUERY_SECONDS_MAX = 3_600.0
FILE_ROWS_MAX = 10_000_000

_OK = 200
_REFUSED = 400
_UNAUTHORIZED = 401
_UNREACHED = (OSError, http.client.HTTPException, UnicodeError)  # the last: a name that is no host's


@dataclass(frozen=True, slots=True)
class Table:
    """A result: names of the columns in order, and a dict a row."""

    columns: tuple[str, ...]
    rows: list[Row]


class Reader(Protocol):
    """Answers SELECTs; every value is what JSON has, NaN and ±inf are strings."""

    @property
    def place(self) -> str:
        """Where the answers come from, for a person."""

    def table(self, sql: str, params: Params = None) -> Table:
        """Run a SELECT.

        Raises:
            CommandError: The reader can't answer.
            QueryError: The query is refused or went over a limit.
        """

    def fetch(self, sql: str, form: str) -> Iterator[bytes]:
        """Run a SELECT; the answer in chunks of `form` (json or csv) as it comes.

        Raises:
            CommandError: Also where it breaks off: what came before isn't the whole result.
        """

    def arrow(self, sql: str, params: Params = None) -> bytes:
        """Run a SELECT; the answer as an Arrow stream."""

    def close(self) -> None:
        """Let go of connection, file and lock."""


def rows_of(reader: Reader) -> Callable[[str, Params], list[Row]]:
    """The reader as a function, such as `runwire_consumer.queries` take."""
    return lambda sql, params: reader.table(sql, params).rows


class HttpReader:
    """Asks a consumer; one connection a question, so that any thread may ask and none is found closed.

    Args:
        address: http://HOST:PORT or https://HOST:PORT.
        token: Bearer token; None asks without one.
        trust: Whose certificates an https:// address is trusted by.

    Raises:
        CommandError: The address, the token or the file of authorities can't be used.
    """

    def __init__(self, address: str, token: str | None, trust: Trust | None = None) -> None:
        """Nothing is sent yet."""
        if token is not None and not all("!" <= character <= "~" for character in token):
            raise CommandError("RUNWIRE_TOKEN may only hold visible ASCII characters and no spaces.")
        try:
            parts = urlsplit(address)
            self._where = (parts.hostname or "", parts.port)
        except ValueError:
            raise CommandError(f"{address} is no address of a consumer: set it to http://HOST:PORT.") from None
        self._address = address
        self._path = parts.path.rstrip("/")
        self._context = client_context(trust or Trust()) if parts.scheme == "https" else None
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    @property
    def place(self) -> str:
        """The address."""
        return self._address

    def answers(self) -> bool:
        """Whether a consumer is there."""
        try:
            # One that stands still never does.
            with self._exchange("GET", "/healthz", None, HEALTH_TIMEOUT_SECONDS) as answer:
                return answer.status == _OK
        except _UNREACHED:
            return False

    def unready(self) -> str:
        """Why the consumer doesn't read yet, "" when it does."""
        try:
            with self._exchange("GET", "/readyz", None, HEALTH_TIMEOUT_SECONDS) as answer:
                content = answer.read()
        except _UNREACHED:
            return "it doesn't answer."
        return "" if answer.status == _OK else _sentence(answer.status, content, self._address)

    def table(self, sql: str, params: Params = None) -> Table:
        """Run a SELECT there."""
        with self._answering("json", {"sql": sql, "params": params}) as answer:
            named, content = answer.headers.get("runwire-columns"), answer.read()
        rows: list[Row] = self._json(content)
        columns = json.loads(named) if named else list(rows[0]) if rows else []
        return Table(tuple(columns), rows)

    def fetch(self, sql: str, form: str) -> Iterator[bytes]:
        """Run a SELECT there; its answer unchanged."""
        with self._answering(form, sql.encode("utf-8", "replace")) as answer:
            while chunk := answer.read(CHUNK_BYTES):
                yield chunk
            if answer.length:  # http.client tells of a missing end only where all is read at once
                raise http.client.IncompleteRead(b"", answer.length)

    def arrow(self, sql: str, params: Params = None) -> bytes:
        """Run a SELECT there; its answer as an Arrow stream."""
        with self._answering("arrow", {"sql": sql, "params": params}) as answer:
            return answer.read()

    def order(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Have the consumer change its store: POST /api/`path`; returns what it did.

        Raises:
            CommandError: It can't be reached, or refuses.
        """
        return self._ask("POST", f"/api/{path}", asked)

    def session(self) -> dict[str, Any]:
        """Whose token this is: its name, scope and projects.

        Raises:
            CommandError: The consumer can't be reached, or refuses the token.
        """
        return self._ask("GET", "/api/session", None)

    def close(self) -> None:
        """Nothing is open between two questions."""

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise ServerRefused(f"{self._address} answers, but it is no Runwire consumer.") from None

    @contextmanager
    def _answering(self, form: str, body: _Body) -> Iterator[http.client.HTTPResponse]:
        """The answer to a query, whose body may still come."""
        with ExitStack() as stack:
            with self._reached():
                exchange = self._exchange("POST", f"/api/sql?format={form}", body, ANSWER_TIMEOUT_SECONDS)
                answer = stack.enter_context(exchange)
                refusal = answer.read() if answer.status >= _REFUSED else b""
            self._refuse(answer.status, refusal)
            try:
                yield answer
            except _UNREACHED:
                raise ServerUnreachable(
                    f"The answer of {self._address} broke off: what came isn't the whole result. The query failed or "
                    "was stopped behind its first rows: ask for less, or try again."
                ) from None

    def _ask(self, method: str, path: str, body: _Body) -> dict[str, Any]:
        """The whole answer to anything else, however long it takes."""
        with self._reached(), self._exchange(method, path, body, None) as answer:
            content = answer.read()
        self._refuse(answer.status, content)
        found: dict[str, Any] = self._json(content)
        return found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise ServerUnreachable(
                f"The certificate of {self._address} isn't trusted ({error.verify_message}): set RUNWIRE_CA to the "
                "file of the authority that signed it, and address the consumer by a name that stands in it."
            ) from None
        except _UNREACHED as error:
            raise ServerUnreachable(
                f"The consumer at {self._address} can't be reached ({error}): start it with `runwire up` "
                "or correct RUNWIRE_SERVER."
            ) from None

    def _refuse(self, status: int, content: bytes) -> None:
        if status == _UNAUTHORIZED:
            raise ServerRefused(
                f"The consumer at {self._address} refuses the token: set RUNWIRE_TOKEN, or `runwire login "
                f"{self._address}` keeps one; its owner makes them with `runwire token create`."
            )
        if status >= _REFUSED:
            raise ServerRefused(_sentence(status, content, self._address))

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: _Body, timeout_seconds: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, connected until the block ends."""
        headers = dict(self._headers)
        if isinstance(body, Mapping):
            headers["content-type"] = "application/json"
            body = json.dumps(body).encode()
        limits = [limit for limit in (CONNECT_TIMEOUT_SECONDS, timeout_seconds) if limit is not None]
        connection = (
            http.client.HTTPConnection(*self._where, timeout=min(limits))
            if self._context is None
            else http.client.HTTPSConnection(*self._where, timeout=min(limits), context=self._context)
        )
        try:
            connection.connect()
            connection.sock.settimeout(timeout_seconds)
            connection.request(method, self._path + path, body, headers)
            yield connection.getresponse()
        finally:
            connection.close()


class FileReader:
    """Reads the database of a home, which nobody else has open.

    Args:
        database: Open; it is closed with the reader.
    """

    def __init__(self, database: Database) -> None:
        """Take over the database."""
        from runwire_consumer.limits import Limits  # noqa: PLC0415 - as below
        from runwire_consumer.sandbox import Sandbox  # noqa: PLC0415 - DuckDB and Arrow, 200 ms

        limits = Limits(seconds_max=FILE_QUERY_SECONDS_MAX, rows_max=FILE_ROWS_MAX)
        self._database = database
        self._sandbox = Sandbox(database.cursor, limits)

    @property
    def place(self) -> str:
        """The file."""
        return str(self._database.path)

    def table(self, sql: str, params: Params = None) -> Table:
        """Run a SELECT on the file."""
        result = self._sandbox.run(sql, params)
        return Table(result.unique_columns, list(result.objects()))

    def fetch(self, sql: str, form: str) -> Iterator[bytes]:
        """Run a SELECT on the file."""
        from runwire_consumer.forms import FORMS  # noqa: PLC0415 - Arrow, as above

        with self._sandbox.reading(sql) as reading:
            yield from FORMS[form].encode(reading.schema, reading.batches, nonfinite_null=False)

    def arrow(self, sql: str, params: Params = None) -> bytes:
        """Run a SELECT on the file."""
        return self._sandbox.run(sql, params).to_arrow()

    def close(self) -> None:
        """Close the file, give the lock back."""
        self._database.close()


@dataclass(frozen=True, slots=True)
class ServerFile:
    """What a running consumer says of itself in its home."""

    host: str
    port: int
    pid: int
    certificate: str | None = None

    @property
    def address(self) -> str:
        """http://HOST:PORT as a client of this machine reaches it; https:// where it has a certificate."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    def reader(self, token: str | None) -> HttpReader:
        """Asks it. Its certificate, known from the home, is trusted whatever name it bears."""
        return HttpReader(self.address, token, trust=Trust(certificate=self.certificate))

    def write(self, home: Path) -> None:
        """Put it into the home, whole or not at all."""
        draft = home / f".{SERVER_FILE}.{os.getpid()}"
        told = {"host": self.host, "port": self.port, "pid": self.pid}
        if self.certificate:
            told["certificate"] = self.certificate
        draft.write_text(json.dumps(told), encoding="utf-8")
        draft.replace(home / SERVER_FILE)

    @classmethod
    def read(cls, home: Path) -> ServerFile | None:
        """What stands in the home; None when there is nothing readable."""
        try:
            found = json.loads((home / SERVER_FILE).read_text(encoding="utf-8"))
            certificate = found.get("certificate")
            return cls(
                str(found["host"]), int(found["port"]), int(found["pid"]), None if not certificate else str(certificate)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def remove(self, home: Path) -> None:
        """Take it away, unless another consumer has put its own there."""
        if ServerFile.read(home) == self:
            with suppress(OSError):
                (home / SERVER_FILE).unlink()


def open_reader(settings: CommandSettings, open_file: OpenFile) -> Reader:
    """The reader of these settings.

    Args:
        settings: Where to ask.
        open_file: Opens the file where no consumer answers.

    Raises:
        CommandError: No consumer and no home to read.
        StoreLocked: Somebody else has the database and answers no questions.
    """
    if settings.server is not None:
        return named_consumer(settings, settings.server)
    if not settings.home.path.is_dir():
        raise CommandError(
            f"Nothing is tracked here yet: there is no folder {settings.home.path}. "
            "Train something with runwire.init(), or set RUNWIRE_HOME or RUNWIRE_SERVER."
        )
    reader = consumer_or(settings, open_file)
    return reader if isinstance(reader, HttpReader) else FileReader(reader)


def consumer_or(settings: CommandSettings, open_file: Callable[[float], _Opened]) -> HttpReader | _Opened:
    """The consumer that runs in the home, else what `open_file` opens, given a wait for the lock in seconds.

    Raises:
        StoreLocked: Somebody else has the database and answers nothing.
    """
    from runwire_consumer.errors import StoreLocked  # noqa: PLC0415 - absent in a bare install

    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        reader = local_consumer(settings)
        if reader is not None:
            return reader
        left = deadline - time.monotonic()
        try:
            return open_file(max(0.0, min(LOCK_SLICE_SECONDS, left)))
        except StoreLocked:
            # It may be a consumer that is still starting: look for its address again.
            if left <= 0:
                raise


def named_consumer(settings: CommandSettings, address: str) -> HttpReader:
    """The consumer at an address, asked with the token that is set, else the one kept for it.

    The home's own token, which may do everything, goes to this machine only, or where the home's consumer says it is.
    """
    local = ServerFile.read(settings.home.path)
    is_own = local is not None and local.address == address
    token = settings.token or (None if is_own else Credentials(settings.credentials).token(address))
    if token is None and (is_own or is_loopback(address)):
        token = _home_token(settings)
    return consumer_at(settings, address, token)


def consumer_at(settings: CommandSettings, address: str, token: str | None) -> HttpReader:
    """The consumer at an address, asked with this token; the home's own is known by its certificate."""
    local = ServerFile.read(settings.home.path)
    if local is not None and local.address == address:
        return local.reader(token)
    return HttpReader(address, token, trust=Trust(settings.ca))


def local_consumer(settings: CommandSettings) -> HttpReader | None:
    """The consumer that runs in the home; None where none answers."""
    found = ServerFile.read(settings.home.path)
    if found is None:
        return None
    reader = found.reader(settings.token or _home_token(settings))
    if reader.answers():
        return reader
    reader.close()
    return None


def _home_token(settings: CommandSettings) -> str | None:
    from runwire_consumer.tokens import read_token  # noqa: PLC0415 - absent in a bare install

    token = read_token(settings.home.path)
    return None if token is None else token.text


def _sentence(status: int, content: bytes, address: str) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{address} answers with HTTP status {status}: is it a Runwire consumer?"
