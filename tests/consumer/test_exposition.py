"""The text format: labels of any text, values as they are, and one answer for all who scrape at a time."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from runwire_consumer.exposition import LABEL_BYTES_MAX, Exposition, Lines, label, number, pair, render

LONG = "x" * 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "loss",
        "x" * LABEL_BYTES_MAX,
        "ä/β \n\r\t",
        'say "hi" \\',
        "val/acc…-12",
        "é" * 128,
        "\ufffd",
        "\x7f",
        "a\0b",
    ],
)
def test_what_can_be_sent_stays_as_it_is(text: str) -> None:
    """Names are verbatim, whatever they are made of."""
    assert label(text) == text


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        (LONG, "x" * 220 + "…-"),
        ("é" * 200, "é" * 110 + "…-"),
        ("x" + "é" * 200, "x" + "é" * 109 + "…-"),  # 221 bytes would split a character
        ("🙂" * 100, "🙂" * 55 + "…-"),
        ("a\udcffb", "a\ufffdb…-"),
        (label(LONG), "x" * 220 + "…-"),
    ],
)
def test_what_can_not_is_cut_and_marked(text: str, begins: str) -> None:
    """It begins as the text does, is as long as it may be, and ends with a digest of the whole."""
    found = label(text)
    assert found[:-32] == begins
    assert len(found.encode()) <= LABEL_BYTES_MAX
    assert set(found[-32:]) <= set("0123456789abcdef")


@given(st.sets(st.text(st.characters(), max_size=6) | st.text("ab\ud800\udfff\ufffd", max_size=8), max_size=20))
@example({LONG + "1", LONG + "2", "a\ud800"})
def test_two_texts_are_never_one_label(texts: set[str]) -> None:
    """Not even a long one and one that is spelled as it is cut."""
    texts |= {f"{text}{LONG}" for text in texts}
    texts |= {label(text) for text in texts}
    labels = {label(text) for text in texts}
    assert len(labels) == len(texts)
    assert max((len(one.encode()) for one in labels), default=0) <= LABEL_BYTES_MAX


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1.0"), (-0.0, "-0.0"), (5e-324, "5e-324"), (1.7e308, "1.7e+308"), (0.1, "0.1"),
     (math.nan, "NaN"), (-math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")],
)  # fmt: skip
def test_values_as_prometheus_reads_them(value: float, text: str) -> None:
    """Every bit that counts is there."""
    assert number(value) == text


class Fixed(Collector):
    """A gauge with a series a text."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.asked = 0

    def describe(self) -> list[Metric]:
        """Its name."""
        return [Lines("lines", "")]

    def collect(self) -> Iterator[Metric]:
        """One family."""
        self.asked += 1
        family = Lines("lines", 'Some "help" \\ of\ntwo lines.')
        for place, text in enumerate(self.texts):
            family.add(f"{pair('one', text)},{pair('two', 'x' + text)}", place)
        yield family


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5))
@example(["\n", "a\\nb", "\\", '"', '",two="x"} 1', "{", "}", "#", " "])
def test_a_parser_reads_back_what_was_written(texts: list[str]) -> None:
    """Quotes, newlines, backslashes and braces included; help and type stand once, also beside the library's own."""
    registry = CollectorRegistry()
    Gauge("plain", "Of the library.", registry=registry).set(3)
    registry.register(Fixed(texts))
    text = render(registry).decode()
    plain, lines = text_string_to_metric_families(text)
    assert [(one.labels["one"], one.labels["two"]) for one in lines.samples] == [(one, f"x{one}") for one in texts]
    assert (lines.type, lines.documentation) == ("gauge", 'Some "help" \\ of\ntwo lines.')
    assert plain.samples[0].value == 3
    assert text.count("# HELP") == text.count("# TYPE") == 2


def scraped_at(moments: list[float], took_seconds: float) -> list[int]:
    """How often the registry was asked by each of these moments, when rendering takes so long."""
    registry, clock = CollectorRegistry(), [0.0]
    collector = Fixed([])
    registry.register(collector)
    exposition = Exposition(registry, lambda: clock[0])
    render_once = collector.collect

    def slow() -> Iterator[Metric]:
        clock[0] += took_seconds
        return render_once()

    collector.collect = slow  # type: ignore[method-assign]
    asked = []
    for moment in moments:
        clock[0] = max(clock[0], moment)
        exposition.answer()
        asked.append(collector.asked)
    return asked


@pytest.mark.parametrize(
    ("took_seconds", "moments", "asked"),
    [
        (0.1, [0, 0.1, 0.3, 0.49, 0.5, 0.6, 1.1], [1, 1, 1, 1, 2, 2, 3]),  # a fifth of the time at most
        (0.0, [0, 0, 0.01], [1, 2, 3]),
        (2.0, [0, 2.9, 3.1], [1, 1, 2]),  # but no answer is older than a second
    ],
)
def test_who_asks_soon_gets_the_same_answer(took_seconds: float, moments: list[float], asked: list[int]) -> None:
    """However many scrape, rendering takes a fifth of one thread's time at most."""
    assert scraped_at(moments, took_seconds) == asked


def test_a_large_answer_is_there_gzipped_too() -> None:
    """A small one isn't worth it."""
    registry = CollectorRegistry()
    collector = Fixed(["a"])
    registry.register(collector)
    assert Exposition(registry).answer().gzipped is None
    collector.texts = ["long name"] * 1_000
    answer = Exposition(registry).answer()
    body, headers = answer.suiting("deflate, gzip")
    assert gzip.decompress(body) == answer.text
    assert len(body) < len(answer.text) / 5
    assert headers["content-encoding"] == "gzip"
    for plain in ("", "identity", "br"):
        body, headers = answer.suiting(plain)
        assert (body, headers.get("content-encoding")) == (answer.text, None)
