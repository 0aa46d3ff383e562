"""Real small disks for tests: a tmpfs that is full soon, an ext4 whose kernel can be told that it is broken."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.tiers import require_service


@contextlib.contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """A tmpfs of `size` (as mount takes it) at `folder`; the calling test is skipped where none may be mounted."""
    folder.mkdir()
    _mount(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder])
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def ext4_disk(folder: Path) -> Iterator[Path]:
    """An ext4 of 48 MiB in a file beside `folder`."""
    folder.mkdir()
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(48 * 2**20)
    _mount(["mkfs.ext4", "-q", "-F", image])
    _mount(["mount", "-o", "loop", image, folder])
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _mount(command: list[str | Path]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        is_possible, why = done.returncode == 0, done.stderr.strip()
    except FileNotFoundError as error:
        is_possible, why = False, f"{error.filename} is missing"
    require_service("the right to mount small disks", is_possible, f"run the tests as root ({why})")
