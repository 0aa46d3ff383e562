"""The promise of `make test` about services: skipped and said, or failed where all must be there."""

from __future__ import annotations

import pytest

from tests.tiers import describe_missing, require_service


def test_a_found_service_is_no_obstacle() -> None:
    """A test goes on when what it needs is there."""
    require_service("Kafka", found=True, how_to_get="unused")


def test_a_missing_service_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop a missing service skips the test and names the way to get it."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs Kafka: apt-get install maven"):
        require_service("Kafka", found=False, how_to_get="apt-get install maven")


def test_a_missing_service_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CI=true nothing is skipped silently."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs Kafka: apt-get install maven"):
        require_service("Kafka", found=False, how_to_get="apt-get install maven")


def test_the_end_of_a_run_names_each_missing_service_once() -> None:
    """Counts by service; skips for other reasons are left alone."""
    reasons = [
        "Skipped: needs Kafka: mvn",
        "Skipped: needs Kafka: mvn",
        "Skipped: needs Prometheus: apt",
        "macOS",
    ]
    assert describe_missing(reasons) == [
        "services tier: 3 tests skipped, what they need is not here",
        "  Kafka (2 tests): mvn",
        "  Prometheus (1 tests): apt",
    ]
    assert describe_missing(["macOS"]) == []
