"""Connections to a real socket: who dawdles or floods is hung up on; TLS and its files."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from runwire_consumer import connections
from runwire_consumer.access import OPEN
from runwire_consumer.database import MEMORY, Database
from runwire_consumer.errors import FaceError
from runwire_consumer.guard import Door, guarded
from runwire_consumer.http import Face, build_app, serve
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.tls import Certificate, own_certificate, server_context
from runwire_consumer.tokens import Token
from tests.consumer.certificates import encrypted_key, make_certificate

TOKEN = "t" * 24
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    database = Database.open(MEMORY)
    yield build_app(Face(Sandbox(database.cursor), CollectorRegistry()), Door(Token(TOKEN), "127.0.0.1"))
    database.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextlib.asynccontextmanager
async def served(app: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(serve(app, "127.0.0.1", 0, port.set_result, stop, tls=tls))
    try:
        yield await asyncio.wait_for(port, 10)
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server hangs up."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 20)
    return b""


@pytest.mark.parametrize(
    ("sent", "trickle", "answer"),
    [
        (b"", b"", b"HTTP/1.1 408 "),
        (b"G", b"", b"HTTP/1.1 408 "),
        (HEALTH, b"x: y\r\n", b"HTTP/1.1 408 "),
        # The answer is there; of the body that was announced a byte comes now and then.
        (HEALTH + b"Content-Length: 1000000\r\n\r\n", b"x", b"HTTP/1.1 200 "),
        (b"POST /api/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", b"x", b"HTTP/1.1 401 "),
        # A second request on the same connection.
        (HEALTH + b"\r\n" + HEALTH, b"x: y\r\n", b"HTTP/1.1 200 "),
    ],
)
async def test_who_dawdles_is_hung_up_on(
    app: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes, trickle: bytes, answer: bytes
) -> None:
    """However often a byte comes: the time runs from the first."""
    monkeypatch.setattr(connections, "HEAD_SECONDS_MAX", 0.3)
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)

        async def go_on() -> None:
            with contextlib.suppress(ConnectionError):
                while trickle:
                    writer.write(trickle)
                    await writer.drain()
                    await asyncio.sleep(0.02)

        trickling = asyncio.create_task(go_on())
        try:
            assert (await ended(reader)).startswith(answer)
        finally:
            trickling.cancel()
            writer.close()


async def test_who_keeps_a_connection_and_asks_in_time_is_served(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request has its own time, and none runs while the server works."""
    monkeypatch.setattr(connections, "HEAD_SECONDS_MAX", 0.3)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await app(scope, receive, send)

    async with served(slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEALTH + b"\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"ok\n"), 10)).startswith(b"HTTP/1.1 200 ")
        writer.close()


SLOW_READ_SECONDS = 6.0  # half of it is long enough for a machine that stands still for a moment


async def test_who_takes_nothing_of_an_answer_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was made for them goes; a slow one that takes some is waited for."""
    monkeypatch.setattr(connections, "READER_SECONDS_MAX", 0.3)
    sent: list[str] = []

    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        sent.append("all")

    ended_early = asyncio.Event()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        try:
            await guarded(large, Door(Token(TOKEN), "127.0.0.1"), {("GET", "/healthz"): OPEN})(scope, receive, send)
        finally:
            ended_early.set()

    async with served(watched) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(HEALTH + b"\r\n")
        await asyncio.wait_for(ended_early.wait(), 60)
        writer.transport.abort()
        monkeypatch.setattr(connections, "READER_SECONDS_MAX", SLOW_READ_SECONDS / 2)
        slow, slow_writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        slow_writer.write(HEALTH + b"Connection: close\r\n\r\n")
        count = 0
        while chunk := await asyncio.wait_for(slow.read(2**18), 60):
            count += len(chunk)
            await asyncio.sleep(SLOW_READ_SECONDS / 256)  # in all more than who takes nothing is waited for
        assert count > 64 * 2**20
        slow_writer.close()
    del reader


async def test_one_client_cant_take_all_connections(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is closed at once; when others have gone there is room again."""
    monkeypatch.setattr(connections, "CONNECTIONS_OF_ADDRESS_MAX", 2)
    async with served(app) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in held:
            writer.write(HEALTH + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b"ok\n"), 10)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH + b"\r\n")
        assert await ended(reader) == b""
        writer.close()
        held[0][1].close()
        async with asyncio.timeout(20):
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HEALTH + b"Connection: close\r\n\r\n")
                answer = await ended(reader)
                writer.close()
                if answer.startswith(b"HTTP/1.1 200 "):
                    break
        held[1][1].close()


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (HEALTH + b"".join(b"x-%d: y\r\n" % number for number in range(100)) + b"\r\n", b" 431 "),
        (HEALTH + b"x: " + b"y" * 32_000 + b"\r\ny: " + b"z" * 1_000 + b"\r\n\r\n", b" 431 "),
        (b"GET /healthz?" + b"x" * 8_192 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 414 "),
        (b"GET /healthz?" + b"x" * 8_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 200 "),
        (HEALTH + b"x: " + b"y" * 1_000_000, b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b" 400 "),
        (HEALTH + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b" 400 "),
        (HEALTH + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b" 200 "),  # which it doesn't become
    ],
)
async def test_heads_are_bounded(app: Any, request_bytes: bytes, answer: bytes) -> None:
    """By number, bytes and the length of the URL."""
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        try:
            assert answer in await asyncio.wait_for(reader.readline(), 10)
        finally:
            writer.close()


async def test_a_clients_address_is_its_peers(app: Any) -> None:
    """A header that says otherwise makes no client of another machine one of this."""
    seen: list[Any] = []

    async def spying(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await app(scope, receive, send)

    async with served(spying) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        async with httpx.AsyncClient() as asking:
            answer = await asking.get(url, headers={"x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"})
    assert (seen, answer.status_code) == (["127.0.0.1"], 401)


async def test_it_speaks_tls(app: Any, files: Certificate) -> None:
    """1.2 and 1.3 with a certificate that is verified; nothing older, and no plain word."""
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    old = ssl.create_default_context(cafile=str(files.certificate))
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with served(app, server_context(files)) as port:
        async with httpx.AsyncClient(verify=trusting, base_url=f"https://127.0.0.1:{port}") as asking:
            login = await asking.post(
                "/api/login", json={"token": TOKEN}, headers={"origin": f"https://127.0.0.1:{port}"}
            )
            assert (login.status_code, login.headers["set-cookie"].endswith("; Secure")) == (200, True)
            assert (await asking.get("/api/session")).json()["scope"] == "admin"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH + b"\r\n")
        assert b"200" not in await ended(reader)
        writer.close()


async def test_a_handshake_has_its_time(app: Any, files: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS_MAX", 0.3)
    async with served(app, server_context(files)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        assert await ended(reader) == b""
        writer.close()


def test_what_is_wrong_with_the_files_is_said(tmp_path: Path, files: Certificate) -> None:
    """Which file, and what to do; a password is asked of nobody."""
    other = make_certificate(tmp_path, "other")
    garbage, missing = tmp_path / "garbage", tmp_path / "missing"
    garbage.write_text("-----BEGIN NOTHING-----\n")
    cases = [
        (Certificate(missing, files.key), f"The TLS certificate {missing} can't be read: No such file"),
        (Certificate(files.certificate, missing), f"The TLS key {missing} can't be read: No such file"),
        (Certificate(tmp_path, files.key), f"The TLS certificate {tmp_path} can't be read: Is a directory"),
        (Certificate(files.certificate, encrypted_key(files)), "is encrypted, and nobody is there"),
        (Certificate(files.certificate, other.key), f"The TLS key {other.key} doesn't belong to the certificate"),
        (Certificate(garbage, files.key), f"{garbage} holds no certificate in PEM form"),
        (Certificate(files.certificate, garbage), f"{garbage} holds no private key in PEM form"),
        (Certificate(files.key, files.certificate), f"{files.key} holds no certificate in PEM form"),
    ]
    for given, words in cases:
        with pytest.raises(FaceError) as raised:
            server_context(given)
        assert words in str(raised.value)


def test_its_own_certificate_is_the_first_of_the_chain(tmp_path: Path, files: Certificate) -> None:
    text = files.certificate.read_text()
    chain = tmp_path / "chain.pem"
    chain.write_text("a comment\n" + text + text.replace("M", "N"))
    assert own_certificate(chain) == text
    with pytest.raises(FaceError, match="holds no certificate"):
        own_certificate(files.key)
