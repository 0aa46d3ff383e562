"""The repository as the tidy tests read it: its files, and the Python ones as syntax trees."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = ("schemas", "producer", "consumer", "cli")


@cache
def committed_files() -> tuple[Path, ...]:
    """Return every file that is committed or about to be: tracked, or neither tracked nor ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    paths = (REPOSITORY / name for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


def name_of(path: Path) -> str:
    """Return a file's path inside the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def texts() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every file that is UTF-8 text."""
    for path in committed_files():
        try:
            yield name_of(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def python_files(*folders: str) -> list[str]:
    """Return the names of the Python files below top-level folders, of all without an argument."""
    names = (name_of(path) for path in committed_files() if path.suffix == ".py")
    return [name for name in names if not folders or name.partition("/")[0] in folders]


@cache
def tree(name: str) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse((REPOSITORY / name).read_text(encoding="utf-8"), filename=name)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an attribute chain that starts at a name, else an empty string."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
