"""The benchmarks start, and what they print is what their page says; nothing here is timed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.repo.files import REPOSITORY

BENCH = REPOSITORY / "bench"
SCRIPTS = (
    "log_overhead", "fsync", "device_sync", "ingest", "freshness", "memory", "backlog", "kills", "emitter_kills",
    "system_cost", "snapshots", "poison", "gauges", "commands", "project_tokens", "alerts", "run_data",
    "page", "readers", "run",
)  # fmt: skip
COMPARED = ("wandb", "tensorboardX", "trackio", "mlflow", "aim", "clearml")
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?P<rest>(?:.*\\\n)*.*)$", re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_explains_itself(script: str) -> None:
    """--help works for each, and each prints one JSON object with --json."""
    command = [sys.executable, str(BENCH / f"{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


@pytest.mark.parametrize("tool", COMPARED)
def test_what_is_compared_is_pinned_by_hash(tool: str) -> None:
    """Two people who compare install the same files, from whatever registry they use."""
    text = (BENCH / "requirements" / f"{tool}.txt").read_text()
    pins = list(PIN.finditer(text))
    assert tool.lower() in {pin["name"].lower() for pin in pins}
    assert [pin["name"] for pin in pins if "--hash=sha256:" not in pin["rest"]] == []
    assert "://" not in text


def test_the_page_explains_each_figure() -> None:
    """README.md has a line for each key that the comparison prints."""
    page = (BENCH / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-c", "from bench.log_overhead import KEYS; print(*KEYS)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [key for key in done.stdout.split() if f"- `{key}`: " not in page] == []
