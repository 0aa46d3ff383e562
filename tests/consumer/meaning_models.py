"""What the macros promise, in plain Python: each works on points as (step, value) or by rank."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

NAN = math.nan


def active(spans: Sequence[tuple[int, int]], moment: int) -> int:
    """How much of the spans' union lies before a moment."""
    edges = sorted({moment, *(edge for span in spans for edge in span)})
    return sum(
        end - begin
        for begin, end in pairwise(edges)
        if end <= moment and any(since <= begin and end <= until for since, until in spans)
    )


def smoothed(values: Sequence[float], places: Sequence[float], weight: float) -> list[float]:
    """Every earlier value counts weight ^ distance; NaN and infinities stand for themselves and count nowhere."""
    found = []
    for at, value in enumerate(values):
        if not math.isfinite(value):
            found.append(value)
            continue
        before = [(weight ** (places[at] - places[k]), values[k]) for k in range(at + 1) if math.isfinite(values[k])]
        found.append(math.fsum(share * each for share, each in before) / math.fsum(share for share, _ in before))
    return found


@dataclass(frozen=True)
class Spread:
    """One step over its ranks."""

    ranks: int
    min: float
    min_rank: int | None
    median: float
    mean: float
    max: float
    max_rank: int | None
    stddev: float
    nonfinite: int


def spread(values: Mapping[int, float]) -> Spread:
    """Rank to value of one step."""
    numbers = {rank: value for rank, value in sorted(values.items()) if not math.isnan(value)}
    finite = all(map(math.isfinite, values.values()))
    least, most = min(numbers.values(), default=NAN), max(numbers.values(), default=NAN)
    return Spread(
        len(values),
        least,
        next((rank for rank, value in numbers.items() if value == least), None),
        statistics.median(numbers.values()) if numbers else NAN,
        sum(values.values()) / len(values),
        most,
        next((rank for rank, value in numbers.items() if value == most), None),
        statistics.pstdev(values.values()) if finite else NAN,
        sum(not math.isfinite(value) for value in values.values()),
    )


@dataclass(frozen=True)
class Pace:
    """One rank among the others."""

    points: int
    nonfinite: int
    median: float | None
    others_median: float | None
    slowdown: float | None
    slowest_share: float | None
    straggler: bool | None


def paces(ranks: Mapping[int, Mapping[int, float]], slowdown_min: float) -> dict[int, Pace]:
    """Rank to step to value; a rank without values is there too."""
    finite = {
        rank: {step: value for step, value in points.items() if math.isfinite(value)} for rank, points in ranks.items()
    }
    medians = {rank: statistics.median(points.values()) for rank, points in finite.items() if points}
    return {rank: _pace(rank, points, finite, medians, slowdown_min) for rank, points in ranks.items()}


def _pace(
    rank: int,
    points: Mapping[int, float],
    finite: Mapping[int, Mapping[int, float]],
    medians: Mapping[int, float],
    slowdown_min: float,
) -> Pace:
    mine = medians.get(rank)
    others = [median for other, median in medians.items() if other != rank]
    typical = statistics.median(others) if others and mine is not None else None
    slowdown = mine / typical if mine is not None and typical is not None and typical > 0 else None
    straggler = None
    if slowdown is not None and mine is not None and typical is not None:
        normal = 1.4826 * statistics.median(abs(median - typical) for median in medians.values())
        far = len(others) < 2 or mine - typical > 3.5 * normal
        straggler = mine >= slowdown_min * typical and far
    shared = [
        (value, [each[step] for other, each in finite.items() if other != rank and step in each])
        for step, value in finite[rank].items()
    ]
    compared = [value >= max(theirs) for value, theirs in shared if theirs]
    return Pace(
        len(points),
        len(points) - len(finite[rank]),
        mine,
        typical,
        slowdown,
        sum(compared) / len(compared) if compared else None,
        straggler,
    )


@dataclass(frozen=True)
class Summary:
    """One run by its curve."""

    steps: int
    last_step: int | None
    last: float | None
    min: float | None
    min_step: int | None
    max: float | None
    max_step: int | None
    nonfinite: int


def summary(curve: Mapping[int, float], until_step: int | None) -> Summary:
    """Step to value."""
    kept = {step: value for step, value in sorted(curve.items()) if until_step is None or step <= until_step}
    numbers = {step: value for step, value in kept.items() if not math.isnan(value)}
    least, most = min(numbers.values(), default=None), max(numbers.values(), default=None)
    return Summary(
        len(kept),
        max(kept, default=None),
        kept[max(kept)] if kept else None,
        least,
        next((step for step, value in numbers.items() if value == least), None),
        most,
        next((step for step, value in numbers.items() if value == most), None),
        sum(not math.isfinite(value) for value in kept.values()),
    )


def differing(params: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Run to key to value, only of keys that don't have one value in all runs."""
    keys = {key for mine in params.values() for key in mine}
    same = {key for key in keys if all(key in mine for mine in params.values())}
    same = {key for key in same if len({mine[key] for mine in params.values()}) == 1}
    return {run: {key: value for key, value in mine.items() if key not in same} for run, mine in params.items()}
