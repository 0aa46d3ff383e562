"""Write the list of modules in ARCHITECTURE.md from the modules' own first docstring lines.

usage: python tools/modules.py [--check]

The list stands between the two marker lines; everything else in the file is written by hand.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENT = REPOSITORY / "ARCHITECTURE.md"
BEGIN = "<!-- modules: written by tools/modules.py -->"
END = "<!-- end of modules -->"
PACKAGES = (
    "schemas/runwire_schemas",
    "producer/runwire",
    "consumer/runwire_consumer",
    "cli/runwire_cli",
)


def modules(package: str) -> Iterator[tuple[str, str]]:
    """Yield (path in the repository, first docstring line) of each module of a package, folders last."""
    folder = REPOSITORY / package
    for path in sorted(folder.rglob("*.py"), key=lambda path: (path.parent, path.name)):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield path.relative_to(REPOSITORY).as_posix(), docstring.partition("\n")[0].strip()


def module_list() -> str:
    """Return the list as it should stand between the markers."""
    lines = []
    for package in PACKAGES:
        lines += ["", f"### `{package}`", ""]
        for path, sentence in modules(package):
            lines.append(f"- `{path.removeprefix(package + '/')}`: {sentence}")
    return "\n".join([*lines[1:], ""])


def written_list(text: str) -> str:
    """Return what stands between the markers of a document.

    Raises:
        ValueError: A marker is missing.
    """
    _, begin, rest = text.partition(f"{BEGIN}\n")
    inside, end, _ = rest.partition(END)
    if not begin or not end:
        message = f"{DOCUMENT.name} has no lines {BEGIN!r} and {END!r} for the list of modules to stand between"
        raise ValueError(message)
    return inside


def main(arguments: list[str]) -> int:
    """Write the list, or with --check say whether it is up to date; return the exit code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    old, new = written_list(text), module_list()
    if old == new:
        return 0
    if "--check" in arguments:
        print(f"{DOCUMENT.name}: the list of modules is out of date: make modules", file=sys.stderr)
        return 1
    DOCUMENT.write_text(text.replace(f"{BEGIN}\n{old}{END}", f"{BEGIN}\n{new}{END}"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
