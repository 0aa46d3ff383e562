"""`runwire export`: one run into files of Parquet, CSV or JSON, whole or not at all, in bounded memory."""

from __future__ import annotations

import sys
from pathlib import Path

from runwire_cli.client import Reader, rows_of
from runwire_cli.errors import CommandError
from runwire_cli.output import Output
from runwire_cli.text import short
from runwire_consumer import queries, run_files
from runwire_consumer.results import read_arrow
from runwire_consumer.run_files import Description, RunSource

STDOUT = "-"


def export(reader: Reader, output: Output, wanted: str, form: str, to: str | None) -> int:
    """Write a run; returns the exit code.

    Args:
        reader: Who knows the run.
        output: Where it is said.
        wanted: The run's id, the begin of it, or its name.
        form: parquet, csv or json.
        to: A folder (json: a file), NAME.parquet or NAME.csv for the points alone, - for stdout.
    """
    if form not in run_files.FORMS:
        raise CommandError(f"--format {form[:40]!r} is none of {', '.join(run_files.FORMS)}.", 2)
    source = source_of(reader)
    about = run_files.describe(source, queries.find_run(source.ask, wanted))
    if to == STDOUT:
        _to_stdout(output, form, source, about)
        return 0
    is_json = form == run_files.JSON
    path = Path(to or run_files.path_part(about.run_id) + (".json" if is_json else ""))
    alone = path.suffix == f".{form}" and not is_json
    if not path.parent.is_dir():
        raise CommandError(f"There is no folder {path.parent}: make it, or name another path.")
    try:
        with (
            output.waiting("Writing the run …"),
            run_files.appearing(path, folder=not (is_json or alone)) as draft,
        ):
            if is_json:
                with draft.open("wb") as file:
                    count = run_files.write_json(file, source, about)
            elif alone:
                count = run_files.write_points(form, draft, source, about)
            else:
                count = run_files.write_folder(form, draft, source, about)
    except FileExistsError:
        raise CommandError(f"{path} is there already: name another path with -o, or remove it.") from None
    output.console.print(f"{short(about.run['name'])}: {count:,} points written: {path}", soft_wrap=True)
    if about.run["state"] in {"running", "stuck"}:
        output.say("It is still running: this is what was stored of it until now.")
    return 0


def source_of(reader: Reader) -> RunSource:
    """The reader, as runs are read from it."""
    return RunSource(rows_of(reader), lambda sql, params: read_arrow(reader.arrow(sql, params)))


def _to_stdout(output: Output, form: str, source: RunSource, about: Description) -> None:
    if sys.stdout.isatty():
        raise CommandError(
            "A terminal is no place for a run's points: send them into a pipe or a file, or leave -o out."
        )
    sys.stdout.flush()
    with output.waiting("Writing the run …"):
        if form == run_files.JSON:
            run_files.write_json(sys.stdout.buffer, source, about)
        else:
            run_files.write_points(form, sys.stdout.buffer, source, about)
    sys.stdout.buffer.flush()
