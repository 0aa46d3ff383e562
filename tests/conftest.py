"""What holds for every test: the services marker, and the last word about tiers that were skipped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.copied_stores import copied_stores
from tests.services.launchers import mpirun, slurm, torch_bin  # noqa: F401 - fixtures of more than one folder
from tests.tiers import describe_missing

_SERVICES = Path(__file__).parent / "services"

# No test is timed, least of all beside others on a busy machine.
settings.register_profile("runwire", deadline=None)
settings.load_profile("runwire")

# A shell's `&` starts its programs with SIGINT ignored, and children inherit that: here Ctrl-C ends a program.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_automatic_metrics() -> Iterator[None]:
    """Tests compare every row: what nobody logged is there only where a test asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNWIRE_AUTO_METRICS", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def _copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with copied_stores(tmp_path_factory.mktemp("store") / "template.duckdb"):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below tests/services, so that nobody can forget to."""
    for item in items:
        if item.path.is_relative_to(_SERVICES):
            item.add_marker(pytest.mark.services)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what wasn't tried, and how to get it."""
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    # A skip is (path, line, reason).
    reasons = [str(longrepr[2]) for longrepr in skipped if isinstance(longrepr, tuple)]
    for line in describe_missing(reasons):
        terminalreporter.write_line(line, yellow=True)
