"""Stores in memory with as many live runs, metrics and ranks as a test of what is shown needs."""

from __future__ import annotations

from pathlib import Path

from runwire_consumer.database import MEMORY, Database
from runwire_consumer.live import GaugeOptions, Live, read_live
from tests.consumer.small_store import NOW_US, SECOND_US

_EMITTERS = (
    "INSERT INTO store.emitters (emitter_key, emitter_id, run_key, rank, attempt, restart_count, role, started_at, "
    "world_size, next_seq, seen_at, next_in_seconds, assigned_seq, journal_rows) "
    "SELECT ?::INTEGER * 10000 + rank, printf('%08x%024x', ?::INTEGER, rank), ?, rank, 'only', 0, 'train', ?, 1, ?, ?, "
    "2.0, 0, 0 FROM range(?) t(rank)"
)


class Fleet:
    """Runs by number; rank r of run n is the emitter 10,000 n + r.

    Args:
        path: The database's file; none when not given.
        now_us: The present.
    """

    def __init__(self, path: Path = MEMORY, now_us: int = NOW_US) -> None:
        """No run yet."""
        self.database = Database.open(path)
        self.cursor = self.database.cursor()
        self.now_us = now_us

    def run(self, number: int, state: str = "running", ended_ago: float = 0.0, ranks: int = 1) -> None:
        """One more run, named by its number."""
        seen, next_seq = self.now_us - int(ended_ago * SECOND_US), None if state in {"running", "stuck", "lost"} else 1
        self.cursor.execute("INSERT INTO store.runs VALUES (?, ?, 'fleet', NULL)", [number, f"{number:016x}"])
        self.cursor.execute("INSERT INTO store.run_states VALUES (?, ?, ?, '')", [number, state, seen])
        self.cursor.execute(_EMITTERS, [number, number, number, number, next_seq, seen, ranks])

    def metrics(self, run: int, metrics: range, ranks: int = 1, silent_seconds: float = 0.0) -> None:
        """Metrics of these numbers have a last value, their number plus the rank's, on so many ranks."""
        self.cursor.execute(
            "INSERT INTO store.metrics SELECT n, 'metric' || n FROM range(?, ?) t(n) "
            "WHERE n NOT IN (SELECT metric_key FROM store.metrics)",
            [metrics.start, metrics.stop],
        )
        self.cursor.execute(
            "INSERT INTO store.series SELECT ?::INTEGER * 10000 + rank, n, 1, 0, 0, 0, 0, 7, ?, n + rank, 0, 7, true, "
            "NULL, 0 FROM range(?, ?) t(n), range(?) r(rank)",
            [run, self.now_us - int(silent_seconds * SECOND_US), metrics.start, metrics.stop, ranks],
        )

    def written(self, run: int, metric: int, ago_seconds: float = 0.0) -> None:
        """The metric gets a value at this time."""
        self.cursor.execute(
            "UPDATE store.series SET last_time = ? WHERE emitter_key // 10000 = ? AND metric_key = ?",
            [self.now_us - int(ago_seconds * SECOND_US), run, metric],
        )

    def becomes(self, run: int, state: str) -> None:
        """The run's state changes now."""
        self.cursor.execute(
            "UPDATE store.run_states SET state = ?, since = ? WHERE run_key = ?", [state, self.now_us, run]
        )

    def live(self, series_max: int = 10_000, options: GaugeOptions | None = None) -> Live:
        """What is shown now."""
        return read_live(self.database.cursor, options or GaugeOptions(series_max), self.now_us)

    def shown(self, series_max: int = 10_000) -> dict[int, list[int]]:
        """The numbers of the runs that are shown, with those of their metrics, in the order in which they get room."""
        live = self.live(series_max)
        shown: dict[int, list[int]] = {run.run_key: [] for run in live.runs}
        for one in live.metrics:
            shown[one.run_key].append(one.metric_key)
        return shown

    def close(self) -> None:
        """Close the store."""
        self.cursor.close()
        self.database.close()
