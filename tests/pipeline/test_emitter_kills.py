"""A process of threads and forked children is killed at random moments: no row is lost, none is there twice."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from bench.emitter_kills import compare, measure
from bench.victim import metric


@pytest.mark.long
@pytest.mark.timeout(300)
def test_twenty_kills(tmp_path: Path) -> None:
    """What `bench/emitter_kills.py` does two hundred times."""
    figures = measure(tmp_path, kills=20, seed=7)
    assert figures["rows_returned"] > 1_000
    assert (figures["kills"], figures["rows_lost"], figures["rows_twice"]) == (20, 0, 0)


def test_the_judge_sees_what_is_lost_and_what_is_twice(tmp_path: Path) -> None:
    """A value or a writer that is missing, a value too often; the row of a call that hadn't returned is fine."""
    database = tmp_path / "judged.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE SCHEMA store")
        connection.execute("CREATE TABLE store.metrics (metric_key INTEGER, name VARCHAR)")
        connection.execute("CREATE TABLE store.all_points (metric_key INTEGER, value DOUBLE)")
        values = {(1, 0): [0, 1, 2, 3], (1, 1): [0, 1, 2], (1, 2): [0, 2, 2]}
        for number, ((writer, key), there) in enumerate(values.items()):
            connection.execute("INSERT INTO store.metrics VALUES (?, ?)", [number, metric(0, writer, key)])
            connection.executemany("INSERT INTO store.all_points VALUES (?, ?)", [(number, value) for value in there])
    assert compare(database, {(0, 1): 3}) == (1, 1)
    assert compare(database, {(0, 1): 3, (0, 2): 5}) == (6, 1)
    assert compare(database, {(0, 1): 2}) == (1, 1)
