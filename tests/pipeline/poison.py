"""A generator of hostile messages, mixed with honest ones; everything follows from a seed.

Attackers mutate messages of their own emitters: random bytes, truncations, flipped bits, two messages spliced, headers
missing, doubled, huge or no UTF-8, Avro that is well framed but lies about counts and lengths, and extreme values that
are perfectly valid. They also send garbage in the name of the honest. What an honest emitter says is stored exactly.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runwire_schemas import codec, columns, events
from runwire_schemas.catalog import entries
from runwire_schemas.envelope import SEQ_MAX, Envelope

Headers = list[tuple[str, bytes | None]]
Sent = tuple[Headers, bytes, str]
"""Headers, payload, kind."""

TIME = 1_700_000_000_000_000
HONEST = 20
INT64_MAX = 2**63 - 1

_long = columns._long
_string = columns._string
_FINGERPRINTS = {entry.type: codec.MARKER + entry.fingerprint for entry in entries()}


def encode(event: events.Event) -> bytes:
    """As the trainer does."""
    return columns.encode_batch(event) if isinstance(event, events.MetricBatch) else codec.encode(event)


def headers_of(event: events.Event, attempt: str = "one") -> Headers:
    """The envelope of an event."""
    return list(Envelope.of(event, "poison", attempt).to_headers())


@dataclass
class Honest:
    """An emitter whose every row has to be stored, with the value that its sequence number tells."""

    number: int
    seq: int = 0

    @property
    def emitter_id(self) -> str:
        """Its id."""
        return f"{self.number:032x}"

    @property
    def run_id(self) -> str:
        """Its run's id."""
        return f"{self.number:016x}"

    def says(self, rows: int = 2) -> tuple[Headers, bytes]:
        """The next rows: loss = 1000 * number + seq, step = seq."""
        seqs = range(self.seq, self.seq + rows)
        values = [1_000.0 * self.number + seq for seq in seqs]
        block = events.Block(("loss",), list(seqs), [TIME + seq for seq in seqs], values)
        batch = events.MetricBatch(self.run_id, self.emitter_id, 0, self.seq, (block,))
        self.seq += rows
        return headers_of(batch), columns.encode_batch(batch)


@dataclass
class Poison:
    """Messages without an end.

    Attributes:
        seed: Two with the same seed say the same.
        honest_share: How many of the messages are an honest emitter's.
        honest: Those emitters, with how far they came.
    """

    seed: int
    honest_share: float = 0.05
    honest: list[Honest] = field(default_factory=lambda: [Honest(number) for number in range(1, HONEST + 1)])

    def __post_init__(self) -> None:
        """Prepare what is mutated."""
        self._random = random.Random(self.seed)
        self._templates = _templates(self._random)
        self._number = 0

    def messages(self, count: int) -> Iterator[Sent]:
        """The next messages."""
        draw = self._random
        makers: list[Callable[[], Sent]] = [
            self._noise, self._cut, self._flip, self._splice, self._bad_header, self._lie, self._extreme,
            self._garbage_of_the_honest, self._disagreement, self._valid,
        ]  # fmt: skip
        weights = (10, 15, 25, 10, 10, 12, 8, 5, 3, 2)
        for _ in range(count):
            if draw.random() < self.honest_share:
                yield (*draw.choice(self.honest).says(), "honest")
            else:
                yield draw.choices(makers, weights)[0]()

    def _noise(self) -> Sent:
        draw = self._random
        headers, payload = draw.choice(self._templates)
        noise = draw.randbytes(draw.randrange(200))
        return headers, draw.choice((b"", payload[:2], payload[:10])) + noise, "noise"

    def _cut(self) -> Sent:
        headers, payload = self._random.choice(self._templates)
        return headers, payload[: self._random.randrange(len(payload))], "cut"

    def _flip(self) -> Sent:
        draw = self._random
        headers, payload = draw.choice(self._templates)
        raw = bytearray(payload)
        for _ in range(draw.choice((1, 1, 2, 8))):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return headers, bytes(raw), "flip"

    def _splice(self) -> Sent:
        draw = self._random
        (headers, one), (_, other) = draw.choice(self._templates), draw.choice(self._templates)
        return headers, one[: draw.randrange(len(one))] + other[draw.randrange(len(other)) :], "splice"

    def _bad_header(self) -> Sent:
        draw = self._random
        headers, payload = draw.choice(self._templates)
        at = draw.randrange(len(headers))
        name, value = headers[at]
        changed: Headers = [*headers]
        match draw.randrange(9):
            case 0:
                del changed[at]
            case 1:
                changed.insert(at, (name, draw.choice((value, b"other", b"7"))))
            case 2:
                changed[at] = (name, (value or b"x") * draw.choice((1, 50, 5_000)))
            case 3:
                changed[at] = (name, draw.randbytes(8))
            case 4:
                changed[at] = (name, None)
            case 5:
                changed[at] = (name, b"")
            case 6:
                changed[at] = (name, draw.choice((b"-1", b"9" * 30, b"1e9", b"0x10", b" 3", b"1_0", "٣".encode())))
            case 7:
                changed += [("x" * draw.choice((1, 1_000)), draw.randbytes(50))] * draw.choice((1, 100))
            case _:
                changed[at] = (name, draw.choice(("\0", "\u202e", "a" * 129, "é" * 128)).encode())
        return changed, payload, "header"

    def _lie(self) -> Sent:
        """Well framed, and nothing in it is as announced."""
        draw = self._random
        run_id, emitter_id = self._name()
        event = events.MetricBatch(run_id, emitter_id, 0, 0, ())
        who = _string(run_id) + _string(emitter_id) + _long(0) + _long(0)
        lie = draw.choice((2**60, 2**62, INT64_MAX, -(2**63), -1, -5, 10**6, 2**31))
        sized = _long(-abs(draw.randrange(1, 9))) + _long(lie)
        block = _long(1) + _string("loss") + b"\0"
        body = draw.choice(
            (
                who + _long(lie) + draw.randbytes(40),
                who + _long(-1) + _long(lie) + block + b"\0" * 5,
                who + _long(1) + _long(lie) + b"x" * 30,
                who + _long(1) + block + _long(lie) + bytes(30),
                who + _long(1) + block + sized + bytes(30),
                who + _long(1) + _long(1) + _long(lie) + b"abc",
                who + _long(300) + bytes(1_200) + b"\0",
                who + _long(1) + b"\0" + (_long(1) + b"\0") * 900,
                _string(run_id) + _long(lie) + b"x" * 20,
                who + b"\xff" * draw.randrange(1, 40),
                who + b"\0" + draw.randbytes(draw.randrange(1, 4)),
            )
        )
        if draw.random() < 0.3:
            kind = draw.choice([name for name in _FINGERPRINTS if name != "MetricBatch"])
            return headers_of(event), _FINGERPRINTS[kind] + body, "lie"
        return headers_of(event), _FINGERPRINTS["MetricBatch"] + body, "lie"

    def _extreme(self) -> Sent:
        """Valid to the last byte, and at every limit."""
        draw = self._random
        run_id, emitter_id = self._name()
        first_seq = draw.choice((0, 0, 7, SEQ_MAX - 2, SEQ_MAX - 1, 2**53, 2**31))
        if draw.random() < 0.3:
            event: events.Event = _odd_record(draw, run_id, emitter_id, first_seq)
        else:
            event = _odd_batch(draw, run_id, emitter_id, first_seq)
        try:
            headers = headers_of(event)
        except Exception:  # noqa: BLE001 - a range that no envelope takes
            headers = []
        return headers, encode(event), "extreme"

    def _garbage_of_the_honest(self) -> Sent:
        """Undecodable, in the name of somebody whose rows come too."""
        draw = self._random
        victim = draw.choice(self.honest)
        headers, payload = Honest(victim.number, draw.randrange(victim.seq + 4)).says(draw.randrange(1, 5))
        spoiled = draw.choice((payload[:-1], payload[:2] + b"\7" * 8 + payload[10:], payload + b"\0", b"", b"\0" * 40))
        return headers, spoiled, "slander"

    def _disagreement(self) -> Sent:
        """The envelope of one, the payload of another."""
        (headers, _), (_, payload) = self._random.choice(self._templates), self._random.choice(self._templates)
        return headers, payload, "disagreement"

    def _valid(self) -> Sent:
        headers, payload = self._random.choice(self._templates)
        return headers, payload, "again"

    def _name(self) -> tuple[str, str]:
        self._number += 1
        return f"e{self._number % 5_000:015d}", f"e{self._number:031d}"


def _templates(draw: random.Random) -> list[tuple[Headers, bytes]]:
    """Valid messages of attackers, of every kind and several sizes."""
    found: list[tuple[Headers, bytes]] = []
    for number in range(40):
        run_id, emitter_id = f"a{number:015d}", f"a{number:031d}"
        made: list[events.Event] = [
            events.RunStarted(
                run_id,
                emitter_id,
                0,
                0,
                TIME,
                "poison",
                "name",
                "one",
                events.Host("node", gpus=["g"]),
                tags=["a", "b"],
                git=events.Git("c0ffee", None, None, dirty=True),
                command=["train.py"],
                packages={"numpy": "2", "a": "1"},
            ),
            events.ParamsLogged(run_id, emitter_id, 0, 1, TIME, {"lr": 0.1, "n": 3, "s": "x", "b": True, "z": None}),
            events.MetricDefined(run_id, emitter_id, 0, 2, TIME, "loss", None, "min"),
            events.RowsLost(run_id, emitter_id, 0, 3, TIME, 4, 3, "cap"),
            events.RunEnded(run_id, emitter_id, 0, 9, TIME, "finished", 0),
            events.Heartbeat(run_id, emitter_id, 0, TIME, 5.0, 9),
            events.EmitterEnded(run_id, emitter_id, 0, TIME, 10, "finished"),
        ]
        for rows in (1, 2, 5, 40):
            keys = tuple(f"k{at}" for at in range(draw.randrange(1, 4)))
            first = draw.randrange(10, 60)
            block = events.Block(keys, range(rows), [TIME] * rows, [draw.random() for _ in range(rows * len(keys))])
            made.append(events.MetricBatch(run_id, emitter_id, 0, first, (block,) * draw.choice((1, 1, 3))))
        found += [(headers_of(event), encode(event)) for event in made]
    return found


_VALUES = (
    float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308, 2.0**53 + 1,
    struct.unpack("<d", b"\1\0\0\0\0\0\xf8\xff")[0],
)  # fmt: skip
_TEXTS = ("\0", "a\0b", "\u202eevil", "\ufeff", "é" * 200, "\U0010ffff", "'; DROP TABLE rows; --", "=1+1", "", "\ud7ff")
_LONGS = (0, -1, INT64_MAX, -(2**63), 2**53 + 1, 10**12)


def _odd_batch(draw: random.Random, run_id: str, emitter_id: str, first_seq: int) -> events.MetricBatch:
    rows = draw.randrange(1, 4)
    keys = tuple({draw.choice(_TEXTS) + str(draw.randrange(3)) for _ in range(draw.randrange(4))})
    rare = draw.random()
    if rare < 0.002:
        keys = tuple(f"many/{draw.randrange(100_000)}/{at}" for at in range(1_000))
    elif rare < 0.003:
        keys = ("long" * 250_000,)
    times = [draw.choice((0, TIME, 253_402_300_799_999_999, -1, INT64_MAX)) for _ in range(rows)]
    steps = [draw.choice(_LONGS) for _ in range(rows)]
    block = events.Block(keys, steps, times, [draw.choice(_VALUES) for _ in range(rows * len(keys))])
    return events.MetricBatch(run_id, emitter_id, draw.choice((0, -(2**31), 2**31 - 1)), first_seq, (block,))


def _odd_record(draw: random.Random, run_id: str, emitter_id: str, seq: int) -> events.Event:
    text, whole, real = draw.choice(_TEXTS), draw.choice(_LONGS), draw.choice(_VALUES)
    place = (run_id, emitter_id, 0, seq, draw.choice((0, TIME, 253_402_300_799_999_999, -1)))
    params = {text: real, "a": whole, "b": text * 3, "c": None}
    small = draw.choice((0, 1, -1, 2**31 - 1, -(2**31)))
    return draw.choice(
        (
            lambda: events.ParamsLogged(*place, params),
            lambda: events.RunStarted(
                *place,
                text,
                text,
                "one",
                events.Host(text, cpus=small, memory_bytes=whole, gpus=[text, text]),
                tags=[text] * 3,
                resumed_from_step=whole,
                world_size=small,
                local_rank=small,
                pid=small,
                restart_count=small,
                packages={text: text},
                command=[text],
                role=text,
                user=text,
                notes="n" * 1_000,
            ),
            lambda: events.MetricDefined(*place, text, text, text),
            lambda: events.ArtifactLogged(*place, text, text, text, whole, text, {text: text}),
            lambda: events.TextLogged(*place, text, text * 1_000, whole),
            lambda: events.AlertRaised(*place, text, text, text, whole),
            lambda: events.RowsLost(*place, draw.choice((0, whole)), draw.choice((1, whole)), text),
            lambda: events.RunEdited(*place, text, text, [text], text),
            lambda: events.RunDeleted(*place, text),
            lambda: events.RunEnded(
                *place, draw.choice(("failed", text)), small, text, events.Cost(real, real, real, whole)
            ),
            lambda: events.Heartbeat(run_id, emitter_id, 0, TIME, real, whole, whole, whole, real),
            lambda: events.EmitterEnded(run_id, emitter_id, 0, TIME, whole, draw.choice(("crashed", text))),
        )
    )()


def bombs(size: int = 2**20) -> dict[str, bytes]:
    """Payloads of about `size` bytes made to cost as much as they can; by name."""
    who = _FINGERPRINTS["MetricBatch"] + _string("a" * 16) + _string("a" * 32) + _long(0) + _long(0)
    row = b"\2" + b"\2x" + b"\0" + (b"\2\x08\0") * 2 + b"\2" + bytes(8) + b"\0"
    record = _FINGERPRINTS["ParamsLogged"] + _string("a" * 16) + _string("a" * 32) + _long(0) * 3
    keys = b"".join(_string(f"k{at:05}") for at in range(100_000))

    def batch(blocks: int, body: bytes) -> bytes:
        return who + _long(blocks) + body + b"\0"

    return {
        "empty blocks": batch(size // 4, bytes(size)),
        "blocks of one row": batch(size // len(row), row * (size // len(row))),
        "as many blocks of one row as are taken": batch(5_000, row * 5_000),
        "empty keys": batch(1, _long(size) + bytes(size) + b"\0" + b"\0\0\0"),
        "100,000 keys": batch(1, _long(100_000) + keys + b"\0" + b"\0\0\0"),
        "rows without keys": batch(1, b"\0" + (_long(size // 2) + bytes(size // 2) + b"\0") * 2 + b"\0"),
        "parts of one item": batch(1, b"\0" + (_long(1) + b"\0") * (size // 2) + b"\0"),
        "parts with sizes": batch(1, b"\0" + (_long(-1) + _long(1) + b"\0") * (size // 3) + b"\0"),
        "2^60 items": batch(2**60, bytes(size)),
        "a text of 2^60 bytes": _FINGERPRINTS["MetricBatch"] + _long(2**60) + bytes(size),
        "parameters": record
        + _long(size // 7)
        + b"".join(_string(f"{at:05x}") + b"\0" for at in range(size // 7))
        + b"\0",
        "parameters as many as are taken": record
        + _long(50_000)
        + b"".join(_string(f"{at:05x}") + b"\0" for at in range(50_000))
        + b"\0",
        "one parameter again and again": record + _long(size // 2) + b"\0\0" * (size // 2) + b"\0",
        "16 MiB": batch(1, bytes(16 * 2**20)),
    }
