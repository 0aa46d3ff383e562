"""Curves for the page: each in at most so many buckets of steps, with its extremes, as columns.

A bucket keeps the least and the greatest value of its steps, so no spike is lost; a curve of no more steps than buckets
comes as it is. What is not finite is counted beside, and is null among the values: JSON has no such numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runwire_consumer.errors import QueryError, RunNotFound
from runwire_consumer.queries import Ask, Row

AXES = ("step", "time", "relative", "active")
BUCKETS_DEFAULT = 600
BUCKETS_MAX = 5_000
CURVES_MAX = 60
STEP_MAX = 2**63 - 1

_CURVE_SQL = """
SELECT first_step, last_step, first_time, last_time, value, "min", "max", points, nan + infinite AS nonfinite
FROM curve($run_id, $metric, $buckets, $first_step, $last_step)
"""
_EMITTERS_SQL = "SELECT attempt, started_at, seen_at FROM emitters WHERE run_id = $run_id"


@dataclass(frozen=True, slots=True)
class CurvesAsked:
    """What a page wants to draw.

    Attributes:
        run_ids: Ids of runs.
        metrics: Names of metrics; each of each run is a curve.
        buckets: Most points of a curve.
        first_step: Where it begins.
        last_step: Where it ends.
        axis: What x is: step; time in seconds since the epoch; seconds since the run's start, or of those only the ones
            in which it was alive.
    """

    run_ids: tuple[str, ...]
    metrics: tuple[str, ...]
    buckets: int = BUCKETS_DEFAULT
    first_step: int = -STEP_MAX
    last_step: int = STEP_MAX
    axis: str = "step"


def curves_asked(query: Sequence[tuple[str, str]]) -> CurvesAsked:
    """What a query string asks for.

    Raises:
        QueryError: It can't be understood, or asks for too much.
    """
    given: dict[str, list[str]] = {}
    for name, text in query:
        given.setdefault(name, []).append(text)
    runs, metrics = tuple(dict.fromkeys(given.pop("run", []))), tuple(dict.fromkeys(given.pop("metric", [])))
    if not runs or not metrics:
        raise QueryError("Say which curves: ?run=ID&metric=NAME, either as often as needed.")
    if len(runs) * len(metrics) > CURVES_MAX:
        raise QueryError(
            f"At most {CURVES_MAX} curves come at once, these are {len(runs) * len(metrics)}: ask for fewer."
        )
    axis = given.pop("axis", ["step"])[-1]
    if axis not in AXES:
        raise QueryError(f"The axis {axis[:40]!r} is unknown: use one of {', '.join(AXES)}.")
    buckets = _number(given.pop("buckets", None), "buckets", BUCKETS_DEFAULT)
    if not 1 <= buckets <= BUCKETS_MAX:
        raise QueryError(f"'buckets' must be between 1 and {BUCKETS_MAX:,}.")
    first = _number(given.pop("from", None), "from", -STEP_MAX)
    last = _number(given.pop("to", None), "to", STEP_MAX)
    if given:
        raise QueryError(f"{next(iter(given))[:40]!r} is unknown: there are run, metric, buckets, from, to and axis.")
    return CurvesAsked(runs, metrics, buckets, first, last, axis)


def read_curves(limited: Ask, ask: Ask, asked: CurvesAsked) -> Row:
    """All curves that were asked for; a metric that a run doesn't have is an empty one.

    Args:
        limited: Asks as the visitor may.
        ask: Asks everything: it is used for runs only that `limited` knows.
        asked: What for.

    Raises:
        RunNotFound: There is no such run, or it isn't the visitor's.
        QueryError: A query went over a limit.
    """
    curves = []
    for run_id in asked.run_ids:
        if not limited("SELECT 1 AS found FROM emitters WHERE run_id = $run_id LIMIT 1", {"run_id": run_id}):
            raise RunNotFound(f"There is no run {run_id[:100]!r}.")
        spans = _spans(ask(_EMITTERS_SQL, {"run_id": run_id})) if asked.axis in {"relative", "active"} else []
        curves += [_curve(ask, asked, run_id, metric, spans) for metric in asked.metrics]
    return {"axis": asked.axis, "buckets": asked.buckets, "curves": curves}


def read_buckets(ask: Ask, asked: CurvesAsked, run_id: str, metric: str) -> Sequence[Row]:
    """One curve's buckets in order: first and last step and time, value, min, max, points and nonfinite."""
    return ask(
        _CURVE_SQL,
        {
            "run_id": run_id,
            "metric": metric,
            "buckets": asked.buckets,
            "first_step": asked.first_step,
            "last_step": asked.last_step,
        },
    )


def _curve(ask: Ask, asked: CurvesAsked, run_id: str, metric: str, spans: Sequence[tuple[float, float]]) -> Row:
    buckets = read_buckets(ask, asked, run_id, metric)
    return {
        "run_id": run_id,
        "metric": metric,
        "x": [_place(bucket, asked.axis, spans) for bucket in buckets],
        "first_step": [bucket["first_step"] for bucket in buckets],
        "last_step": [bucket["last_step"] for bucket in buckets],
        "value": [_finite(bucket["value"]) for bucket in buckets],
        "min": [_finite(bucket["min"]) for bucket in buckets],
        "max": [_finite(bucket["max"]) for bucket in buckets],
        "nonfinite": [bucket["nonfinite"] or 0 for bucket in buckets],
        "points": sum(bucket["points"] for bucket in buckets),
    }


def _place(bucket: Row, axis: str, spans: Sequence[tuple[float, float]]) -> float:
    """The middle of a bucket on the axis; a bucket of one step is at it."""
    if axis == "step":
        first, last = bucket["first_step"], bucket["last_step"]
        return int(first) if first == last else (first + last) / 2
    seconds = (_seconds(bucket["first_time"]) + _seconds(bucket["last_time"])) / 2
    if axis == "time" or not spans:
        return seconds
    if axis == "relative":
        return seconds - spans[0][0]
    return sum(min(max(seconds - since, 0.0), until - since) for since, until in spans)


def _spans(emitters: Sequence[Row]) -> list[tuple[float, float]]:
    """When a run's attempts were alive, in order and apart; what isn't of any attempt counts where there is none."""
    lives: dict[Any, tuple[float, float]] = {}
    for emitter in emitters:
        began, seen = _seconds(emitter["started_at"]), _seconds(emitter["seen_at"])
        known = lives.get(emitter["attempt"], (began, seen))
        lives[emitter["attempt"]] = min(known[0], began), max(known[1], seen)
    attempts = {attempt: life for attempt, life in lives.items() if attempt is not None} or lives
    spans: list[tuple[float, float]] = []
    for since, until in sorted(attempts.values()):
        reached = spans[-1][1] if spans else -math.inf
        if until > reached:
            spans.append((max(since, reached), until))
    return spans


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.removesuffix("Z")).replace(tzinfo=UTC).timestamp()


def _finite(value: Any) -> float | None:
    """None for what comes as text: "NaN", "Infinity"."""
    return value if isinstance(value, int | float) else None


def _number(given: Sequence[str] | None, name: str, default: int) -> int:
    if not given:
        return default
    text = given[-1]
    try:
        number = int(text)
    except ValueError:
        number = STEP_MAX + 1
    if abs(number) > STEP_MAX:
        raise QueryError(f"{name!r} must be a whole number of 64 bits, not {text[:40]!r}.")
    return number
