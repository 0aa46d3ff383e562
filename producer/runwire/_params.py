"""The liberal door for parameters: configurations of any make become flat plain values that can be sent.

Parameters are forgiving where metrics are strict: what is no plain value becomes text, lists and odd mappings
become JSON, and what is left out of a long one is said in its place. Only keys are checked.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from runwire._context.redaction import redact_params
from runwire._errors import UsageError, UsageTypeError
from runwire._values import DEPTH_MAX, dtype_kind, flatten, scalar, shape_of, shown, too_deep, unreadable

Param = bool | int | float | str | None

TEXT_BYTES_MAX = 16 * 1_024
PARAMS_BYTES_MAX = 256 * 2**10  # of one record
ELEMENTS_MAX = 4_096  # of a list kept as JSON: about what TEXT_BYTES_MAX can show
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_COLLECTIONS = (list, tuple, set, frozenset)


def flatten_params(params: object, argument: str = "params") -> dict[str, Param]:
    """Parameters as flat plain values.

    Takes mappings (OmegaConf's too), dataclasses, attrs and pydantic classes, named tuples and
    `argparse.Namespace`. A nested one becomes keys such as `outer/inner` where all its keys are strings,
    else one value as JSON. Secrets are masked by `redaction.redact_params` afterwards.

    Raises:
        UsageTypeError: No such thing, or a key that is no string.
        UsageValueError: An empty, overlong or repeated key; nesting deeper than DEPTH_MAX.
    """
    try:
        mapping = _as_mapping(params)
        flat = None if mapping is None else flatten(_nested(mapping, argument, DEPTH_MAX), argument)
    except (UsageError, RecursionError):
        raise
    except Exception as error:
        raise unreadable(argument, error) from error
    if flat is None:
        raise UsageTypeError(argument, f"must be a mapping of names to values, not {shown(params)}")
    return {key: param_value(value) for key, value in flat.items()}


def param_value(value: Any) -> Param:
    """One parameter as a plain value; never raises.

    Integers beyond 64 bits become text, lists and mappings JSON, other objects their `str()`.
    Text above TEXT_BYTES_MAX is cut and says so at its end.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value  # type: ignore[no-any-return]
    try:
        return _param_value(value)
    except Exception:  # noqa: BLE001 - foreign objects may raise anything when looked at; a parameter isn't worth it
        return _placeholder(value)


def text_of(value: object) -> str:
    """What `str()` gives, as it can be sent; never raises."""
    try:
        return printable(str.__str__(str(value)))
    except Exception:  # noqa: BLE001 - foreign objects may raise anything; Python itself refuses to print huge ints
        return _placeholder(value)


def _placeholder(value: object) -> str:
    try:
        return f"<{type(value).__qualname__}>"
    except Exception:  # noqa: BLE001 - a class may answer with anything, too
        return "<?>"


def printable(text: str) -> str:
    """Text that UTF-8 can carry, cut visibly at TEXT_BYTES_MAX."""
    encoded = text[: TEXT_BYTES_MAX + 1].encode("utf-8", "backslashreplace")
    if len(encoded) <= TEXT_BYTES_MAX and len(text) <= TEXT_BYTES_MAX:
        return encoded.decode()
    marker = f"... [cut: {len(text):,} characters]"
    return encoded[: TEXT_BYTES_MAX - len(marker)].decode("utf-8", "ignore") + marker


def _as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Records of any make as a mapping of their fields; None for all else."""
    kind = type(value)
    if issubclass(kind, Mapping):
        return value  # type: ignore[no-any-return]
    if issubclass(kind, (type, enum.Enum)):
        return None
    if issubclass(kind, tuple):
        names = getattr(kind, "_fields", None)
    else:
        names = (
            getattr(kind, "__dataclass_fields__", None)
            or getattr(kind, "model_fields", None)  # pydantic
            or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
        )
    if names:
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if (kind.__module__, kind.__name__) in {("argparse", "Namespace"), ("types", "SimpleNamespace")}:
        return dict(vars(value))
    return None


def _nested(mapping: Mapping[Any, Any], argument: str, depth: int) -> dict[Any, Any]:
    """A copy whose values are nested dicts to flatten, or leaves."""
    if depth == 0:
        raise too_deep(argument)
    copy: dict[Any, Any] = {}
    for key in mapping:
        try:
            value = mapping[key]
            fields = _as_mapping(value)
        except Exception as error:  # noqa: BLE001 - a config with an unresolved entry is still a config
            value, fields = f"<unreadable: {type(error).__name__}>", None
        if fields and all(isinstance(name, str) and name for name in fields):
            value = _nested(fields, argument, depth - 1)
        elif fields is not None:
            value = _json(fields)  # else a mapping with other keys would be flattened, or an empty one vanish
        copy[key] = value
    return copy


def _param_value(value: Any) -> Param:
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, str) else value.name
    kind = type(value)
    if issubclass(kind, int):
        return _integer(int.__int__(value))
    if issubclass(kind, float) or kind.__module__ in {"decimal", "fractions"}:
        return scalar(value)
    if shape_of(value) == "()" and dtype_kind(value) not in {"m", "M"}:
        plain = value.item()
        return _param_value(plain) if isinstance(plain, (int, float, str)) else printable(str(plain))
    return printable(_text(value))


def _integer(value: int) -> int | str:
    if _INT64_MIN <= value <= _INT64_MAX:
        return value
    try:
        return printable(str(value))
    except ValueError:  # Python refuses to print more than 4,300 digits
        return printable(hex(value))


def _text(value: Any) -> str:
    """Text as it is, a collection as JSON, a class or function by its name, another object by its `str()`."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[: TEXT_BYTES_MAX + 1]).decode("utf-8", "backslashreplace")
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if _is_collection(value):
        return _json(value)
    name = getattr(value, "__qualname__", None)
    if callable(value) and isinstance(name, str):
        return f"{value.__module__}.{name}".removeprefix("builtins.")
    # Imported here: parameters are flattened once a run, and `import runwire` stays light.
    import re  # noqa: PLC0415

    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))  # an address says nothing, and differs by rank


def _is_collection(value: Any) -> bool:
    if isinstance(value, _COLLECTIONS) or _as_mapping(value) is not None:
        return True
    return shape_of(value) not in {"", "()"} or type(value).__module__.startswith("omegaconf")


def _json(value: Any) -> str:
    import json  # noqa: PLC0415 - as above

    return json.dumps(_jsonable(value, [ELEMENTS_MAX], DEPTH_MAX), ensure_ascii=False)


def _jsonable(value: Any, budget: list[int], depth: int) -> Any:
    """Plain lists and dicts of at most `budget[0]` elements together."""
    budget[0] -= 1
    if isinstance(value, enum.Enum) or not _is_collection(value):
        plain = param_value(value)
        return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain
    if depth == 0:
        return f"... [nested deeper than {DEPTH_MAX} levels]"
    fields = _as_mapping(value)
    if fields is not None:
        return _json_fields(fields, budget, depth - 1)
    if shape_of(value) and not isinstance(value, _COLLECTIONS):
        if math.prod(value.shape) > ELEMENTS_MAX:
            return f"<{shown(value)}>"
        value = value.tolist()
    return _json_items(value, budget, depth - 1)


def _json_fields(fields: Mapping[Any, Any], budget: list[int], depth: int) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key in fields:
        if budget[0] <= 0:
            pairs["..."] = f"[{len(fields) - len(pairs):,} more]"
            break
        pairs[str(param_value(key))] = _jsonable(fields[key], budget, depth)
    return pairs


def _json_items(values: Any, budget: list[int], depth: int) -> list[Any]:
    items: list[Any] = []
    for item in sorted(values, key=repr) if isinstance(values, (set, frozenset)) else values:
        if budget[0] <= 0:
            items.append(f"... [{len(values) - len(items):,} more]")
            break
        items.append(_jsonable(item, budget, depth))
    return items


def flat_params(params: object, argument: str = "params") -> dict[str, Any]:
    """Parameters as they are sent: flat, plain, secrets masked.

    Raises:
        UsageTypeError: No mapping, or a key that is no string.
        UsageValueError: An empty, overlong or repeated key; nesting too deep.
    """
    return redact_params(flatten_params(params, argument))


def parts(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters in records of bounded size."""
    part: dict[str, Any] = {}
    size = 0
    for key, value in params.items():
        cost = len(key) * 4 + (len(value) * 4 if isinstance(value, str) else 16)
        if part and size + cost > PARAMS_BYTES_MAX:
            yield part
            part, size = {}, 0
        part[key] = value
        size += cost
    if part:
        yield part
