"""Issued tokens: made, listed, revoked, expired; kept as hashes in a private file that a running consumer follows."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer import issued, token_orders
from runwire_consumer.access import Scope
from runwire_consumer.errors import TokenRefused
from runwire_consumer.issued import IssuedTokens, digest_of
from runwire_consumer.rates import Buckets, Rate

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


def tokens_of(home: Path, *, now: datetime = NOON) -> IssuedTokens:
    return IssuedTokens(home, lambda: now)


def test_a_token_is_random_known_to_scanners_and_kept_nowhere(tmp_path: Path) -> None:
    """256 bits behind a prefix; the file is private and holds its hash."""
    tokens = tokens_of(tmp_path / "home")
    text, other = tokens.create("ci", Scope.READ), tokens.create("ci2", Scope.READ)
    assert re.fullmatch(r"rwt_[A-Za-z0-9_-]{43}", text)
    assert text != other
    kept = tokens.path.read_text()
    assert text not in kept
    assert text.removeprefix("rwt_") not in kept
    assert digest_of(text).hex() in kept
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert digest_of(text).hex() not in repr(tokens.listed())
    assert {path.name for path in tokens.path.parent.iterdir()} == {"tokens.json", ".tokens.json.lock"}


def test_its_holder_is_known_with_scope_and_projects(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path)
    text = tokens.create("page", Scope.READ, frozenset({"a", "b"}), 60)
    found = tokens.holder(digest_of(text))
    assert found is not None
    assert (found.name, found.scope, found.projects) == ("page", Scope.READ, frozenset("ab"))
    assert (found.created_at, found.expires_at) == (NOON, NOON + timedelta(seconds=60))
    for wrong in (text[:-1], text + "x", text.upper(), "", "page", digest_of(text).hex()):
        assert tokens.holder(digest_of(wrong)) is None


@pytest.mark.parametrize(("after_seconds", "expired"), [(0, False), (59, False), (60, True), (10**9, True)])
def test_it_expires_to_the_second(tmp_path: Path, after_seconds: int, expired: bool) -> None:  # noqa: FBT001 - a column
    text = tokens_of(tmp_path).create("page", Scope.READ, None, 60)
    later = tokens_of(tmp_path, now=NOON + timedelta(seconds=after_seconds))
    found = later.holder(digest_of(text))
    assert found is not None
    assert later.expired(found) is expired


def test_a_running_reader_follows_the_file(tmp_path: Path) -> None:
    """Made and revoked by another process, and a file that is gone or spoilt opens to nobody."""
    reader, writer = tokens_of(tmp_path), tokens_of(tmp_path)
    assert reader.holder(digest_of("x")) is None
    first = writer.create("first", Scope.READ)
    assert reader.holder(digest_of(first)) is not None
    second = writer.create("second", Scope.ADMIN)
    writer.revoke("first")
    assert (reader.holder(digest_of(first)), reader.holder(digest_of(second)) is None) == (None, False)
    kept = writer.path.read_bytes()
    for spoilt in (b"", b"{", b"[]", b'{"tokens": [{}]}', kept[: len(kept) // 2]):
        writer.path.write_bytes(spoilt)
        assert reader.holder(digest_of(second)) is None
    writer.path.write_bytes(kept)
    assert reader.holder(digest_of(second)) is not None
    writer.path.unlink()
    assert reader.holder(digest_of(second)) is None


GOOD = {
    "name": "a",
    "scope": "read",
    "projects": None,
    "created_at": "2027-01-01T00:00:00+00:00",
    "expires_at": None,
    "sha256": "00" * 32,
}


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "00"}, {"sha256": "x"}, {"sha256": None}, {"scope": "all"}, {"scope": None}, {"projects": "digits"},
        {"projects": [1]}, {"projects": 1}, {"expires_at": "soon"}, {"expires_at": "2027-01-01T00:00:00"},
        {"expires_at": 0},
    ],
)  # fmt: skip
def test_a_file_that_says_something_odd_says_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    """One entry that can't be understood might be meant to close: then none opens."""
    tokens = tokens_of(tmp_path)
    tokens.path.write_text(json.dumps({"tokens": [GOOD]}))
    assert [token.name for token in tokens.listed()] == ["a"]
    tokens.path.write_text(json.dumps({"tokens": [GOOD, {**GOOD, **change}]}))
    with pytest.raises(TokenRefused, match="can't be understood: delete it"):
        tokens.listed()
    assert tokens.holder(bytes(32)) is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"name": ""}, "letters, digits"),
        ({"name": "a b"}, "letters, digits"),
        ({"name": "../a"}, "letters, digits"),
        ({"name": "-a"}, "letters, digits"),
        ({"name": "a\n"}, "letters, digits"),
        ({"name": "x" * 65}, "64 at most"),
        ({"name": 1}, "has a name and a scope"),
        ({}, "has a name and a scope"),
        ({"name": "b", "scope": "root"}, "read, write, admin"),
        ({"name": "b", "scope": 1}, "read, write, admin"),
        ({"name": "b", "projects": "digits"}, "'projects' is a list"),
        ({"name": "b", "projects": [1]}, "'projects' is a list"),
        ({"name": "b", "projects": []}, "1 up to 100 projects"),
        ({"name": "b", "projects": [""]}, "1 up to 100 projects"),
        ({"name": "b", "scope": "write", "projects": ["digits"]}, "can only read"),
        ({"name": "b", "scope": "admin", "projects": ["digits"]}, "can only read"),
        ({"name": "b", "lifetime_seconds": 0}, "good for some time"),
        ({"name": "b", "lifetime_seconds": -1}, "good for some time"),
        ({"name": "b", "lifetime_seconds": float("nan")}, "good for some time"),
        ({"name": "b", "lifetime_seconds": 1e300}, "too far in the future"),
        ({"name": "b", "lifetime_seconds": "1d"}, "is a number"),
        ({"name": "b", "lifetime_seconds": True}, "is a number"),
        ({"name": "taken"}, "There is a token 'taken' already"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    """In a sentence, and nothing is made."""
    tokens = tokens_of(tmp_path)
    tokens.create("taken", Scope.READ)
    with pytest.raises(TokenRefused, match=re.escape(words)):
        token_orders.create(tokens, asked)
    assert [token.name for token in tokens.listed()] == ["taken"]


def test_who_revokes_what_isnt_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TokenRefused, match="There is no token 'x': `runwire token list`"):
        tokens_of(tmp_path).revoke("x")


async def test_orders_give_what_commands_print(tmp_path: Path) -> None:
    """The text of a token is in the first answer alone."""
    tokens = tokens_of(tmp_path)
    orders = token_orders.token_orders(tokens)
    made = dict(await orders["tokens/create"]({"name": "a", "projects": ["p"], "lifetime_seconds": 60}))
    told = {
        "name": "a", "scope": "read", "projects": ["p"], "created_at": "2027-01-01T12:00:00+00:00",
        "expires_at": "2027-01-01T12:01:00+00:00", "expired": False,
    }  # fmt: skip
    assert tokens.holder(digest_of(made.pop("token"))) is not None
    assert made == told
    assert await orders["tokens/list"]({}) == {"tokens": [told]}
    assert await orders["tokens/revoke"]({"name": "a"}) == told
    assert await orders["tokens/list"]({}) == {"tokens": []}


def test_commands_at_once_undo_none_of_each_other(tmp_path: Path) -> None:
    """Each through a list of its own, as processes are."""
    failures: list[Exception] = []

    def make(number: int) -> None:
        try:
            tokens = tokens_of(tmp_path)
            for each in range(5):
                tokens.create(f"{number}-{each}", Scope.READ)
            tokens.revoke(f"{number}-0")
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    names = {token.name for token in tokens_of(tmp_path).listed()}
    assert names == {f"{number}-{each}" for number in range(4) for each in range(1, 5)}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The old file stands, and no draft lies about."""
    tokens = tokens_of(tmp_path)
    text = tokens.create("a", Scope.READ)

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail) if call == "fsync" else monkeypatch.setattr(Path, "replace", fail)
    for change in (lambda: tokens.create("b", Scope.READ), lambda: tokens.revoke("a")):
        with pytest.raises(OSError, match="No space"):
            change()
    assert tokens.holder(digest_of(text)) is not None
    assert {path.name for path in tmp_path.iterdir()} == {"tokens.json", ".tokens.json.lock"}


def test_there_is_an_end_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issued, "TOKENS_MAX", 1)
    tokens = tokens_of(tmp_path)
    tokens.create("a", Scope.READ)
    with pytest.raises(TokenRefused, match="revoke those that nobody uses"):
        tokens.create("b", Scope.READ)


NAMES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("create"), NAMES, st.sampled_from([None, 10, 1_000])),
    st.tuples(st.just("revoke"), NAMES, st.none()),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 10, 600])),
)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_random_histories_are_a_dictionarys(steps: list[tuple[str, str, int | None]]) -> None:
    """After each step a reader that runs all the time takes exactly the tokens that are neither revoked nor expired."""
    now = [NOON]
    with tempfile.TemporaryDirectory() as folder:
        reader, writer = (IssuedTokens(Path(folder), lambda: now[0]) for _ in range(2))
        held: dict[str, tuple[str, datetime | None]] = {}
        ever: list[str] = []
        for kind, name, seconds in steps:
            if kind == "wait":
                now[0] += timedelta(seconds=seconds or 0)
            elif kind == "create" and name not in held:
                text = writer.create(name, Scope.READ, None, seconds)
                held[name] = (text, None if seconds is None else now[0] + timedelta(seconds=seconds))
                ever.append(text)
            elif kind == "revoke" and name in held:
                writer.revoke(name)
                del held[name]
            else:
                with pytest.raises(TokenRefused):
                    writer.create(name, Scope.READ) if kind == "create" else writer.revoke(name)
            good = {text for text, until in held.values() if until is None or now[0] < until}
            for text in ever:
                found = reader.holder(digest_of(text))
                assert (found is not None and not reader.expired(found)) == (text in good)


@pytest.mark.parametrize(
    ("asked_at", "waits"),
    [
        ([0, 0, 0], [0, 0, 2]),
        ([0, 0, 1, 2, 2], [0, 0, 1, 0, 2]),
        ([0, 0, 100, 100, 100], [0, 0, 0, 0, 2]),
        ([5, 5, 4, 4], [0, 0, 2, 2]),  # a clock that goes back fills nothing
    ],
)
def test_a_bucket_fills_as_time_passes(asked_at: list[float], waits: list[int]) -> None:
    """Two at once, then one in two seconds; what is turned away takes nothing."""
    buckets = Buckets(Rate(burst=2, per_second=0.5))
    assert [buckets.take("client", now) for now in asked_at] == waits
    assert buckets.take("another", 0) == 0


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many clients those heard of longest ago begin anew."""
    monkeypatch.setattr("runwire_consumer.rates.CLIENTS_MAX", 2)
    buckets = Buckets(Rate(burst=1, per_second=0.001))
    assert [buckets.take(client, 0) for client in "aabbcc"] == [0, 1_000] * 3
    assert [buckets.take(client, 0) for client in "cba"] == [1_000, 1_000, 0]
