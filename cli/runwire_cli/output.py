"""What a command prints: a table for people, JSON or CSV for programs; sentences and progress go to stderr."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from runwire_cli.text import clean, clean_lines
from runwire_consumer.values import csv_cell

PIPE_COLUMNS = 200
ROWS_SHOWN_MAX = 1_000
GAP_CELLS = 2
WORD_CELLS_MAX = 48  # a longer word may be broken: a path, a digest
PROSE_WORD_CELLS_MAX = 16


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
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a chunk may end amid a character
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
            sys.stdout.write(clean_lines(self._decoder.decode(content)))
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
        with self.errors.status(what) if self.errors.is_terminal else nullcontext():
            yield


class Grid:
    """A table in the house style, as wide as the terminal; a number, an id or another word is never broken in it.

    Where it doesn't fit, columns are left out; where that isn't enough, each row is printed as lines of its own.

    Args:
        columns: Their headers.
        title: Above the table.
        right: Columns that are aligned right.
        wrap: Columns that may take several lines, broken between words; None for all.
        prose: Those whose long words may be broken too.
        drop: What is left out where the table doesn't fit, from the first on.
    """

    def __init__(
        self,
        *columns: str,
        title: str = "",
        right: Sequence[str] = (),
        wrap: Sequence[str] | None = (),
        prose: Sequence[str] = (),
        drop: Sequence[str] = (),
    ) -> None:
        """Without rows."""
        self._columns = columns
        self._title = title
        self._right = right
        self._longest = dict.fromkeys(columns if wrap is None else wrap, WORD_CELLS_MAX)
        self._longest |= dict.fromkeys(prose, PROSE_WORD_CELLS_MAX)
        self._drop = drop
        self._rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: Text) -> None:
        """A cell for every column."""
        self._rows.append(cells)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        widths = [self._widths(at) for at in range(len(self._columns))]
        shown = list(range(len(self._columns)))
        for name in self._drop:
            if _table_cells(widths[at][0] for at in shown) <= options.max_width:
                break
            shown.remove(self._columns.index(name))
        free = options.max_width - _table_cells(widths[at][0] for at in shown)
        if free < 0:
            yield from self._records()
            return
        table = Table(title=self._title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
        # What is left is shared; the less a column asks for beyond its least, the sooner it gets all of that.
        given = {}
        for left, at in zip(
            range(len(shown), 0, -1), sorted(shown, key=lambda at: widths[at][1] - widths[at][0]), strict=True
        ):
            least, most = widths[at]
            given[at] = min(most, least + free // left)
            free -= given[at] - widths[at][0]
        for at in shown:
            name = self._columns[at]
            table.add_column(
                clean(name),
                justify="right" if name in self._right else "left",
                overflow="fold",
                header_style="bold dim",
                width=given[at],
            )
        for row in self._rows:
            table.add_row(*(row[at] for at in shown))
        yield table

    def _widths(self, at: int) -> tuple[int, int]:
        """(how narrow a column may become, how wide it would like to be)."""
        name = self._columns[at]
        texts = [clean(name), *(row[at].plain for row in self._rows)]
        most = max(map(cell_len, texts))
        if name not in self._longest:
            return most, most
        word = max((cell_len(word) for text in texts for word in text.split()), default=0)
        return min(word, self._longest[name]), most

    def _records(self) -> Iterator[RenderableType]:
        """A block of lines a row."""
        if self._title:
            yield Text(self._title, style="bold")
        for number, row in enumerate(self._rows):
            block = Table(box=None, pad_edge=False, show_header=False)
            block.add_column(no_wrap=True, style="bold dim")
            block.add_column(overflow="fold")
            for name, value in zip(self._columns, row, strict=True):
                block.add_row(clean(name), value)
            if number:
                yield Text()
            yield block


def _table_cells(widths: Iterable[int]) -> int:
    listed = list(widths)
    return sum(listed) + GAP_CELLS * (len(listed) - 1)


def cell(value: object, style: str = "") -> Text:
    """A cell with clean text."""
    return Text(clean(value), style=style)
