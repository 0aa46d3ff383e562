"""Parameters of every make: what `params=` takes and what becomes of it."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import math
import pathlib
import types
from collections import namedtuple
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._errors import RunwireError
from runwire._params import TEXT_BYTES_MAX, flatten_params, param_value


class Colour(enum.Enum):
    """An enumeration whose values say nothing."""

    RED = enum.auto()


class Optimizer(enum.StrEnum):
    """One whose values are texts."""

    ADAM = "adam"


class Level(enum.IntEnum):
    """One whose values are numbers."""

    HIGH = 3


class Ticklish:
    """An object that raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("don't")

    def __str__(self) -> str:
        raise RuntimeError("don't")


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


def knot() -> dict[str, Any]:
    """A mapping that contains itself."""
    loop: dict[str, Any] = {}
    loop["again"] = loop
    return loop


@dataclasses.dataclass
class Model:
    """A configuration class."""

    width: int
    layers: list[int]


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind is what users have


def warm_up() -> None:
    """A function given as a parameter."""


PARAMS = [
    (None, None),
    (True, True),
    (3, 3),
    (2**63 - 1, 2**63 - 1),
    (2**63, "9223372036854775808"),
    (-(2**63) - 1, "-9223372036854775809"),
    (0.1, 0.1),
    (math.inf, math.inf),
    ("adam", "adam"),
    ("nul\0", "nul\0"),
    ("\ud800", "\\ud800"),
    (Colour.RED, "RED"),
    (Optimizer.ADAM, "adam"),
    (Level.HIGH, "HIGH"),
    (b"ab\xff", "ab\\xff"),
    (pathlib.PurePosixPath("/data/x"), "/data/x"),
    (Decimal("0.5"), 0.5),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.str_("x"), "x"),
    (np.array(3), 3),
    (np.datetime64("2026-01-01"), "2026-01-01"),
    (np.array([1, 2]), "[1, 2]"),
    (np.zeros((300, 300)), '"<numpy.ndarray of shape (300, 300)>"'),
    ([1, "a", None, True], '[1, "a", null, true]'),
    ((0.9, 0.999), "[0.9, 0.999]"),
    ({3, 1, 2}, "[1, 2, 3]"),
    ([math.nan, -math.inf], '["nan", "-inf"]'),
    ({1: "a"}, '{"1": "a"}'),
    (["\u00e9"], '["\u00e9"]'),
    ([pathlib.PurePosixPath("a"), Colour.RED], '["a", "RED"]'),
    (Model(4, [1]), '{"width": 4, "layers": [1]}'),
    (Point(1, 2), '{"x": 1, "y": 2}'),
    (Model, f"{__name__}.Model"),
    (warm_up, f"{__name__}.warm_up"),
    (int, "int"),
    (object(), "<object object>"),
    (Ticklish(), "<Ticklish>"),
]


@pytest.mark.parametrize(("value", "expected"), PARAMS, ids=[repr(expected) for _, expected in PARAMS])
def test_parameters_become_plain_values(value: Any, expected: Any) -> None:
    """Numbers stay numbers, the rest becomes text that can be read."""
    taken = param_value(value)
    assert taken == expected
    assert type(taken) is type(expected)


def test_parameters_too_long_are_cut_visibly() -> None:
    """Never more than TEXT_BYTES_MAX bytes, and the end says what was cut."""
    for value, size in [("x" * 10**6, 10**6), ("\u20ac" * 10**5, 10**5)]:
        taken = param_value(value)
        assert isinstance(taken, str)
        assert len(taken.encode()) <= TEXT_BYTES_MAX
        assert taken.endswith(f"... [cut: {size:,} characters]")
    exact = "x" * TEXT_BYTES_MAX
    assert param_value(exact) == exact
    assert str(param_value(10**5000)).startswith("0x")


def test_a_list_too_long_says_how_much_is_left_out() -> None:
    """A list of millions costs no more than its beginning."""
    taken = json.loads(str(param_value([0] * 10**6)))
    assert taken[-1] == "... [995,905 more]"
    assert len(taken) == 4_096


def test_a_list_that_contains_itself_is_cut() -> None:
    """Sixteen levels, then a word."""
    loop: list[Any] = []
    loop.append(loop)
    assert "nested deeper than 16 levels" in str(param_value(loop))


FLAT_PARAMS = [
    ({"lr": 3e-4}, {"lr": 3e-4}),
    ({"opt": {"lr": 0.1, "betas": (0.9, 0.99)}}, {"opt/lr": 0.1, "opt/betas": "[0.9, 0.99]"}),
    ({"empty": {}, "layers": {0: 64, 1: 32}}, {"empty": "{}", "layers": '{"0": 64, "1": 32}'}),
    (argparse.Namespace(lr=0.1, deep=types.SimpleNamespace(x=1)), {"lr": 0.1, "deep/x": 1}),
    ({"model": Model(4, [1, 2])}, {"model/width": 4, "model/layers": "[1, 2]"}),
    (Model(4, []), {"width": 4, "layers": "[]"}),
    (Settings(), {"lr": 0.1, "depth": 3}),
    ({"x": Ticklish()}, {"x": "<Ticklish>"}),
    ({}, {}),
]


@pytest.mark.parametrize(("params", "flat"), FLAT_PARAMS, ids=[repr(flat) for _, flat in FLAT_PARAMS])
def test_parameters_of_every_make_become_flat(params: Any, flat: dict[str, Any]) -> None:
    """Mappings, namespaces and dataclasses, at the top and nested."""
    assert flatten_params(params) == flat


def test_a_configuration_with_an_unresolved_entry_is_still_taken() -> None:
    """An entry that can't be read says so; the others are kept."""

    class Half(Settings):
        def __iter__(self) -> Iterator[str]:
            return iter(["lr", "missing"])

    assert flatten_params(Half()) == {"lr": 0.1, "missing": "<unreadable: LookupError>"}


@pytest.mark.parametrize("params", [3, "lr=1", [1], {1: 2}, {"": 1}, knot()], ids=repr)
def test_wrong_parameters_are_errors_that_name_them(params: Any) -> None:
    """As for metrics, with the argument's own name."""
    with pytest.raises(RunwireError, match=r"^params: "):
        flatten_params(params)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(anything)
def test_any_parameter_is_taken(value: Any) -> None:
    """Total: a plain value that can be sent, whatever was given."""
    taken = param_value(value)
    assert taken is None or type(taken) in {bool, int, float, str}
    if isinstance(taken, str):
        assert len(taken.encode()) <= TEXT_BYTES_MAX
