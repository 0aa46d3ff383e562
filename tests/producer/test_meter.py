"""What tracking cost, judged by a sample of the calls."""

from __future__ import annotations

import pytest

from runwire._meter import Meter

MS = 1_000_000


@pytest.mark.parametrize(
    ("samples", "calls", "seconds"),
    [
        pytest.param([], 0, 0.0, id="nothing"),
        pytest.param([(0, 500)], 1, 500e-9, id="the first stands for itself"),
        pytest.param([(0, 500), (64, 2000), (128, 4000)], 201, 500e-9 + 200 * 3000e-9, id="others by their mean"),
        pytest.param([(0, 0), (64, 10 * MS)], 65, (9 + 64) * 1e-3, id="a call that was held up stands for no others"),
    ],
)
def test_meter(samples: list[tuple[int, int]], calls: int, seconds: float) -> None:
    """(calls before, nanoseconds) of samples to the time of all calls."""
    meter = Meter()
    for before, taken_ns in samples:
        meter.sample(before, taken_ns)
    assert meter.log_seconds(calls) == pytest.approx(seconds)
