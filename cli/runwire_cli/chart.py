"""Curves in characters: a line of blocks, and a chart of braille dots in which no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NAN_MARK, INFINITE_MARK = "\N{MULTIPLICATION SIGN}", "\N{INFINITY}"
GUTTER_CELLS = 11
LOG_FROM_RATIO = 100.0
"""Positive values whose greatest is so many times the least are shown on a logarithmic axis."""
FLAT_RATIO = 1e-12
"""What differs by no more, relative to its size, is one value: means of equal values do."""
_BARS = "▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character: from the top, left and right


class Bucket(NamedTuple):
    """What a curve is between two steps: a row of the macro `curve`."""

    first_step: int
    last_step: int
    value: float
    low: float
    high: float
    nan: int = 0
    infinite: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Bucket:
        """From JSON, where NaN and infinities are text."""
        value, low, high = (float(row[name]) for name in ("value", "min", "max"))
        return cls(row["first_step"], row["last_step"], value, low, high, row["nan"], row["infinite"])

    @property
    def mark(self) -> str:
        """What stands for values that have no place on an axis; "" where all have one."""
        return NAN_MARK if self.nan else INFINITE_MARK if self.infinite else ""

    @property
    def ends(self) -> tuple[float, float] | None:
        """Least and greatest finite value, as far as is known beside an infinity; None where nothing is finite."""
        low, high = (end if math.isfinite(end) else self.value for end in (self.low, self.high))
        return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def sparkline(buckets: Sequence[Bucket], cells: int) -> str:
    """Means as blocks between their least and greatest; what isn't finite is marked.

    Args:
        buckets: In the order of steps.
        cells: How wide it may become; fewer buckets take less.
    """
    groups: list[list[Bucket]] = [[] for _ in range(min(cells, len(buckets)))]
    for at, bucket in enumerate(buckets):
        groups[at * len(groups) // len(buckets)].append(bucket)
    # Halves: the sum and the distance of two doubles may be more than a double.
    halves = [sum(bucket.value / len(group) for bucket in group) / 2 for group in groups]
    finite = [half for half in halves if math.isfinite(half)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    line = ""
    for group, half in zip(groups, halves, strict=True):
        mark = min((bucket.mark for bucket in group if bucket.mark), default="")  # NaN's before the other
        share = (half - low) / (high - low) if math.isfinite(half) and not _is_flat(low, high) else 0.0
        line += mark or _BARS[round(share * (len(_BARS) - 1))]
    return line


def _is_flat(low: float, high: float) -> bool:
    return high / 2 - low / 2 <= FLAT_RATIO * max(abs(low), abs(high))


def is_logarithmic(buckets: Sequence[Bucket]) -> bool:
    """Whether `chart` shows them on a logarithmic axis."""
    ends = [bucket.ends for bucket in buckets if bucket.ends]
    low, high = min((end[0] for end in ends), default=0.0), max((end[1] for end in ends), default=0.0)
    return low > 0 and high / low >= LOG_FROM_RATIO


def chart(buckets: Sequence[Bucket], cells: int, lines: int) -> list[str]:
    """A line chart: values at the left, steps below, marks where values are NaN or infinite.

    Args:
        buckets: In the order of steps; each reaches from its least to its greatest value.
        cells: Width, the gutter included.
        lines: Height, the axis included.
    """
    columns, rows = 2 * max(1, cells - GUTTER_CELLS), 4 * max(1, lines - 1)
    ends = [bucket.ends for bucket in buckets]
    low, high = min((end[0] for end in ends if end), default=0.0), max((end[1] for end in ends if end), default=0.0)
    first, last = (buckets[0].first_step, buckets[-1].last_step) if buckets else (0, 0)
    bend = math.log if is_logarithmic(buckets) else lambda value: value / 2  # half: see sparkline
    floor, height = bend(low), 0.0 if _is_flat(low, high) else bend(high) - bend(low)

    def column_of(bucket: Bucket) -> int:
        return ((bucket.first_step + bucket.last_step) // 2 - first) * (columns - 1) // max(1, last - first)

    def row_of(value: float) -> int:
        return round((bend(value) - floor) / height * (rows - 1)) if height > 0 else (rows - 1) // 2

    spans: dict[int, tuple[int, int]] = {}

    def cover(column: int, bottom: int, top: int) -> None:
        known = spans.get(column, (bottom, top))
        spans[column] = min(known[0], bottom), max(known[1], top)

    before: tuple[int, int] | None = None
    marks: dict[int, str] = {}
    for bucket, end in zip(buckets, ends, strict=True):
        column = column_of(bucket)
        if bucket.mark:
            marks[column // 2] = min(bucket.mark, marks.get(column // 2, bucket.mark))
        if end is None:
            before = None  # nothing finite: a hole
            continue
        row = row_of(min(max(end[0], bucket.value), end[1]))
        if before is not None:
            for between in range(before[0] + 1, column):
                on_line = before[1] + (row - before[1]) * (between - before[0]) // (column - before[0])
                cover(between, on_line, on_line)
        cover(column, row_of(end[0]), row_of(end[1]))
        before = column, row
    drawn = _dotted(_joined(spans), columns // 2, rows // 4)
    axis = _axis(first, last, columns // 2, marks)
    labels = [""] * len(drawn)
    if spans:
        labels[0], labels[-1] = f"{high:.3g}", f"{low:.3g}" if height > 0 else ""
    return [f"{text:>{GUTTER_CELLS - 1}} {line}" for text, line in zip([*labels, ""], [*drawn, axis], strict=True)]


def _axis(first: int, last: int, cells: int, marks: Mapping[int, str]) -> str:
    """The marks, and first and last step where these leave room: half a number would be another one."""
    text, end = f"{first:,} ", f" {last:,}" if first < last else ""
    if len(text) > cells or any(at < len(text) for at in marks):
        text = ""
    if len(text + end) > cells or any(at >= cells - len(end) for at in marks):
        end = ""
    axis = text.ljust(cells - len(end)) + end
    return "".join(marks.get(at, sign) for at, sign in enumerate(axis))


def _joined(spans: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Neighbours reach to each other, so that a steep curve is one line."""
    joined = dict(spans)
    for column, (bottom, top) in spans.items():
        left = spans.get(column - 1)
        if left is not None:
            joined[column] = min(bottom, left[1] + 1), max(top, left[0] - 1)
    return joined


def _dotted(spans: Mapping[int, tuple[int, int]], cells: int, lines: int) -> list[str]:
    dots = [[0] * cells for _ in range(lines)]
    for column, (bottom, top) in spans.items():
        for row in range(bottom, top + 1):
            from_top = 4 * lines - 1 - row
            dots[from_top // 4][column // 2] |= _DOTS[from_top % 4][column % 2]
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in line) for line in dots]
