"""The layout of a `dir:` topic: one Avro container file per sender incarnation, safe on shared file systems.

    PATH/<sender>-<n>.avro      n = 000000, 000001, ...; one writer ever, only appended to, rolled at FILE_BYTES_MAX

A file is an ordinary Avro object container (codec null; any Avro tool reads it) of `Record`: the envelope's
fields, the writer's clock when it appended, and the payload's bytes. Laws that both sides hold to:

1. A block is written by one `write()`, and nothing but its writer ever touches the file.
2. A reader takes a block only when its length and its sync marker are there; else it waits: the tail is being written,
   or was torn by a dead writer, whose successor opens a file of its own.
3. A reader's offset is the start of the next block, in bytes.
(https://avro.apache.org/docs/1.12.0/specification/#object-container-files)
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from runwire_schemas.envelope import Envelope
from runwire_schemas.errors import DecodeError

SUFFIX = ".avro"
SYNC_BYTES = 16
FILE_BYTES_MAX = 64 * 2**20
BLOCK_BYTES_MAX = 64 * 2**20
HEADER_BYTES_MAX = 4 * 2**10  # ours is about 500 bytes; a longer file whose header can't be read is damaged

_MAGIC = b"Obj\x01"
_LONG_BYTES_MAX = 10
_RECORD = {
    "type": "record",
    "name": "Record",
    "namespace": "runwire.v1",
    "fields": [
        {"name": "type", "type": "string"},
        {"name": "project", "type": "string"},
        {"name": "run_id", "type": "string"},
        {"name": "emitter_id", "type": "string"},
        {"name": "attempt", "type": "string"},
        {"name": "rank", "type": "int"},
        {"name": "first_seq", "type": "long"},
        {"name": "count", "type": "long"},
        {"name": "appended", "type": "long"},
        {"name": "payload", "type": "bytes"},
    ],
}
_NAMES = tuple(Envelope.__dataclass_fields__)
_SCHEMA: dict[str, Any] = parse_schema(_RECORD)  # type: ignore[assignment]
_HEADER_SCHEMA = parse_schema(
    {
        "type": "record",
        "name": "Header",
        "fields": [
            {"name": "meta", "type": {"type": "map", "values": "bytes"}},
            {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": SYNC_BYTES}},
        ],
    }
)


class FolderError(DecodeError):
    """A file in the topic folder is none of ours, or is damaged before its tail."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a block.

    Attributes:
        fields: The envelope's fields as read; `Envelope.from_fields` makes sure of them.
        appended: The writer's clock when it appended the block, microseconds.
        payload: Single-object encoded event.
    """

    fields: dict[str, Any]
    appended: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A complete block: `count` records in `body`, at bytes `start` .. `end` of the buffer it was found in."""

    start: int
    end: int
    count: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `start` .. `end` of the buffer are no block; a good one may follow."""

    start: int
    end: int


def file_name(sender: str, number: int) -> str:
    """Name of a sender's n-th file."""
    return f"{sender}-{number:06d}{SUFFIX}"


def file_header(sync: bytes) -> bytes:
    """What a file begins with; `sync` is 16 random bytes of its own."""
    out = io.BytesIO()
    out.write(_MAGIC)
    meta = {"avro.schema": json.dumps(_RECORD).encode(), "avro.codec": b"null"}
    schemaless_writer(out, _HEADER_SCHEMA, {"meta": meta, "sync": sync})
    return out.getvalue()


def parse_header(data: bytes) -> tuple[bytes, int] | None:
    """(sync marker, length of the header), or None while the header is still being written.

    `data` is the front of the file, HEADER_BYTES_MAX bytes of it where it has as many.

    Raises:
        FolderError: The file is no Avro container of ours, or its header is damaged.
    """
    if not _MAGIC.startswith(data[: len(_MAGIC)]):
        raise FolderError("The file doesn't begin like an Avro container: it is none of ours.")
    body = io.BytesIO(data)
    body.seek(len(_MAGIC))
    try:
        header: Any = schemaless_reader(body, _HEADER_SCHEMA)
    # fastavro meets garbage with whatever Python raised; the first two are what it says at the end of the bytes.
    except (EOFError, IndexError) as error:
        if len(data) < HEADER_BYTES_MAX:
            return None
        raise FolderError("The file's header doesn't end where it should: it is damaged.") from error
    except Exception as error:
        raise FolderError(f"The file's header is damaged: {type(error).__name__}: {error}.") from error
    if header["meta"].get("avro.codec", b"null") != b"null":
        raise FolderError("The file is compressed: it is none of ours.")
    return header["sync"], body.tell()


def encode_block(messages: Iterable[tuple[Envelope, bytes]], appended: int, sync: bytes) -> bytes:
    """One block of messages, to be appended by one `write()`."""
    out = io.BytesIO()
    count = 0
    for envelope, payload in messages:
        fields = {name: getattr(envelope, name) for name in _NAMES}
        schemaless_writer(out, _SCHEMA, {**fields, "appended": appended, "payload": payload})
        count += 1
    body = out.getvalue()
    head = io.BytesIO()
    schemaless_writer(head, "long", count)
    schemaless_writer(head, "long", len(body))
    return head.getvalue() + body + sync


def split_blocks(data: bytes, sync: bytes) -> list[RawBlock | Damage]:
    """What stands complete at the front of `data`, which begins at a block's start; a torn tail is left alone.

    Bytes that are no block become a `Damage` up to the next sync marker; while there is none, they may be a tail
    that a network file system shows in parts, so they are left alone too.
    """
    found: list[RawBlock | Damage] = []
    at = 0
    while at < len(data):
        block = _block_at(data, at, sync)
        if block is None:
            marker = data.find(sync, at)
            if marker < 0:
                break
            found.append(Damage(at, marker + SYNC_BYTES))
        else:
            found.append(block)
        at = found[-1].end
    return found


def decode_block(block: RawBlock) -> list[Record]:
    """The records of a block.

    Raises:
        FolderError: The body is no sequence of records.
    """
    body = io.BytesIO(block.body)
    records = []
    try:
        for _ in range(min(block.count, len(block.body))):
            fields: Any = schemaless_reader(body, _SCHEMA)
            records.append(Record(fields, fields.pop("appended"), fields.pop("payload")))
    # fastavro meets garbage with whatever Python raised.
    except Exception as error:
        raise FolderError(f"A block of the topic file is garbled: {type(error).__name__}: {error}.") from error
    if body.tell() != len(block.body) or len(records) != block.count:
        raise FolderError("A block of the topic file holds another number of records than it says.")
    return records


def _block_at(data: bytes, at: int, sync: bytes) -> RawBlock | None:
    """The block that begins at `at`, or None where none stands complete."""
    head = io.BytesIO(data[at : at + 2 * _LONG_BYTES_MAX])
    try:
        count: Any = schemaless_reader(head, "long")
        size: Any = schemaless_reader(head, "long")
    except Exception:  # noqa: BLE001 - fastavro meets a torn head with whatever Python raised
        return None
    body_at = at + head.tell()
    end = body_at + size + SYNC_BYTES
    if count < 0 or not 0 <= size <= BLOCK_BYTES_MAX or data[end - SYNC_BYTES : end] != sync:
        return None
    return RawBlock(at, end, count, data[body_at : body_at + size])
