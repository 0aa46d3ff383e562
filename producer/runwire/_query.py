"""Reads what is tracked from Python: asks the consumer over HTTP, gives tables as pyarrow, pandas and polars have them.

Which consumer: RUNWIRE_SERVER, else the one that runs in the home (`_server.py`). Arrow travels, so NaN, ±inf and
types stay what they are. Nothing here is imported before something is asked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
from typing import TYPE_CHECKING, Any, cast

from runwire._errors import QueryError, ServerError, UsageTypeError
from runwire._server import connect, find_server, unreachable
from runwire._settings import read_server_settings
from runwire._values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from http.client import HTTPResponse
    from pathlib import Path

    import pandas as pd
    import polars as pl
    import pyarrow as pa

ANSWER_TIMEOUT_SECONDS = 120.0
ROWS_SHOWN_MAX = 20
_ERROR_KEY = b"runwire-error"
_OK, _UNAUTHORIZED = 200, 401
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_RUNS = "SELECT * FROM runs{} ORDER BY started_at DESC NULLS LAST, run_id"
_CURVE = (
    'SELECT step, "time", value, min, max, ranks FROM curves WHERE run_id = $run_id AND metric = $metric ORDER BY step'
)


class Query:
    """A SELECT and, once it was asked for, its result; the first call below runs it, the others show the same result.

    Attributes:
        sql: The text.
        params: Values of $name or ?.
    """

    def __init__(
        self,
        sql: str,
        params: Mapping[str, object] | Sequence[object] | None = None,
        *,
        home: Path | None = None,
    ) -> None:
        """Nothing is asked yet; without RUNWIRE_SERVER the consumer of `home` will be."""
        if not issubclass(type(sql), str):
            raise UsageTypeError("sql", f"must be a string, not {shown(sql)}")
        self.sql = sql
        self.params = params
        self._home = home
        self._table: pa.Table | None = None

    def arrow(self) -> pa.Table:
        """The result as a pyarrow table.

        Returns:
            A row a row of the result, columns in order; types as DuckDB gives them.

        Raises:
            ServerError: No consumer answers, it wants another token, or its answer broke off.
            QueryError: The consumer refuses the query, or it failed; the sentence says why.
        """
        if self._table is None:
            self._table = _ask(self.sql, self.params, self._home)
        return self._table

    def pandas(self) -> pd.DataFrame:
        """The result as a pandas data frame.

        Returns:
            A row a row of the result; numbers that may be NULL are floats there, as pandas has them.

        Raises:
            ServerError: As for `arrow`.
            QueryError: As for `arrow`.
        """
        _need("pandas")
        return self.arrow().to_pandas()

    def polars(self) -> pl.DataFrame:
        """The result as a polars data frame.

        Returns:
            A row a row of the result; NULL and NaN are two things there.

        Raises:
            ServerError: As for `arrow`.
            QueryError: As for `arrow`.
        """
        return cast("pl.DataFrame", _need("polars").from_arrow(self.arrow()))

    def rows(self) -> list[dict[str, Any]]:
        """The result as Python values.

        Returns:
            A dict a row.

        Raises:
            ServerError: As for `arrow`.
            QueryError: As for `arrow`.
        """
        return [{name: _mapped(value) for name, value in row.items()} for row in self.arrow().to_pylist()]

    def __len__(self) -> int:
        return int(self.arrow().num_rows)

    def __repr__(self) -> str:
        state = "not run yet" if self._table is None else f"{self._table.num_rows:,} rows"
        text = " ".join(self.sql.split())
        return f"<runwire.Query {text if len(text) <= 80 else text[:79] + '…'} ({state})>"  # noqa: PLR2004 - a line

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415 - notebooks only

        table = self.arrow()
        head = "".join(f"<th>{escape(name)}</th>" for name in table.column_names)
        lines = [
            "".join(f"<td>{escape(str(_mapped(value)))}</td>" for value in row.values())
            for row in table.slice(0, ROWS_SHOWN_MAX).to_pylist()
        ]
        more = f"<p>{table.num_rows:,} rows, {ROWS_SHOWN_MAX} shown.</p>" if table.num_rows > ROWS_SHOWN_MAX else ""
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def curve(self: Any, metric: str) -> Query:  # noqa: D417 - a method of the runs
    """A metric of this run as the consumer has it now, a moment behind what was logged.

    Args:
        metric: Its name.

    Returns:
        A query of step, time, value (mean over ranks), min, max and ranks, by step, of the newest attempt; it runs
        when `.arrow()`, `.pandas()`, `.polars()` or `.rows()` is called.

    Raises:
        UsageError: The name is no string.
    """
    if not issubclass(type(metric), str):
        raise UsageTypeError("metric", f"must be a string, not {shown(metric)}")
    # A run that is tracked asks the consumer of its own home.
    home = getattr(getattr(self, "_make_emitter", None), "home", None)
    return Query(_CURVE, {"run_id": self.id, "metric": metric}, home=home)


class StoredRun:
    """A run as the consumer has it; made by `runwire.run`.

    Attributes:
        id: 16 characters.
        name: What people call it.
        project: Project it belongs to.
        state: running, stuck, finished, failed, crashed, preempted or lost.
        params: Its parameters, as texts.
        last: Last value of each metric.
        best: Best value of each metric that has a direction.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        """Keep what the consumer says."""
        self.id = str(found["run_id"])
        self.name = found.get("name")
        self.project = found.get("project")
        self.state = found.get("state")
        self.params: dict[str, str] = dict(found.get("params") or {})
        self.last: dict[str, float] = _numbers(found.get("last"))
        self.best: dict[str, float] = _numbers(found.get("best"))

    curve = curve

    def __repr__(self) -> str:
        return f"<runwire.StoredRun {self.name} ({self.id}, {self.state})>"


def query(sql: str, params: Mapping[str, object] | Sequence[object] | None = None) -> Query:
    """Ask the consumer one SELECT.

    Args:
        sql: Over the relations `runs`, `curves`, `metrics`, ... (`docs/guides/query.md`).
        params: Values of $name (a mapping) or of ? (a sequence): numbers, texts, times, lists, None.

    Returns:
        The query, which runs when `.arrow()`, `.pandas()`, `.polars()` or `.rows()` is called.

    Raises:
        UsageError: An argument that can't be used.
    """
    return Query(sql, params)


def runs(project: str | None = None) -> Query:
    """All runs, newest first, a row each.

    Args:
        project: Only those of this project.

    Returns:
        A query, which runs when `.arrow()`, `.pandas()`, `.polars()` or `.rows()` is called.

    Raises:
        UsageError: The project is no string.
    """
    if project is not None and not issubclass(type(project), str):
        raise UsageTypeError("project", f"must be a string, not {shown(project)}")
    if project is None:
        return Query(_RUNS.format(""))
    return Query(_RUNS.format(" WHERE project = $project"), {"project": project})


def run(run: str) -> StoredRun:
    """Look a run up.

    Args:
        run: Its id, the begin of it (4 characters or more), or its name.

    Returns:
        What the consumer has of it now.

    Raises:
        QueryError: There is none, or there are several.
        ServerError: No consumer answers.
        UsageError: It is no string.
    """
    if not issubclass(type(run), str):
        raise UsageTypeError("run", f"must be a string, not {shown(run)}")
    from urllib.parse import quote  # noqa: PLC0415 - not at import time

    with _answering("GET", f"/api/runs/{quote(run, safe='')}", None, None) as response:
        return StoredRun(json.loads(response.read()))


def _ask(sql: str, params: object, home: Path | None) -> pa.Table:
    pa = _need("pyarrow")
    body = json.dumps({"sql": sql, "params": _plain(params)}).encode()
    batches: list[Any] = []
    with _answering("POST", "/api/sql?format=arrow", body, home) as response:
        try:
            reader = pa.ipc.open_stream(response)
        except pa.ArrowException:
            raise _broken() from None
        try:
            while True:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
                if metadata is not None and _ERROR_KEY in metadata:
                    raise QueryError(metadata[_ERROR_KEY].decode())
                batches.append(batch)
        except StopIteration:
            # What ends without HTTP's own end was cut between two batches: of chunks, or before the length it said.
            if response.read() == b"" and not response.length:
                return pa.Table.from_batches(batches, reader.schema)
            raise _broken() from None
        except pa.ArrowException:
            raise _broken() from None


@contextlib.contextmanager
def _answering(method: str, path: str, body: bytes | None, home: Path | None) -> Iterator[HTTPResponse]:
    from http.client import HTTPException  # noqa: PLC0415 - not at import time
    from urllib.parse import urlsplit  # noqa: PLC0415 - as above

    server = find_server(read_server_settings(home))
    with contextlib.closing(connect(server, ANSWER_TIMEOUT_SECONDS)) as connection:
        headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
        try:
            target = urlsplit(server.address).path + path
            connection.request(method, target, body, {**headers, "content-type": "application/json"})
            response = connection.getresponse()
            refusal = None if response.status == _OK else response.read()
        except (OSError, HTTPException) as error:
            raise unreachable(server, error) from None
        if refusal is not None:
            raise _refusal(response.status, refusal, server.address)
        try:
            yield response
        except (OSError, HTTPException):
            raise _broken() from None


def _refusal(status: int, content: bytes, address: str) -> QueryError | ServerError:
    try:
        sentence = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"{address} answers with HTTP status {status}: is it a Runwire consumer?")
    if status == _UNAUTHORIZED:
        return ServerError(
            f"The consumer at {address} refuses the token: set RUNWIRE_TOKEN, or `runwire login {address}` keeps one; "
            "its owner makes them with `runwire token create`."
        )
    return ServerError(sentence) if status >= 500 else QueryError(sentence)  # noqa: PLR2004 - HTTP


def _broken() -> ServerError:
    return ServerError(
        "The consumer's answer broke off, so there is no table: the query failed or was stopped behind its first rows. "
        "Ask for less, or try again."
    )


def _plain(value: object) -> Any:
    """A parameter in what JSON has; times and what JSON lacks as the consumer takes them.

    Raises:
        UsageTypeError: It is none of these.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else {"$number": str(float(value))}
        case dt.datetime():
            return {"$time": value.isoformat()}
        case dt.date():
            return value.isoformat()
        case dict():
            return {str(name): _plain(held) for name, held in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(held) for held in value]
    for convert in ("tolist", "to_list", "item"):  # numpy, pandas, polars
        if callable(method := getattr(value, convert, None)):
            return _plain(method())
    raise UsageTypeError("params", f"can't hold {shown(value)}: give numbers, texts, times, lists or None")


def _mapped(value: Any) -> Any:
    """Arrow's maps, which are lists of pairs, as dicts."""
    if isinstance(value, list) and value and all(isinstance(held, tuple) and len(held) == 2 for held in value):  # noqa: PLR2004 - pairs
        return dict(value)
    return value


def _numbers(found: Any) -> dict[str, float]:
    return {name: _NONFINITE.get(value, value) for name, value in (found or {}).items()}


def _need(library: str) -> Any:
    import importlib  # noqa: PLC0415 - not at import time

    try:
        return importlib.import_module(library)
    except ImportError:
        raise ServerError(f"{library} isn't installed here: pip install 'runwire[query]'") from None
