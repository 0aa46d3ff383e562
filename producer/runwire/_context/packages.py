"""What is installed: distribution names and versions, for the question what changed between two runs.

Names and versions are read from the names of the metadata folders on the path, which takes a millisecond where
`importlib.metadata` parses every file; it is asked only for the few whose folder doesn't tell the version.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES_MAX = 1_000
_SEPARATORS = re.compile(r"[-_.]+")


def read_packages(path: Iterable[str]) -> dict[str, str]:
    """Versions by normalised name (`scikit-learn`), sorted, at most PACKAGES_MAX; never raises.

    Args:
        path: Folders that modules come from, as `sys.path`; an earlier one wins.
    """
    versions: dict[str, str] = {}
    for folder in path:
        with suppress(OSError):
            for entry in sorted(os.listdir(folder or ".")):  # noqa: PTH208 - names are enough
                stem, dot, kind = entry.rpartition(".")
                if dot and kind in {"dist-info", "egg-info"}:
                    name, version = _named(Path(folder, entry), stem)
                    if name and version:
                        versions.setdefault(name, version)
    return dict(sorted(versions.items())[:PACKAGES_MAX])


def _named(metadata: Path, stem: str) -> tuple[str, str]:
    name, _, rest = stem.partition("-")
    version = rest.partition("-")[0]
    if not version:
        # Imported here: it costs 30 ms, and an egg under development is rare.
        from importlib.metadata import PathDistribution  # noqa: PLC0415

        with suppress(Exception):
            version = PathDistribution(metadata).version or ""
    return _SEPARATORS.sub("-", name).lower(), version
