"""Where the code's working tree begins; apart from `git.py` because settings need it at once, and cheaply."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def find_root(start: Path) -> Path | None:
    """The nearest folder upward that is a working tree of git; None outside of one and in a bare repository."""
    with suppress(OSError):
        for folder in (start, *start.parents):
            mark = folder / ".git"
            if (mark / "HEAD").exists() or mark.is_file():
                return folder
    return None
