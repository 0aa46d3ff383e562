"""Odd arguments for every call of a run, each with what must become of it: made from a seed, so that a failure repeats.

A generator returns (argument, what it means): the float, text or int that has to be stored, or REFUSED where only a
UsageError will do.
"""

from __future__ import annotations

import decimal
import enum
import fractions
import math
import random
import types
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

REFUSED = None
LONG = 2**20
KEY_BYTES_MAX = 1_024
STEP_MAX = 2**63
# Numpy's letters of element types; what `item()` makes of zeros of them is no number for the second part.
NUMBERS = "?bhilqpBHILQPefdg"
NO_NUMBERS = "FDGSUVMm"


class Hostile:
    """Raises whatever is asked of it."""

    def refuse(self, *_: object, **__: object) -> Any:
        raise LookupError("hostile")

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __next__ = refuse
    __float__ = __int__ = __index__ = __complex__ = __round__ = __array__ = __call__ = refuse
    __getitem__ = __contains__ = __lt__ = __gt__ = __add__ = __format__ = __fspath__ = refuse

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)


class Secretive:
    """Raises for each attribute, its class included."""

    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


class Liar:
    """Claims to be of another class."""

    def __init__(self, claim: type) -> None:
        self._claim = claim

    @property
    def __class__(self) -> Any:
        return self._claim

    @__class__.setter
    def __class__(self, value: Any) -> None: ...

    def item(self) -> Liar:
        return self


class Nameless(type):
    """A class that has neither name nor module."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__module__", "__qualname__", "__name__"}:
            raise LookupError(name)
        return super().__getattribute__(name)


class Unnamed(metaclass=Nameless):
    """An instance of such a class."""


class FalseDecimal:
    """Pretends to come from another module."""

    def __float__(self) -> float:
        raise LookupError("float")


FalseDecimal.__module__ = "decimal"


class Tensor:
    """What looks like one of a device's scalars, and isn't."""

    def __init__(self, item: Any, shape: Any = (), kind: Any = "f") -> None:
        self._item = item
        self.shape = shape
        self.dtype = types.SimpleNamespace(kind=kind)

    def item(self) -> Any:
        if isinstance(self._item, Exception):
            raise self._item
        return self._item


class Number(float):
    """A float whose conversions raise."""

    def __float__(self) -> float:
        raise LookupError("float")

    __str__ = __repr__ = __eq__ = __hash__ = Hostile.refuse


class Integer(int):
    """An int whose conversions raise."""

    __int__ = __index__ = __float__ = __str__ = __repr__ = __eq__ = Hostile.refuse

    def __hash__(self) -> int:
        raise LookupError("hash")


class Text(str):  # noqa: SLOT000 - as users write them
    """A plain subclass."""


class OddText(str):  # noqa: SLOT000 - as above
    """A subclass whose methods raise; it can become a key of a dict for as long as it is calm."""

    calm = True

    def __hash__(self) -> int:
        if self.calm:
            return str.__hash__(self)
        raise LookupError("hash")

    def __eq__(self, other: object) -> bool:
        if self.calm:
            return str.__eq__(self, other)
        raise LookupError("eq")

    __str__ = __repr__ = encode = __len__ = __getitem__ = lower = Hostile.refuse


class Word(enum.Enum):
    """No string."""

    LOSS = "loss"


class StringWord(str, enum.Enum):  # noqa: UP042 - as older code has them
    """A string."""

    LOSS = "loss"


class Raising(Mapping[str, Any]):
    """A mapping that raises in one of its methods."""

    def __init__(self, inner: dict[str, Any], method: str) -> None:
        self._inner = inner
        self._method = method

    def _maybe(self, method: str) -> None:
        if method == self._method:
            raise LookupError(method)

    def __getitem__(self, key: str) -> Any:
        self._maybe("getitem")
        return self._inner[key]

    def __iter__(self) -> Iterator[str]:
        for at, key in enumerate(self._inner):
            if at:
                self._maybe("late")
            yield key
        self._maybe("iter")

    def __len__(self) -> int:
        self._maybe("len")
        return len(self._inner)


class Wrong(dict[str, Any]):
    """A dict whose methods raise."""

    __iter__ = keys = items = values = copy = __len__ = Hostile.refuse


def value(numbers: random.Random) -> tuple[Any, float | None]:
    """Something as a metric's value."""
    kind = numbers.randrange(12)
    if kind < 4:
        number = numbers.choice((numbers.uniform(-1e9, 1e9), numbers.gauss(0, 1e-300), 0.0, -0.0, math.inf, 5e-324))
        return number, number
    if kind < 6:
        return _integer(numbers)
    if kind == 6:
        return numpy_value(numbers)
    return numbers.choice(_VALUES)(numbers)


def _integer(numbers: random.Random) -> tuple[Any, float]:
    number = numbers.choice((1, -1)) * numbers.getrandbits(numbers.choice((1, 8, 53, 64, 70, 1_000, 1_100, 40_000)))
    try:
        plain = float(number)
    except OverflowError:
        plain = math.inf if number > 0 else -math.inf
    return number, plain


def numpy_value(numbers: random.Random) -> tuple[Any, float | None]:
    """A scalar or an array of any element type."""
    letter = numbers.choice(NUMBERS + NO_NUMBERS)
    dtype = np.dtype(letter)
    plain = float(numbers.randrange(2))
    shape = numbers.choice(((), (1,), (1, 1), (2,), (0,), (3, 1)))
    meaning = plain if letter in NUMBERS and math.prod(shape) == 1 else REFUSED
    array = np.zeros(shape, dtype) if letter in NO_NUMBERS else np.full(shape, plain, dtype)
    return (array[()] if shape == () and numbers.random() < 0.7 else array), meaning


def _refused(make: Callable[[random.Random], Any]) -> Callable[[random.Random], tuple[Any, float | None]]:
    return lambda numbers: (make(numbers), REFUSED)


_VALUES: list[Callable[[random.Random], tuple[Any, float | None]]] = [
    lambda _: (True, 1.0),
    lambda _: (decimal.Decimal("0.25"), 0.25),
    lambda _: (decimal.Decimal("sNaN"), math.nan),
    lambda _: (decimal.Decimal("-1e9999"), -math.inf),
    lambda _: (fractions.Fraction(1, 4), 0.25),
    lambda _: (fractions.Fraction(10**400, 3), math.inf),
    lambda _: (Number(0.5), 0.5),
    lambda _: (Integer(7), 7.0),
    lambda _: (Tensor(0.5), 0.5),
    lambda _: (Tensor(np.float32(0.5)), 0.5),
    lambda _: (Tensor(10**400), math.inf),
    lambda _: (np.ma.masked_array([0.5], [False]), 0.5),
    lambda _: (np.longdouble("-1e4000"), -math.inf),
    lambda _: (np.float16(math.nan), math.nan),
    lambda _: (math.nan, math.nan),
    *map(
        _refused,
        [
            lambda _: None,
            lambda _: 1 + 2j,
            lambda _: b"1.0",
            lambda _: "1.0",
            lambda _: "\ud800",
            lambda _: "x" * LONG,
            lambda _: Text("1"),
            lambda _: OddText("1"),
            lambda _: [1.0],
            lambda _: object(),
            lambda _: float,
            lambda _: Hostile(),
            lambda _: Secretive(),
            lambda numbers: Liar(numbers.choice((float, int, str, dict, Mapping, decimal.Decimal))),
            lambda _: Unnamed(),
            lambda _: Unnamed,
            lambda _: FalseDecimal(),
            lambda _: Tensor(LookupError("device")),
            lambda _: Tensor(Liar(float)),
            lambda _: Tensor("text"),
            lambda _: Tensor(0.5, kind="M"),
            lambda _: Tensor(None, shape=Hostile()),
            lambda _: Tensor(None, shape=3),
            lambda _: Tensor(None, kind=Hostile()),
            lambda _: Word.LOSS,
            lambda _: types.SimpleNamespace(item=Hostile()),
            lambda _: np.datetime64("2026-01-01"),
            lambda _: np.ma.masked,
            lambda _: np.ma.masked_array([1.0], [True]),
            lambda _: np.array([{}], object),
        ],
    ),
]


def key(numbers: random.Random) -> tuple[Any, str | None]:
    """Something as a metric's name."""
    kind = numbers.randrange(40)
    if kind < 30:
        name = f"{numbers.choice(('train', 'val', 'grad'))}/{numbers.randrange(30)}"
        return name, name
    return numbers.choice(_KEYS)(numbers)


_KEYS: list[Callable[[random.Random], tuple[Any, str | None]]] = [
    lambda numbers: (f"changing/{numbers.getrandbits(64):x}",) * 2,
    lambda _: ("a\0b", "a\0b"),
    lambda _: ("\ud800x", "\\ud800x"),
    lambda _: ("\u202e\u05dc\u05d5", "\u202e\u05dc\u05d5"),
    lambda _: ("k" * KEY_BYTES_MAX,) * 2,
    lambda _: (" ", " "),
    lambda _: (Text("text"), "text"),
    lambda _: (StringWord.LOSS, "loss"),
    lambda _: (OddText("odd"), "odd"),
    lambda _: ("k" * (KEY_BYTES_MAX + 1), REFUSED),
    lambda _: ("\ud800" * 200, REFUSED),
    lambda _: ("x" * LONG, REFUSED),
    lambda _: ("", REFUSED),
    lambda _: (None, REFUSED),
    lambda _: (3, REFUSED),
    lambda _: (b"loss", REFUSED),
    lambda _: (("a", "b"), REFUSED),
    lambda _: (Word.LOSS, REFUSED),
    lambda _: (Liar(str), REFUSED),
    lambda _: (Unnamed(), REFUSED),
]


Flat = list[tuple[str, float]]
# With the paths of nested mappings, which have to be names too.
Paths = list[tuple[str, float | None]]


def metrics(numbers: random.Random) -> tuple[Any, Flat | None]:
    """Something as `log`'s metrics, and the names and values that it means."""
    kind = numbers.randrange(4_000)
    if kind < 80:
        return numbers.choice(_NO_METRICS)(numbers), REFUSED
    if kind == 80:
        wide = {f"wide/{at}": float(at) for at in range(10_000)}
        return wide, list(wide.items())
    if kind < 1_000:  # what training does nearly always
        row = {f"plain/{at}": numbers.random() for at in range(numbers.randrange(1, 12))}
        return row, list(row.items())
    pairs = [_pair(numbers, depth=3) for _ in range(numbers.choice((0, 1, 1, 2, 3, 8)))]
    made, paths = _mapping(numbers, pairs)
    if paths is None:
        return made, REFUSED
    flat = [(path, number) for path, number in paths if number is not None]
    # The same name twice, once of them nested, is refused.
    return made, flat if len({path for path, _ in flat}) == len(flat) else REFUSED


def _pair(numbers: random.Random, depth: int) -> tuple[Any, Any, Paths | None]:
    """(key, value, what both mean)."""
    name, meaning = key(numbers)
    if depth and numbers.random() < 0.06:
        inner, flat = _mapping(numbers, [_pair(numbers, depth - 1) for _ in range(numbers.randrange(3))])
        if meaning is REFUSED or flat is None:
            return name, inner, REFUSED
        paths: Paths = [(meaning, None), *((f"{meaning}/{path}", number) for path, number in flat)]
        too_long = any(len(path.encode()) > KEY_BYTES_MAX for path, _ in paths)
        return name, inner, REFUSED if too_long else paths
    thing, number = value(numbers)
    return name, thing, REFUSED if meaning is REFUSED or number is REFUSED else [(meaning, number)]


def _mapping(numbers: random.Random, pairs: list[tuple[Any, Any, Paths | None]]) -> tuple[Any, Paths | None]:
    """A mapping of some make, and what it means."""
    kept = {name: (thing, meaning) for name, thing, meaning in pairs}
    row = {name: thing for name, (thing, _) in kept.items()}
    made = numbers.choice(_MAKES)(row)
    odd = [name for name in row if type(name) is OddText]
    for name in odd:
        name.calm = False
    # An empty mapping beside others means nothing, whatever its name; a name that is no name is refused all the same.
    meanings = [meaning for _, meaning in kept.values()]
    if any(meaning is REFUSED for meaning in meanings):
        return made, REFUSED
    if type(made) is not dict and odd:
        return made, REFUSED  # only a dict gives its values without a look at the hash
    return made, [pair for meaning in meanings if meaning for pair in meaning]


_MAKES: list[Callable[[dict[Any, Any]], Any]] = [
    *[lambda row: row] * 8,
    OrderedDict,
    lambda row: defaultdict(int, row),
    types.MappingProxyType,
    ChainMap,
    UserDict,
    lambda row: Raising(row, ""),
]


def _own_parent(_: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = {"a": 1.0}
    row["self"] = row
    return row


def _deep(_: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = {"a": 1.0}
    for _level in range(40):
        row = {"d": row}
    return row


_NO_METRICS: list[Callable[[random.Random], Any]] = [
    _own_parent,
    _deep,
    lambda _: None,
    lambda _: 3,
    lambda _: "loss",
    lambda _: [("loss", 1.0)],
    lambda _: Hostile(),
    lambda _: Secretive(),
    lambda _: Liar(dict),
    lambda _: Liar(Mapping),
    lambda _: Unnamed(),
    lambda _: np.zeros(3),
    lambda numbers: Raising({"a": 1.0, "b": 2.0}, numbers.choice(("getitem", "iter", "late"))),
    lambda _: {"nested": Raising({"a": 1.0}, "getitem")},
    lambda _: Wrong(a=1.0),
]


def step(numbers: random.Random) -> tuple[Any, int | None]:
    """Something as a step that is given."""
    if numbers.random() < 0.8:
        number = numbers.randrange(-(2**63), STEP_MAX) if numbers.random() < 0.1 else numbers.randrange(1_000_000)
        return number, number
    return numbers.choice(_STEPS)


_STEPS: list[tuple[Any, int | None]] = [
    (True, 1),
    (np.int64(-5), -5),
    (np.uint8(200), 200),
    (np.array(3), 3),
    (-STEP_MAX, -STEP_MAX),
    (STEP_MAX - 1, STEP_MAX - 1),
    (STEP_MAX, REFUSED),
    (10**30, REFUSED),
    (1.0, REFUSED),
    (math.nan, REFUSED),
    ("3", REFUSED),
    (np.float32(3), REFUSED),
    (np.array([1, 2]), REFUSED),
    (decimal.Decimal(3), REFUSED),
    (Hostile(), REFUSED),
    (Secretive(), REFUSED),
    (Liar(int), REFUSED),
    (Unnamed(), REFUSED),
]

ANYTHING: list[Any] = [
    *("", "text", "\ud800\0", "x" * LONG, b"bytes", None, True, 0, -1, 10**5_000, 0.5, math.nan, 1j, ..., object()),
    *(
        [],
        {},
        (),
        {"a": 1},
        [1, "x"],
        {1: 2},
        {"": 1},
        {"a": {"b": {}}},
        {"k" * 2_000: 1},
        {"x": _deep(random.Random())},
    ),
    *(Hostile(), Secretive(), Liar(str), Liar(int), Liar(dict), Unnamed(), Unnamed, FalseDecimal(), Number(1)),
    *(Integer(1), Text("info"), OddText("info"), Word.LOSS, StringWord.LOSS, Raising({"a": 1}, "getitem")),
    *(Raising({"a": 1}, "iter"), Wrong(a=1), np.zeros(3), np.float32(1), np.datetime64("2026-01-01")),
    *(decimal.Decimal("sNaN"), ValueError("v"), SystemExit(3), KeyboardInterrupt(), lambda: None, int, range(3)),
    *(iter([1]), types.SimpleNamespace, types.SimpleNamespace(a=1), _own_parent(random.Random())),
]


def anything(numbers: random.Random) -> Any:
    """Something, for arguments whose meaning nobody checks here."""
    return numbers.choice(ANYTHING) if numbers.random() < 0.7 else value(numbers)[0]
