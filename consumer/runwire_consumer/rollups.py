"""Rollups: blocks of consecutive points of a series, each with what a chart needs of them; pure.

A piece is sorted by run, metric, emitter and sequence number, so a series is one stretch of it. A stretch of at least
SERIES_POINTS_MIN points is cut into blocks of BLOCK_POINTS (level 1), and those, LEVEL_BLOCKS at a time, into blocks of
level 2. Every point of such a stretch is in exactly one block of each level. Shorter stretches are SHORT: they are
read point by point, which costs no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runwire_consumer.pieces import Doubles, Ints, Longs

BLOCK_POINTS = 256
LEVEL_BLOCKS = 16
SERIES_POINTS_MIN = 64
LOOSE, SHORT = -1, -2

_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sorted:
    """Points sorted by run, metric, emitter and sequence number, with step and time of their rows."""

    emitters: Ints
    metrics: Ints
    seqs: Longs
    values: Doubles
    steps: Longs
    times: Longs


def roll(piece: Sorted) -> tuple[Longs, pa.Table]:
    """The column `block` of `store.cold_points`, and the piece's rows of `store.rollups`."""
    count = len(piece.seqs)
    differs = (piece.emitters[1:] != piece.emitters[:-1]) | (piece.metrics[1:] != piece.metrics[:-1])
    series_begins = np.flatnonzero(np.append(count > 0, differs))
    lengths = np.diff(np.append(series_begins, count))
    long = np.repeat(lengths >= SERIES_POINTS_MIN, lengths)
    places = np.arange(count) - np.repeat(series_begins, lengths)
    begins = np.flatnonzero(long & (places % BLOCK_POINTS == 0))
    if not len(begins):
        return np.full(count, SHORT, np.int64), pa.table({})
    # A block ends where the next begins, or with its series.
    ends = np.minimum(begins + BLOCK_POINTS, np.repeat(series_begins + lengths, lengths)[begins])
    blocks = np.full(count, SHORT, np.int64)
    blocks[long] = np.repeat(piece.seqs[begins], ends - begins)
    at = np.append(0, np.cumsum(ends - begins)[:-1]).astype(np.int64)
    fine = _aggregate(piece, long, at, begins)
    heads = np.flatnonzero(places[begins] % (BLOCK_POINTS * LEVEL_BLOCKS) == 0)
    coarse = {name: _REDUCTIONS[name].reduceat(column, heads) for name, column in fine.items() if name in _REDUCTIONS}
    coarse |= {name: column[heads] for name, column in fine.items() if name not in _REDUCTIONS}
    spans = np.diff(np.append(heads, len(begins)))
    for outer, name in (("outer_first", "first_step"), ("outer_last", "last_step")):
        fine[outer], coarse[outer] = np.repeat(coarse[name], spans), coarse[name]
    both = {name: np.concatenate([fine[name], coarse[name]]) for name in fine}
    levels = np.repeat(np.array([1, 2], np.int8), [len(begins), len(heads)])
    # min and max are NULL where every value is NaN.
    masks = {name: np.isnan(both[name]) for name in ("min", "max")}
    columns = {name: pa.array(column, mask=masks.get(name)) for name, column in both.items()}
    return blocks, pa.table({"level": levels, "kept": np.ones(len(levels), np.bool_), **columns})


def _aggregate(piece: Sorted, long: _Bools, at: Longs, begins: Longs) -> dict[str, NDArray[np.generic]]:
    """Blocks of level 1; `at` are their begins among the points that are `long`, `begins` those among all."""
    values, steps, times = piece.values[long], piece.steps[long], piece.times[long]
    finite = np.isfinite(values)
    return {
        "emitter_key": piece.emitters[begins],
        "metric_key": piece.metrics[begins],
        "first_seq": piece.seqs[begins],
        "points": np.diff(np.append(at, len(values))),
        "first_step": np.minimum.reduceat(steps, at),
        "last_step": np.maximum.reduceat(steps, at),
        "first_time": np.minimum.reduceat(times, at),
        "last_time": np.maximum.reduceat(times, at),
        "min": np.fmin.reduceat(values, at),
        "max": np.fmax.reduceat(values, at),
        "sum": np.add.reduceat(np.where(finite, values, 0.0), at),
        "nan": np.add.reduceat(np.isnan(values), at, dtype=np.int64),
        "infinite": np.add.reduceat(np.isinf(values), at, dtype=np.int64),
    }


_REDUCTIONS: dict[str, np.ufunc] = {
    "points": np.add,
    "first_step": np.minimum,
    "last_step": np.maximum,
    "first_time": np.minimum,
    "last_time": np.maximum,
    "min": np.fmin,
    "max": np.fmax,
    "sum": np.add,
    "nan": np.add,
    "infinite": np.add,
}
