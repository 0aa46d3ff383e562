"""A consumer's HTTP face over a small store, served from a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from runwire_consumer.database import Database
from runwire_consumer.guard import Door
from runwire_consumer.http import Face, build_app, serve
from runwire_consumer.limits import Limits
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.tokens import Token

TOKEN = "t" * 24


@contextmanager
def served(database: Database, token: str = TOKEN, limits: Limits | None = None) -> Iterator[int]:
    """The port of 127.0.0.1 that answers."""
    bound = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def on_bound(number: int) -> None:
        nonlocal port
        port = number
        bound.set()

    app = build_app(Face(Sandbox(database.cursor, limits), CollectorRegistry()), Door(Token(token), "127.0.0.1"))
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(app, "127.0.0.1", 0, on_bound, stop)))
    thread.start()
    try:
        assert bound.wait(20)
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
