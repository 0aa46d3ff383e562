"""A consumer's HTTP face over a small store, served from a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from runwire_consumer.database import Database
from runwire_consumer.guard import Door
from runwire_consumer.http import Face, Order, build_app, serve
from runwire_consumer.issued import IssuedTokens
from runwire_consumer.limits import Limits
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.tls import Certificate, server_context
from runwire_consumer.token_orders import token_orders
from runwire_consumer.tokens import Token

TOKEN = "t" * 24


@contextmanager
def served(
    database: Database,
    token: str = TOKEN,
    limits: Limits | None = None,
    *,
    orders: Mapping[str, Order] | None = None,
    home: Path | None = None,
    files: Certificate | None = None,
) -> Iterator[int]:
    """The port of 127.0.0.1 that answers.

    Args:
        database: What is asked.
        token: The home's.
        limits: What a query may take.
        orders: What it obeys.
        home: Where issued tokens are; None: there are none.
        files: It speaks TLS with these.
    """
    bound = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def on_bound(number: int) -> None:
        nonlocal port
        port = number
        bound.set()

    issued = None if home is None else IssuedTokens(home)
    obeyed = {**(orders or {}), **({} if issued is None else token_orders(issued))}
    face = Face(Sandbox(database.cursor, limits), CollectorRegistry(), orders=obeyed)
    app = build_app(face, Door(Token(token), "127.0.0.1", issued=issued))
    tls = None if files is None else server_context(files)
    serving = serve(app, "127.0.0.1", 0, on_bound, stop, tls=tls)
    thread = threading.Thread(target=lambda: loop.run_until_complete(serving))
    thread.start()
    try:
        assert bound.wait(20)
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@contextmanager
def one_answer(answer: bytes) -> Iterator[int]:
    """The port of a server that answers each request so, byte by byte, and closes."""
    loop = asyncio.new_event_loop()
    bound = threading.Event()
    port = 0

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def listen() -> None:
        nonlocal port
        server = await asyncio.start_server(send, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        bound.set()
        await stop.wait()
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(listen()))
    thread.start()
    try:
        assert bound.wait(10)
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
