"""Makes text from a store safe and short for a terminal."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_MINUTE_SECONDS = 60
_HOUR_SECONDS = 3_600
_DAY_SECONDS = 86_400


def clean(value: object) -> str:
    """The text without control characters: a run's name must not be able to drive the terminal.

    Escape sequences, direction marks and line breaks become the sign for what can't be shown.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in _UNSAFE else sign for sign in text)


def clean_lines(text: str) -> str:
    """`clean` for a text that may have lines and tabs of its own."""
    return "\n".join("\t".join(map(clean, line.split("\t"))) for line in text.replace("\r\n", "\n").split("\n"))


def short(value: object, characters_max: int = 60) -> str:
    """The clean text, cut with an ellipsis."""
    text = clean(value)
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def number(value: object) -> str:
    """A value of a metric or parameter: at most six digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return short(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def duration(seconds: float | None) -> str:
    """A span in its two largest units."""
    if seconds is None:
        return ""
    if seconds < _MINUTE_SECONDS:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_SECONDS:
        return f"{whole // 60} min {whole % 60} s"
    if whole < _DAY_SECONDS:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def moment(text: str | None, now: datetime) -> str:
    """An ISO 8601 time as its age, from a week on as its date."""
    if not text:
        return ""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return short(text)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    age = now - at
    if timedelta(0) <= age < timedelta(days=7):
        return f"{duration(age.total_seconds())} ago"
    return at.strftime("%Y-%m-%d %H:%M")


def event_phrase(kind: str, body: str) -> str:
    """What an event says, in a few words; the body as it is where that isn't known."""
    try:
        return _event_phrase(kind, json.loads(body))
    except (AttributeError, KeyError, TypeError, ValueError):
        return str(body)


def _event_phrase(kind: str, body: dict[str, Any]) -> str:
    match kind:
        case "RunStarted":
            # Each process says it twice: at once, and when it has found what it runs on.
            git, packages = body.get("git") or {}, body.get("packages")
            commit = f", commit {git['commit'][:8]}" if git.get("commit") else ""
            found = f"{commit}, packages: {len(packages)}" if packages else ""
            return f"started on {body['host']['name']}, pid {body['pid']}{found}"
        case "ParamsLogged":
            count = len(body["params"])
            return f"{count} parameter{'' if count == 1 else 's'}"
        case "MetricDefined":
            told = [f"best is {body['best']}" if body["best"] else "", f"in {body['unit']}" if body["unit"] else ""]
            return f"{body['metric']}: {', '.join(filter(None, told)) or 'neither best nor unit'}"
        case "RunEnded":
            code = "" if body["exit_code"] is None else f", exit code {body['exit_code']}"
            return f"{body['status']}{code}" + (f": {body['error']}" if body["error"] else "")
        case "AlertRaised":
            return f"{body['level']}: {body['title']}"
        case "RowsLost":
            first, count = body["first_seq"], body["count"]
            return f"rows {first:,} to {first + count - 1:,} lost: {body['reason']}"
        case _:
            return json.dumps(body, ensure_ascii=False)


def pairs(values: dict[str, Any], count_max: int = 3) -> str:
    """Some of a map's entries as `key=value`."""
    shown = [f"{short(key, 30)}={number(value)}" for key, value in list(values.items())[:count_max]]
    if len(values) > count_max:
        shown.append(f"+{len(values) - count_max}")
    return " ".join(shown)
