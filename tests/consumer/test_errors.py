"""What errors of others become in a sentence of ours."""

from __future__ import annotations

import pytest

from runwire_consumer.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one"), "one"),
        (ValueError("one\ntwo"), "one"),
        (ValueError(""), "ValueError"),
        (OSError(), "OSError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_the_first_line(error: Exception, line: str) -> None:
    """An engine's error may have twenty, and a stray one none."""
    assert first_line(error) == line
