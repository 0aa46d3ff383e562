"""Pages of docs/ whose shell blocks are run as written: only paths and addresses are others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.repo.files import REPOSITORY

_SECTION = re.compile(r"^## (?P<title>.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FOREIGN = ("RUNWIRE_", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_")


def shell_blocks(page: str) -> dict[str, list[str]]:
    """The ```sh blocks of docs/`page`, by the title of their section."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    _, *parts = _SECTION.split(text)
    return {
        title: [found["text"] for found in _BLOCK.finditer(body)]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def start_block(block: str, folder: Path, others: Mapping[str, str]) -> subprocess.Popen[str]:
    """Run a block in `folder`, where `python` and `runwire` are ours, as the leader of a process group of its own.

    Args:
        block: As in the page.
        folder: Current folder.
        others: What stands in the page, to what is used here instead.
    """
    for written, used in others.items():
        block = block.replace(written, used)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return subprocess.Popen(
        ["sh", "-eu", "-c", block],
        cwd=folder,
        env={
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(folder / ".config"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
