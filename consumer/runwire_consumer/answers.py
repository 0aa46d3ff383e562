"""Answers that go out while their query still runs: POST /api/sql.

A thread of the queries' pool makes chunks, the event loop sends them; at most CHUNKS_WAITING_MAX lie between, so memory
is bounded at any length. A client that goes away, or reads nothing for CLIENT_SECONDS_MAX, ends its query.

What is known before the first HEAD_BYTES are out becomes an ordinary answer: with a length, or with a status that says
what is wrong. An error behind them can't change the status any more; then the answer stops without its end (HTTP's
last chunk is missing, the connection closes), after the sign of it that its form has (`forms.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runwire_consumer.errors import QueryError, QueryTimeout
from runwire_consumer.forms import FORMS
from runwire_consumer.guard import RequestRefused
from runwire_consumer.leaving import leave_if_invalidated
from runwire_consumer.params import params_of
from runwire_consumer.projects import Params
from runwire_consumer.results import unique_names
from runwire_consumer.sandbox import Sandbox

HEAD_BYTES = 1024 * 1024
CHUNKS_WAITING_MAX = 4
CLIENT_SECONDS_MAX = 30.0
ANSWER_SECONDS_MAX = 600.0
COLUMNS_HEADER = "runwire-columns"
COLUMNS_HEADER_BYTES_MAX = 8_000
CLIENT_GONE = 499

Start = Callable[[Callable[[], None]], Awaitable["Future[None]"]]
"""Begins work in a thread as soon as one is free; raises RequestRefused where none will be."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        sql: The text.
        params: Values of its parameters.
        form: One of `FORMS`.
        nonfinite_null: NaN and ±inf become null.
        projects: The answer is limited to these; None: everything.
    """

    sql: str
    params: Params
    form: str
    nonfinite_null: bool
    projects: frozenset[str] | None


def read_asked(request: Request, body: bytes, projects: frozenset[str] | None) -> Asked:
    """What the body and the address say, limited to what the visitor may see.

    Raises:
        RequestRefused: They can't be understood.
    """
    sql, params = _statement(request, body)
    form = _form(request)
    nonfinite = request.query_params.get("nan", "string")
    if nonfinite not in {"string", "null"}:
        raise RequestRefused(400, f"nan={nonfinite[:40]!r} is unknown: use string or null.")
    if "nan" in request.query_params and form not in {"json", "csv"}:
        raise RequestRefused(400, "nan= is for json and csv: Arrow and Parquet have NaN and ±inf as they are.")
    return Asked(sql, params, form, nonfinite == "null", projects)


async def answer(
    request: Request, asked: Asked, sandbox: Sandbox, start: Start, status: Callable[[QueryError], int]
) -> Response:
    """The answer to a query; it may still be made while it is sent.

    Args:
        request: Its body has been read.
        asked: What it asks for.
        sandbox: Runs the query.
        start: Gets it a thread.
        status: The HTTP status of an error.

    Raises:
        RequestRefused: The query failed before anything was sent, or its client is gone.
    """
    chunks = _Chunks(asyncio.get_running_loop())
    gone = asyncio.ensure_future(_until_gone(request.receive))
    gone.add_done_callback(lambda _: chunks.cancelled.set())
    try:
        await _first(gone, start(lambda: _make(chunks, asked, sandbox)))
        head, is_whole = await _first(gone, chunks.head())
    except QueryError as error:
        raise RequestRefused(status(error), str(error)) from None
    except BaseException:
        chunks.cancelled.set()
        raise
    finally:
        if chunks.ended or chunks.cancelled.is_set():
            gone.cancel()
    headers = chunks.headers
    media_type = FORMS[asked.form].media_type
    if is_whole:
        gone.cancel()
        return Response(head, headers=headers, media_type=media_type)
    return _Streamed(head, chunks, gone, headers, media_type)


class _Streamed(Response):
    """An answer in chunks; without its end where the query failed."""

    def __init__(
        self, head: bytes, chunks: _Chunks, gone: asyncio.Future[None], headers: Mapping[str, str], media_type: str
    ) -> None:
        self._head = head
        self._chunks = chunks
        self._gone = gone
        super().__init__(None, headers=headers, media_type=media_type)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._head, "more_body": True})
            with contextlib.suppress(QueryError):  # its sign is sent; the missing end tells everybody else
                async for chunk in self._chunks.rest():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._chunks.cancelled.set()
            self._gone.cancel()


class _Chunks:
    """Bytes on their way from the query's thread to the event loop.

    Attributes:
        cancelled: Set when nobody wants them any more.
        headers: Of the answer; known with the first chunk.
        ended: No more will come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = threading.Event()
        self.headers: dict[str, str] = {}
        self.ended = False
        self._loop = loop
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(CHUNKS_WAITING_MAX)
        self._began = time.monotonic()

    def put(self, chunk: bytes) -> None:
        """On the query's thread: hand on, as soon as there is room.

        Raises:
            QueryTimeout: The client has gone, or reads too slowly.
        """
        deadline = time.monotonic() + CLIENT_SECONDS_MAX
        while not self._room.acquire(timeout=0.2):
            if self.cancelled.is_set():
                raise QueryTimeout("The query was stopped: whoever asked has gone.")
            if time.monotonic() > deadline:
                raise QueryTimeout(f"The query was stopped: its client read nothing for {CLIENT_SECONDS_MAX:g} s.")
        if time.monotonic() - self._began > ANSWER_SECONDS_MAX:
            raise QueryTimeout(f"The answer was stopped after {ANSWER_SECONDS_MAX:g} s: read it faster, or in parts.")
        self._send(chunk)

    def end(self, error: BaseException | None) -> None:
        """On the query's thread: all is said, or it failed."""
        self._send(error)

    async def head(self) -> tuple[bytes, bool]:
        """The first HEAD_BYTES or a little more, and whether that is all.

        Raises:
            QueryError: The query failed before.
        """
        parts: list[bytes] = []
        async for chunk in self.rest():
            parts.append(chunk)
            if sum(map(len, parts)) >= HEAD_BYTES:
                return b"".join(parts), False
        return b"".join(parts), True

    async def rest(self) -> AsyncIterator[bytes]:
        """What is still to come."""
        while not self.ended:
            found = await self._queue.get()
            if isinstance(found, bytes):
                self._room.release()
                yield found
                continue
            self.ended = True
            if found is not None:
                raise found

    def _send(self, item: bytes | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


def _make(chunks: _Chunks, asked: Asked, sandbox: Sandbox) -> None:
    """On the query's thread: run it, hand on what comes."""
    error: BaseException | None = None
    try:
        with sandbox.reading(asked.sql, asked.params, asked.projects, chunks.cancelled) as reading:
            columns = json.dumps(unique_names(reading.schema.names))
            if len(columns) <= COLUMNS_HEADER_BYTES_MAX:
                chunks.headers = {COLUMNS_HEADER: columns}
            made = FORMS[asked.form].encode(reading.schema, reading.batches, nonfinite_null=asked.nonfinite_null)
            _hand_on(made, chunks)
    except BaseException as caught:
        leave_if_invalidated(caught)  # before anybody is told: what comes behind it would be no answer
        error = caught
        if not isinstance(caught, QueryError):
            raise
    finally:
        chunks.end(error)


def _hand_on(made: Iterable[bytes], chunks: _Chunks) -> None:
    """Small pieces together, large ones apart: a chunk is about as large as a socket takes."""
    waiting = bytearray()
    try:
        for piece in made:
            waiting += piece
            while len(waiting) >= _CHUNK_BYTES:
                chunks.put(bytes(waiting[:_CHUNK_BYTES]))
                del waiting[:_CHUNK_BYTES]
    finally:
        if waiting:
            chunks.put(bytes(waiting))


_CHUNK_BYTES = 256 * 1024


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(gone: asyncio.Future[None], awaited: Awaitable[Any]) -> Any:
    """What `awaited` gives, unless the client goes before.

    Raises:
        RequestRefused: It has gone; nobody will read this.
    """
    working = asyncio.ensure_future(awaited)
    await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        return working.result()
    working.cancel()
    raise RequestRefused(CLIENT_GONE, "The client has gone.")


def _statement(request: Request, body: bytes) -> tuple[str, Params]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise RequestRefused(400, "The body is no UTF-8 text: send the SELECT as UTF-8.") from None
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        return text, None
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestRefused(400, 'The body is no JSON: send {"sql": "SELECT ..."}.') from None
    if not isinstance(asked, dict) or not isinstance(asked.get("sql"), str) or asked.keys() - {"sql", "params"}:
        raise RequestRefused(400, 'The JSON body must be {"sql": "SELECT ...", "params": {...} or [...]}.')
    try:
        return asked["sql"], params_of(asked.get("params"))
    except ValueError as error:
        raise RequestRefused(400, str(error)) from None


def _form(request: Request) -> str:
    wanted = request.query_params.get("format")
    if wanted is None:
        accept = request.headers.get("accept", "").lower()
        for form in ("arrow", "parquet"):
            if FORMS[form].media_type in accept:
                return form
        return "csv" if accept.startswith("text/csv") else "json"
    if wanted not in FORMS:
        raise RequestRefused(400, f"Format {wanted[:40]!r} is unknown: use {', '.join(FORMS)}.")
    return wanted
