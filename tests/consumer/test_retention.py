"""Anchors as text, and how near the oldest unread record is to being removed, in tables of values."""

from __future__ import annotations

import logging
import math

import pytest

from runwire_consumer.sources.anchors import NOTHING, Anchor
from runwire_consumer.sources.retention import RetentionWatch, Unread
from runwire_consumer.sources.topic_facts import Retention

NOW = 1_800_000_000_000
HOUR = 3_600_000

ANCHORS = [
    ("42 1700000000000 deadbeef Zk1-_x", Anchor("Zk1-_x", 42, 1_700_000_000_000, "deadbeef")),
    ("42 1700000000000 deadbeef", Anchor("", 42, 1_700_000_000_000, "deadbeef")),
    ("42 -1 deadbeef", Anchor("", 42, -1, "deadbeef")),
    ("- - - Zk1", Anchor("Zk1")),
    ("", NOTHING),
]


@pytest.mark.parametrize(("text", "anchor"), ANCHORS)
def test_anchors_and_their_text(text: str, anchor: Anchor) -> None:
    """There and back, of every shape that a store may hold."""
    assert Anchor.parse(text) == anchor
    assert str(anchor) == text


@pytest.mark.parametrize("text", ["x", "1 2", "a b c", "1 b c", "-1 2 c", "  ", "1  "])
def test_what_is_no_anchor_is_nothing(text: str) -> None:
    """It costs a comparison, never an error."""
    assert Anchor.parse(text) == NOTHING


def test_an_anchor_is_of_one_record() -> None:
    """Place, time and value; another topic is certain only where both are known."""
    anchor = Anchor.of("T", 3, 9, b"value")
    assert anchor.is_of(3, 9, b"value")
    assert not any([anchor.is_of(4, 9, b"value"), anchor.is_of(3, 8, b"value"), anchor.is_of(3, 9, None)])
    assert [anchor.is_elsewhere(other) for other in ("T", "U", "")] == [False, True, False]
    assert not Anchor("", 3, 9, "x").is_elsewhere("U")


RATIOS = [
    # (retention, age of the oldest in hours, unread, in the log, bytes a record, ratio)
    (Retention(), 5_000, 10, 10, 1_000, 0.0),
    (Retention(seconds=36_000.0), 5, 10, 10, 1_000, 0.5),
    (Retention(seconds=36_000.0), 12, 10, 10, 1_000, 1.2),
    (Retention(seconds=36_000.0), -5, 10, 10, 1_000, 0.0),  # a clock that jumped
    (Retention(seconds=36_000.0), None, 10, 10, 1_000, 0.0),
    (Retention(bytes=10_000.0), 5, 6, 10, 1_000, 0.6),
    (Retention(bytes=10_000.0), 5, 6, 100, 1_000, 0.06),  # less of the log than its bytes would say
    (Retention(bytes=10_000.0), 5, 6, 6, 0, 0.0),  # no record read yet
    (Retention(seconds=36_000.0, bytes=10_000.0), 5, 6, 10, 1_000, 0.6),
]


@pytest.mark.parametrize("case", RATIOS)
def test_how_much_is_used_up(case: tuple[Retention, float | None, int, int, float, float]) -> None:
    """By age or by size, whichever is more."""
    retention, age, unread, held, record_bytes, ratio = case
    waiting = Unread(record_bytes=record_bytes)
    waiting.is_now(None if age is None else NOW - round(age * HOUR), held - unread, held, 0)
    assert waiting.used_ratio(retention, NOW) == pytest.approx(ratio)


def test_half_is_said_once_until_it_was_calm(caplog: pytest.LogCaptureFixture) -> None:
    """Above half once, again only after it was below a quarter; unknown and endless retention say nothing."""
    watch = RetentionWatch("kafka://broker:9092/team")
    with caplog.at_level(logging.WARNING):
        watch.judge([Unread(oldest=0)], NOW)
        assert (watch.used_ratio, watch.seconds, watch.is_finite) == (None, None, False)
        watch.learn(Retention())
        watch.judge([Unread(oldest=0)], NOW)
        assert (watch.used_ratio, watch.seconds, watch.is_finite) == (0.0, math.inf, False)
        watch.learn(Retention(seconds=36_000.0))
        for hours, told in ((4, 0), (6, 1), (9, 1), (4, 1), (6, 1), (2, 1), (6, 2)):
            watch.judge([Unread(oldest=NOW - hours * HOUR), Unread(oldest=NOW)], NOW)
            assert watch.used_ratio == pytest.approx(hours / 10)
            assert len(caplog.messages) == told
        assert "has used up 60 % of the topic's retention (10 hours)" in caplog.text
        watch.judge([], NOW)
        assert watch.used_ratio == 0.0


def test_a_compacted_topic_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Compaction removes rows, and who set it should know."""
    watch = RetentionWatch("kafka://broker:9092/team")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            watch.learn(Retention(compacted=True))
    assert len(caplog.messages) == 1
    assert "cleanup.policy=compact" in caplog.text
