"""Laying out a transaction's pieces: every value at its place, and one line an emitter and metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumer.pieces import Piece, lay_out

VALUES = st.sampled_from((0.5, -1.0, math.inf, -math.inf, 3.25))
PIECE = st.tuples(
    st.integers(0, 2),  # emitter
    st.lists(st.integers(0, 3), max_size=3, unique=True),  # metrics
    st.lists(VALUES, min_size=1, max_size=4),  # the first metric's values; the others' are these plus their place
)


@given(st.permutations(range(4)), st.lists(PIECE, min_size=4, max_size=4))
def test_lines_are_the_sums_of_their_pieces(places: list[int], made: list[tuple[int, list[int], list[float]]]) -> None:
    """Whatever order the pieces of an emitter come in, first and last are those of its sequence."""
    pieces, rows, points = [], [], []
    model: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for place, (emitter, metrics, values) in zip(places, made, strict=True):
        first, count = place * 10, len(values)
        columns = [[value + number for value in values] for number in range(len(metrics))]
        seqs = range(first, first + count)
        pieces.append(
            Piece(
                emitter,
                np.array(metrics, np.int32),
                first,
                np.array([100 + seq for seq in seqs]),
                np.array([1_000 + seq for seq in seqs]),
                np.array([value for column in columns for value in column], np.float64),
            )
        )
        rows += [(emitter, seq, 100 + seq, 1_000 + seq) for seq in seqs]
        for metric, column in zip(metrics, columns, strict=True):
            points += [(emitter, metric, seq, value) for seq, value in zip(seqs, column, strict=True)]
            model.setdefault((emitter, metric), []).extend(zip(seqs, column, strict=True))
    found = lay_out(pieces)
    assert listed(found.rows) == rows
    assert listed(found.points) == points
    assert listed(found.series) == [
        (
            *key,
            len(line),
            sum(not math.isfinite(value) for _, value in line),
            min(line)[0],
            100 + min(line)[0],
            max(line)[0],
            100 + max(line)[0],
            1_000 + max(line)[0],
            max(line)[1],
            100 + min(line)[0],
            100 + max(line)[0],
            True,
        )
        for key, line in sorted(model.items())
    ]


def listed(table: Any) -> list[tuple[Any, ...]]:
    """A table's rows."""
    return [] if table is None else [tuple(row.values()) for row in table.to_pylist()]
