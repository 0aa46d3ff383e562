"""A destination URL is understood, or an error says what is wrong with it and shows no password."""

from __future__ import annotations

import pytest

from runwire_schemas.errors import DestinationError
from runwire_schemas.topics import Destination, mask, message_key, parse_url


@pytest.mark.parametrize(
    ("url", "destination", "normal"),
    [
        ("kafka://b:9092/team", Destination("kafka", ("b:9092",), "team"), "kafka://b:9092/team"),
        ("kafka://b", Destination("kafka", ("b:9092",), "runwire.events"), "kafka://b:9092/runwire.events"),
        (
            "kafka://a:1,b:2/",
            Destination("kafka", ("a:1", "b:2"), "runwire.events"),
            "kafka://a:1,b:2/runwire.events",
        ),
        ("kafka://[::1]:9092/t", Destination("kafka", ("[::1]:9092",), "t"), "kafka://[::1]:9092/t"),
        ("kafkas://b/t", Destination("kafka", ("b:9092",), "t", tls=True), "kafkas://b:9092/t"),
        ("kafkas://user:secret@b/t", Destination("kafka", ("b:9092",), "t", tls=True), "kafkas://b:9092/t"),
        ("mqtt://b", Destination("mqtt", ("b:1883",), "runwire"), "mqtt://b:1883/runwire"),
        ("mqtts://b/site/a/", Destination("mqtt", ("b:8883",), "site/a", tls=True), "mqtts://b:8883/site/a"),
        ("mqtts://user:secret@b/t", Destination("mqtt", ("b:8883",), "t", tls=True), "mqtts://b:8883/t"),
        ("mqtt://[::1]:1884", Destination("mqtt", ("[::1]:1884",), "runwire"), "mqtt://[::1]:1884/runwire"),
        ("dir:/data/topic", Destination("dir", path="/data/topic"), "dir:/data/topic"),
        ("dir:relative", Destination("dir", path="relative"), "dir:relative"),
        ("memory:test", Destination("memory", path="test"), "memory:test"),
    ],
)
def test_url_is_understood(url: str, destination: Destination, normal: str) -> None:
    assert parse_url(url) == destination
    assert str(parse_url(url)) == normal


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "Unknown destination"),
        ("http://x", "kafka://HOST:PORT/TOPIC"),
        ("/data", "Unknown destination"),
        ("dir:", "names no folder"),
        ("kafka:b", "lacks '//'"),
        ("kafka://", "names no broker"),
        ("kafka://b:port/t", "names no broker"),
        ("kafka://b:70000/t", "names no broker"),
        ("kafka://b/a b", "Topic"),
        ("kafka://b/..", "Topic"),
        ("kafka://b/a/b", "Topic"),
        ("kafka://user:se@cret@b/t", "%40 for @"),
        ("kafka://user:secret/1@b/t", "%2F for /"),
        ("kafkas://:secret@b/t", "no user"),
        ("mqtt:b", "lacks '//'"),
        ("mqtt://", "names no broker: expected mqtt://HOST:PORT"),
        ("mqtt://a,b", "names no broker"),
        ("mqtts://b:0", "names no broker"),
        ("mqtt://b/#", "begins no topics"),
        ("mqtt://b/$SYS", "begins no topics"),
        ("mqtt://b/a//b", "begins no topics"),
        ("mqtt://:secret@b/t", "no user"),
    ],
)
def test_wrong_url_is_a_sentence(url: str, words: str) -> None:
    with pytest.raises(DestinationError, match=words) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_mask_hides_user_and_password() -> None:
    """A password may hold what ends one elsewhere; a folder's name is no password."""
    for url in ("kafka://user:secret@b/t", "kafka://user:se@cr/et@b/t", "kafka://us/er:secret@b/t"):
        assert mask(url) == "kafka://***@b/t"
    for url in ("kafka://user:se@cr/et@b/t", "kafka://us/er:secret@b/t", "kafkas://user:secret@b:port"):
        with pytest.raises(DestinationError) as caught:
            parse_url(url)
        assert "et@" not in str(caught.value)
    assert mask("user:secret@b") == "***@b"
    assert mask("dir:/data/me@here") == "dir:/data/me@here"


def test_key_is_the_run() -> None:
    """A run's story stays in order: all its messages have one key."""
    assert message_key("abc") == b"abc"
