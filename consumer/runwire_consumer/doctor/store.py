"""Checks of what is in the store: rows against the ledger, totals against points, offsets, gaps, dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runwire_consumer.doctor import Finding, error, note, ok, warning
from runwire_consumer.doctor.home import many
from runwire_consumer.snapshot_files import micros_of, spoken

SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that must not be.

    Attributes:
        law: Which law it breaks, a key of LAWS.
        count: How many there are.
        examples: Some of them.
    """

    law: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What the audit found.

    Attributes:
        version: The file's.
        runs: How many.
        rows: As counted.
        points: As counted.
        offsets: By source, partition and the next offset.
        anomalies: What must not be.
        unchecked: What could not be looked at, and why, a sentence each.
        gaps: Rows of ended processes that nothing explains, by run id.
        dead_letters: By reason, most first.
        repairs: Replacements of the file, oldest first: when (a stamp), why, and the snapshot that took its place.
        deep: Every row and point was looked at.
    """

    version: int
    runs: int = 0
    rows: int = 0
    points: int = 0
    offsets: tuple[tuple[str, str, int], ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    unchecked: tuple[str, ...] = ()
    gaps: tuple[tuple[str, int], ...] = ()
    dead_letters: tuple[tuple[str, int], ...] = ()
    repairs: tuple[tuple[str, str, str], ...] = ()
    deep: bool = False

    def fields(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> StoreFacts:
        """Read back what `fields` gave; ValueError where it is none."""
        try:
            return cls(
                version=int(fields["version"]),
                runs=int(fields["runs"]),
                rows=int(fields["rows"]),
                points=int(fields["points"]),
                offsets=tuple((str(source), str(part), int(at)) for source, part, at in fields["offsets"]),
                anomalies=tuple(
                    Anomaly(str(one["law"]), int(one["count"]), tuple(map(str, one["examples"])))
                    for one in fields["anomalies"]
                ),
                unchecked=tuple(map(str, fields["unchecked"])),
                gaps=tuple((str(run), int(count)) for run, count in fields["gaps"]),
                dead_letters=tuple((str(reason), int(count)) for reason, count in fields["dead_letters"]),
                repairs=tuple((str(at), str(reason), str(taken)) for at, reason, taken in fields["repairs"]),
                deep=bool(fields["deep"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no facts of a store: {error!r}") from None

    def offsets_of(self, source: str) -> dict[str, int]:
        """Where a source goes on, by partition."""
        return {part: at for name, part, at in self.offsets if name == source}


@dataclass(frozen=True, slots=True)
class Unopened:
    """Why the file could not be asked: `kind` is locked, newer, damaged, foreign, crashed or unknown."""

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class _Law:
    """A sentence with {count}, and what it means when it is broken."""

    broken: str
    serious: bool = True


LAWS: Mapping[str, _Law] = {
    "ranges": _Law("{count} ranges of the ledger are empty, overlap or have no known disposition"),
    "rows_counted": _Law("{count} emitters have another number of rows than their ledger says is stored"),
    "rows_inside": _Law("{count} emitters have rows outside of what their ledger says is stored"),
    "rows_once": _Law("{count} rows are stored twice"),
    "rows_in_ranges": _Law("{count} ranges of the ledger have another number of rows than they say"),
    "points_once": _Law("{count} points are stored twice"),
    "points_in_rows": _Law("{count} points belong to no row"),
    "points_counted": _Law("{count} emitters have another number of points than their running totals"),
    "series_true": _Law("{count} series have running totals that their points don't give"),
    "pieces_true": _Law("{count} blocks of compacted points have another number of points than their rollups"),
    "keys_once": _Law("{count} keys or ids stand for several things"),
    "keys_known": _Law("{count} emitters have rows and stand in no list"),
    "ends": _Law("{count} emitters have rows behind the end that they told"),
    "offsets_once": _Law("{count} partitions have several offsets, or one below 0"),
    "offsets_there": _Law("Rows are stored, but no offset: the log would be read again from its start", serious=False),
}


def check_store(facts: StoreFacts | Unopened | None, where: str) -> list[Finding]:
    """Whether the file opens, and holds what its ledger says; None: there is no file yet."""
    if facts is None:
        return [ok("store", "There is no database yet.", where)]
    if isinstance(facts, Unopened):
        return [_unopened(facts, where)]
    found = [_broken(one, where) for one in facts.anomalies]
    if facts.unchecked:
        text = f"Not checked: {many(len(facts.unchecked), 'thing')}: {'; '.join(facts.unchecked[:SHOWN_MAX])}."
        found.append(warning("store", text, where, "Ask again, or with --deep, which takes its time."))
    how = "each row and point" if facts.deep else "by counts; --deep looks at each row"
    counted = f"{many(facts.runs, 'run')}, {many(facts.rows, 'row')}, {many(facts.points, 'point')}"
    return found or [ok("store", f"{counted} agree with the ledger ({how}).")]


def check_version(facts: StoreFacts, newest: int, where: str) -> list[Finding]:
    """The file's version against the program's."""
    if facts.version > newest:
        return [
            _unopened(Unopened("newer", f"The database has version {facts.version}, this program {newest}."), where)
        ]
    if facts.version < newest:
        text = f"The database has version {facts.version}; `runwire up` brings it to {newest}."
        return [note("schema", text, where, "Keep a copy if an older runwire may have to read it again.")]
    return [ok("schema", f"The database has version {newest}, as this program.")]


def check_offsets(facts: StoreFacts, source: str) -> list[Finding]:
    """Whether the store reads the log that this home sends to."""
    others = sorted({name for name, _, _ in facts.offsets} - {source})
    if others and not facts.offsets_of(source):
        text = f"The store was filled from {', '.join(others[:SHOWN_MAX])}, never from {source}."
        return [note("offsets", text, advice="Right after a move; else correct RUNWIRE_URL or --url.")]
    return [ok("offsets", f"The offsets of {many(len(facts.offsets_of(source)), 'partition')} are there.")]


def check_gaps(facts: StoreFacts) -> list[Finding]:
    """Rows of ended processes that nothing explains."""
    if not facts.gaps:
        return [ok("gaps", "No row of an ended process is missing.")]
    total = sum(count for _, count in facts.gaps)
    shown = ", ".join(f"{run} ({count:,})" for run, count in facts.gaps[:SHOWN_MAX])
    text = f"Nothing explains the missing {many(total, 'row')} of {many(len(facts.gaps), 'run')}: {shown}."
    advice = (
        "They may wait in a journal on the machine that wrote them: runwire sync there; runwire verify RUN tells which."
    )
    return [warning("gaps", text, advice=advice)]


def check_repairs(facts: StoreFacts) -> list[Finding]:
    """Replacements of the file that the store remembers."""
    if not facts.repairs:
        return []
    stamp, reason, snapshot = facts.repairs[-1]
    place = f"The snapshot {snapshot}" if snapshot else "An empty store"
    count = len(facts.repairs)
    often = "once" if count == 1 else f"{count:,} times"
    text = f"The database was replaced {often}, last at {_moment(stamp)}: {reason.rstrip('.')}. {place} took its place."
    return [note("repairs", text, advice="What the log no longer held then shows as lost: runwire verify RUN.")]


def check_dead_letters(facts: StoreFacts) -> list[Finding]:
    """Messages that could not be read, by reason."""
    if not facts.dead_letters:
        return [ok("dead-letters", "Every message could be read.")]
    total = sum(count for _, count in facts.dead_letters)
    shown = "; ".join(f"{count:,} times {reason.rstrip('.')}" for reason, count in facts.dead_letters[:SHOWN_MAX])
    text = f"Unreadable: {many(total, 'message')}: {shown}."
    advice = "See them: runwire dead-letters list. A newer sender? Upgrade, then runwire dead-letters replay --all."
    return [warning("dead-letters", text, advice=advice)]


def _moment(stamp: str) -> str:
    try:
        return spoken(micros_of(stamp))
    except ValueError:
        return stamp


def _broken(one: Anomaly, where: str) -> Finding:
    law = LAWS.get(one.law)
    text = f"{law.broken if law else one.law}".replace("{count}", f"{one.count:,}")
    if one.examples:
        text += f" ({', '.join(one.examples[:SHOWN_MAX])})"
    if law is not None and not law.serious:
        return warning("store", f"{text}.", where, "Replay leaves out what is there; see what changed the file.")
    advice = "Keep the file for a report, restore the newest snapshot, and let the log be read again from there."
    return error("store", f"{text}.", where, advice)


def _unopened(facts: Unopened, where: str) -> Finding:
    match facts.kind:
        case "locked":
            return note("store", f"{facts.sentence} What is in it was not looked at.", where)
        case "newer":
            return error("schema", facts.sentence, where, "Upgrade runwire, or let the newer consumer own the file.")
        case "foreign":
            return error("store", facts.sentence, where, "Choose another RUNWIRE_HOME, or move the file away.")
        case "damaged" | "crashed":
            advice = (
                "Leave its WAL beside it; `runwire up` restores the newest snapshot and reads the log again from there."
            )
            return error("store", facts.sentence, where, advice)
        case _:
            return error("store", facts.sentence, where, "See whether this user may read the file.")
