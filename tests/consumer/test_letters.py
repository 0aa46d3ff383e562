"""What is kept of a dead letter: an id that stays, headers both ways, the payload within a budget."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumer import letters
from runwire_consumer.database import MEMORY, Database
from runwire_consumer.decode import DeadLetter
from runwire_consumer.letterbox import fetch_messages
from runwire_consumer.letters import describe_letter, letter_id, pack_headers, rebuild_message, unpack_headers
from runwire_consumer.migrations import Migration, migrate, migrations
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from tests.consumer.telling import DAY_ONE, Emitter, store_all

LETTER = Message(
    "kafka://b/t", "3", 17, 18, DAY_ONE, (("type", b"x"), ("odd", b"\xff\0"), ("none", None)), b"\0\xc3" * 700
)
NAMES = st.text(max_size=8)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=20)), max_size=6)
FIELDS = st.dictionaries(NAMES, st.text(max_size=8) | st.integers(-(2**63), 2**63 - 1), max_size=6)


@given(HEADERS)
def test_kafka_headers_come_back_exactly(headers: list[tuple[str, bytes | None]]) -> None:
    """In order, doubled ones too, whatever their bytes are."""
    text = pack_headers(headers)
    assert text is not None
    assert unpack_headers(text) == tuple(headers)


@given(FIELDS)
def test_fields_of_a_folder_come_back_exactly(fields: dict[str, Any]) -> None:
    """A mapping stays one."""
    text = pack_headers(fields)
    assert text is not None
    assert unpack_headers(text) == fields


def test_a_whole_letter_becomes_its_message_again() -> None:
    """With the time at which the log got it."""
    row = describe_letter(DeadLetter(LETTER, None, "why"), 5, DAY_ONE - 7, 0)
    assert row["whole"]
    again = rebuild_message(row)
    assert again == replace(LETTER, next_offset=17, appended_at=DAY_ONE - 7)
    assert letter_id(again) == letter_id(LETTER) == row["letter_id"]


OTHERS = [
    {"source": "kafka://b/u"}, {"partition": "4"}, {"offset": 18}, {"payload": LETTER.payload + b"x"},
    {"payload": b"\1" + LETTER.payload[1:]},
]  # fmt: skip


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_another_letter_has_another_id(change: dict[str, Any]) -> None:
    """Where it stood, how long it is and how it begins make it."""
    assert letter_id(replace(LETTER, **change)) != letter_id(LETTER)


MESSAGE_MAX, KEPT_MAX = letters.MESSAGE_BYTES_MAX, letters.KEPT_BYTES_MAX
BUDGET: list[tuple[dict[str, Any], int, bool]] = [
    ({}, 0, True),
    ({"payload": bytes(MESSAGE_MAX + 1)}, 0, False),
    ({"payload": bytes(MESSAGE_MAX - 100), "headers": ()}, 0, True),
    ({"headers": (("big", b"x" * 70_000),)}, 0, False),
    ({"headers": (("big", b"\xff" * 60_000),)}, 0, False),
    ({"headers": {"odd": b"no JSON"}}, 0, False),
    ({}, KEPT_MAX - 1_000, False),
    ({}, KEPT_MAX - 2_000, True),
    ({"damage": "no record"}, 0, False),
    ({"payload": b"", "damage": "Records 5 to 9 were removed."}, 0, False),
]


@pytest.mark.parametrize(("change", "kept", "whole"), BUDGET)
def test_what_is_kept_whole(change: Mapping[str, Any], kept: int, *, whole: bool) -> None:
    """Within the budget, and only what can be replayed; the head of everything."""
    message = replace(LETTER, **change)
    row = describe_letter(DeadLetter(message, None, "why"), 0, DAY_ONE, kept)
    assert (row["whole"], row["payload"] is not None, row["kept_bytes"] > 0) == (whole, whole, whole)
    assert (row["bytes"], row["head"]) == (len(message.payload), message.payload[:1024])


def test_above_the_budget_letters_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are whole, the rest their heads; a discarded one makes room again."""
    monkeypatch.setattr(letters, "KEPT_BYTES_MAX", 3_000)
    store = Store.open(MEMORY)
    garbage = replace(Emitter("a").logs({1: {"loss": 1.0}}), payload=b"?" * 1_000)
    store_all(store, [garbage] * 3)
    store_all(store, [garbage] * 3)
    found = store.cursor().execute("SELECT whole FROM store.dead_letters ORDER BY letter_key").fetchall()
    assert found == [(True,), (True,), (False,), (False,), (False,), (False,)]
    assert 2_000 < store.catalog.kept_bytes <= 3_000
    reopened = store.cursor().execute("SELECT sum(bytes) FROM store.letter_payloads").fetchall()
    assert reopened == [(store.catalog.kept_bytes,)]


def test_the_same_letter_read_again_is_one_letter() -> None:
    """Its reason is the newest; nothing doubles."""
    store = Store.open(MEMORY)
    items = [DeadLetter(LETTER, None, "first"), DeadLetter(LETTER, None, "second")]
    for item in items:
        store.write(store.admit([item], DAY_ONE, at_tail=False))
    store.write(store.admit(items, DAY_ONE, at_tail=False))
    assert store.cursor().execute("SELECT letter_id, reason FROM store.dead_letters").fetchall() == [
        (letter_id(LETTER), "first")
    ]
    assert store.cursor().execute("SELECT payload FROM store.letter_payloads").fetchall() == [(LETTER.payload,)]


def test_few_of_many_letters_are_read_alone() -> None:
    """An order that names the oldest and the newest doesn't bring all between them into memory."""
    store = Store.open(MEMORY)
    garbage = replace(Emitter("a").logs({1: {"loss": 1.0}}), payload=b"?" * 2**18)
    store_all(store, [garbage] * 40)
    tracemalloc.start()
    try:
        found = fetch_messages(store.cursor(), [0, 39])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row["letter_key"] for row in found] == [0, 39]
    assert peak < 4 * 2**18


def test_letters_of_an_earlier_version_get_the_same_ids(tmp_path: Path) -> None:
    """The migration's ids are ours: what is read again after it is the same letter. Doubled ones become one."""
    steps = migrations()
    path = tmp_path / "runwire.duckdb"
    connection = duckdb.connect(str(path))
    migrate(connection, tuple(step for step in steps if step.version < 4))
    row = (LETTER.source, LETTER.partition, 17, DAY_ONE, "why", len(LETTER.payload), LETTER.payload[:1024])
    for _ in range(2):
        connection.execute(
            'INSERT INTO store.dead_letters BY NAME SELECT ? AS source, ? AS partition, ? AS "offset", '
            "? AS appended_at, "
            "? AS reason, ? AS bytes, ?::BLOB AS head",
            row,
        )
    connection.close()
    Database.open(path).close()
    store = Store.open(path)
    read = 'SELECT letter_id, status, whole, reason, "offset" FROM dead_letters'
    assert store.cursor().execute(read).fetchall() == [(letter_id(LETTER), "dead", False, "why", 17)]
    store.write(store.admit([DeadLetter(LETTER, None, "still why")], DAY_ONE, at_tail=False))
    assert store.cursor().execute(read).fetchall() == [(letter_id(LETTER), "dead", False, "still why", 17)]
    store.close()
    assert isinstance(steps[3], Migration)
