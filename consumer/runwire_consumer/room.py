"""How much room the store's disk has, for /metrics: free bytes, and the floor below which nothing is written."""

from __future__ import annotations

import math
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from runwire_consumer.database import wal_path
from runwire_consumer.floor import floor_bytes, free_bytes, reserve_bytes


def watch_room(registry: CollectorRegistry, database: Path) -> None:
    """Register both gauges; they look at the disk when they are scraped, NaN where it doesn't answer.

    Args:
        registry: Where they are registered.
        database: The store's file.
    """
    folder = database.parent

    def free() -> float:
        try:
            return free_bytes(folder)
        except OSError:
            return math.nan

    def floor() -> float:
        try:
            wal = wal_path(database)
            return floor_bytes(reserve_bytes(folder), wal.stat().st_size if wal.exists() else 0, 0)
        except OSError:
            return math.nan

    Gauge("runwire_disk_free_bytes", "Free bytes of the store's disk.", registry=registry).set_function(free)
    Gauge(
        "runwire_disk_floor_bytes", "Free bytes of that disk below which nothing is stored.", registry=registry
    ).set_function(floor)
