"""Decode is total: whatever comes becomes an event or a dead letter that names what it can."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumer.decode import HEAD_BYTES_MAX, DeadLetter, Decoded, decode
from runwire_consumer.sources import Message
from runwire_schemas import codec, columns, events
from tests.consumer.telling import Emitter
from tests.pipeline.poison import bombs

GOOD = Emitter("a").logs({step: {"loss": float(step), "acc": 1.0} for step in range(50)})
START = Emitter("a").starts()


def letter(message: Message) -> DeadLetter:
    """The dead letter that a message becomes."""
    found = decode(message)
    assert isinstance(found, DeadLetter)
    return found


def with_header(message: Message, name: str, value: bytes | None) -> Message:
    """The message with one header replaced, or left out."""
    assert isinstance(message.headers, list)
    headers = [(key, value if key == name else old) for key, old in message.headers]
    return replace(message, headers=headers)


@pytest.mark.parametrize("message", [GOOD, START, Emitter("a").signals(events.EmitterEnded, next_seq=3, how="crashed")])
def test_good_messages_decode(message: Message) -> None:
    """Batches, records and signals."""
    found = decode(message)
    assert isinstance(found, Decoded)
    assert found.event.emitter_id == found.envelope.emitter_id == "a" * 32


DISAGREEMENTS = [
    ("type", b"Heartbeat"),
    ("run_id", b"bbbbbbbbbbbbbbbb"),
    ("emitter_id", b"b" * 32),
    ("rank", b"1"),
    ("first_seq", b"1"),
    ("count", b"49"),
]


@pytest.mark.parametrize(("name", "value"), DISAGREEMENTS)
def test_envelope_and_payload_must_agree(name: str, value: bytes) -> None:
    """A payload that somebody else's envelope carries is not believed; its envelope still names the rows."""
    dead = letter(with_header(GOOD, name, value))
    assert f"disagree about {name}" in dead.reason
    assert dead.envelope is not None


@pytest.mark.parametrize("name", ["run_id", "count", "attempt"])
@pytest.mark.parametrize("value", [None, b"", b"\xff\xfe"])
def test_an_unreadable_envelope_names_no_rows(name: str, value: bytes | None) -> None:
    """What can't be read is not guessed."""
    assert letter(with_header(GOOD, name, value)).envelope is None


def test_unknown_fingerprint_says_what_to_do() -> None:
    """A newer trainer's record is kept to be replayed."""
    dead = letter(replace(GOOD, payload=b"\xc3\x01" + b"\x07" * 8 + GOOD.payload[10:]))
    assert "upgrade the consumer" in dead.reason
    assert dead.envelope is not None
    assert (dead.envelope.first_seq, dead.envelope.count) == (0, 50)


IMPOSSIBLE = [
    (events.EmitterEnded, {"next_seq": -1, "how": "finished"}),
    (events.EmitterEnded, {"next_seq": 1, "how": "evaporated"}),
    (events.RunEnded, {"status": "sort of"}),
    (events.RowsLost, {"first_seq": -5, "count": 1, "reason": ""}),
    (events.RowsLost, {"first_seq": 2**62, "count": 2**62, "reason": ""}),
]


@pytest.mark.parametrize(("kind", "fields"), IMPOSSIBLE)
def test_impossible_records_are_refused(kind: type[events.Event], fields: dict[str, object]) -> None:
    """What the schema allows but no emitter says."""
    first: tuple[object, ...] = ("a" * 16, "a" * 32, 0)
    place = (7, 1) if issubclass(kind, events.Lifecycle) else (1,)
    letter(Emitter("a").message(kind(*first, *place, **fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize("time", [-1, 253_402_300_800_000_000, 2**62])
def test_times_that_no_timestamp_can_show(time: int) -> None:
    """A row of the year 10000 would break every view that shows it."""
    block = events.Block(("loss",), [1], [time], [1.0])
    dead = letter(Emitter("a").message(events.MetricBatch("a" * 16, "a" * 32, 0, 0, (block,))))
    assert "1970 to 9999" in dead.reason


def test_a_source_may_report_damage() -> None:
    """Bytes that are no record at all are a dead letter without an envelope."""
    dead = letter(Message("dir:x", "f", 7, 9, 0, {}, b"x" * 5_000, damage="no block"))
    assert (dead.reason, dead.envelope, len(dead.head)) == ("no block", None, HEAD_BYTES_MAX)


PAYLOADS = [GOOD.payload, START.payload]


@given(st.sampled_from(PAYLOADS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6))
def test_mutated_payloads_never_raise(payload: bytes, changes: list[tuple[int, int]]) -> None:
    """Flipped bytes become an event that agrees with its envelope, or a dead letter."""
    mutated = bytearray(payload)
    for at, value in changes:
        mutated[at % len(mutated)] = value
    decode(replace(GOOD, payload=bytes(mutated)))


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(tail: bytes) -> None:
    """Also behind a good marker and fingerprint."""
    for head in (b"", GOOD.payload[:10], START.payload[:10]):
        assert isinstance(decode(replace(GOOD, payload=head + tail)), DeadLetter)


@pytest.mark.parametrize("cut", range(0, len(GOOD.payload), 37))
def test_truncated_payloads(cut: int) -> None:
    """Every prefix is a dead letter."""
    assert isinstance(decode(replace(GOOD, payload=GOOD.payload[:cut])), DeadLetter)


BOMBS = [
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2^63 - 1 items
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x01" * 3,
    b"\xff" * 200,
    b"\x01\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" * 4,  # blocks with a negative count and a size
]


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("at", [10, 27, 60, 62, 63, 64, 65, 80])
def test_announced_sizes_are_not_believed(bomb: bytes, at: int) -> None:
    """A huge count costs no memory."""
    tracemalloc.start()
    decode(replace(GOOD, payload=GOOD.payload[:at] + bomb + GOOD.payload[at:]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("name", bombs(8))
def test_a_message_costs_no_more_than_its_share(name: str) -> None:
    """A megabyte of nothing but empty blocks, keys or parts; what is refused is refused before it is built."""
    message = replace(GOOD, payload=bombs()[name])
    tracemalloc.start()
    decode(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty blocks", "more blocks, keys and parts"),
        ("blocks of one row", "more blocks, keys and parts"),
        ("empty keys", "more blocks, keys and parts"),
        ("parts of one item", "more blocks, keys and parts"),
        ("parts with sizes", "more blocks, keys and parts"),
        ("2^60 items", "announced"),
        ("a text of 2^60 bytes", "announced"),
        ("parameters", "larger than any sender's"),
        ("16 MiB", "larger than any sender's"),
    ],
)
def test_bombs_say_what_they_are(name: str, words: str) -> None:
    """Found by their announcements, not by what they do."""
    assert words in letter(replace(GOOD, payload=bombs()[name])).reason


WIDE = 2**31


@pytest.mark.parametrize(
    "fields", [{"local_rank": WIDE}, {"world_size": -WIDE - 1}, {"pid": 2**40}, {"restart_count": WIDE}]
)
def test_ints_are_32_bits_wide(fields: dict[str, int]) -> None:
    """Avro's readers don't make sure of it; a column of that width would refuse the whole batch."""
    good = START.payload
    event = codec.decode(good)
    assert isinstance(event, events.RunStarted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runwire_consumer.decode.codec.decode", lambda _: replace(event, **fields))  # type: ignore[arg-type]
        assert "32-bit" in letter(START).reason


def test_both_codecs_are_read() -> None:
    """A plain Avro writer's batch is as good as ours."""
    event = columns.decode_batch(GOOD.payload)
    found = decode(replace(GOOD, payload=codec.encode(event)))
    assert isinstance(found, Decoded)
