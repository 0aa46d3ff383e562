"""Percentiles, and figures as a table for people or one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


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
    """Print a table with a row a key, or the object itself."""
    if as_json:
        print(json.dumps(figures))
        return
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for name in columns:
        number = any(isinstance(row.get(name), int | float) for row in figures.values())
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for key, row in figures.items():
        table.add_row(key, *(_cell(row.get(name)) for name in columns))
    console = Console()
    console.print(table, soft_wrap=not console.is_terminal)


def rounded(value: float, digits: int = 3) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
