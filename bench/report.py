"""Percentiles, and figures as a table for people or one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 130  # where there is no terminal to ask


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("no value to take a percentile of")
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))])


def show(title: str, figures: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    """Print the object itself, or a table with a column a key; texts stand below it, a line each."""
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for key in figures:
        table.add_column(key, justify="right")
    texts = []
    for name in dict.fromkeys(name for column in figures.values() for name in column):
        values = [column.get(name) for column in figures.values()]
        if any(isinstance(value, str) for value in values):
            texts += [f"{key}: {name} {value}" for key, value in zip(figures, values, strict=True) if value]
        elif not any(isinstance(value, Mapping) for value in values):
            table.add_row(name, *map(_cell, values))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    for text in texts:
        console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)


def rounded(value: float, digits: int = 3) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if type(value) is int else str(value)
