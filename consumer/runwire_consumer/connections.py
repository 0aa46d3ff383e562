"""Connections of the HTTP server, none of which stays for nothing: slow heads, slow readers, one client with too many.

uvicorn waits for ever for the first bytes of a request and for the end of its head, and for a reader that takes none
of its answer. Here each of these has its time; a body's is `guard.read_body`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SECONDS_MAX = 10.0
READER_SECONDS_MAX = 30.0
HANDSHAKE_SECONDS_MAX = 10.0
CONNECTIONS_MAX = 200
CONNECTIONS_OF_ADDRESS_MAX = 150

_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"
    b'{"error": "The request did not arrive in time: send it again."}'
)


class Connection(H11Protocol):
    """One connection; `limits` counts those of its server."""

    def __init__(self, *arguments: Any, limits: Counter[str], **named: Any) -> None:
        """Nothing has arrived yet."""
        super().__init__(*arguments, **named)
        self._of_address = limits
        self._address: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it; one too many of an address is closed at once."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self._of_address[address] >= CONNECTIONS_OF_ADDRESS_MAX:
            transport.abort()
            return
        self._address = address
        self._of_address[address] += 1
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        if self._address is not None:
            self._of_address[self._address] -= 1
            if not self._of_address[self._address]:
                del self._of_address[self._address]
            self._address = None
        for timer in (self._head_timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The time for a head runs from its first byte, however few follow."""
        if not self._busy:
            self._wait_for_head()
        super().data_received(data)
        if self._busy and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_response_complete(self) -> None:
        """What then still comes of the request's body has as long as a head; what waits in the pipe is a new one."""
        super().on_response_complete()
        if not self._busy and self.conn.their_state is h11.SEND_BODY:
            self._wait_for_head()

    def pause_writing(self) -> None:
        """The reader is slower than we are."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The reader has caught up."""
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        super().resume_writing()

    @property
    def _busy(self) -> bool:
        """A request has its head and waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        if self._busy or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            self.transport.write(_TOO_LATE)
            self.transport.close()
            # One that takes nothing off our hands would hold even a closing connection.
            self.loop.call_later(HEAD_SECONDS_MAX, self.transport.abort)
        else:
            self.transport.abort()

    def _watch_reader(self, before_bytes: int) -> None:
        def look() -> None:
            left_bytes = self.transport.get_write_buffer_size()
            if left_bytes >= before_bytes:
                self.transport.abort()
            else:
                self._watch_reader(left_bytes)

        self._reader_timer = self.loop.call_later(READER_SECONDS_MAX, look)


class Server(uvicorn.Server):
    """uvicorn with our connections, our TLS, and no hand on signals, which belong to the service."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        """Nothing listens yet."""
        super().__init__(config)
        self._tls = tls
        self._limits: Counter[str] = Counter()

    async def startup(self, sockets: Any = None) -> None:
        """Listen on sockets that are bound already."""
        loop = asyncio.get_running_loop()
        seconds = HANDSHAKE_SECONDS_MAX if self._tls is not None else None
        self.servers = [
            await loop.create_server(
                self._connection, sock=each, ssl=self._tls, backlog=128, ssl_handshake_timeout=seconds
            )
            for each in sockets
        ]
        self.started = True

    def capture_signals(self) -> Any:
        """Capture none."""
        return contextlib.nullcontext()

    def _connection(self) -> asyncio.Protocol:
        return Connection(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, limits=self._limits
        )
