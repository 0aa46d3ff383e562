"""What every test of the producer starts from: no notice was given yet."""

from __future__ import annotations

import pytest

from runwire._notices import NOTICES


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    """The minute in which a cause isn't named again is the process's, not the test's."""
    NOTICES._said_at.clear()
