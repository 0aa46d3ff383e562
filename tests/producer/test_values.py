"""The liberal door: what `log()` takes, what becomes of it, and which errors name what is wrong."""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._errors import RunwireError, UsageTypeError, UsageValueError
from runwire._values import (
    DEPTH_MAX,
    KEY_BYTES_MAX,
    checked_key,
    flatten,
    metric_row,
    scalar,
)


class Optimizer(enum.StrEnum):
    """One whose values are texts."""

    ADAM = "adam"


class Level(enum.IntEnum):
    """One whose values are numbers."""

    HIGH = 3


class Tensor:
    """What torch and jax show of themselves: `item()`, a shape, and a `__float__` that must not be called."""

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape = value, shape

    def item(self) -> Any:
        if math.prod(self.shape) != 1:
            raise RuntimeError("a Tensor with 4 elements cannot be converted to Scalar")
        return self.value

    def __float__(self) -> float:
        raise AssertionError("would wait for the device")


class EagerTensor:
    """What TensorFlow shows of itself: no `item()`, but `numpy()`."""

    def numpy(self) -> Any:
        return np.float32(0.5)


class Ticklish:
    """An object that raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("don't")

    def __str__(self) -> str:
        raise RuntimeError("don't")


class Sly(float):
    """A float whose own conversion lies."""

    def __float__(self) -> float:
        return 13.0


SCALARS = [
    (1.5, 1.5),
    (2, 2.0),
    (True, 1.0),
    (-0.0, -0.0),
    (math.inf, math.inf),
    (5e-324, 5e-324),
    (2**53 + 1, float(2**53)),
    (10**400, math.inf),
    (-(10**400), -math.inf),
    (Level.HIGH, 3.0),
    (Sly(2.5), 2.5),
    (Decimal("0.1"), 0.1),
    (Decimal("1e999"), math.inf),
    (Fraction(1, 4), 0.25),
    (Fraction(-(10**400)), -math.inf),
    (np.float64(0.25), 0.25),
    (np.float32(0.25), 0.25),
    (np.float16(0.25), 0.25),
    (np.longdouble("0.25"), 0.25),
    (np.int64(-7), -7.0),
    (np.uint64(2**64 - 1), float(2**64)),
    (np.bool_(True), 1.0),
    (np.array(3), 3.0),
    (np.array([[3.5]]), 3.5),
    (Tensor(0.75), 0.75),
    (Tensor(7, (1, 1)), 7.0),
    (EagerTensor(), 0.5),
]


@pytest.mark.parametrize(("value", "expected"), SCALARS, ids=repr)
def test_numbers_of_every_make_become_floats(value: Any, expected: float) -> None:
    """The float is exact to the bit, and of the exact type."""
    taken = scalar(value)
    assert type(taken) is float
    assert struct.pack("d", taken) == struct.pack("d", expected)


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), Decimal("NaN"), Decimal("sNaN"), Tensor(math.nan)])
def test_nan_stays_nan(value: Any) -> None:
    """Not a number is a value like any other."""
    assert math.isnan(scalar(value))


NO_NUMBERS = [
    ("0.5", "must be a number, not '0.5': texts belong to params"),
    (None, "not None: leave the key out"),
    (1 + 2j, "not complex"),
    ([1.0], "not list"),
    (np.zeros((2, 2)), "not numpy.ndarray of shape (2, 2): reduce it"),
    (Tensor(None, (4,)), "of shape (4,): reduce it"),
    (np.complex64(1), "not numpy.complex64"),
    (np.datetime64("2026-01-01", "ns"), "not numpy.datetime64"),
    (np.timedelta64(5, "s"), "not numpy.timedelta64"),
    (np.str_("x"), "not numpy.str_"),
    (np.float32, "not type"),
    (Tensor("x"), "must be a number"),
    (Ticklish(), "must be a number"),
]


@pytest.mark.parametrize(("value", "says"), NO_NUMBERS, ids=[says for _, says in NO_NUMBERS])
def test_what_is_no_number_is_an_error_that_names_the_key(value: Any, says: str) -> None:
    """The error names argument, key and type, and is a TypeError."""
    with pytest.raises(UsageTypeError, match=r"^metrics\['loss'\]: ") as caught:
        metric_row({"loss": value})
    assert says in str(caught.value)
    assert isinstance(caught.value, TypeError)


class Settings(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __getitem__(self, key: str) -> Any:
        if key == "missing":
            raise LookupError(key)
        return {"lr": 0.1, "depth": 3}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["lr", "depth"])

    def __len__(self) -> int:
        return 2


FLAT = [
    ({}, {}),
    ({"a": 1}, {"a": 1}),
    ({"a": {"b": 1, "c": {"d": 2}}, "e": 3}, {"a/b": 1, "a/c/d": 2, "e": 3}),
    ({"a": {}}, {}),
    ({"a": Settings()}, {"a/lr": 0.1, "a/depth": 3}),
    ({"metrics/mAP50(B)": 1}, {"metrics/mAP50(B)": 1}),
    ({"nul\0": 1, "\u05d0": 2, " ": 3}, {"nul\0": 1, "\u05d0": 2, " ": 3}),
    ({"\udc80x": 1}, {"\\udc80x": 1}),
    ({Optimizer.ADAM: 1}, {"adam": 1}),
]


@pytest.mark.parametrize(("nested", "flat"), FLAT, ids=repr)
def test_nested_mappings_become_flat_keys(nested: Any, flat: dict[str, Any]) -> None:
    """Keys are joined by a slash, in order, and are plain strings."""
    assert list(flatten(nested).items()) == list(flat.items())
    assert {type(key) for key in flatten(nested)} <= {str}


def knot() -> dict[str, Any]:
    """A mapping that contains itself."""
    loop: dict[str, Any] = {}
    loop["again"] = loop
    return loop


WRONG_KEYS = [
    ({1: 2.0}, UsageTypeError, "metrics: has the key int 1: keys must be strings"),
    ({"a": {None: 1}}, UsageTypeError, "has the key None"),
    ({b"a": 1}, UsageTypeError, "has the key bytes"),
    ({"": 1}, UsageValueError, "has an empty key"),
    ({"k" * (KEY_BYTES_MAX + 1): 1}, UsageValueError, "1,025 bytes"),
    ({"\u00e9" * 513: 1}, UsageValueError, "1,026 bytes"),
    ({"a" * 1000: {"b" * 30: 1}}, UsageValueError, "1,031 bytes"),
    ({"a/b": 1, "a": {"b": 2}}, UsageValueError, "names 'a/b' twice"),
    (knot(), UsageValueError, "deeper than 16 levels, or contains itself"),
    ([("a", 1)], UsageTypeError, "must be a mapping of names to values, not list"),
    (None, UsageTypeError, "not None"),
    (3.5, UsageTypeError, "not float 3.5"),
]


@pytest.mark.parametrize(("metrics", "error", "says"), WRONG_KEYS, ids=[says for *_, says in WRONG_KEYS])
def test_wrong_keys_are_clear_errors(metrics: Any, error: type[RunwireError], says: str) -> None:
    """The sentence names the argument and what was given."""
    with pytest.raises(error) as caught:
        metric_row(metrics)
    assert says in str(caught.value)


def test_sixteen_levels_are_taken() -> None:
    """The limit is the deepest that works."""
    nested: Any = 1.0
    for _ in range(DEPTH_MAX):
        nested = {"a": nested}
    assert flatten(nested) == {"/".join("a" * DEPTH_MAX): 1.0}


@given(st.text(min_size=1, max_size=60))
def test_keys_stay_verbatim(key: str) -> None:
    """What UTF-8 can carry is not changed."""
    assert checked_key(key) == key


@given(st.text(alphabet=st.characters(), min_size=1, max_size=60))
def test_any_key_can_be_sent(key: str) -> None:
    """Lone surrogates included, the result encodes, and a second pass changes nothing."""
    taken = checked_key(key)
    assert taken.encode().decode() == checked_key(taken)
