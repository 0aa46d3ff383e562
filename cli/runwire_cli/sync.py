"""`runwire sync`: sends what dead processes left, with --follow what the living write; works in a bare install."""

from __future__ import annotations

import sys
from pathlib import Path

from runwire._recovery import Outcome
from runwire._recovery import sync as recover_journals
from runwire._relay import find_journals
from runwire._relay import follow as follow_journals
from runwire_cli.errors import CommandError
from runwire_cli.text import clean
from runwire_schemas.topics import mask, need_no_password, parse_url


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
    need_no_password(to, "--to")
    journals = _journals(folder, home_journal)
    outcomes = recover_journals(journals, to, lambda outcome: _print(outcome, to or outcome.url))
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("sent", "alive", "waiting")}
    rows = sum(outcome.rows for outcome in outcomes)
    told = [f"{_journals_of(counts['sent'])} sent ({rows:,} rows)"] if counts["sent"] else []
    told += [f"{_journals_of(counts['waiting'])} waiting"] if counts["waiting"] else []
    told += [f"{_journals_of(counts['alive'])} of processes that still run"] if counts["alive"] else []
    sys.stdout.write(f"{', '.join(told) or 'Nothing waits'}.\n")
    return 1 if counts["waiting"] else 0


def follow(folder: str | None, to: str | None, home: Path) -> int:
    """Send what processes write, until SIGTERM or SIGINT; returns the exit code.

    Args:
        folder: A home, or a folder of journals, there or not yet; by default the home.
        to: As in `sync`.
        home: The home.

    Raises:
        DestinationError: `to` is no URL that Runwire can send to.
        JournalError: Another relay follows the folder, or it can't be written.
    """
    need_no_password(to, "--to")
    if to is not None:
        parse_url(to)  # a wrong one is said before anything else
    place = home if folder is None else Path(folder).expanduser()
    if find_journals(place) is None:
        _say(f"There is no journal in {place} yet: waiting for the first process.")
    totals = follow_journals(
        place,
        to,
        on_start=lambda journals: _say(f"Relaying the journals in {journals} to {mask(to) if to else 'their URLs'}."),
        on_outcome=lambda outcome: _print(outcome, to or outcome.url),
    )
    rest = f"{totals.followed} are not at their end: another relay, or `runwire sync`, goes on with them"
    _say(f"{totals.rows:,} rows sent, {totals.journals} journals to their end; {rest}.")
    return 0


def _journals_of(count: int) -> str:
    return "1 journal" if count == 1 else f"{count} journals"


def _say(line: str) -> None:
    sys.stdout.write(f"{clean(line)}\n")
    sys.stdout.flush()  # into a job's log, too


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
