"""Readers of a store: a consumer behind HTTP, or the file itself when no consumer runs.

Which one a command gets: RUNWIRE_SERVER, else the consumer that runs in the home (its address stands in
`server.json`, its token in `token`), else the file, under its lock, after what waits has been materialized.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from runwire_cli.errors import CommandError, ServerRefused, ServerUnreachable
from runwire_cli.settings import CommandSettings

if TYPE_CHECKING:
    import httpx

    from runwire_consumer.database import Database

Row = dict[str, Any]
Params = Mapping[str, Any] | Sequence[Any] | None

OpenFile = Callable[[float], "Database"]
"""Opens the home's database with what waits in it, after a wait for the lock of so many seconds."""

_Opened = TypeVar("_Opened")

SERVER_FILE = "server.json"
LOCK_WAIT_SECONDS = 10.0
LOCK_SLICE_SECONDS = 0.3
CONNECT_TIMEOUT_SECONDS = 3.0
ANSWER_TIMEOUT_SECONDS = 120.0
HEALTH_TIMEOUT_SECONDS = 5.0
FILE_QUERY_SECONDS_MAX = 3_600.0
FILE_ROWS_MAX = 10_000_000

_UNAUTHORIZED = 401


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

    def close(self) -> None:
        """Let go of connection, file and lock."""


def rows_of(reader: Reader) -> Callable[[str, Params], list[Row]]:
    """The reader as a function, such as `runwire_consumer.queries` take."""
    return lambda sql, params: reader.table(sql, params).rows


class HttpReader:
    """Asks a consumer.

    Args:
        address: http://HOST:PORT.
        token: Bearer token; None asks without one.
        transport: Another way to the server than a socket, for tests.
    """

    def __init__(self, address: str, token: str | None, transport: httpx.BaseTransport | None = None) -> None:
        """Nothing is sent yet."""
        import httpx  # noqa: PLC0415 - 100 ms that commands without a server don't spend

        self._address = address
        headers = {"authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(ANSWER_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        self._client = httpx.Client(
            base_url=address, headers=headers, timeout=timeout, transport=transport, trust_env=False
        )
        self._transport_error = httpx.TransportError

    @property
    def place(self) -> str:
        """The address."""
        return self._address

    def answers(self) -> bool:
        """Whether a consumer is there."""
        try:
            answer = self._client.get("/healthz", timeout=HEALTH_TIMEOUT_SECONDS)  # one that stands still never does
            return bool(answer.status_code == 200)  # noqa: PLR2004 - OK
        except self._transport_error:
            return False

    def table(self, sql: str, params: Params = None) -> Table:
        """Run a SELECT there."""
        with self._answering("json", json={"sql": sql, "params": params}) as answer:
            body = answer.read()
        try:
            rows: list[Row] = json.loads(body)
        except ValueError:
            raise ServerRefused(f"{self._address} answers, but it is no Runwire consumer.") from None
        named = answer.headers.get("runwire-columns")
        columns = json.loads(named) if named else list(rows[0]) if rows else []
        return Table(tuple(columns), rows)

    def fetch(self, sql: str, form: str) -> Iterator[bytes]:
        """Run a SELECT there; its answer unchanged."""
        with self._answering(form, content=sql.encode("utf-8", "replace")) as answer:
            yield from answer.iter_raw()

    def order(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Have the consumer change its store: POST /api/`path`; returns what it did.

        Raises:
            CommandError: It can't be reached, or refuses.
        """
        try:
            done: dict[str, Any] = self._send(f"/api/{path}", json=dict(asked), timeout=None).json()
        except ValueError:
            raise ServerRefused(f"{self._address} answers, but it is no Runwire consumer.") from None
        return done

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _answering(self, form: str, **body: Any) -> Iterator[httpx.Response]:
        """The answer to a query, whose body may still come."""
        with ExitStack() as stack:
            with self._unreached():
                answer = stack.enter_context(self._client.stream("POST", "/api/sql", params={"format": form}, **body))
                if answer.is_error:
                    answer.read()
            self._refuse(answer)
            try:
                yield answer
            except self._transport_error:
                raise ServerUnreachable(
                    f"The answer of {self._address} broke off: what came isn't the whole result. The query failed or "
                    "was stopped behind its first rows: ask for less, or try again."
                ) from None

    def _send(self, path: str, **request: Any) -> httpx.Response:
        with self._unreached():
            answer = self._client.post(path, **request)
        self._refuse(answer)
        return answer

    @contextmanager
    def _unreached(self) -> Iterator[None]:
        try:
            yield
        except self._transport_error as error:
            raise ServerUnreachable(
                f"The consumer at {self._address} can't be reached ({error}): start it with `runwire up` "
                "or correct RUNWIRE_SERVER."
            ) from None

    def _refuse(self, answer: httpx.Response) -> None:
        if answer.status_code == _UNAUTHORIZED:
            raise ServerRefused(
                f"The consumer at {self._address} refuses the token: set RUNWIRE_TOKEN to the text of the file "
                "'token' in its home."
            )
        if answer.is_error:
            raise ServerRefused(_sentence(answer, self._address))


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

    def close(self) -> None:
        """Close the file, give the lock back."""
        self._database.close()


@dataclass(frozen=True, slots=True)
class ServerFile:
    """What a running consumer says of itself in its home."""

    host: str
    port: int
    pid: int

    @property
    def address(self) -> str:
        """http://HOST:PORT as a client of this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def write(self, home: Path) -> None:
        """Put it into the home, whole or not at all."""
        draft = home / f".{SERVER_FILE}.{os.getpid()}"
        draft.write_text(json.dumps({"host": self.host, "port": self.port, "pid": self.pid}), encoding="utf-8")
        draft.replace(home / SERVER_FILE)

    @classmethod
    def read(cls, home: Path) -> ServerFile | None:
        """What stands in the home; None when there is nothing readable."""
        try:
            found = json.loads((home / SERVER_FILE).read_text(encoding="utf-8"))
            return cls(str(found["host"]), int(found["port"]), int(found["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
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
    """The consumer at an address, asked with the token that is set, else with the home's."""
    return HttpReader(address, settings.token or _home_token(settings))


def local_consumer(settings: CommandSettings) -> HttpReader | None:
    """The consumer that runs in the home; None where none answers."""
    found = ServerFile.read(settings.home.path)
    if found is None:
        return None
    reader = named_consumer(settings, found.address)
    if reader.answers():
        return reader
    reader.close()
    return None


def _home_token(settings: CommandSettings) -> str | None:
    from runwire_consumer.tokens import read_token  # noqa: PLC0415 - absent in a bare install

    token = read_token(settings.home.path)
    return None if token is None else token.text


def _sentence(answer: httpx.Response, address: str) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{address} answers with HTTP status {answer.status_code}: is it a Runwire consumer?"
