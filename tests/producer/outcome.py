"""What a trainer's rows came to: its topic folder and what `runwire sync` adds to it, read by the real consumer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from runwire._recovery import sync
from runwire_consumer.service import Service
from runwire_consumer.sources.directory import DirectorySource
from runwire_consumer.store import Store
from tests.producer.programs import Program


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is in the store when everything has arrived that will.

    Attributes:
        steps: Of the metric that was asked for, sorted; a repetition is a row stored twice.
        lost: Numbers that are declared lost, of all emitters.
        stored: Numbers that are stored.
        sent: Numbers that were given, as the emitters' ends say.
        reasons: Why what is lost is lost.
        events: Types of lifecycle records, sorted.
        alerts: Titles of alerts, sorted.
    """

    steps: list[int]
    lost: int
    stored: int
    sent: int
    reasons: set[str]
    events: list[str]
    alerts: list[str]


def outcome_of(program: Program, metric: str) -> Outcome:
    """Recover what the program left, consume, and check the law: each number of each emitter is accounted for once."""
    if (program.home / "journal").exists():
        for recovered in sync(program.home / "journal", to=f"dir:{program.topic}"):
            assert recovered.state == "sent", recovered
        assert program.journals() == []
    database = program.folder / "runwire.duckdb"
    asyncio.run(Service(Store.open(database), [DirectorySource(program.topic, "dir:topic")]).run_once())
    store = Store.open(database)
    try:
        ask = store.cursor().execute
        receipts = ask("SELECT stored, lost, dead, missing, next_seq, complete FROM emitters").fetchall()
        for stored, lost, dead, missing, next_seq, complete in receipts:
            assert (complete, dead, missing, stored + lost) == (True, 0, 0, next_seq)
        assert ask("SELECT count(*) FROM gaps WHERE kind <> 'lost' OR reason IS NULL").fetchone() == (0,)
        return Outcome(
            steps=[
                step for (step,) in ask("SELECT step FROM metrics WHERE metric = ? ORDER BY step", [metric]).fetchall()
            ],
            lost=sum(receipt[1] for receipt in receipts),
            stored=sum(receipt[0] for receipt in receipts),
            sent=sum(receipt[4] for receipt in receipts),
            reasons={reason for (reason,) in ask("SELECT DISTINCT reason FROM gaps").fetchall()},
            events=[kind for (kind,) in ask("SELECT type FROM events ORDER BY type").fetchall()],
            alerts=[title for (title,) in ask("SELECT title FROM alerts ORDER BY title").fetchall()],
        )
    finally:
        store.close()
