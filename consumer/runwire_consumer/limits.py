"""What one query may take."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may take.

    Attributes:
        seconds_max: The engine's time; a client that reads slowly has its own.
        rows_max: Of a result that is collected; one that is streamed may have any number.
        columns_max: Of any result.
        result_bytes_max: Of a result that is collected.
        pool_bytes_max: Of the engine's memory (2 GiB), which the writer needs too.
        uncounted_bytes_max: How much the process may grow beyond the engine's memory.
        growth_looked_at_bytes: From which growth on the engine's memory is looked at, at every interval.
    """

    seconds_max: float = 30.0
    rows_max: int = 1_000_000
    columns_max: int = COLUMNS_MAX
    result_bytes_max: int = 256 * 2**20
    pool_bytes_max: int = 1_024 * 2**20
    uncounted_bytes_max: int = 512 * 2**20
    growth_looked_at_bytes: int = 64 * 2**20
