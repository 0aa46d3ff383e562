"""A TCP proxy on loopback that lets everything a client sends wait: a network, or a broker, that is slow.

with SlowProxy(port, to_port, delay_seconds=2.0) as proxy:
    connect(proxy.address)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

CHUNK_BYTES = 2**16
START_TIMEOUT_SECONDS = 60.0


class SlowProxy:
    """Listens on `port`, forwards to `to_port`: what comes from the client `delay_seconds` later, answers at once.

    The delay is one of latency: requests that come one after the other without waiting for answers wait together.
    """

    def __init__(self, port: int, to_port: int, delay_seconds: float) -> None:
        self.address = f"127.0.0.1:{port}"
        self._port = port
        self._to_port = to_port
        self._delay_seconds = delay_seconds
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="slow-proxy", daemon=True)
        self._ready = threading.Event()
        self._end = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_SECONDS):
            raise TimeoutError(f"no proxy listens on {self.address}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(START_TIMEOUT_SECONDS)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._ready.set()
        await self._end.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._connections.add(this)
        try:
            with contextlib.suppress(OSError):
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(_copy(reader, to_writer, self._delay_seconds))
                        both.create_task(_copy(to_reader, writer, 0.0))
                finally:
                    to_writer.close()
        except (BaseExceptionGroup, asyncio.CancelledError):
            pass  # one side has closed, and so have we
        finally:
            writer.close()
            self._connections.discard(this)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float) -> None:
    """Until the reader's end, which ends the other direction, too.

    Raises:
        ConnectionAbortedError: That end.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            writer.write(data)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        while data := await reader.read(CHUNK_BYTES):
            waiting.put_nowait((loop.time() + delay_seconds, data))
        raise ConnectionAbortedError
