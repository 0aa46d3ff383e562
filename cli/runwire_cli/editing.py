"""`runwire edit` and `runwire delete`: orders about runs, sent into their log, where a replay finds them again."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import typer

from runwire._clock import wall_time_us
from runwire._orders import Order, send_orders
from runwire._settings import NAME_CHARACTERS_MAX, TAGS_MAX
from runwire_cli.client import FileReader, Reader, Row, rows_of
from runwire_cli.errors import CommandError
from runwire_cli.output import Form, Grid, Output, cell
from runwire_cli.settings import CommandSettings
from runwire_cli.text import number, short
from runwire_consumer import queries
from runwire_schemas.events import RunDeleted, RunEdited

NOTES_CHARACTERS_MAX = 65_536
APPLIED_WAIT_SECONDS = 10.0
APPLIED_POLL_SECONDS = 0.1
TIME_MICROS_MAX = 253_402_300_799_999_999  # the last one that a consumer takes

_DESCRIBED = """
SELECT run_id, project, name, "group", tags, notes, state, started_at, points FROM runs WHERE run_id = $run_id
"""
_LAST_EDIT = "SELECT epoch_us(max(time)) AS us FROM events WHERE run_id = $run_id AND type = 'RunEdited'"
_EDITED = "SELECT count(*) AS n FROM events WHERE run_id = $run_id AND emitter_id = $emitter_id"
_DELETED = "SELECT count(*) AS n FROM removals WHERE run_id = $run_id AND kind = 'deleted'"


def edit(
    settings: CommandSettings,
    reader: Reader,
    output: Output,
    wanted: str,
    *,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
) -> int:
    """Change what a run is called; returns the exit code.

    Args:
        settings: Where its log is.
        reader: Who knows the run.
        output: Where it is said.
        wanted: The run's id, the begin of it, or its name.
        name: The new name.
        group: The new group; empty for none.
        tags: `x` replaces all tags by those named so, `+x` adds one, `-x` removes one, an empty one removes all.
        notes: The new text; empty for none.
    """
    need_log(settings)
    run = _find(reader, wanted)
    changes = _checked({"name": name, "group": group, "notes": notes})
    if tags:
        changes["tags"] = changed_tags(run["tags"], tags)
    if not changes:
        raise CommandError("Say what to change: --name, --group, --tag or --note.", 2)
    key = {"run_id": run["run_id"]}
    ((last,),) = (row.values() for row in reader.table(_LAST_EDIT, key).rows)
    # A clock that is behind must not lose to an earlier edit.
    time_us = max(wall_time_us(), min((last or 0) + 1, TIME_MICROS_MAX))
    order = Order(run["project"], run["run_id"], RunEdited, changes, time_us)
    with output.waiting("Writing into the log …"):
        (emitter_id,) = send_orders(settings.destination, [order])
        is_applied = _wait(reader, _EDITED, [{**key, "emitter_id": emitter_id}])
    if output.form is Form.JSON:
        output.json({**key, **changes, "applied": is_applied})
    else:
        told = ", ".join(f"{field} {_shown(value)}" for field, value in changes.items())
        output.console.print(f"{short(run['name'])} ({run['run_id']}): {told}", soft_wrap=True)
        _tell(output, reader, is_applied=is_applied)
    return 0


def delete(settings: CommandSettings, reader: Reader, output: Output, wanted: Sequence[str], *, yes: bool) -> int:
    """Delete runs after a question; returns 1 when the answer is no."""
    need_log(settings)
    runs = {run["run_id"]: run for run in (_find(reader, one) for one in wanted)}
    if not yes and not _is_sure(output, list(runs.values())):
        output.say("Nothing was deleted.")
        return 1
    is_applied = order_deletion(settings, reader, output, list(runs.values()))
    if output.form is Form.JSON:
        output.json({"deleted": list(runs), "applied": is_applied})
    else:
        for run in runs.values():
            output.console.print(f"{short(run['name'])} ({run['run_id']}) is deleted.", soft_wrap=True)
        _tell(output, reader, is_applied=is_applied)
    return 0


def order_deletion(
    settings: CommandSettings, reader: Reader, output: Output, runs: Sequence[Row], reason: str | None = None
) -> bool:
    """Write the deletion of these runs (`run_id`, `project`) into the log; returns whether it shows already."""
    now = wall_time_us()
    orders = [Order(run["project"], run["run_id"], RunDeleted, {"reason": reason}, now) for run in runs]
    with output.waiting("Writing into the log …"):
        send_orders(settings.destination, orders)
        return _wait(reader, _DELETED, [{"run_id": run["run_id"]} for run in runs])


def need_log(settings: CommandSettings) -> None:
    """Make sure that the log is known where a consumer elsewhere is asked.

    Raises:
        CommandError: Only the consumer is named.
    """
    if settings.server is not None and not settings.has_url:
        raise CommandError(
            "RUNWIRE_SERVER names a consumer, and this has to be written into the log that it reads: set RUNWIRE_URL "
            "to that log."
        )


def changed_tags(before: Sequence[str], words: Sequence[str]) -> list[str]:
    """The tags after an edit, each once, in order.

    Args:
        before: Those that the run has.
        words: All plain (they replace the tags), or all with + or - in front; an empty one stands for no tag.

    Raises:
        CommandError: Both kinds are mixed, or there are too many.
    """
    signed = [word for word in words if word.startswith(("+", "-"))]
    if signed and len(signed) < len(words):
        raise CommandError("--tag: write +x to add and -x to remove, or name all tags without a sign; not both.", 2)
    if not signed:
        tags = [word for word in words if word]
    else:
        added = [word[1:] for word in signed if word[0] == "+"]
        removed = {word[1:] for word in signed if word[0] == "-"}
        tags = [tag for tag in (*before, *added) if tag and tag not in removed]
    tags = list(dict.fromkeys(tags))
    if len(tags) > TAGS_MAX:
        raise CommandError(f"--tag: that makes {len(tags):,} tags, at most {TAGS_MAX} are taken.", 2)
    return tags


def _checked(texts: dict[str, str | None]) -> dict[str, Any]:
    """The texts that are given, when they can be taken."""
    for field, text in texts.items():
        most = NOTES_CHARACTERS_MAX if field == "notes" else NAME_CHARACTERS_MAX
        if text is not None and len(text) > most:
            raise CommandError(
                f"The {field.removesuffix('s')} has {len(text):,} characters, at most {most:,} are taken.", 2
            )
    if texts["name"] == "":
        raise CommandError("--name: a run needs a name.", 2)
    return {field: text for field, text in texts.items() if text is not None}


def _find(reader: Reader, wanted: str) -> Row:
    ask = rows_of(reader)
    return ask(_DESCRIBED, {"run_id": queries.find_run(ask, wanted)})[0]


def _wait(reader: Reader, question: str, keys: Sequence[dict[str, str]]) -> bool:
    """Whether the consumer shows it, after a while at most. A file shows it when it is opened the next time."""
    if isinstance(reader, FileReader):
        return False
    deadline = time.monotonic() + APPLIED_WAIT_SECONDS
    waiting = list(keys)
    while True:
        waiting = [key for key in waiting if not reader.table(question, key).rows[0]["n"]]
        if not waiting or time.monotonic() >= deadline:
            return not waiting
        time.sleep(APPLIED_POLL_SECONDS)


def _tell(output: Output, reader: Reader, *, is_applied: bool) -> None:
    if is_applied:
        return
    if isinstance(reader, FileReader):
        output.say("It stands in the log: whoever reads it next, a command or a consumer, applies it.")
    else:
        output.say(
            f"It stands in the log, but the consumer at {reader.place} has not shown it within "
            f"{APPLIED_WAIT_SECONDS:g} s: does it read this log, and is it ready (`runwire doctor`)?"
        )


def _is_sure(output: Output, runs: Sequence[Row]) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("Nobody can be asked here: add --yes to delete without a question.", 2)
    table = Grid("run", "id", "project", "state", "points", right=("points",), wrap=("run",))
    for run in runs:
        state = f"{run['state']}, and goes on" if run["state"] in {"running", "stuck"} else run["state"]
        texts = (short(run["name"], 40), run["run_id"], short(run["project"], 24), state, number(run["points"]))
        table.add_row(*map(cell, texts))
    output.errors.print(table)
    output.say(
        "Their points, parameters, events and receipts go, and can't be had back; whatever they still send is dropped. "
        "Files that they call artifacts stay where they are."
    )
    return typer.confirm(f"Delete {len(runs)} run{'s' * (len(runs) > 1)}?", err=True)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(repr, value)) or "none"
    return repr(short(value)) if value else "none"
