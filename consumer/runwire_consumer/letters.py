"""A dead letter: its id, what is kept of it, and the message that is made again from what was kept.

Laws:

1. A letter's id is made of where it stood (source, partition, offset), its length and its first bytes. So the same
   letter, read again, is the same letter: nothing doubles when a log is replayed, and a recreated topic's is another.
2. A letter is *whole* when message and headers are kept to the last byte. It is kept whole up to MESSAGE_BYTES_MAX,
   as long as all that are kept together stay below KEPT_BYTES_MAX; else only its head is. Every letter is counted.
3. What a source could make no message of (damage, records that retention removed) has nothing to be replayed: it is
   never whole.

Headers are kept as JSON: Kafka's as an array of [name, value], where a value is a text, null, or {"base64": ...} when
it is no UTF-8; the fields of a `dir:` record as an object. Both ways lead back to exactly what came.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runwire_consumer.decode import DeadLetter
from runwire_consumer.sources import Message

MESSAGE_BYTES_MAX = 2**20
KEPT_BYTES_MAX = 256 * 2**20
HEADERS_BYTES_MAX = 64 * 2**10
ID_CHARACTERS = 16

DEAD, REPLAYED, DISCARDED = "dead", "replayed", "discarded"

Headers = Sequence[tuple[str, bytes | None]] | Mapping[str, Any]


def letter_id(message: Message) -> str:
    """16 hexadecimal digits that name this message, however often it is read; 0004_dead_letters.sql makes the same."""
    head = DeadLetter(message, None, "").head
    digest = hashlib.sha256(head).hexdigest()
    named = (message.source, message.partition, str(message.offset), str(len(message.payload)), digest)
    return hashlib.sha256("\n".join(named).encode("utf-8", "surrogatepass")).hexdigest()[:ID_CHARACTERS]


def describe_letter(letter: DeadLetter, key: int, appended_at: int, kept_bytes: int) -> dict[str, Any]:
    """The letter's row of `store.dead_letters`, with `payload` and `kept_bytes` of `store.letter_payloads` beside.

    Args:
        letter: The letter.
        key: Its number in the order of arrival.
        appended_at: When the log got it, microseconds.
        kept_bytes: What is kept of all letters so far.
    """
    message, envelope = letter.message, letter.envelope
    headers = pack_headers(message.headers)
    size = len(message.payload) + len(headers or "")
    whole = (
        not message.damage and headers is not None and size <= MESSAGE_BYTES_MAX and kept_bytes + size <= KEPT_BYTES_MAX
    )
    return {
        "letter_key": key,
        "letter_id": letter_id(message),
        "source": message.source,
        "partition": message.partition,
        "offset": message.offset,
        "appended_at": appended_at,
        "reason": letter.reason.encode("utf-8", "replace").decode(),
        "type": envelope and envelope.type,
        "run_id": envelope and envelope.run_id,
        "emitter_id": envelope and envelope.emitter_id,
        "rank": envelope and envelope.rank,
        "first_seq": envelope and envelope.first_seq,
        "count": envelope and envelope.count,
        "bytes": len(message.payload),
        "head": letter.head,
        "headers": headers,
        "status": DEAD,
        "whole": whole,
        "settled_at": None,
        "kept_bytes": size if whole else 0,
        "payload": message.payload if whole else None,
    }


def rebuild_message(row: Mapping[str, Any]) -> Message:
    """The message of a whole letter, with the time at which the log got it; it moves no offset."""
    return Message(
        source=row["source"],
        partition=row["partition"],
        offset=row["offset"],
        next_offset=row["offset"],
        appended_at=row["appended_at"],
        headers=unpack_headers(row["headers"]),
        payload=row["payload"],
    )


def pack_headers(headers: Headers) -> str | None:
    """The headers as JSON; None where they are too large or nothing that JSON has."""
    try:
        if isinstance(headers, Mapping):
            text = json.dumps(dict(headers))
        else:
            if sum(len(name) + len(value or b"") for name, value in headers) > HEADERS_BYTES_MAX:
                return None
            text = json.dumps([[name, _pack(value)] for name, value in headers])
    except (TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= HEADERS_BYTES_MAX else None


def unpack_headers(text: str) -> Headers:
    """The headers that `pack_headers` made JSON of."""
    found = json.loads(text)
    if isinstance(found, dict):
        return found
    return tuple((name, _unpack(value)) for name, value in found)


def _pack(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _unpack(value: Any) -> bytes | None:
    if value is None:
        return None
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()
