"""Write the tables of docs/guides/sql.md from what the store says of itself: the relations `relations` and `columns`.

usage: python tools/dictionary.py [--check]

A table stands between a marker line that names its relation and the end marker; everything else is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from runwire_consumer.database import MEMORY
from runwire_consumer.store import Store

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "guides" / "sql.md"
END = "<!-- end of table -->"
_TABLE = re.compile(
    r"<!-- (?P<kind>columns|call) of (?P<name>\w+): written by tools/dictionary\.py -->\n.*?" + END, re.DOTALL
)


def tables() -> dict[tuple[str, str], str]:
    """What belongs between the markers, by kind and name."""
    store = Store.open(MEMORY)
    cursor = store.cursor()
    found = {}
    for name, call, meaning in cursor.execute("SELECT name, call, meaning FROM relations").fetchall():
        found["call", str(name)] = f"`{call}`: {meaning}\n"
    for relation, name, kind, unit, meaning in cursor.execute("FROM columns").fetchall():
        lines = found.get(("columns", relation), "| column | type | unit | meaning |\n|---|---|---|---|\n")
        text = str(meaning).replace("|", "\\|")
        found["columns", str(relation)] = f"{lines}| `{name}` | {kind} | {unit or ''} | {text} |\n"
    store.close()
    return found


def written(text: str) -> str:
    """The document with every table as it should be.

    Raises:
        KeyError: A marker names what the store doesn't have.
    """
    known = tables()

    def table(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        return f"<!-- {kind} of {name}: written by tools/dictionary.py -->\n{known[kind, name]}{END}"

    return _TABLE.sub(table, text)


def main(arguments: list[str]) -> int:
    """Write the tables, or with --check say whether they are up to date; return the exit code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    renewed = written(text)
    if arguments == ["--check"]:
        if renewed != text:
            print(f"{DOCUMENT.name}: a table is not up to date; run `make modules`", file=sys.stderr)
        return int(renewed != text)
    DOCUMENT.write_text(renewed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
