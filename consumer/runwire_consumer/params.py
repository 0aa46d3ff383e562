"""Parameters of a query as they come in JSON: what JSON lacks is an object of one key that begins with $."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

PARAMS_MAX = 1_000
_INT_MIN, _INT_MAX = -(2**127), 2**127 - 1


def params_of(given: Any) -> Mapping[str, Any] | list[Any] | None:
    """The values that a query is given.

        {"$time": "2026-01-31T12:00:00Z"}    a TIMESTAMP in UTC; without a zone it is UTC already
        {"$number": "NaN"}                   a DOUBLE: NaN, Infinity, -Infinity

    Args:
        given: An object (for $name), an array (for ?) or None.

    Raises:
        ValueError: In one sentence: they can't be bound.
    """
    if given is None:
        return None
    if not isinstance(given, (dict, list)):
        raise ValueError("'params' must be an object (for $name) or an array (for ?).")  # noqa: TRY004 - a caller's JSON
    if len(given) > PARAMS_MAX:
        raise ValueError(f"'params' has more than {PARAMS_MAX:,} values: put them into a list, such as x = ANY($list).")
    if isinstance(given, dict):
        return {name: _value(value) for name, value in given.items()}
    return [_value(value) for value in given]


def _value(given: Any) -> Any:
    match given:
        case {"$time": str() as text, **rest} if not rest:
            return _moment(text)
        case {"$number": str() as text, **rest} if not rest:
            try:
                return float(text)
            except ValueError:
                raise ValueError(f"$number {text[:40]!r} is no number.") from None
        case dict():
            return {name: _value(value) for name, value in given.items()}
        case list():
            return [_value(value) for value in given]
        case str():
            try:
                given.encode()
            except UnicodeEncodeError:
                raise ValueError("A text in 'params' holds half a character (a lone surrogate): take it out.") from None
            return given
        case int() if not _INT_MIN <= given <= _INT_MAX:
            raise ValueError("A whole number in 'params' has more than 128 bits: send it as a text.")
        case _:
            return given


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"$time {text[:40]!r} is no time: write 2026-01-31T12:00:00Z.") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
