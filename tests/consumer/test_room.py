"""The room on the store's disk, as /metrics tells it."""

from __future__ import annotations

import math
import os
from pathlib import Path

from prometheus_client import CollectorRegistry

from runwire_consumer.floor import RESERVE_BYTES
from runwire_consumer.room import watch_room


def test_room_and_floor_are_those_of_the_disk(tmp_path: Path) -> None:
    """At the moment of a scrape; a WAL that grows lifts the floor; a disk that is gone is no number."""
    folder = tmp_path / "home"
    folder.mkdir()
    registry = CollectorRegistry()
    watch_room(registry, folder / "runwire.duckdb")

    def read() -> tuple[float, float]:
        free, floor = (registry.get_sample_value(f"runwire_disk_{name}_bytes") for name in ("free", "floor"))
        assert free is not None
        assert floor is not None
        return free, floor

    disk = os.statvfs(folder)
    free, floor = read()
    assert abs(free - disk.f_bavail * disk.f_frsize) < 2**30  # others write meanwhile
    assert 0 < floor <= RESERVE_BYTES
    with (folder / "runwire.duckdb.wal").open("wb") as wal:
        wal.truncate(2**30)
    assert read()[1] == 2 * 2**30
    (folder / "runwire.duckdb.wal").unlink()
    folder.rmdir()
    assert all(math.isnan(value) for value in read())
