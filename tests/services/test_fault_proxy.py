"""The proxy does what it says: each fault as an echo server's client sees it."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.services.fault_proxy import FaultProxy
from tests.services.process import free_ports, wait_until

SILENCE_SECONDS = 0.2
pytestmark = pytest.mark.timeout(120)


class Echo(socketserver.ThreadingTCPServer):
    """Answers what it is told, and remembers it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        """On a free port."""
        self.heard = bytearray()
        super().__init__(("127.0.0.1", free_ports(1)[0]), EchoHandler)


class EchoHandler(socketserver.BaseRequestHandler):
    """One connection."""

    server: Echo

    def handle(self) -> None:
        """Until its end."""
        try:
            while data := self.request.recv(4096):
                self.server.heard += data
                self.request.sendall(data)
        except OSError:
            pass


def read_to_the_end(client: socket.socket) -> bytes:
    """What comes until a RST."""
    found = b""
    try:
        while data := client.recv(10):
            found += data
    except ConnectionResetError:
        return found
    pytest.fail("the connection ended without a RST")


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server behind the proxy."""
    with Echo() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    """A faultless way to it."""
    with FaultProxy(free_ports(1)[0], echo.server_address[1]) as made:
        yield made


def connect(proxy: FaultProxy) -> socket.socket:
    """A client."""
    host, port = proxy.address.split(":")
    client = socket.create_connection((host, int(port)), timeout=60)
    client.settimeout(60)
    return client


def say(client: socket.socket, text: bytes) -> bytes:
    """What comes back; b"" after the end."""
    client.sendall(text)
    return client.recv(4096)


def assert_silent(client: socket.socket) -> None:
    """Nothing comes, and no end either."""
    client.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(60)


def test_without_a_fault_it_is_a_wire(proxy: FaultProxy) -> None:
    """Both ways, and the end of one side ends the other."""
    with connect(proxy) as client:
        assert say(client, b"one") == b"one"
        assert (proxy.accepted, proxy.connections) == (1, 1)
    wait_until(lambda: proxy.connections == 0, timeout_seconds=60, what="the client is gone")


def test_dropped_responses_leave_the_request_done(proxy: FaultProxy, echo: Echo) -> None:
    """The server has heard it; the connection stays silent, and after healing it is reset while a new one works."""
    with connect(proxy) as client:
        assert say(client, b"one") == b"one"
        proxy.set(drop_responses=True)
        client.sendall(b"two")
        wait_until(lambda: bytes(echo.heard) == b"onetwo", timeout_seconds=60, what="the request arrives")
        assert_silent(client)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert say(client, b"three") == b"three"


def test_a_black_hole_swallows_both_ways_also_for_new_connections(proxy: FaultProxy, echo: Echo) -> None:
    """Connections are taken and never answered."""
    with connect(proxy) as old:
        proxy.blackhole()
        with connect(proxy) as new:
            for client in (old, new):
                client.sendall(b"x")
                assert_silent(client)
    assert not echo.heard


def test_half_open_clients_hear_nothing_while_new_ones_work(proxy: FaultProxy) -> None:
    """The server's side is gone, the client's side is not told."""
    with connect(proxy) as old:
        assert say(old, b"one") == b"one"
        proxy.half_open()
        old.sendall(b"two")
        assert_silent(old)
        with connect(proxy) as new:
            assert say(new, b"three") == b"three"


def test_reset_ends_what_is_open(proxy: FaultProxy) -> None:
    """With a RST; new connections work."""
    with connect(proxy) as client:
        assert say(client, b"one") == b"one"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert say(client, b"two") == b"two"


def test_refused_until_it_listens_again(proxy: FaultProxy) -> None:
    """As where no program has the port."""
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.listen()
    with connect(proxy) as client:
        assert say(client, b"one") == b"one"


def test_an_answer_breaks_off_at_its_limit(proxy: FaultProxy, echo: Echo) -> None:
    """So many bytes come, then the connection is reset."""
    proxy.set(response_bytes_max=3)
    with connect(proxy) as client:
        client.sendall(b"123456")
        found = read_to_the_end(client)
    assert found in (b"123", b"")  # a RST may overtake what was on its way
    assert bytes(echo.heard) == b"123456"


def test_late_answers_come_whole(proxy: FaultProxy) -> None:
    """Latency changes nothing but the time."""
    proxy.set(request_delay_seconds=0.05, response_delay_seconds=0.05, bytes_per_second=1_000_000)
    with connect(proxy) as client:
        assert say(client, b"one") == b"one"
