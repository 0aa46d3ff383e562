"""The liberal door for metrics: any number becomes a float, any nested mapping flat keys, or a clear error.

1. A number stays what it is: NaN, infinities and -0.0 are kept; an integer or fraction beyond the range of
   float64 becomes the infinity of its sign, which is its IEEE 754 rounding.
2. No `__float__` of a foreign object is called (it may wait for a device): exact types, then `.item()` of
   numpy, torch and jax, `.numpy()` of TensorFlow. No such library is imported. What is on a device is not read at all
   but handed on as `Remote` (`_device.py`).
3. Keys stay verbatim, NUL and right-to-left text included; only lone surrogates, which no UTF-8 can carry,
   are escaped with a backslash. Nested mappings become `outer/inner`.
4. Whatever a foreign object's own methods raise or claim, the caller gets UsageTypeError; RecursionError stays what
   it is, for it is about the caller's depth.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from runwire._device import Remote, remote
from runwire._errors import UsageError, UsageTypeError, UsageValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_BYTES_MAX = 1_024
DEPTH_MAX = 16
ROW_KEYS_MAX = 1_000
ROW_NAMES_BYTES_MAX = 256 * 2**10
_SHOWN_CHARACTERS = 40

PLAIN_TYPES: frozenset[type] = frozenset({float, int, bool})  # a caller may pack these without `scalar`


def metric_row(metrics: object) -> tuple[tuple[str, ...], tuple[float | Remote, ...]]:
    """Keys and values of one `log()` call, of equal length.

    Raises:
        UsageTypeError: No mapping, a key that is no string, a value that is no number.
        UsageValueError: An empty, overlong or repeated key; nesting deeper than DEPTH_MAX.
    """
    try:
        flat = flatten(metrics)
        return tuple(flat), tuple(_remote_or_scalar(value, key) for key, value in flat.items())
    except (UsageError, RecursionError):
        raise
    except Exception as error:
        raise unreadable("metrics", error) from error


def _remote_or_scalar(value: Any, key: str) -> float | Remote:
    if type(value) is float:
        return value
    try:
        found = remote(value)
        is_one = found is None or (math.prod(value.shape) == 1 and "complex" not in str(value.dtype))
    except Exception as error:
        raise _no_number(value, key) from error
    if not is_one:
        raise _no_number(value, key)
    return found or scalar(value, key)


def scalar(value: Any, key: str = "") -> float:
    """One number as a float.

    Raises:
        UsageTypeError: It is no number; the sentence names `key` and the type.
    """
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if issubclass(kind, int):  # of the type, not the object: a lazy proxy may claim any class and isn't one
        return rounded(int.__int__(value))
    if issubclass(kind, float):  # a subclass such as numpy.float64: its own conversion is not asked
        return float.__float__(value)
    if kind.__module__ in {"decimal", "fractions"}:
        return rounded(value)
    plain = _read(value, key)
    if issubclass(type(plain), (int, float)) or type(plain).__module__ in {"decimal", "fractions"}:
        return scalar(plain)
    if type(plain).__module__ == "numpy" and dtype_kind(plain) == "f":
        return float(plain)  # numpy.longdouble gives itself
    raise _no_number(value, key)


def flatten(mapping: object, argument: str = "metrics") -> dict[str, Any]:
    """A flat copy: nested mappings become keys such as `outer/inner`; empty ones leave nothing.

    Raises:
        UsageTypeError: No mapping, or a key that is no string.
        UsageValueError: An empty, overlong or repeated key; nesting deeper than DEPTH_MAX.
    """
    if not isinstance(mapping, Mapping):
        raise UsageTypeError(argument, f"must be a mapping of names to values, not {shown(mapping)}")
    flat: dict[str, Any] = {}
    for path, value in _leaves(mapping, argument):
        if path in flat:
            raise UsageValueError(argument, f"names {shown(path)} twice, once of them nested")
        flat[path] = value
    return flat


def checked_key(key: object, argument: str = "metrics") -> str:
    """The key as a plain string that UTF-8 can carry.

    Raises:
        UsageTypeError: It is no string.
        UsageValueError: It is empty or longer than KEY_BYTES_MAX.
    """
    if not issubclass(type(key), str):
        raise UsageTypeError(argument, f"has the key {shown(key)}: keys must be strings")
    key = str.__str__(key)
    if not key:
        raise UsageValueError(argument, "has an empty key: give every value a name")
    encoded = key.encode("utf-8", "backslashreplace")
    if len(encoded) > KEY_BYTES_MAX:
        raise UsageValueError(
            argument,
            f"has a key of {len(encoded):,} bytes ({shown(key)}): at most {KEY_BYTES_MAX:,} are taken",
        )
    return key if len(encoded) == len(key) else encoded.decode()


def utf8(value: Any) -> Any:
    """Texts that UTF-8 can carry, also inside of others; lone surrogates are escaped with a backslash."""
    if isinstance(value, str):
        return str.__str__(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {utf8(key): utf8(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(utf8(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: utf8(getattr(value, field.name)) for field in fields(value)})
    return value


def rounded(value: Any) -> float:
    """An int, Decimal or Fraction as the nearest float64, which may be an infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:  # a signalling NaN
        return math.nan


def _read(value: Any, key: str) -> Any:
    """What an array or tensor of one element holds."""
    if type(value).__module__.startswith("numpy.ma") and value.mask.any():
        raise UsageTypeError(f"metrics[{shown(key)}]", "is masked: leave the key out where there is no value")
    try:
        if dtype_kind(value) not in {"m", "M"}:  # times would come as bare integers of an unknown unit
            reader = getattr(value, "item", None)
            return reader() if callable(reader) else value.numpy().item()
    except Exception as error:
        raise _no_number(value, key) from error
    raise _no_number(value, key)


def dtype_kind(value: Any) -> str:
    """The letter numpy gives an element type (f, i, u, b, c, m, M, S, U, O, V); empty for what has none."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return kind if isinstance(kind, str) else ""


def _no_number(value: Any, key: str) -> UsageTypeError:
    if value is None:
        remedy = "leave the key out where there is no value"
    elif issubclass(type(value), str):
        remedy = "texts belong to params"
    elif shape_of(value) not in {"", "()"}:
        remedy = "reduce it to one number first, as .mean() does"
    else:
        remedy = "a Python or numpy number, or a tensor of one element, is taken"
    return UsageTypeError(f"metrics[{shown(key)}]", f"must be a number, not {shown(value)}: {remedy}")


def shape_of(value: Any) -> str:
    """The shape of an array or tensor as `(2, 3)`; empty for what has none."""
    try:
        shape = getattr(value, "shape", None)
        return "" if shape is None else str(tuple(int(size) for size in shape))
    except Exception:  # noqa: BLE001 - only decorates an error that is on its way
        return ""


def shown(value: Any) -> str:
    """A value as an error may name it: plain ones by a short repr, others by type and shape."""
    kind = type(value)
    if value is None:
        return "None"
    if kind is str:
        return repr(value) if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]!r}..."
    try:
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    except Exception:  # noqa: BLE001 - a class may answer with anything; this only decorates an error
        return "an object"
    if kind is bool or kind is float or (kind is int and value.bit_length() < _SHOWN_CHARACTERS):
        return f"{name} {value!r}"
    shape = shape_of(value)
    return f"{name} of shape {shape}" if shape else name


def _leaves(mapping: Mapping[Any, Any], argument: str, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    if depth > DEPTH_MAX:
        raise too_deep(argument)
    # Of a dict a copy, for another thread may be changing it; and its pairs, for a key may have a hash of its own.
    pairs = mapping.copy().items() if type(mapping) is dict else ((name, mapping[name]) for name in mapping)
    for name, value in pairs:
        key = checked_key(name, argument)
        path = checked_key(f"{prefix}/{key}", argument) if prefix else key
        if type(value) not in PLAIN_TYPES and issubclass(type(value), Mapping):
            yield from _leaves(value, argument, path, depth + 1)
        else:
            yield path, value


def checked_text(argument: str, value: object) -> str:
    """A string of any make as Python's own.

    Raises:
        UsageTypeError: It is none.
    """
    if not issubclass(type(value), str):  # of the type, as above: what claims to be one has none of its methods
        raise UsageTypeError(argument, f"must be a string, not {shown(value)}")
    return str.__str__(value)


def checked_int(argument: str, value: object) -> int:
    """An int of any make as Python's own.

    Raises:
        UsageTypeError: It is none.
    """
    try:
        return int.__int__(operator.index(value))  # type: ignore[arg-type]
    except Exception as error:
        raise UsageTypeError(argument, f"must be an int, not {shown(value)}") from error


def checked_int64(argument: str, value: object) -> int:
    """`checked_int` of 64 bits.

    Raises:
        UsageTypeError: It is no int.
        UsageValueError: It has more bits.
    """
    number = checked_int(argument, value)
    if not -(2**63) <= number < 2**63:
        raise UsageValueError(argument, "must fit into 64 bits")
    return number


def unreadable(argument: str, error: Exception) -> UsageTypeError:
    """The error for an object whose own methods raise."""
    return UsageTypeError(argument, f"can't be read: it raises {type(error).__name__}")


def too_deep(argument: str) -> UsageValueError:
    """The error for nesting that has no end in sight."""
    return UsageValueError(argument, f"is nested deeper than {DEPTH_MAX} levels, or contains itself")


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> str:
    """The word as a plain string.

    Raises:
        UsageValueError: It is none of the words.
    """
    word = str.__str__(value) if issubclass(type(value), str) else ""
    if word not in choices:
        raise UsageValueError(argument, f"must be one of {', '.join(choices)}, not {shown(value)}")
    return word


def is_long(keys: tuple[str, ...]) -> bool:
    """Whether the names alone may be more than a row may hold of them."""
    return sum(map(len, keys)) * 4 > ROW_NAMES_BYTES_MAX


def row_slices(keys: tuple[str, ...]) -> Iterator[slice]:
    """Parts of at most ROW_KEYS_MAX keys and ROW_NAMES_BYTES_MAX bytes of names."""
    if len(keys) <= ROW_KEYS_MAX and not is_long(keys):
        yield slice(0, len(keys))
        return
    start = size = 0
    for at, key in enumerate(keys):
        key_bytes = len(key.encode())
        if at - start >= ROW_KEYS_MAX or size + key_bytes > ROW_NAMES_BYTES_MAX:
            yield slice(start, at)
            start, size = at, 0
        size += key_bytes
    yield slice(start, len(keys))
