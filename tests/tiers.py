"""The tiers of the test suite: which tests need a real service, and what is said when it isn't there.

A test (or a fixture it uses) calls `require_service`. Without the service the test is skipped and the end
of the run says what to install; with CI=true, where everything must have been installed, it fails.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

_REASON = re.compile(r"needs (?P<name>[^:]+): (?P<how_to_get>.+)", re.DOTALL)


def in_ci(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a missing service is a failure."""
    return environment.get("CI", "").lower() in {"1", "true"}


def require_service(name: str, found: bool, how_to_get: str) -> None:  # noqa: FBT001  reads as a sentence
    """Skip the calling test unless the service was found; in CI fail it.

    Args:
        name: What is needed, as a person calls it: `Kafka`.
        found: Whether it can be started here.
        how_to_get: One line, best a command: `apt-get install prometheus`.
    """
    if found:
        return
    reason = f"needs {name}: {how_to_get}"
    if in_ci():
        pytest.fail(f"{reason} (with CI=true a missing service is a failure)", pytrace=False)
    pytest.skip(reason)


def describe_missing(skip_reasons: Iterable[str]) -> list[str]:
    """Return the lines that tell which services skipped tests needed; other skips are not mentioned."""
    found = (_REASON.search(reason) for reason in skip_reasons)
    counts = Counter((match["name"], match["how_to_get"]) for match in found if match)
    if not counts:
        return []
    lines = [f"services tier: {counts.total()} tests skipped, what they need is not here"]
    lines += [f"  {name} ({count} tests): {how}" for (name, how), count in sorted(counts.items())]
    return lines
