"""Curves in characters: what is least and greatest is drawn, what isn't finite is marked, nothing breaks the grid."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_cli.chart import Bucket, chart, is_logarithmic, sparkline

GUTTER = 11
NAN, INF = float("nan"), float("inf")
NAN_MARK, INFINITE_MARK = "\N{MULTIPLICATION SIGN}", "\N{INFINITY}"


def points(*values: float) -> list[Bucket]:
    """A bucket a value, as the macro `curve` gives them while there are few."""
    buckets = []
    for step, value in enumerate(values):
        mean = value if abs(value) < INF else NAN
        buckets.append(Bucket(step, step, mean, value, value, int(math.isnan(value)), int(abs(value) == INF)))
    return buckets


@pytest.mark.parametrize(
    ("values", "cells", "line"),
    [
        ([], 9, ""),
        ([1.0], 9, "▁"),
        ([3.0, 3.0], 9, "▁▁"),
        ([0.1, 0.1 + 1e-16], 9, "▁▁"),
        ([0.0, 7.0], 9, "▁█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 9, "▁▂▃▄▅▆▇█"),
        ([0.0, 0.0, 7.0, 7.0], 2, "▁█"),
        ([0.0, NAN, 7.0], 9, f"▁{NAN_MARK}█"),
        ([0.0, INF, -INF, 7.0], 9, f"▁{INFINITE_MARK}{INFINITE_MARK}█"),
        ([INF, NAN, 1.0, 2.0], 2, f"{NAN_MARK}▁"),
        ([NAN], 9, NAN_MARK),
        ([-1.7e308, 1.7e308], 9, "▁█"),
    ],
)
def test_sparkline(values: list[float], cells: int, line: str) -> None:
    """Between the finite means' own least and greatest; what isn't finite is marked, also where cells are shared."""
    assert sparkline(points(*values), cells) == line


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [
        ([1.0, 99.0], False),
        ([1.0, 100.0], True),
        ([0.0, 1e9], False),
        ([-1.0, -1e9], False),
        ([NAN], False),
        ([], False),
    ],
)
def test_scale(values: list[float], logarithmic: bool) -> None:  # noqa: FBT001 - a column of the table
    """Positive values over two decades are shown on a logarithmic axis."""
    assert is_logarithmic(points(*values)) is logarithmic


def test_a_line_has_labels_and_an_axis() -> None:
    """Greatest and least value at the left, first and last step below; between two points a line."""
    assert chart(points(0.0, 7.0), 17, 3) == ["         7    ⢀⠤⠊", "         0 ⣀⠤⠊⠁  ", "           0    1"]


def test_a_spike_of_one_point_in_a_million_is_seen() -> None:
    """Its bucket's mean is near the others'; its greatest value is at the top."""
    buckets = [Bucket(1_000 * at, 1_000 * at + 999, 1.0, 0.9, 1.1) for at in range(1_000)]
    buckets[500] = Bucket(500_000, 500_999, 1.1, 0.9, 90.0)
    top, *between, bottom, _ = chart(buckets, 60, 8)
    assert top.strip() != top[:GUTTER].strip()
    assert len(top[GUTTER:].split()) == 1
    assert top[:GUTTER].strip() == "90"
    assert all(len(line.split()) == 1 for line in between)
    assert bottom[:GUTTER].strip() == "0.9"


def test_what_is_not_finite_is_a_hole_and_a_mark() -> None:
    """A mark never makes a number of the axis another one."""
    *drawn, axis = chart(points(1.0, 2.0, NAN, NAN, INF, 2.0, 1.0), 31, 5)
    assert axis[GUTTER:].split() == ["0", NAN_MARK, NAN_MARK, INFINITE_MARK, "6"]
    hole = slice(GUTTER + axis[GUTTER:].index(NAN_MARK), GUTTER + axis[GUTTER:].index(INFINITE_MARK))
    assert all(not line[hole].strip() for line in drawn)
    assert chart(points(1.0, NAN), 30, 4)[-1].split() == ["0", NAN_MARK]
    assert chart([Bucket(0, 9, 1.0, -INF, INF, 1, 2)], 30, 4)[-1].split() == ["0", NAN_MARK, "9"]


@given(
    st.lists(st.tuples(st.floats(), st.floats(), st.floats(), st.integers(0, 2**40)), max_size=60),
    st.integers(1, 80),
    st.integers(1, 12),
)
def test_any_values_fill_exactly_their_place(
    values: list[tuple[float, float, float, int]], cells: int, lines: int
) -> None:
    """Of a grid, whatever the values are; what is finite is drawn."""
    step, buckets = -(2**62), []
    for low, value, high, width in values:
        low, high = min(low, high), max(low, high)  # noqa: PLW2901 - two that are in order
        nan = int(math.isnan(low) or math.isnan(high))
        buckets.append(Bucket(step, step + width, value, low, high, nan, int(INF in {abs(low), abs(high)})))
        step += width + 1
    drawn = chart(buckets, cells, lines)
    assert len(drawn) == max(2, lines)
    assert {len(line) for line in drawn} == {max(GUTTER + 1, cells)}
    if any(bucket.ends for bucket in buckets):
        assert any(line[GUTTER:].strip() for line in drawn[:-1])
    assert len(sparkline(buckets, cells)) == min(cells, len(buckets))
