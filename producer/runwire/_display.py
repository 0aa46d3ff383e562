"""What a run tells people of itself: the last line of a training, and the card in a notebook's cell."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire._emitter import Emitter
    from runwire_schemas.events import Cost

SHARE_SECONDS_MIN = 10.0  # of a run whose cost is told in percent


@dataclass(frozen=True, slots=True)
class Balance:
    """What became of a run's rows and records in this process.

    Attributes:
        points: Values that were logged.
        delivered: Whether nothing is left for `runwire sync`.
        sent: Rows and records that the destination has acknowledged.
        waiting: Those that are in the journal only.
        lost: Rows that the journal couldn't take.
        tracking_seconds: Time spent in `log`, and CPU time of the sender.
        wall_seconds: Since `init`.
        journal: Folder of what waits.
        is_relayed: A relay delivers.
    """

    points: int
    delivered: bool
    sent: int
    waiting: int
    lost: int
    tracking_seconds: float
    wall_seconds: float
    journal: str = ""
    is_relayed: bool = False


def balance_of(emitter: Emitter, cost: Cost, *, delivered: bool) -> Balance:
    """What became of a process's rows, when its part of the run has ended."""
    sent = emitter.acknowledged_seq
    return Balance(
        points=cost.points,
        delivered=delivered,
        sent=sent,
        waiting=max(0, emitter.journal.next_seq - sent - cost.rows_dropped),
        lost=cost.rows_dropped,
        tracking_seconds=cost.log_seconds + cost.sender_cpu_seconds,
        wall_seconds=cost.wall_seconds,
        journal=str(emitter.journal.folder),
        is_relayed=emitter.is_relayed,
    )


def last_line(name: str, run_id: str, url: str, balance: Balance) -> str:
    """What is sent, what waits and where, what is lost, and what tracking cost."""
    rest = f"all sent to {url}"
    if not balance.delivered:
        wait, how = ("wait for the relay in", " --follow") if balance.is_relayed else ("wait in", "")
        sent, waiting = _counted(balance.sent, "row"), _counted(balance.waiting, "row")
        rest = f"{sent} sent to {url}, {waiting} {wait} {balance.journal}: `runwire sync{how}` sends them"
    if balance.lost:
        rest += f"; lost: {_counted(balance.lost, 'row')}, for the journal couldn't be written"
    # A share of a short run tells of its beginning: of imports and files, not of what a step costs.
    cost = f"{balance.tracking_seconds:.2f} s of {balance.wall_seconds:.1f} s"
    if balance.wall_seconds >= SHARE_SECONDS_MIN:
        share = balance.tracking_seconds / balance.wall_seconds
        cost = f"{100 * share:.2f} % of {balance.wall_seconds:.1f} s"
    return f"runwire: {name} ({run_id}) {_counted(balance.points, 'point')}, {rest}; tracking cost {cost}"


def first_line(name: str, run_id: str, server: str | None) -> str | None:
    """Where the run can be looked at; None where no consumer is known, or its address holds a secret."""
    if server is None or "@" in server or not server.isprintable():
        return None
    address = server if "://" in server else f"http://{server}"
    return f"runwire: {name} ({run_id}) at {address.rstrip('/')}/runs/{run_id}"


def say(line: str) -> None:
    """One line for people, to standard error; broken or closed it is no reason to fail training."""
    stream, original = sys.stderr, sys.__stderr__
    with contextlib.suppress(Exception):
        if original is not None and stream is original:
            # Past its buffer: what stays in there makes Python's own last flush fail, and so the exit code another.
            original.flush()
            os.write(original.fileno(), f"{line}\n".encode())
        elif stream is not None:  # a notebook's, a test's
            stream.write(f"{line}\n")


def card(fields: dict[str, str]) -> str:
    """A small HTML table; names and values are escaped."""
    from html import escape  # noqa: PLC0415 - a notebook's need: `import runwire` stays light

    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in fields.items()
    )
    return f"<table>{rows}</table>"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
