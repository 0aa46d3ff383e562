"""The webhook: posts Slack's JSON, understands what an endpoint answers, and keeps its address to itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from runwire_consumer import webhook
from runwire_consumer.errors import SettingsError
from runwire_consumer.webhook import Delivery, Webhook
from tests.consumer.endpoint import SECRET, Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint().serving() as endpoint:
        yield endpoint


@pytest.mark.parametrize(
    ("status", "retry_after", "delivery"),
    [
        (200, None, Delivery()),
        (204, None, Delivery()),
        (302, None, Delivery("HTTP 302", refused=True)),  # the address it names is nobody's choice here
        (400, None, Delivery("HTTP 400", refused=True)),
        (404, None, Delivery("HTTP 404", refused=True)),
        (429, "7", Delivery("HTTP 429", 7.0)),
        (429, "999999999", Delivery("HTTP 429", 3600.0)),
        (429, "tomorrow", Delivery("HTTP 429")),
        (429, "²", Delivery("HTTP 429")),
        (500, None, Delivery("HTTP 500")),
        (503, "0", Delivery("HTTP 503")),
    ],
)
def test_what_an_endpoint_answers(endpoint: Endpoint, status: int, retry_after: str | None, delivery: Delivery) -> None:
    """Busy is told from refused; a redirect isn't followed; a wish to wait is heard, within bounds."""
    endpoint.answers = [(status, retry_after)]
    assert Webhook(endpoint.url).post("a\nb ü") == delivery
    assert len(endpoint.requests) == 1


def test_what_arrives(endpoint: Endpoint) -> None:
    """The text, whatever it holds."""
    assert Webhook(endpoint.url).post('"quoted" ü 😀\nline') == Delivery()
    assert endpoint.texts == ['"quoted" ü 😀\nline']


def test_nobody_listens_or_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network does is said without the address."""
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}"
        assert Webhook(address).post("text") == Delivery("Connection refused")
        silent.listen()
        assert Webhook(address).post("text") == Delivery("no answer within 0.2 s")
        plain = Webhook(address.replace("http:", "https:")).post("text")
        assert plain.trouble is not None
    nowhere = Webhook(f"http://no-such-host.invalid/{SECRET}").post("text")
    for delivery in (plain, nowhere):
        assert delivery.trouble
        assert SECRET not in delivery.trouble


def test_an_answer_that_is_no_http() -> None:
    """It is trouble, not an error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        delivery = Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/").post("text")
        thread.join()
    assert delivery == Delivery("no HTTP answer: BadStatusLine")


def test_an_address_of_the_link_is_refused(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where clouds keep credentials nothing is sent, whatever name leads there."""
    monkeypatch.setattr(webhook, "_is_link_local", lambda _: True)
    assert Webhook(endpoint.url).post("text").refused
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("address", "local"),
    [("169.254.169.254", True), ("fe80::1%eth0", True), ("127.0.0.1", False), ("10.0.0.1", False), ("::1", False)],
)
def test_which_addresses_are_the_links(address: str, local: bool) -> None:  # noqa: FBT001 - a table
    """By the address that was connected to."""

    class Connected:
        class sock:  # noqa: N801 - an attribute
            @staticmethod
            def getpeername() -> tuple[str, int]:
                return address, 80

    assert webhook._is_link_local(Connected()) is local  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example/services",
        f"ftp://host/{SECRET}",
        f"https:///{SECRET}",
        f"https://user:{SECRET}@host/",
        f"https://host:many/{SECRET}",
        f"https://host/{SECRET} x",
        f"https://host/{SECRET}\n",
        f"https://höst/{SECRET}",
        f"https://[::1/{SECRET}",
    ],
)
def test_an_address_that_cant_be_used_is_refused_without_being_shown(url: str) -> None:
    """At the start, in a sentence."""
    with pytest.raises(SettingsError, match="must look like") as refusal:
        Webhook(url)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__context__ is None


def test_an_address_masks_itself() -> None:
    """Its host is told, nothing else."""
    hook = Webhook(f"https://hooks.example.com/services/{SECRET}")
    assert str(hook) == "the webhook at hooks.example.com"
    assert SECRET not in f"{hook!r} {hook} {[hook]}"
