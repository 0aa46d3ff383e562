"""A `dir:` file is an ordinary Avro container, and a reader never takes a torn, garbled or foreign block."""

from __future__ import annotations

import io
import itertools

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_schemas import codec, folder
from runwire_schemas.envelope import Envelope
from tests.schemas.samples import SAMPLES

SYNC = bytes(range(16))
MESSAGES = [(Envelope.of(event, "digits", "a"), codec.encode(event)) for event in SAMPLES]
BLOCK = folder.encode_block(MESSAGES, 5, SYNC)


def test_records_survive() -> None:
    (block,) = folder.split_blocks(BLOCK, SYNC)
    assert isinstance(block, folder.RawBlock)
    records = folder.decode_block(block)
    assert [(Envelope.from_fields(record.fields), record.payload) for record in records] == MESSAGES
    assert {record.appended for record in records} == {5}


def test_any_avro_tool_reads_the_file() -> None:
    file = io.BytesIO(folder.file_header(SYNC) + BLOCK + BLOCK)
    assert len(list(fastavro.reader(file))) == 2 * len(MESSAGES)


def test_header_is_waited_for_at_every_cut() -> None:
    header = folder.file_header(SYNC)
    assert all(folder.parse_header(header[:cut]) is None for cut in range(len(header)))
    assert folder.parse_header(header + BLOCK) == (SYNC, len(header))


@pytest.mark.parametrize("at", [4, 5, 16])
def test_damaged_header_is_waited_for_only_while_the_file_is_short(at: int) -> None:
    """A header that says it goes on for ever isn't still being written when the file is longer than any header."""
    broken = bytearray(folder.file_header(SYNC))
    broken[at : at + 2] = b"\xfe\x7f"
    assert len(broken) < folder.HEADER_BYTES_MAX
    long = bytes(broken) + b"x" * (folder.HEADER_BYTES_MAX - len(broken))
    with pytest.raises(folder.FolderError, match="damaged"):
        folder.parse_header(long)


def test_garbled_header_is_damaged_at_any_size() -> None:
    """What no further byte could mend isn't waited for."""
    with pytest.raises(folder.FolderError, match="damaged"):
        folder.parse_header(b"Obj\x01\x02\x02\xff\x02x")


@pytest.mark.parametrize("data", [b"x", b"PK\3\4zip", b"Obj\x02"])
def test_foreign_file_is_named(data: bytes) -> None:
    with pytest.raises(folder.FolderError, match="none of ours"):
        folder.parse_header(data)


def test_torn_tail_is_left_alone_at_every_cut() -> None:
    """The tail is being written, or its writer died: whole blocks only."""
    for cut in range(len(BLOCK)):
        found = folder.split_blocks(BLOCK + BLOCK[:cut], SYNC)
        assert [(block.start, block.end) for block in found] == [(0, len(BLOCK))]


@given(st.integers(0, len(BLOCK) - 1), st.integers(1, 255))
def test_damaged_block_costs_only_itself(at: int, flip: int) -> None:
    """The block in front and the one behind are whole; the damaged one is a Damage or fails to decode."""
    broken = bytearray(BLOCK)
    broken[at] ^= flip
    found = folder.split_blocks(BLOCK + bytes(broken) + BLOCK, SYNC)
    whole = [part for part in found if isinstance(part, folder.RawBlock) and part.body == _body()]
    assert found[0] in whole
    covered = [(part.start, part.end) for part in found]
    assert all(left[1] == right[0] for left, right in itertools.pairwise(covered))
    if at < len(BLOCK) - 16:
        assert covered[-1][1] == 3 * len(BLOCK)


def test_garbled_body_is_a_sentence() -> None:
    block = folder.RawBlock(0, 0, 1, b"\xff" * 40)
    with pytest.raises(folder.FolderError, match="garbled"):
        folder.decode_block(block)


def _body() -> bytes:
    (block,) = folder.split_blocks(BLOCK, SYNC)
    assert isinstance(block, folder.RawBlock)
    return block.body
