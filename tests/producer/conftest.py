"""What tests of the producer start from: no notice was given yet; a run that sends into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import runwire
from runwire import _sender, _start
from runwire._notices import NOTICES
from runwire.testing import Captured, capture


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    """The minute in which a cause isn't named again is the process's, not the test's."""
    NOTICES._said_at.clear()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends that should deliver have the time, however busy the machine is; who tests their bound sets it anew."""
    monkeypatch.setattr(_start, "FINISH_TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr(_sender, "BESIDE_SECONDS", 60.0)


@pytest.fixture
def captured() -> Iterator[Captured]:
    """An in-memory destination."""
    with capture() as destination:
        yield destination


@pytest.fixture
def run(captured: Captured, tmp_path: Path) -> Iterator[runwire.Run]:
    """A run that sends there."""
    opened = runwire.init(project="p", url=captured.url, home=tmp_path)
    yield opened
    opened.finish()
