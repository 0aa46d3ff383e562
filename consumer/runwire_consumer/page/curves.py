"""Curves for the page: each in at most so many buckets of steps, with its extremes, as columns.

A bucket keeps the least and the greatest value of its steps, so no spike is lost; a curve of no more steps than buckets
comes as it is. What is not finite is counted beside, and is null among the values: JSON has no such numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runwire_consumer.errors import QueryError, RunNotFound
from runwire_consumer.queries import Ask, Row

BUCKETS_DEFAULT = 600
BUCKETS_MAX = 5_000
CURVES_MAX = 60
STEP_MAX = 2**63 - 1

# Where the middle of a bucket stands on each axis.
_PLACES = {
    "step": "(first_step::DOUBLE + last_step) / 2",
    "time": "(epoch_us(first_time) + epoch_us(last_time)) / 2e6",
    "relative": "(relative_seconds($run_id, first_time) + relative_seconds($run_id, last_time)) / 2",
    "active": "(active_seconds($run_id, first_time) + active_seconds($run_id, last_time)) / 2",
}
AXES = tuple(_PLACES)
_CURVE_SQL = """
SELECT first_step, last_step, {place} AS x, value, "min", "max", points, nan + infinite AS nonfinite
FROM curve($run_id, $metric, $buckets, $first_step, $last_step)
"""


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
        curves += [_curve(ask, asked, run_id, metric) for metric in asked.metrics]
    return {"axis": asked.axis, "buckets": asked.buckets, "curves": curves}


def _curve(ask: Ask, asked: CurvesAsked, run_id: str, metric: str) -> Row:
    buckets = ask(
        _CURVE_SQL.format(place=_PLACES[asked.axis]),
        {
            "run_id": run_id,
            "metric": metric,
            "buckets": asked.buckets,
            "first_step": asked.first_step,
            "last_step": asked.last_step,
        },
    )
    return {
        "run_id": run_id,
        "metric": metric,
        **{name: [bucket[name] for bucket in buckets] for name in ("x", "first_step", "last_step", "nonfinite")},
        **{name: [_finite(bucket[name]) for bucket in buckets] for name in ("value", "min", "max")},
        "points": sum(bucket["points"] for bucket in buckets),
    }


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
