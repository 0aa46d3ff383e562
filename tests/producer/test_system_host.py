"""Machine and process: rates between two readings, the memory that this process may use, and the real psutil."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire._system_host import HostProbe, Reading, cgroup_memory, limiting_cgroup, metrics_between

READ = "system/disk_read_bytes_per_second"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Reading(1.0, totals={READ: 100}), Reading(3.0, totals={READ: 500}), {READ: 200.0}),
        (Reading(1.0, totals={READ: 100}), Reading(3.0, totals={READ: 100}), {READ: 0.0}),
        (Reading(1.0, totals={READ: 100}), Reading(3.0, totals={READ: 90}), {}),  # a disk went away
        (Reading(1.0), Reading(3.0, totals={READ: 90}), {}),  # it came only now
        (Reading(1.0, totals={READ: 100}), Reading(3.0), {}),
        (Reading(1.0, totals={READ: 100}), Reading(1.0, totals={READ: 100}), {}),  # no time between
        (Reading(1.0, now={"m": 1.0}), Reading(3.0, now={"m": 2.0}), {"m": 2.0}),
        (
            Reading(0.0, busy_seconds=10.0, cpu_seconds=100.0),
            Reading(5.0, busy_seconds=12.0, cpu_seconds=108.0),
            {"system/cpu_percent": 25.0},
        ),
        # A sandbox whose /proc/stat holds zeros.
        (Reading(0.0), Reading(5.0), {}),
        # Ticks are coarse.
        (Reading(0.0), Reading(5.0, busy_seconds=8.1, cpu_seconds=8.0), {"system/cpu_percent": 100.0}),
    ],
)
def test_rates_lie_between_two_readings(before: Reading, after: Reading, expected: dict[str, float]) -> None:
    """What can't be told is left out."""
    assert metrics_between(before, after) == expected


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {".": "1000"}, "."),  # a container's own namespace
        ("0::/\n", {}, None),
        ("0::/job\n", {"job": "max", ".": "max"}, None),
        ("0::/job/step\n", {"job": "500", "job/step": "max"}, "job"),  # SLURM limits the job
        ("0::/job/step\n", {"job": "500", "job/step": "400"}, "job/step"),
        ("0::/job/step\n", {"job": "500", "job/step": "600"}, "job"),
        ("0::/job/step\n", {"job": "500", "job/step": "500"}, "job"),
        ("0::/job\n", {"job": "1000001"}, None),  # more than the machine has
        ("0::/job\n", {"other": "500"}, None),
        ("4:memory:/job\n3:cpu:/\n", {"job": "500"}, None),  # version 1
        ("4:memory:/x\n0::/job\n", {"job": "500"}, "job"),
        ("", {".": "1000"}, None),
    ],
)
def test_the_lowest_limit_over_this_process_counts(
    tmp_path: Path, own: str, limits: dict[str, str], expected: str | None
) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (tmp_path / "own").write_text(own)
    for folder, limit in limits.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "memory.max").write_text(f"{limit}\n")
    found = limiting_cgroup(1_000_000, root, tmp_path / "own")
    assert found == (None if expected is None else root / expected)


def test_files_that_can_be_forgotten_are_no_used_memory(tmp_path: Path) -> None:
    """Reading a data set fills the limit with pages that cost nobody anything."""
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 200\nfile 700\nkernel 0\ninactive_file 600\nactive_file 100\n")
    assert cgroup_memory(tmp_path) == (300, 1000)


def test_the_real_machine_is_read(tmp_path: Path) -> None:
    """By psutil: nothing fails, and what every machine has is there, in its range."""
    problems: list[str] = []
    probe = HostProbe(tmp_path, lambda what, error: problems.append(f"{what}: {error!r}"))
    before = probe.read()
    sum(range(2_000_000))
    after = probe.read()
    assert problems == []
    found = metrics_between(before, after)
    assert 0 < found["system/memory_percent"] <= 100
    assert found["system/process_memory_bytes"] > 2**20
    assert found["system/memory_bytes"] > 2**20
    assert found["system/process_cpu_percent"] > 0
    assert 0 <= found["system/disk_used_percent"] <= 100
    assert all(name.startswith("system/") for name in found)


def test_one_value_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    """The folder's file system here, which is gone."""
    problems: list[tuple[str, type]] = []
    probe = HostProbe(tmp_path / "gone", lambda what, error: problems.append((what, type(error))))
    reading = probe.read()
    assert problems == [(f"the file system of {tmp_path / 'gone'}", FileNotFoundError)]
    assert "system/disk_used_percent" not in reading.now
    assert reading.now["system/process_memory_bytes"] > 0
