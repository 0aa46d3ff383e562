"""One value as JSON or as a CSV cell.

JSON has plain numbers; NaN and ±inf are the strings "NaN", "Infinity", "-Infinity", times ISO 8601 in UTC. In CSV a
text that begins with = + - @ (or a tab or carriage return) gets an apostrophe before it, since spreadsheets would take
it for a formula.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def json_text(value: Any) -> str:
    """One value as JSON text, always valid: what JSON lacks becomes a string."""
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:  # noqa: C901, PLR0911 - one case a type
    """The value in what JSON has: strings, numbers, booleans, None, lists and dicts with string keys."""
    match value:
        case None | bool() | int():
            return value
        case str():
            # A lone surrogate can't be sent as UTF-8.
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
        case float():
            return value if math.isfinite(value) else _nonfinite(value)
        case Decimal():
            return plain(float(value))
        case datetime():
            moment = value.astimezone(UTC) if value.tzinfo else value
            return moment.replace(tzinfo=None).isoformat() + "Z"
        case date() | time():
            return value.isoformat()
        case dict():
            return {key if isinstance(key, str) else json_text(key): plain(held) for key, held in value.items()}
        case list() | tuple():
            return [plain(held) for held in value]
        case bytes():
            return base64.b64encode(value).decode()
        case timedelta():
            return value.total_seconds()
        case _:
            return str(value)


def csv_cell(value: Any) -> Any:
    """One value for a CSV cell; formulas are disarmed, numbers stay numbers."""
    if isinstance(value, (dict, list, tuple)):
        return json_text(value)
    value = plain(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return value if value == "-Infinity" else "'" + value
    return "" if value is None else value


def _nonfinite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
