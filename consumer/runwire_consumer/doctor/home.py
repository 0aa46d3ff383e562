"""Checks of the home and of who uses it: lock, consumer, disk, token, snapshots, leftovers, waiting journals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runwire_consumer.doctor import Finding, error, note, ok, warning
from runwire_consumer.floor import floor_bytes, too_full

FLOORS_WARNING = 4
FREE_FILES_MIN = 1_000
SNAPSHOT_RETENTION_SHARE = 4
JOURNAL_GRACE_SECONDS = 120.0  # `runwire up` looks every 15 s
SKEW_SECONDS_MAX = 2.0
NAMES_SHOWN_MAX = 3

_DAY_SECONDS = 86_400
_HOUR_SECONDS = 3_600
_MINUTE_SECONDS = 60
# What `plans.Plan.aside` calls a file, what that means, and when it may go.
_ASIDE = (
    (
        "damaged",
        "Set aside as damaged",
        "Delete them once the log has been read again and `runwire verify` misses nothing; keep them for a report.",
    ),
    (
        "replaced",
        "Replaced by `runwire restore`",
        "Delete them when nobody wants back what they hold: `runwire restore` takes such a file, too.",
    ),
)


@dataclass(frozen=True, slots=True)
class LockFacts:
    """Who holds the database.

    Attributes:
        held: Somebody does.
        pid: As the holder wrote it; None where the text can't be read.
        host: As above.
        here: The holder is a process of this machine.
        started: When it took the lock, as it wrote it.
        process: running | stopped | zombie | gone | unknown, as this machine sees it.
    """

    held: bool
    pid: int | None = None
    host: str = ""
    here: bool = False
    started: str = ""
    process: str = "unknown"

    def __str__(self) -> str:
        """The holder."""
        return "another process" if self.pid is None else f"pid {self.pid} on {self.host}, since {self.started}"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The consumer that the home's `server.json` names.

    Attributes:
        pid: Its process.
        address: Where it answers.
        alive: The process is there.
        answers: It does.
    """

    pid: int
    address: str
    alive: bool
    answers: bool


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Where a folder lies.

    Attributes:
        path: The folder.
        kind: Its file system's name, "unknown" where the system doesn't say.
        is_network: Other machines may see it.
        writable: This user may write there.
        free_bytes: Room that this user may take.
        free_files: Files that may still be made; None where the file system counts none.
        database_bytes: The database with its WAL.
        wal_bytes: The WAL alone.
        reserve_bytes: What stays free of this disk in any case.
    """

    path: str
    kind: str
    is_network: bool
    writable: bool
    free_bytes: int
    free_files: int | None
    database_bytes: int
    wal_bytes: int
    reserve_bytes: int


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """The home's token file; `problem` is why it can't be used."""

    exists: bool
    mode: int = 0o600
    ours: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """A snapshot; times in microseconds. `sound` is None where nobody looked into it."""

    name: str
    taken_at: int
    bytes: int
    sound: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """A plan file beside the database: why it is to be replaced; `unreadable` where the file is no plan."""

    reason: str = ""
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """A journal in the home.

    Attributes:
        emitter_id: Whose.
        alive: Its process holds it.
        url: Where it goes; "" where its header can't be read.
        bytes: Of its files.
        touched_at: When it was last written to, microseconds.
    """

    emitter_id: str
    alive: bool
    url: str
    bytes: int
    touched_at: int


def check_lock(facts: LockFacts, where: str) -> list[Finding]:
    """Who holds the database."""
    if not facts.held:
        return [ok("lock", "Nobody has the database open.")]
    if facts.pid is not None and not facts.here:
        return [
            warning(
                "lock",
                f"The database is held by {facts}: by another machine, or a container with a name of its own.",
                where,
                "A home belongs on a disk of one machine: set RUNWIRE_HOME there if it is shared.",
            )
        ]
    match facts.process:
        case "running":
            return [ok("lock", f"The database is held by {facts}.")]
        case "stopped":
            return [
                error(
                    "lock",
                    f"The process that holds the database ({facts}) was stopped by a signal: nothing is read.",
                    where,
                    f"Let it go on: kill -CONT {facts.pid}.",
                )
            ]
        case _:
            return [note("lock", f"The database is held by {facts}, which this machine doesn't show.", where)]


def check_server(facts: ServerFacts | None, lock: LockFacts) -> list[Finding]:
    """Whether the home's consumer answers."""
    if facts is None:
        if lock.held:
            text = f"The holder of the database ({lock}) answers no questions: it starts, or is a command that reads."
            return [note("server", text)]
        return [note("server", "No consumer runs in this home.", advice="Start it: runwire up.")]
    if facts.answers:
        return [ok("server", f"The consumer answers at {facts.address}.")]
    if facts.alive and lock.held and lock.pid == facts.pid:
        return [
            warning(
                "server",
                f"The consumer (pid {facts.pid}) doesn't answer at {facts.address}.",
                advice="If that stays so, read its log and start it again.",
            )
        ]
    return [
        note(
            "server",
            f"server.json names a consumer (pid {facts.pid}) that is gone: it was killed.",
            facts.address,
            "Start it again: runwire up. It replaces the file.",
        )
    ]


def check_disk(facts: DiskFacts) -> list[Finding]:
    """Room and kind of the home's disk: below the floor the consumer writes nothing, and says so in the same words."""
    free, floor = size(facts.free_bytes), floor_bytes(facts.reserve_bytes, facts.wal_bytes, 0)
    found = []
    if not facts.writable:
        text = "The home can't be written to by this user."
        found.append(error("disk", text, facts.path, "Run as its owner, or give it back: chown, chmod 700."))
    if facts.free_bytes < floor:
        text = too_full(facts.path, facts.free_bytes, floor)
        found.append(error("disk", text, facts.path, "Make room now: writing goes on by itself, journals wait."))
    elif facts.free_bytes < facts.database_bytes + facts.reserve_bytes:
        text = f"{free} are free, the database has {size(facts.database_bytes)}: a copy of it (a snapshot) won't fit."
        found.append(warning("disk", text, facts.path, "Make room, or move the home to a larger disk."))
    elif facts.free_bytes < FLOORS_WARNING * floor:
        text = f"Only {free} are free, and below {size(floor)} nothing is written."
        found.append(warning("disk", text, facts.path, "Make room, or move the home to a larger disk."))
    if facts.free_files is not None and facts.free_files < FREE_FILES_MIN:
        text = f"Only {facts.free_files:,} more files can be made there (inodes)."
        found.append(warning("disk", text, facts.path, "Delete small files on that file system."))
    if facts.is_network:
        text = f"The home lies on a network file system ({facts.kind}): its locks and latest bytes may not hold."
        found.append(warning("disk", text, facts.path, "Set RUNWIRE_HOME to a folder on a disk of this machine."))
    return found or [ok("disk", f"{free} are free on {facts.kind}.", facts.path)]


def check_token(facts: TokenFacts, where: str) -> list[Finding]:
    """Who else can read the token."""
    if not facts.exists:
        return [ok("token", "There is no token yet: the first `runwire up` makes it.")]
    if facts.problem:
        return [error("token", facts.problem, where)]
    if not facts.ours:
        return [warning("token", "The token belongs to another user.", where, f"chown it, or delete {where}.")]
    if facts.mode & 0o077:
        text = f"Other users of this machine can read or change the token (mode {facts.mode:04o})."
        return [warning("token", text, where, "chmod 600 it, or delete it: `runwire up` makes a new one.")]
    return [ok("token", "The token is its owner's alone.")]


def check_private(facts: TokenFacts, where: str) -> list[Finding]:
    """Who else can read or change a further file of tokens; one that isn't there is nothing to tell."""
    if not facts.exists:
        return []
    if facts.problem:
        return [error("token", facts.problem, where, "Delete it, and make the tokens that are still needed anew.")]
    if not facts.ours:
        return [warning("token", "A file of tokens belongs to another user.", where, f"chown it, or delete {where}.")]
    if facts.mode & 0o077:
        text = f"Other users of this machine can read or change a file of tokens (mode {facts.mode:04o})."
        return [warning("token", text, where, "chmod 600 it; if it was writable, revoke the tokens you don't know.")]
    return [ok("token", "A file of tokens is its owner's alone.", where)]


def check_snapshots(
    snapshots: Sequence[SnapshotFacts],
    retention_seconds: float | None,
    now: int,
    *,
    database_exists: bool,
    log_is_whole: bool = False,
) -> list[Finding]:
    """Whether a snapshot and the log still overlap.

    Args:
        snapshots: Those of the home.
        retention_seconds: How long the log keeps records; None where it keeps them for ever, or isn't known.
        now: This machine's clock, microseconds.
        database_exists: There is something to be lost.
        log_is_whole: Nothing of the log has expired yet.
    """
    found = [
        error("snapshots", f"A snapshot is damaged: {one.problem}", one.name, "Delete it; `runwire up` takes others.")
        for one in snapshots
        if one.sound is False
    ]
    usable = [one for one in snapshots if one.sound is not False]
    if not usable:
        if database_exists and retention_seconds is not None and not log_is_whole:
            text = (
                f"There is no snapshot, and the log keeps records for {span(retention_seconds)} only: "
                "what is older can't be had back if the file is lost."
            )
            found.append(warning("snapshots", text, advice="Let `runwire up` run: it takes snapshots."))
        elif database_exists:
            found.append(note("snapshots", "There is no snapshot: a lost file would be read again from the whole log."))
        return found or [ok("snapshots", "There is nothing to take a snapshot of yet.")]
    newest = max(usable, key=lambda one: one.taken_at)
    age = (now - newest.taken_at) / 1e6
    text = f"The newest of {many(len(usable), 'snapshot')} is {span(age)} old ({size(newest.bytes)})."
    if retention_seconds is not None and age > retention_seconds:
        gone = f"{text} The log keeps records for {span(retention_seconds)}: what lies between is only in the file."
        found.append(
            error("snapshots", gone, newest.name, "Take one now: see the log of `runwire up` for what failed.")
        )
    elif retention_seconds is not None and age > retention_seconds / SNAPSHOT_RETENTION_SHARE:
        late = f"{text} It should be less than a quarter of what the log keeps ({span(retention_seconds)})."
        found.append(warning("snapshots", late, newest.name, "See the log of `runwire up` for what failed."))
    return found or [ok("snapshots", text)]


def check_leftovers(files: Sequence[tuple[str, int]], database: str) -> list[Finding]:
    """Files beside a database that it doesn't use, (name, bytes), by what became of them; nobody else deletes them."""
    found = []
    left = list(files)
    for aside, what, advice in _ASIDE:
        if mine := [one for one in left if one[0].startswith(f"{database}.{aside}-")]:
            left = [one for one in left if one not in mine]
            text = f"{what}: {many(len(mine), 'file')}, {size(sum(count for _, count in mine))} in {names(mine)}."
            found.append(note("leftovers", text, advice=advice))
    if left:
        text = (
            f"{many(len(left), 'file')} beside the database: {size(sum(count for _, count in left))} in {names(left)}."
        )
        found.append(note("leftovers", text, advice="None of runwire's: see who made them."))
    return found or [ok("leftovers", "No file was set aside.")]


def check_plan(plan: PlanFacts | None, where: str) -> list[Finding]:
    """A replacement of the database that was begun, and which the next start carries out."""
    if plan is None:
        return []
    if plan.unreadable:
        return [note("plan", "The plan of a replacement can't be read: it binds nobody.", where, "Delete it.")]
    what = f"The database is about to be replaced: {plan.reason.rstrip('.')}."
    advice = "Start `runwire up`: it sets the file aside, restores a snapshot and reads the log again from there."
    return [warning("plan", what, where, advice)]


def check_journals(journals: Sequence[JournalFacts], url: str, now: int) -> list[Finding]:
    """Journals of dead processes that nobody has sent."""
    dead = [one for one in journals if not one.alive]
    late = [one for one in dead if (now - one.touched_at) / 1e6 > JOURNAL_GRACE_SECONDS]
    if not dead:
        return [ok("journals", "No journal of a dead process waits.")]
    oldest = span((now - min(one.touched_at for one in dead)) / 1e6)
    held = size(sum(one.bytes for one in dead))
    text = f"Unsent: {many(len(dead), 'journal')} of dead processes ({held}, up to {oldest} old)."
    if not late:
        return [note("journals", text, advice="They are sent by the next look of `runwire up`, or by: runwire sync.")]
    found = [warning("journals", text, advice="Send them: runwire sync. It says what stands in the way.")]
    if elsewhere := sorted({one.url for one in dead if one.url and one.url != url}):
        shown = ", ".join(elsewhere[:NAMES_SHOWN_MAX])
        found.append(note("journals", f"Some of them go elsewhere than {url}: {shown}."))
    if unreadable := sum(not one.url for one in late):
        found.append(warning("journals", f"{unreadable} of them have no readable header: `runwire sync` tells more."))
    return found


def many(count: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def names(files: Sequence[tuple[str, int]]) -> str:
    """Some of them."""
    shown = [f"{name} ({size(count)})" for name, count in files[:NAMES_SHOWN_MAX]]
    more = len(files) - NAMES_SHOWN_MAX
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - the unit's step
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def span(seconds: float) -> str:
    """A time span for people, in one unit."""
    for unit, length in (("d", _DAY_SECONDS), ("h", _HOUR_SECONDS), ("min", _MINUTE_SECONDS)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
