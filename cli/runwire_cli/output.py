"""What a command prints: a table for people, JSON or CSV for programs; sentences and progress go to stderr."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runwire_cli.text import clean, clean_lines
from runwire_consumer.values import csv_cell

PIPE_COLUMNS = 200
ROWS_SHOWN_MAX = 1_000


class Form(Enum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Output:
    """Stdout and stderr of one command.

    Args:
        form: How results are printed.
    """

    def __init__(self, form: Form) -> None:
        """Nothing is printed yet."""
        self.form = form
        # A pipe has no width: cutting there would lose data.
        width = None if sys.stdout.isatty() else PIPE_COLUMNS
        self.console = Console(width=width, highlight=False, markup=False, emoji=False)
        self.errors = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def json(self, value: Any) -> None:
        """One JSON document."""
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")

    def csv(self, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
        """A header and a line a row."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(csv_cell(column) for column in columns)
        writer.writerows([csv_cell(row.get(column)) for column in columns] for row in rows)
        self.raw(text.getvalue().encode())

    def raw(self, content: bytes) -> None:
        """Bytes as they are; to a terminal without what could drive it."""
        if sys.stdout.isatty():
            sys.stdout.write(clean_lines(content.decode("utf-8", "replace")))
            return
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    def say(self, sentence: str) -> None:
        """A sentence beside the result."""
        self.errors.print(clean(sentence), soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A sign of life on a terminal's stderr while something takes its time."""
        with self.errors.status(what):
            yield


def grid(*columns: str, title: str = "", right: Sequence[str] = ()) -> Table:
    """An empty table in the house style; columns named in `right` are aligned there."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            clean(column), justify="right" if column in right else "left", overflow="fold", header_style="bold dim"
        )
    return table


def cell(value: object, style: str = "") -> Text:
    """A cell with clean text."""
    return Text(clean(value), style=style)
