"""`runwire dead-letters`: lists and shows what could not be stored, has it stored again, or gives it up."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from runwire_cli.client import HttpReader, Reader, Row, consumer_or, named_consumer
from runwire_cli.errors import CommandError
from runwire_cli.output import Form, Grid, Output, cell
from runwire_cli.settings import CommandSettings
from runwire_cli.text import moment, number, short

if TYPE_CHECKING:
    from runwire_consumer.store import Store

STATUSES = ("dead", "replayed", "discarded")
COLUMNS = (
    "letter_id", "status", "appended_at", "reason", "type", "run_id", "emitter_id", "first_seq", "count", "bytes",
    "whole", "source", "partition", "offset", "settled_at",
)  # fmt: skip
BYTES_A_LINE = 16
REASON_CHARACTERS = 70
RUN_CHARACTERS = 16

_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)


def list_letters(
    reader: Reader,
    output: Output,
    *,
    status: str | None = "dead",
    reason: str | None = None,
    run: str | None = None,
    limit: int = 50,
) -> int:
    """Print the newest letters; returns the exit code.

    Args:
        reader: Who is asked.
        output: Where it is printed.
        status: dead, replayed or discarded; None for all.
        reason: Only those whose reason has this text in it.
        run: Only those that name a run whose id begins like this.
        limit: How many.
    """
    if status is not None and status not in STATUSES:
        raise CommandError(f"--status {status!r} is none of {', '.join(STATUSES)}, all.", 2)
    wanted, params = ["true"], list[Any]()
    for condition, value in (
        ("status = ?", status),
        ("contains(lower(reason), lower(?))", reason),
        ("starts_with(run_id, ?)", run),
    ):
        if value is not None:
            wanted.append(condition)
            params.append(value)
    where = " AND ".join(wanted)
    with output.waiting("Reading the dead letters …"):
        rows = reader.table(
            f'SELECT {_NAMES} FROM dead_letters WHERE {where} ORDER BY appended_at DESC, source, "partition", "offset" DESC '  # noqa: S608, E501 - names of our own
            f"LIMIT {limit:d}",
            params,
        ).rows
    match output.form:
        case Form.JSON:
            output.json(rows)
        case Form.CSV:
            output.csv(COLUMNS, rows)
        case Form.TABLE if rows:
            output.console.print(_table(rows))
            if len(rows) == limit:
                output.say(f"These are the newest {limit}: --limit shows more.")
        case _:
            filtered = " with these filters" if (status, reason, run) != ("dead", None, None) else ""
            output.say(f"No dead letters{filtered} in {reader.place}.")
    return 0


def show_letter(reader: Reader, output: Output, wanted: str) -> int:
    """Print everything that is kept of one letter; returns the exit code."""
    rows = reader.table(
        f"SELECT {_NAMES}, headers, head FROM dead_letters WHERE starts_with(letter_id, ?) LIMIT 2",  # noqa: S608 - as above
        [wanted.lower()],
    ).rows
    if not rows or not wanted:
        raise CommandError(f"No dead letter has the id {wanted!r}: `runwire dead-letters list` names them.")
    if len(rows) > 1:
        raise CommandError(f"Several dead letters have ids that begin with {wanted!r}: write more of it.")
    (row,) = rows
    match output.form:
        case Form.JSON:
            output.json(row)
        case Form.CSV:
            output.csv(tuple(row), [row])
        case _:
            output.console.print(_view(row), soft_wrap=True)
    return 0


def replay(settings: CommandSettings, output: Output, ids: Sequence[str], *, everything: bool) -> int:
    """Have letters stored again; returns 1 when some could not be."""
    with output.waiting("Replaying …"):
        done = give_order(settings, output, "dead-letters/replay", _asked(ids, everything=everything))
    if output.form is Form.JSON:
        output.json(done)
    else:
        output.console.print(
            f"{done['replayed']:,} dead letters replayed: {done['rows']:,} rows, {done['points']:,} points stored, "
            f"{done['duplicates']:,} rows were there already."
        )
        _tell_settled(output, done["settled"])
        left = done["dead"] + done["not_whole"]
        if left:
            output.say(f"{left:,} stay dead:")
            for one in done["reasons"]:
                output.say(f"  {one['letter_id']}  {short(one['reason'], 160)}")
            if left > len(done["reasons"]):
                output.say(f"  ... and {left - len(done['reasons']):,} more: `runwire dead-letters list` shows them.")
    return 1 if done["dead"] or done["not_whole"] else 0


def discard(settings: CommandSettings, output: Output, ids: Sequence[str], *, everything: bool) -> int:
    """Give letters up; returns the exit code."""
    with output.waiting("Discarding …"):
        done = give_order(settings, output, "dead-letters/discard", _asked(ids, everything=everything))
    if output.form is Form.JSON:
        output.json(done)
    else:
        output.console.print(
            f"{done['discarded']:,} dead letters discarded: their bytes are gone, their rows stay dead in the receipts."
        )
        _tell_settled(output, done["settled"])
    return 0


def give_order(settings: CommandSettings, output: Output, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Have the consumer that runs do it, else do it on the file itself, under its lock.

    Raises:
        CommandError: Nobody can be asked, or the consumer refuses.
        StoreLocked: Somebody else has the database and takes no orders.
        LetterRefused: The order names a letter that isn't there.
    """
    if settings.server is not None:
        return _ask(named_consumer(settings, settings.server), path, asked)
    if not settings.home.database.exists():
        raise CommandError(
            f"There is no database {settings.home.database}: set RUNWIRE_HOME or RUNWIRE_SERVER, "
            "or read the log first with `runwire up`."
        )

    def open_store(lock_wait_seconds: float) -> Store:
        from runwire_cli.backup import open_home_store  # noqa: PLC0415 - the engine: only without a consumer

        # A replacement that was begun is finished first, or what is done here would go with the file.
        return open_home_store(settings, lock_wait_seconds, output.say)[0]

    found = consumer_or(settings, open_store)
    if isinstance(found, HttpReader):
        return _ask(found, path, asked)
    from runwire_consumer.replay import obey  # noqa: PLC0415 - as above

    return obey(found, path, asked)


def _ask(reader: HttpReader, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return reader.order(path, asked)
    finally:
        reader.close()


def _asked(ids: Sequence[str], *, everything: bool) -> dict[str, Any]:
    if everything == bool(ids):
        raise CommandError("Name dead letters by their ids, or all of them with --all.", 2)
    return {"all": True} if everything else {"ids": list(ids)}


def _tell_settled(output: Output, count: int) -> None:
    if count:
        output.say(f"{count:,} were replayed or discarded before: nothing was done about them.")


def _table(rows: Sequence[Row]) -> Grid:
    now = datetime.now(UTC)
    table = Grid(
        "id", "when", "reason", "type", "run", "rows", "bytes", "where",
        right=("rows", "bytes"), wrap=("reason",), prose=("reason",), drop=("where", "type", "bytes", "when"),
    )  # fmt: skip
    for row in rows:
        style = "" if row["status"] == "dead" else "dim"
        table.add_row(
            cell(row["letter_id"], "bold" if row["whole"] else style),
            cell(moment(row["appended_at"], now), style),
            cell(short(_said(row), REASON_CHARACTERS), style),
            cell(short(row["type"] or "", 20), style),
            cell(short(row["run_id"] or "", RUN_CHARACTERS), style),
            cell("" if row["count"] is None else number(row["count"]), style),
            cell(number(row["bytes"]), style),
            cell(f"{short(row['partition'], 30)} @ {row['offset']}", style),
        )
    return table


def _said(row: Row) -> str:
    return row["reason"] if row["status"] == "dead" else f"{row['status']}: {row['reason']}"


def _view(row: Row) -> Group:
    """Facts, headers, and the first bytes."""
    facts = {
        "id": row["letter_id"],
        "status": row["status"] + (f" {row['settled_at']}" if row["settled_at"] else ""),
        "reason": row["reason"],
        "source": row["source"],
        "partition": row["partition"],
        "offset": row["offset"],
        "appended": row["appended_at"],
        "bytes": f"{number(row['bytes'])}, {_kept(row)}",
    }
    if row["count"] is not None:
        facts["rows"] = f"{row['first_seq']} to {row['first_seq'] + row['count'] - 1}" if row["count"] else "none"
    lines = [_line(name, value) for name, value in facts.items()]
    lines.append(Text("headers", style="bold"))
    lines += [_line(f"  {short(name, 40)}", value) for name, value in _headers(row["headers"])]
    lines.append(Text("payload", style="bold"))
    lines += [Text(f"  {line}") for line in hex_dump(base64.b64decode(row["head"]))]
    return Group(*lines)


def _kept(row: Row) -> str:
    if row["whole"]:
        return "kept whole: it can be replayed"
    return "of which the first are kept: it can't be replayed" if row["status"] == "dead" else "not kept any more"


def _headers(text: str | None) -> list[tuple[str, str]]:
    found = json.loads(text) if text else []
    pairs = found.items() if isinstance(found, dict) else found
    return [(str(name), "null" if value is None else str(value)) for name, value in pairs]


def hex_dump(data: bytes) -> list[str]:
    """16 bytes a line: where they begin, as hexadecimal digits, and as ASCII where that can be shown."""
    lines = []
    for at in range(0, len(data), BYTES_A_LINE):
        part = data[at : at + BYTES_A_LINE]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)  # noqa: PLR2004 - ASCII that prints
        lines.append(f"{at:08x}  {part.hex(' '):<{3 * BYTES_A_LINE}} {shown}")
    return lines


def _line(name: str, value: object) -> Text:
    return Text.assemble((f"{name:<12}", "bold dim"), cell(short(value, 2_000)))
