"""Destinations in trouble, real sockets on loopback: nobody listens, or one who takes everything and never answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.services.process import free_ports


def nobody() -> str:
    """URL of a broker where nobody listens."""
    return f"kafka://127.0.0.1:{free_ports(1)[0]}/t"


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """URL of a broker that accepts connections, reads, and never says a word."""
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as server:
        taken: list[socket.socket] = []

        def swallow(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while connection.recv(2**16):
                    pass

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    taken.append(connection)
                    threading.Thread(target=swallow, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"kafka://127.0.0.1:{server.getsockname()[1]}/t"
        finally:
            for one in (server, *taken):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in taken:
                connection.close()
