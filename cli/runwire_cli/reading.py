"""The commands that read: each asks a reader and prints what it says."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from runwire_cli import views
from runwire_cli.client import Reader, rows_of
from runwire_cli.output import ROWS_SHOWN_MAX, Form, Output
from runwire_cli.text import clean
from runwire_consumer import queries

RUN_COLUMNS = (
    "run_id", "project", "name", "group", "user", "tags", "notes", "state", "started_at", "ended_at",
    "duration_seconds", "commit", "dirty", "params", "last", "best", "world_size", "ranks", "attempts", "points",
    "tracking_share",
)  # fmt: skip


def runs(reader: Reader, output: Output, project: str | None, limit: int) -> int:
    """Print the newest runs; returns the exit code."""
    with output.waiting("Reading the runs …"):
        rows = list(queries.list_runs(rows_of(reader), project, limit))
    match output.form:
        case Form.JSON:
            output.json(rows)
        case Form.CSV:
            output.csv(RUN_COLUMNS, rows)
        case Form.TABLE if rows:
            output.console.print(views.runs_table(rows, _now(), output.console.width))
            if len(rows) == limit:
                output.say(f"These are the newest {limit}: --limit shows more.")
        case _:
            of_project = "" if project is None else f" of project {project!r}"
            output.say(f"No runs{of_project} yet in {reader.place}.")
    return 0


def show(reader: Reader, output: Output, wanted: str) -> int:
    """Print everything about one run; returns the exit code."""
    ask = rows_of(reader)
    with output.waiting("Reading the run …"):
        run_id = queries.find_run(ask, wanted)
        run = queries.show_run(ask, run_id)
        receipt = queries.receipt(ask, run_id)
    match output.form:
        case Form.JSON:
            output.json({**run, "receipt": _receipt_fields(receipt)})
        case Form.CSV:
            output.csv(("section", "key", "value"), _flat(run))
        case _:
            output.console.print(views.run_view(run, receipt, _now()))
    return 0


def sql(reader: Reader, output: Output, query: str) -> int:
    """Print a query's result; returns the exit code."""
    if output.form is not Form.TABLE:
        chunks = iter(reader.fetch(query, output.form.value))
        with output.waiting("Running the query …"):
            first = next(chunks, b"")
        output.raw(first)
        for chunk in chunks:
            output.raw(chunk)
        return 0
    with output.waiting("Running the query …"):
        table = reader.table(query)
    output.console.print(views.result_table(table.columns, table.rows))
    if len(table.rows) > ROWS_SHOWN_MAX:
        output.say(f"{len(table.rows):,} rows, {ROWS_SHOWN_MAX:,} shown: --csv and --json print all.")
    return 0


def verify(reader: Reader, output: Output, wanted: str) -> int:
    """Print a run's receipt; returns 1 when rows are dead, doubled or missing without an explanation."""
    ask = rows_of(reader)
    with output.waiting("Counting rows and points …"):
        receipt = queries.receipt(ask, queries.find_run(ask, wanted))
    match output.form:
        case Form.JSON:
            output.json(_receipt_fields(receipt))
        case Form.CSV:
            fields = _receipt_fields(receipt)["emitters"]
            output.csv([field.name for field in dataclasses.fields(queries.EmitterReceipt)], fields)
        case _:
            output.console.print(views.receipt_table(receipt))
            output.console.print(views.receipt_line(receipt), style=views.verdict_style(receipt.verdict))
    return 1 if receipt.faulty else 0


def _receipt_fields(receipt: queries.Receipt) -> dict[str, Any]:
    return {"verdict": receipt.verdict, **dataclasses.asdict(receipt)}


def _flat(run: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for key, value in run.items():
        if isinstance(value, dict):
            rows += [{"section": key, "key": inner, "value": held} for inner, held in value.items()]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            rows += [{"section": key, "key": str(index), "value": held} for index, held in enumerate(value)]
        else:
            rows.append({"section": "run", "key": clean(key), "value": value})
    return rows


def _now() -> datetime:
    return datetime.now(UTC)
