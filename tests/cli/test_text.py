"""Text from a store can't drive a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runwire_cli.text import clean, clean_lines, duration, event_phrase, moment, number, pairs, short

SIGN = "\N{REPLACEMENT CHARACTER}"
NOW = datetime(2025, 1, 10, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train/loss", "train/loss"),
        ("größe-β 🚀", "größe-β 🚀"),
        ("\x1b[31mred", f"{SIGN}[31mred"),
        ("\x1b]0;title\x07", f"{SIGN}]0;title{SIGN}"),
        ("\x9b2J", f"{SIGN}2J"),
        ("a\rb\nc\td\0", f"a{SIGN}b{SIGN}c{SIGN}d{SIGN}"),
        ("abc\N{RIGHT-TO-LEFT OVERRIDE}def", f"abc{SIGN}def"),
        ("\N{ZERO WIDTH SPACE}\N{LINE SEPARATOR}\ufeff", SIGN * 3),
        ("\udcff", SIGN),
        (3, "3"),
        ("", ""),
    ],
)
def test_control_characters_are_replaced(text: object, shown: str) -> None:
    """Escape sequences, direction marks and line breaks; letters of all languages stay."""
    assert clean(text) == shown


def test_lines_may_stay_where_lines_are_meant() -> None:
    """CSV on a terminal keeps its lines and tabs."""
    assert clean_lines("a,\x1bb\r\nc\td\n") == f"a,{SIGN}b\nc\td\n"


def test_long_text_is_cut() -> None:
    """With an ellipsis, to exactly the length asked for."""
    assert short("x" * 100, 10) == "x" * 9 + "…"
    assert short("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1, "0.1"), (1 / 3, "0.333333"), (1234567, "1,234,567"), ("NaN", "NaN"), (True, "True"), (1e-9, "1e-09")],
)
def test_numbers(value: object, shown: str) -> None:
    """Six digits are enough for a person."""
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    """The two largest units."""
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, ""),
        ("2025-01-10T11:59:58Z", "2.0 s ago"),
        ("2025-01-09T11:00:00Z", "1 d 1 h ago"),
        ("2024-12-24T18:00:00Z", "2024-12-24 18:00"),
        ("2025-01-10T13:00:00", "2025-01-10 13:00"),
        ("infinity", "infinity"),
    ],
)
def test_moments(text: str | None, shown: str) -> None:
    """Recent ones as an age, old and future ones as a date."""
    assert moment(text, NOW) == shown


def test_maps_show_their_first_entries() -> None:
    """And say how many more there are."""
    assert pairs({"lr": 0.1, "a\nb": "x", "c": 3, "d": 4}) == f"lr=0.1 a{SIGN}b=x c=3 +1"
    assert pairs({}) == ""


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("RunStarted", '{"host": {"name": "node-1"}, "pid": 25374}', "started on node-1, pid 25374"),
        (
            "RunStarted",
            '{"host": {"name": "n"}, "pid": 7, "git": {"commit": "0123456789ab"}, "packages": {"numpy": "2.4"}}',
            "started on n, pid 7, commit 01234567, packages: 1",
        ),
        ("ParamsLogged", '{"params": {"lr": 0.1, "batch": 64}}', "2 parameters"),
        ("ParamsLogged", '{"params": {"lr": 0.1}}', "1 parameter"),
        ("MetricDefined", '{"metric": "val/acc", "best": "max", "unit": null}', "val/acc: best is max"),
        ("MetricDefined", '{"metric": "time", "best": "min", "unit": "s"}', "time: best is min, in s"),
        ("RunEnded", '{"status": "finished", "exit_code": null, "error": null}', "finished"),
        ("RunEnded", '{"status": "failed", "exit_code": 1, "error": "OSError"}', "failed, exit code 1: OSError"),
        ("AlertRaised", '{"level": "error", "title": "loss is NaN"}', "error: loss is NaN"),
        ("RowsLost", '{"first_seq": 10, "count": 5, "reason": "disk full"}', "rows 10 to 14 lost: disk full"),
        ("TextLogged", '{"key": "größe"}', '{"key": "größe"}'),
        ("RunStarted", "{}", "{}"),
        ("RunStarted", "no JSON", "no JSON"),
        ("RowsLost", "[1]", "[1]"),
    ],
)
def test_events_are_told_in_a_few_words(kind: str, body: str, shown: str) -> None:
    """A body that isn't as expected is shown as it is."""
    assert event_phrase(kind, body) == shown
