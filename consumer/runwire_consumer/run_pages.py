"""One run as tables, page by page: its points, parameters, events and description, from any reader, in bounded memory.

`Columns` is a reader's answer as an Arrow table: of a consumer behind HTTP or of an open file alike. Values keep every
bit, NaN and infinities too. A page of points holds whole metrics while they are small, and ranges of rows of one
emitter where a metric is large: at most about PAGE_POINTS_MAX points. Order: metric, rank, emitter, sequence number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from runwire_consumer.errors import RunChanged

Columns = Callable[[str, Mapping[str, Any]], pa.Table]
"""Answers a SELECT with named parameters."""

PAGE_POINTS_MAX = 250_000
PAGE_METRICS_MAX = 200
PAGE_EVENTS_MAX = 200  # of up to 384 KiB each

POINTS = pa.schema(
    [
        ("run_id", pa.string()),
        ("metric", pa.string()),
        ("rank", pa.int32()),
        ("step", pa.int64()),
        ("time", pa.timestamp("us")),
        ("value", pa.float64()),
        ("attempt", pa.int64()),
        ("superseded", pa.bool_()),
        ("role", pa.string()),
        ("emitter_id", pa.string()),
        ("seq", pa.int64()),
    ]
)
PARAMS = pa.schema(
    [
        ("run_id", pa.string()),
        ("key", pa.string()),
        ("value", pa.string()),
        ("number", pa.float64()),
        ("type", pa.string()),
        ("time", pa.timestamp("us")),
    ]
)
EVENTS = pa.schema(
    [
        ("run_id", pa.string()),
        ("time", pa.timestamp("us")),
        ("rank", pa.int32()),
        ("attempt", pa.int64()),
        ("type", pa.string()),
        ("body", pa.string()),
        ("emitter_id", pa.string()),
        ("seq", pa.int64()),
    ]
)

# Of a run whose full resolution is gone: its curves, reduced over ranks, as `curve` gives them.
BUCKETS = pa.schema(
    [
        ("run_id", pa.string()),
        ("metric", pa.string()),
        ("first_step", pa.int64()),
        ("last_step", pa.int64()),
        ("first_time", pa.timestamp("us")),
        ("last_time", pa.timestamp("us")),
        ("value", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("points", pa.int64()),
        ("nan", pa.int64()),
        ("infinite", pa.int64()),
    ]
)

_LINES = """
SELECT metric, emitter_id, min("rank") AS "rank", count(*) AS points, min(seq) AS first_seq, max(seq) AS last_seq
FROM metrics WHERE run_id = $run_id GROUP BY metric, emitter_id ORDER BY metric, "rank", emitter_id
"""
_POINT_NAMES = ", ".join(f'"{name}"' for name in POINTS.names)
_METRICS = (
    f"SELECT {_POINT_NAMES} FROM metrics WHERE run_id = $run_id AND metric IN ({{names}}) "  # noqa: S608 - names of ours
    'ORDER BY metric, "rank", emitter_id, seq'
)
_ROWS = (
    f"SELECT {_POINT_NAMES} FROM metrics WHERE run_id = $run_id AND metric = $metric AND emitter_id = $emitter_id "  # noqa: S608 - as above
    "AND seq BETWEEN $first_seq AND $last_seq ORDER BY seq"
)
_PARAMS = "SELECT run_id, key, value, number, type, time FROM params WHERE run_id = $run_id ORDER BY key"
_NAMES = "SELECT DISTINCT metric FROM latest WHERE run_id = $run_id ORDER BY metric"
_BUCKETS = """
SELECT $run_id AS run_id, $metric AS metric, first_step, last_step, first_time, last_time, value, min, max, points, nan,
       infinite
FROM curve($run_id, $metric, 100000) ORDER BY first_step
"""
_EVENTS = """
SELECT run_id, time, "rank", attempt, type, body::VARCHAR AS body, emitter_id, seq FROM events
WHERE run_id = $run_id AND (emitter_id > $emitter_id OR (emitter_id = $emitter_id AND seq > $seq))
ORDER BY emitter_id, seq LIMIT $limit
"""


@dataclass(frozen=True, slots=True)
class Line:
    """The points of one emitter and metric; sequence numbers first to last."""

    metric: str
    emitter_id: str
    rank: int
    points: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Page:
    """A query of points."""

    sql: str
    params: Mapping[str, Any]


def lines(columns: Columns, run_id: str) -> list[Line]:
    """What points a run has now."""
    return [Line(**row) for row in columns(_LINES, {"run_id": run_id}).to_pylist()]


def pages(run_id: str, found: Sequence[Line], points_max: int) -> Iterator[Page]:
    """The queries that give all of these lines, in their order."""
    together: list[Line] = []
    for of_metric in _by_metric(found):
        count = sum(line.points for line in of_metric)
        names = len({line.metric for line in together})
        if together and (sum(line.points for line in together) + count > points_max or names >= PAGE_METRICS_MAX):
            yield _whole(run_id, together)
            together = []
        if count <= points_max:
            together += of_metric
            continue
        for line in of_metric:
            yield from _ranges(run_id, line, points_max)
    if together:
        yield _whole(run_id, together)


def points(columns: Columns, run_id: str, found: Sequence[Line] | None = None) -> Iterator[pa.Table]:
    """The points of a run, page by page; those that came since `found` was asked may be among them.

    Raises:
        RunChanged: Fewer came than there were: the run was deleted or reduced meanwhile.
    """
    found = lines(columns, run_id) if found is None else found
    missing = sum(line.points for line in found)
    for page in pages(run_id, found, PAGE_POINTS_MAX):
        table = columns(page.sql, page.params).cast(POINTS)
        missing -= table.num_rows
        yield table
    if missing > 0:
        raise RunChanged(f"Run {run_id} lost points while it was read: it was deleted or reduced meanwhile.")


def params(columns: Columns, run_id: str) -> pa.Table:
    """The newest word on each parameter."""
    return columns(_PARAMS, {"run_id": run_id}).cast(PARAMS)


def events(columns: Columns, run_id: str) -> Iterator[pa.Table]:
    """Every lifecycle record, page by page, by emitter and sequence number."""
    after: dict[str, Any] = {"emitter_id": "", "seq": -1}
    while True:
        table = columns(_EVENTS, {"run_id": run_id, **after, "limit": PAGE_EVENTS_MAX}).cast(EVENTS)
        if table.num_rows:
            yield table
        if table.num_rows < PAGE_EVENTS_MAX:
            return
        after = {name: table.column(name)[-1].as_py() for name in after}


def buckets(columns: Columns, run_id: str) -> Iterator[pa.Table]:
    """The curves of a run whose full resolution is gone, a page a metric."""
    for name in columns(_NAMES, {"run_id": run_id}).column("metric").to_pylist():
        yield columns(_BUCKETS, {"run_id": run_id, "metric": name}).cast(BUCKETS)


def _by_metric(found: Sequence[Line]) -> Iterator[list[Line]]:
    of_metric: list[Line] = []
    for line in found:
        if of_metric and of_metric[0].metric != line.metric:
            yield of_metric
            of_metric = []
        of_metric.append(line)
    if of_metric:
        yield of_metric


def _whole(run_id: str, together: Sequence[Line]) -> Page:
    names = list(dict.fromkeys(line.metric for line in together))
    given = {f"metric_{at}": name for at, name in enumerate(names)}
    sql = _METRICS.format(names=", ".join(f"${name}" for name in given))
    return Page(sql, {"run_id": run_id, **given})


def _ranges(run_id: str, line: Line, points_max: int) -> Iterator[Page]:
    """Ranges of rows of about as many points each."""
    rows = line.last_seq - line.first_seq + 1
    step = max(rows * points_max // line.points, rows // (4 * (line.points // points_max + 1)), 1)
    for first in range(line.first_seq, line.last_seq + 1, step):
        last = min(first + step - 1, line.last_seq)
        key = {"run_id": run_id, "metric": line.metric, "emitter_id": line.emitter_id}
        yield Page(_ROWS, {**key, "first_seq": first, "last_seq": last})
