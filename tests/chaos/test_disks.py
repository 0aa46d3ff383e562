"""A small disk is full when it is told to, whatever is deleted, and takes what it took before when it is freed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import errno, shutil, sys, time
from pathlib import Path
from tests.chaos.disks import Disk, own_mounts
if not own_mounts():
    sys.exit(77)
disk = Disk(Path(sys.argv[1]), 2**20)
file, more = disk.folder / "file", disk.folder / "more"
file.write_bytes(bytes(2**16))
(disk.folder / "kept").write_bytes(bytes(2**12))
disk.fill()
try:
    more.write_bytes(bytes(2**14))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("there was room")
file.unlink()
deadline = time.monotonic() + 30
while shutil.disk_usage(disk.folder).free and time.monotonic() < deadline:
    time.sleep(0.01)
assert shutil.disk_usage(disk.folder).free == 0, "what was deleted makes room for good"
disk.free()
more.write_bytes(bytes(2**19))
disk.close()
assert not more.exists()
"""


def test_full_and_free(tmp_path: Path) -> None:
    """In a process of its own, for its mounts become others."""
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "disk")],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip("this user may not mount")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "disk" / "file").exists()
