"""A TCP proxy on loopback that does what networks do: late, silent, one way only, half-open, cut, reset, refused.

    with FaultProxy(port, to_port) as proxy:
        connect(proxy.address)
        proxy.set(drop_responses=True)   # requests arrive, their answers never come
        proxy.reset()                    # every connection ends with a RST
        proxy.heal()

Faults act on connections that are open and on those that come; each control method returns when it holds. A swallowed
byte never comes back, so a connection that has lost some stays silent in that direction until it is closed: TCP never
leaves out a piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

CHUNK_BYTES = 2**16
START_TIMEOUT_SECONDS = 60.0
CONTROL_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to bytes on their way; the default is nothing.

    Attributes:
        request_delay_seconds: What comes from the client waits this long, as latency: pieces wait together.
        response_delay_seconds: As above for what goes back.
        drop_requests: What comes from the client is swallowed; with `drop_responses` the network is a black hole.
        drop_responses: Answers are swallowed; what was asked has happened all the same.
        bytes_per_second: Each direction of each connection carries no more than this; 0 is no limit.
        request_bytes_max: A connection is reset when the client has sent this much through it; None is no limit.
        response_bytes_max: As above for what goes back: an answer that breaks off in its middle.
    """

    request_delay_seconds: float = 0.0
    response_delay_seconds: float = 0.0
    drop_requests: bool = False
    drop_responses: bool = False
    bytes_per_second: int = 0
    request_bytes_max: int | None = None
    response_bytes_max: int | None = None


@dataclass(eq=False, slots=True)
class _Connection:
    """One client with its way to the server; `up` is None once the server's side is gone."""

    down: asyncio.StreamWriter
    up: asyncio.StreamWriter | None
    task: asyncio.Task[None]
    half_open: bool = False
    sent: dict[str, int] = field(default_factory=lambda: {"request": 0, "response": 0})
    deaf: set[str] = field(default_factory=set)


class FaultProxy:
    """Listens on `port`, forwards to `to_port`; faultless until told otherwise. Its loop runs in a thread of its own.

    Attributes:
        address: HOST:PORT to connect to.
        accepted: Connections taken so far.
    """

    def __init__(self, port: int, to_port: int, fault: Fault | None = None) -> None:
        """`fault` holds from the first connection on."""
        self.address = f"127.0.0.1:{port}"
        self.accepted = 0
        self._port = port
        self._to_port = to_port
        self._fault = fault or Fault()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._ready = threading.Event()
        self._end = asyncio.Event()

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            TimeoutError: The port can't be had.
        """
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_SECONDS):
            raise TimeoutError(f"no proxy listens on {self.address}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection and the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(START_TIMEOUT_SECONDS)

    @property
    def fault(self) -> Fault:
        """What happens now."""
        return self._fault

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._connections)

    def set(self, **changes: Any) -> None:
        """Change fields of `Fault`, from the next byte on."""

        def change() -> None:
            self._fault = replace(self._fault, **changes)

        self._do(change)

    def blackhole(self) -> None:
        """Nothing goes either way; connections stay open, and new ones are taken and as silent."""
        self.set(drop_requests=True, drop_responses=True)

    def half_open(self) -> None:
        """The server forgets the connections that are open now, and the clients don't hear of it; new ones work."""

        def forget() -> None:
            for one in self._connections:
                one.half_open = True
                if one.up is not None:
                    _abort(one.up)

        self._do(forget)

    def reset(self) -> None:
        """Every open connection ends with a RST on both sides; new ones work."""
        self._do(self._reset_all)

    def refuse(self) -> None:
        """Nobody listens any more, and open connections are reset."""

        def close() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            self._reset_all()

        self._do(close)

    def listen(self) -> None:
        """Take connections again after `refuse`."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(CONTROL_TIMEOUT_SECONDS)

    def heal(self) -> None:
        """As if nothing had been. Connections that have lost bytes are reset: nothing else can become of them."""
        self.listen()

        def heal() -> None:
            self._fault = Fault()
            for one in [*self._connections]:
                if one.deaf or one.half_open:
                    self._reset(one)

        self._do(heal)

    def _do(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        if not done.wait(CONTROL_TIMEOUT_SECONDS):
            raise TimeoutError("the proxy's thread doesn't answer")

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        await self._listen()
        self._ready.set()
        await self._end.wait()
        if self._server is not None:
            self._server.close()
        tasks = [one.task for one in self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)

    def _reset_all(self) -> None:
        for one in [*self._connections]:
            self._reset(one)

    def _reset(self, connection: _Connection) -> None:
        _abort(connection.down)
        if connection.up is not None:
            _abort(connection.up)
        connection.task.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self.accepted += 1
        connection = _Connection(writer, None, this)
        self._connections.add(connection)
        try:
            with contextlib.suppress(OSError):
                to_reader, connection.up = await asyncio.open_connection("127.0.0.1", self._to_port)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._copy(connection, "request", reader, connection.up))
                    both.create_task(self._copy(connection, "response", to_reader, writer))
        except (BaseExceptionGroup, asyncio.CancelledError):
            pass  # one side has closed, and so have we
        finally:
            self._connections.discard(connection)
            writer.close()
            if connection.up is not None:
                connection.up.close()

    async def _copy(
        self, connection: _Connection, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction until its end, which ends the other one, too.

        Raises:
            ConnectionAbortedError: That end.
        """
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(due - self._loop.time())
                if connection.half_open:
                    continue
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            while True:
                with contextlib.suppress(OSError):
                    if data := await reader.read(CHUNK_BYTES):
                        await self._pass_on(connection, way, data, waiting)
                        continue
                if not connection.half_open or way == "request":
                    raise ConnectionAbortedError
                await asyncio.Event().wait()  # the server is gone, and nobody tells the client

    async def _pass_on(
        self, connection: _Connection, way: str, data: bytes, waiting: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        fault = self._fault
        dropped, delay, limit = (
            (fault.drop_requests, fault.request_delay_seconds, fault.request_bytes_max)
            if way == "request"
            else (fault.drop_responses, fault.response_delay_seconds, fault.response_bytes_max)
        )
        if dropped:
            connection.deaf.add(way)
        if way in connection.deaf or connection.half_open:
            return
        room = len(data) if limit is None else max(limit - connection.sent[way], 0)
        connection.sent[way] += len(data)
        if room:
            waiting.put_nowait((self._loop.time() + delay, data[:room]))
        if room < len(data):
            await asyncio.sleep(delay)
            self._reset(connection)
        if fault.bytes_per_second:
            await asyncio.sleep(len(data) / fault.bytes_per_second)


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection with a RST instead of a FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
