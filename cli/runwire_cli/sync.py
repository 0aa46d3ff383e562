"""`runwire sync`: sends what dead processes left in their journals; works in a bare install."""

from __future__ import annotations

import sys
from pathlib import Path

from runwire._recovery import Outcome
from runwire._recovery import sync as recover_journals
from runwire_cli.errors import CommandError
from runwire_cli.text import clean
from runwire_schemas.topics import mask


def sync(folder: str | None, to: str | None, home_journal: Path) -> int:
    """Send what waits, a line a journal; returns the exit code.

    Args:
        folder: A home, or a folder of journals; by default the home's.
        to: URL to send everything to; by default each journal goes where its process wanted it.
        home_journal: Folder of journals of the home.

    Raises:
        CommandError: The folder doesn't exist.
        DestinationError: `to` is no URL that Runwire can send to.
    """
    journals = _journals(folder, home_journal)
    outcomes = recover_journals(journals, to, lambda outcome: _print(outcome, to or outcome.url))
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("sent", "alive", "waiting")}
    rows = sum(outcome.rows for outcome in outcomes)
    sys.stdout.write(
        f"{counts['sent']} journals sent ({rows:,} rows), {counts['waiting']} wait, "
        f"{counts['alive']} belong to processes that still run.\n"
    )
    return 1 if counts["waiting"] else 0


def _journals(folder: str | None, home_journal: Path) -> Path:
    if folder is None:
        return home_journal
    given = Path(folder).expanduser()
    if not given.is_dir():
        raise CommandError(f"There is no folder {folder!r}: name a Runwire home or its folder of journals.")
    return given / "journal" if (given / "journal").is_dir() else given


def _print(outcome: Outcome, url: str) -> None:
    name = f"{outcome.emitter_id[:8]} of run {outcome.run_id or '?'}"
    match outcome.state:
        case "sent":
            lost = f", {outcome.lost:,} declared lost" if outcome.lost else ""
            sys.stdout.write(f"{clean(name)}: {outcome.rows:,} rows sent to {clean(mask(url))}{lost}\n")
        case "waiting":
            sys.stderr.write(f"{clean(name)}: waits: {clean(outcome.error)}\n")
        case _:
            pass
