"""The page about keeping the store: its commands run as they stand, in the order of the page."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.cli.commands import have_trained
from tests.docs.guides import shell_blocks, start_block
from tests.services.process import PATIENCE_SECONDS, wait_until

PAGE = "guides/the-store.md"


def test_snapshots_and_going_back(tmp_path: Path) -> None:
    """With a consumer, then, stopped as the page says, without one."""
    home = tmp_path / ".runwire"
    have_trained(home, "first")
    up = start_block("exec runwire up --port 0", tmp_path, {})
    try:
        wait_until((home / "server.json").exists, what="the consumer serves")
        blocks = shell_blocks(PAGE)
        assert list(blocks) == ["Snapshots", "Going back", "Damage", "Compaction", "A full disk", "Topic files"]
        (take,) = blocks["Snapshots"]
        (restore,) = blocks["Going back"]
        taking = start_block(take, tmp_path, {})
        printed, _ = taking.communicate(timeout=PATIENCE_SECONDS)
        assert taking.returncode == 0, printed
        (snapshot,) = (home / "snapshots").iterdir()
        assert printed.startswith("Snapshot of 20")
        assert printed.count(snapshot.name) == 2
        refused = start_block(restore, tmp_path, {})
        assert "Stop it first" in refused.communicate(timeout=PATIENCE_SECONDS)[0]
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE_SECONDS) == 0
        restoring = start_block(restore, tmp_path, {})
        printed, _ = restoring.communicate(timeout=PATIENCE_SECONDS)
        assert restoring.returncode == 0, printed
        assert f"The snapshot {snapshot.name} is in its place" in printed
    finally:
        up.kill()
        up.communicate()
