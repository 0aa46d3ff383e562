"""The Python of a guide: its blocks, and the calls in its tables."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.repo.files import REPOSITORY

GUIDES = REPOSITORY / "docs" / "guides"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


def blocks(guide: str) -> list[str]:
    """Its ```python blocks, in order."""
    return _BLOCK.findall((GUIDES / guide).read_text(encoding="utf-8"))


def rows(guide: str) -> Iterator[list[str]]:
    """Cells of each row of its tables."""
    for line in (GUIDES / guide).read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and line.endswith(" |"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def calls(guide: str, column: int) -> list[str]:
    """Calls of ours in that column of its tables."""
    found = [code for row in rows(guide) if len(row) > column for code in _CODE.findall(row[column])]
    return [code for code in found if re.match(r"(run|runwire)\.\w+\(", code) and "..." not in code]


def training() -> dict[str, Any]:
    """What a training script has at hand, as the guides name it."""

    class Model:
        """Calls back as Ultralytics' trainer does."""

        def __init__(self) -> None:
            self.callbacks: dict[str, Any] = {}

        def add_callback(self, name: str, callback: Any) -> None:
            self.callbacks[name] = callback

    return {
        "loader": [1, 2, 3],
        "train": lambda batch: 1 / batch,
        "evaluate": lambda: 0.9,
        "model": Model(),
        "step": 3,
        "loss": 0.5,
        "acc": 0.9,
        "norm": 1.5,
        "lr": 3e-4,
        "error": ValueError("why"),
        "url": None,
        "config": {"depth": 3, "optimizer": {"name": "adam"}},
    }


def trainer() -> SimpleNamespace:
    """An Ultralytics trainer at the end of an epoch, as far as callbacks look at it."""
    return SimpleNamespace(
        args=SimpleNamespace(name="yolo", imgsz=64),
        tloss=object(),
        label_loss_items=lambda _, prefix: {f"{prefix}/box_loss": 1.5},
        lr={"lr/pg0": 0.01},
        metrics={"metrics/mAP50(B)": 0.5},
        epoch=2,
    )


def run_code(code: str, folder: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block, or a call, as a program where these names are; returns the names afterwards."""
    program = folder / "guide.py"
    program.write_text(code, encoding="utf-8")
    return runpy.run_path(str(program), init_globals=names)
