"""The vectorised way writes the reference's bytes, reads what the reference reads, and fails where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_schemas import codec, columns
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import Block, MetricBatch
from tests.schemas.samples import SAMPLES

LONGS = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(autouse=True, scope="module", params=["the reference beside", "all vectorised"])
def ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds whichever way `decode_batch` takes."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "all vectorised":
            patch.setattr(columns, "_SMALL_BYTES", 0)
        yield


@st.composite
def batches(draw: st.DrawFn) -> MetricBatch:
    """Any batch: odd names, extreme steps, every float."""
    blocks = []
    for _ in range(draw(st.integers(0, 3))):
        keys = tuple(draw(st.lists(st.text(max_size=5), max_size=4, unique=True)))
        steps = draw(st.lists(LONGS, max_size=6))
        times = draw(st.lists(LONGS, min_size=len(steps), max_size=len(steps)))
        count = len(steps) * len(keys)
        values = draw(st.lists(st.floats(), min_size=count, max_size=count))
        blocks.append(Block(keys, steps, times, values))
    run_id, emitter_id = draw(st.text(max_size=5)), draw(st.text(max_size=5))
    return MetricBatch(run_id, emitter_id, draw(st.integers(-(2**31), 2**31 - 1)), draw(LONGS), tuple(blocks))


def plain(batch: MetricBatch) -> tuple[Any, ...]:
    """A batch as comparable values; floats by their bytes, so that NaN equals itself and -0.0 isn't 0.0."""
    blocks = tuple(
        (
            block.keys,
            list(map(int, block.steps)),
            list(map(int, block.times)),
            np.asarray(block.values, "<f8").tobytes(),
        )
        for block in batch.blocks
    )
    return batch.run_id, batch.emitter_id, batch.rank, batch.first_seq, blocks


@given(batches())
def test_same_bytes_and_same_batch_as_the_reference(batch: MetricBatch) -> None:
    payload = columns.encode_batch(batch)
    assert payload == codec.encode(batch)
    assert plain(columns.decode_batch(payload)) == plain(batch)


@given(st.lists(LONGS))
def test_longs_survive(values: list[int]) -> None:
    data = columns.encode_longs(np.array(values, np.int64))
    decoded, end = columns.decode_longs(b"xy" + data, 2, len(values))
    assert decoded.tolist() == values
    assert end == len(data) + 2


@given(batches(), st.data())
def test_mutated_payload_reads_as_the_reference_reads_it(batch: MetricBatch, data: st.DataObject) -> None:
    """Same batch or a DecodeError; what only the reference takes is more than 10-byte longs at most."""
    raw = bytearray(columns.encode_batch(batch))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(10, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = columns.decode_batch(bytes(raw))
    except DecodeError:
        return
    assert plain(decoded) == plain(codec.decode(bytes(raw)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x02a\x02b\0\0\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", "announced"),  # 2^62 keys
        (b"\x02a\x02b\0\0\x02\x02\xfe\xff\xff\xff\x0fx", "announced"),  # a key of 2^31 bytes
        (b"\x02a\x02b\0\0" + b"\xff" * 11, "10 bytes"),
        (b"\x02a\x02b\0\0\x02\0\x02\x02\0\0\0\0", "1 steps"),  # a step without its time
    ],
)
def test_hostile_counts_are_refused_without_memory(body: bytes, words: str) -> None:
    header = columns.encode_batch(MetricBatch("", "", 0, 0, ()))[:10]
    with pytest.raises(DecodeError, match=words):
        columns.decode_batch(header + body + bytes(700))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("keys", [("loss",), tuple(f"train/metric_{number:02}" for number in range(10))])
@pytest.mark.parametrize("blocks", [1, 2])
def test_small_messages_of_our_own_never_need_the_reference(
    monkeypatch: pytest.MonkeyPatch, rows: int, keys: tuple[str, ...], blocks: int
) -> None:
    steps, times = list(range(-1, rows - 1)), [1_800_000_000_000_000] * rows
    block = Block(keys, steps, times, [float("nan")] * (rows * len(keys)))
    batch = MetricBatch("run-1", "f" * 32, 63, 2**40, (block,) * blocks)
    payload = columns.encode_batch(batch)
    monkeypatch.setattr(codec, "decode", lambda _: pytest.fail("the reference was asked"))
    for _ in range(2):  # with keys that are new, and with known ones
        assert plain(columns.decode_batch(payload)) == plain(batch)


def test_arrays_in_parts_are_left_to_the_reference() -> None:
    """Other Avro writers may cut an array into parts with byte sizes: valid, slower, the same batch."""
    one = columns.encode_batch(MetricBatch("r", "e", 0, 5, (Block(("k",), [1], [2], [0.5]),)))
    # The array of one block, count 1 -> count -1 with its size in bytes.
    head, block = one[:16], one[17:-1]
    assert one[16] == 2
    parts = head + b"\x01" + columns.encode_longs(np.array([len(block)])) + block + b"\0"
    assert plain(columns.decode_batch(parts)) == plain(columns.decode_batch(one))


def test_samples_read_the_same_both_ways() -> None:
    for sample in SAMPLES:
        if isinstance(sample, MetricBatch):
            assert plain(columns.decode_batch(codec.encode(sample))) == plain(sample)
