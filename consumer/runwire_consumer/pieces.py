"""Metric rows on their way into tables: gathered piece by piece, laid out as columns once a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Doubles = NDArray[np.float64]

_REDUCTIONS: dict[str, np.ufunc] = {
    "points": np.add,
    "nonfinite": np.add,
    "min_step": np.minimum,
    "max_step": np.maximum,
    "increasing": np.logical_and,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """R consecutive rows of one emitter with K metrics; `values` is key-major, K x R, flat."""

    emitter_key: int
    metric_keys: Ints
    first_seq: int
    steps: Longs
    times: Longs
    values: Doubles


@dataclass(frozen=True, slots=True)
class Columns:
    """The pieces of a transaction as Arrow tables; each None where it would be empty.

    `series` has one row an emitter and metric, as `store.series` has.
    """

    rows: pa.Table | None
    points: pa.Table | None
    series: pa.Table | None


def lay_out(pieces: list[Piece]) -> Columns:
    """Columns of `store.rows`, `store.points` and the additions to `store.series`."""
    if not pieces:
        return Columns(None, None, None)
    lengths = np.array([len(piece.steps) for piece in pieces], np.int64)
    widths = np.array([len(piece.metric_keys) for piece in pieces], np.int64)
    emitters = np.array([piece.emitter_key for piece in pieces], np.int32)
    firsts = np.array([piece.first_seq for piece in pieces], np.int64)
    steps = np.concatenate([piece.steps for piece in pieces])
    times = np.concatenate([piece.times for piece in pieces])
    rows = pa.table(
        {
            "emitter_key": np.repeat(emitters, lengths),
            "seq": _counting(firsts, lengths),
            "step": steps,
            "time": times,
        }
    )
    if not widths.any():
        return Columns(rows, None, None)
    metrics = np.concatenate([piece.metric_keys for piece in pieces])
    values = np.concatenate([piece.values for piece in pieces])
    # A line is one metric of one piece: `lines` of them, each `spans` values long.
    spans = np.repeat(lengths, widths)
    line_firsts = np.repeat(firsts, widths)
    line_emitters = np.repeat(emitters, widths)
    points = pa.table(
        {
            "emitter_key": np.repeat(line_emitters, spans),
            "metric_key": np.repeat(metrics, spans),
            "seq": _counting(line_firsts, spans),
            "value": values,
        }
    )
    row_ends = np.cumsum(lengths)
    row_begins = row_ends - lengths
    rises = np.append(True, steps[1:] > steps[:-1])
    rises[row_begins] = True
    line_ends = np.cumsum(spans)
    odd = np.add.reduceat(~np.isfinite(values), line_ends - spans, dtype=np.int64)
    series = {
        "emitter_key": line_emitters,
        "metric_key": metrics,
        "points": spans,
        "nonfinite": odd,
        "first_seq": line_firsts,
        "first_step": np.repeat(steps[row_begins], widths),
        "last_seq": line_firsts + spans - 1,
        "last_step": np.repeat(steps[row_ends - 1], widths),
        "last_time": np.repeat(times[row_ends - 1], widths),
        "last_value": values[line_ends - 1],
        "min_step": np.repeat(np.minimum.reduceat(steps, row_begins), widths),
        "max_step": np.repeat(np.maximum.reduceat(steps, row_begins), widths),
        "increasing": np.repeat(np.logical_and.reduceat(rises, row_begins), widths),
    }
    return Columns(rows, points, pa.table(_merge_lines(series)))


def _merge_lines(lines: dict[str, Any]) -> dict[str, Any]:
    """One line an emitter and metric: points are added up; first and last are those of the whole."""
    # Sorted by emitter, metric and sequence number, equal ones lie together and their ends are at hand.
    order = np.lexsort((lines["first_seq"], lines["metric_key"], lines["emitter_key"]))
    ordered = {name: column[order] for name, column in lines.items()}
    emitters, metrics = ordered["emitter_key"], ordered["metric_key"]
    differs = (emitters[1:] != emitters[:-1]) | (metrics[1:] != metrics[:-1])
    begins = np.flatnonzero(np.append(True, differs))
    ends = np.append(begins[1:], len(emitters)) - 1
    rises = np.append(True, ordered["min_step"][1:] > ordered["max_step"][:-1])
    rises[begins] = True
    ordered["increasing"] = ordered["increasing"] & rises
    return {
        name: _REDUCTIONS[name].reduceat(column, begins)
        if name in _REDUCTIONS
        else column[ends if name.startswith("last_") else begins]
        for name, column in ordered.items()
    }


def _counting(firsts: Longs, lengths: Longs) -> Any:
    """first, first + 1, ... for each of the runs of numbers, one behind the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(firsts - starts, lengths)
