"""How large one value may become that an expression makes of others, in bytes: pure arithmetic over a call's tree.

An estimate with generous constants: it refuses what grows without bound, it doesn't account for memory.
"""

from __future__ import annotations

import math
import re
from typing import Any

from runwire_consumer.allowlist import Growth
from runwire_consumer.errors import SelectRefused

VALUE_BYTES_MAX = 128_000
NUMBER_BYTES = 16

Node = dict[str, Any]

_REPLACEMENT = 2  # the argument of replace(text, pattern, replacement)
_RANGE_ARGUMENTS = (1, 2, 3)
_PLACE_BYTES = 2_500  # a width and a precision of three digits, and the 309 digits of the largest double


def grown(name: str, growth: Growth, sizes: list[int], children: list[Node]) -> int:  # noqa: C901, PLR0911 - one case a growth
    """The bytes of what `name` makes of arguments of these sizes.

    Raises:
        SelectRefused: A count that has to be written out isn't.
    """
    total = sum(sizes, NUMBER_BYTES)
    match growth:
        case Growth.FIXED:
            return NUMBER_BYTES
        case Growth.LARGEST | Growth.LAMBDA:
            return max(sizes, default=NUMBER_BYTES)
        case Growth.SUM:
            return total
        case Growth.ESCAPED:
            return 8 * total
        case Growth.PRODUCT:
            return math.prod(sizes)
        case Growth.REPLACED | Growth.SEPARATED if not sizes:
            return NUMBER_BYTES  # the engine will refuse it
        case Growth.REPLACED:
            return sizes[0] * _replacement_factor(name, sizes, children)
        case Growth.SEPARATED:
            return total + sizes[0] * len(sizes)
        case Growth.COLLECTED:
            return VALUE_BYTES_MAX
        case Growth.FORMATTED:
            return total + _widths_bytes(children)
        case Growth.COUNTED:
            return _counted_bytes(name, sizes, children)


def _replacement_factor(name: str, sizes: list[int], children: list[Node]) -> int:
    """How many bytes one byte of the text may become."""
    if len(sizes) <= _REPLACEMENT:
        return 1
    literal = all(child["class"] == "CONSTANT" for child in children[1 : _REPLACEMENT + 1])
    # Only with literals is it known that each match takes away as many bytes as the pattern has.
    return -(-sizes[_REPLACEMENT] // sizes[1]) if literal and name == "replace" else sizes[_REPLACEMENT]


def _counted_bytes(name: str, sizes: list[int], children: list[Node]) -> int:
    if name in {"range", "generate_series"}:
        count = range_length(name, children)
        sizes = [NUMBER_BYTES]
    else:
        count = whole_number(children[1]) if len(children) > 1 else None
    if count is None:
        raise SelectRefused(f"{name}() takes its count as a whole number written out here, such as {name}(…, 10).")
    return max(1, count) * max(size for index, size in enumerate(sizes) if index != 1)


def range_length(name: str, children: list[Node]) -> int | None:
    """How many numbers a range() has; None where that isn't written out."""
    numbers = [whole_number(child) for child in children]
    if len(numbers) not in _RANGE_ARGUMENTS or any(number is None for number in numbers):
        return None
    known = [number for number in numbers if number is not None]
    start, stop, step = (0, known[0], 1) if len(known) == 1 else (*known, 1)[:3]
    if step == 0:
        return 0
    return len(range(start, stop + (name == "generate_series"), step)) if abs(stop - start) < 2**62 else None


def whole_number(node: Node) -> int | None:
    """The number that stands there; None where none does."""
    if node["class"] != "CONSTANT":
        return None
    value = node["value"].get("value")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _widths_bytes(children: list[Node]) -> int:
    """What widths and precisions add, when the format is written out and none has more than three digits."""
    text = str(children[0]["value"].get("value", "")) if children and children[0]["class"] == "CONSTANT" else "*"
    if re.search(r"\d{4}|\*|\{[^}]*\{", text):
        return VALUE_BYTES_MAX
    return _PLACE_BYTES * (text.count("{") + text.count("%"))
