"""`runwire doctor`: gathers facts of a home, its store and its log, each within its time, and prints what they mean.

Nothing is changed and nothing is waited for: a probe that fails or hangs is a finding itself. A running consumer is
asked; without one the file is looked into by a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from runwire._errors import TransportError
from runwire._filesystem import FileSystem, file_system_of
from runwire._segments import OWNER, parse_header, segment_numbers, segment_path
from runwire._version import __version__
from runwire_cli.client import HttpReader, ServerFile, named_consumer
from runwire_cli.credentials import Credentials
from runwire_cli.errors import CommandError
from runwire_cli.output import Form, Output
from runwire_cli.settings import CommandSettings
from runwire_cli.text import clean
from runwire_consumer.doctor import Finding, Severity, error, exit_code, note, probed, probes, programs, warning
from runwire_consumer.doctor import home as home_checks
from runwire_consumer.doctor import log as log_checks
from runwire_consumer.doctor import store as store_checks
from runwire_consumer.doctor.audit import DEEP_SECONDS_MAX, QUICK_SECONDS_MAX
from runwire_consumer.doctor.inspection import OPEN_SECONDS_MAX, inspect_file, inspect_snapshot
from runwire_consumer.doctor.store import StoreFacts, Unopened
from runwire_consumer.doctor.topic import TIMEOUT_SECONDS, BrokerFacts
from runwire_consumer.errors import ConsumerError
from runwire_consumer.issued import IssuedTokens
from runwire_consumer.lock import process_state
from runwire_consumer.migrations import migrations
from runwire_consumer.plans import plan_path
from runwire_schemas.topics import Destination, mask

PROBE_SECONDS_MAX = 10.0
JOURNALS_MAX = 10_000
HEADER_BYTES_MAX = 64 * 2**10
_STYLES = {Severity.OK: "green", Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}


@dataclass(slots=True)
class _Seen:
    """What several checks need."""

    settings: CommandSettings
    deep: bool
    findings: list[Finding] = field(default_factory=list)
    consumer: HttpReader | None = None
    told: dict[str, Any] = field(default_factory=dict)
    asked_at: int = 0
    heard_at: int = 0
    store: StoreFacts | Unopened | None = None
    topic: BrokerFacts | None = None

    @property
    def database(self) -> Path:
        return self.settings.home.database

    @property
    def url(self) -> str:
        return mask(str(self.settings.destination))

    def offsets(self) -> dict[str, int] | None:
        """Stored offsets of the log; None where the store couldn't be asked."""
        return self.store.offsets_of(str(self.settings.destination)) if isinstance(self.store, StoreFacts) else None


def doctor(settings: CommandSettings, output: Output, *, deep: bool) -> int:
    """Print what is found; returns 0 when nobody has to act, 1 for a warning, 2 for an error."""
    with output.waiting("Looking …"):
        findings = examine(settings, deep=deep)
    code = exit_code(findings)
    if output.form is Form.JSON:
        worst = max((finding.severity for finding in findings), default=Severity.OK)
        output.json({"verdict": worst.name.lower(), "findings": [finding.fields() for finding in findings]})
    else:
        _print(findings, output)
    return code


def examine(settings: CommandSettings, *, deep: bool) -> list[Finding]:
    """All findings, in the order of the checks; never raises for what it looks at."""
    seen = _Seen(settings, deep)
    for name, check, seconds in (
        ("versions", _versions, PROBE_SECONDS_MAX),
        ("addresses", _addresses, PROBE_SECONDS_MAX),
        ("lock", _home, PROBE_SECONDS_MAX),
        ("disk", _disk, PROBE_SECONDS_MAX),
        ("token", _token, PROBE_SECONDS_MAX),
        ("store", _store, OPEN_SECONDS_MAX + (DEEP_SECONDS_MAX if deep else QUICK_SECONDS_MAX)),
        ("topic", _log, TIMEOUT_SECONDS + PROBE_SECONDS_MAX),
        ("snapshots", _snapshots, PROBE_SECONDS_MAX + (OPEN_SECONDS_MAX if deep else 0)),
        ("leftovers", _leftovers, PROBE_SECONDS_MAX),
        ("journals", _journals, PROBE_SECONDS_MAX),
        ("clock", _clocks, PROBE_SECONDS_MAX),
    ):
        found, troubles = probed(name, lambda check=check: check(seen), seconds)  # type: ignore[misc]
        seen.findings += [*(found or []), *troubles]
    if seen.consumer is not None:
        seen.consumer.close()
    return seen.findings


def _versions(_: _Seen) -> list[Finding]:
    python = sys.version_info
    return programs.check_versions(
        programs.VersionFacts(__version__, (python.major, python.minor, python.micro), probes.installed_versions())
    )


def _addresses(seen: _Seen) -> list[Finding]:
    return programs.check_addresses(seen.url, seen.settings.server)


def _home(seen: _Seen) -> list[Finding]:
    """The lock, and who answers; the consumer that the later checks ask."""
    settings = seen.settings
    if settings.server is not None:
        reader = _reader(settings, settings.server)
        if not reader.answers():
            advice = "Start it with `runwire up`, or correct RUNWIRE_SERVER."
            return [error("server", "The consumer of RUNWIRE_SERVER doesn't answer.", settings.server, advice)]
        seen.consumer = reader
        return [Finding("server", Severity.OK, f"The consumer answers at {settings.server}.")]
    home = settings.home.path
    if not home.is_dir():
        return [
            note("home", "Nothing is tracked here yet: there is no home.", str(home), "Train, or set RUNWIRE_HOME.")
        ]
    lock = probes.lock_facts(seen.database)
    server = None
    if (found := ServerFile.read(home)) is not None:
        reader = _reader(settings, found.address)
        answers = reader.answers()
        alive = process_state(found.pid) in {"running", "stopped"}
        server = home_checks.ServerFacts(found.pid, found.address, alive, answers)
        if answers:
            seen.consumer = reader
    return [*home_checks.check_lock(lock, str(seen.database)), *home_checks.check_server(server, lock)]


def _disk(seen: _Seen) -> list[Finding]:
    home = seen.settings.home.path
    if not home.is_dir():
        return []
    place = _file_system(home)
    return home_checks.check_disk(probes.disk_facts(home, place.kind, seen.database, is_network=place.is_network))


def _token(seen: _Seen) -> list[Finding]:
    """The files that hold tokens: the home's own, the issued ones, and those kept for servers elsewhere."""
    home, kept = seen.settings.home, seen.settings.credentials
    found = []
    if home.path.is_dir():
        found += home_checks.check_token(probes.token_facts(home.path), str(home.token))
        issued = IssuedTokens(home.path)
        found += home_checks.check_private(probes.private_facts(issued.path, issued.listed), str(issued.path))
    return [*found, *home_checks.check_private(probes.private_facts(kept, Credentials(kept).servers), str(kept))]


def _store(seen: _Seen) -> list[Finding]:
    """What is in the store, by the consumer or by the file."""
    where = str(seen.database)
    found = []
    if seen.consumer is not None:
        where = seen.consumer.place
        seen.asked_at = time.time_ns() // 1_000
        try:
            seen.told = seen.consumer.order("doctor", {"deep": seen.deep})
            seen.heard_at = time.time_ns() // 1_000
            seen.store = StoreFacts.of(seen.told["facts"])
        except (CommandError, KeyError, ValueError) as trouble:
            return [warning("store", f"The consumer couldn't be asked: {trouble}", where, "Upgrade it if it is older.")]
        if trouble_told := seen.told.get("trouble"):
            found.append(warning("server", str(trouble_told), where, "See the log of `runwire up`."))
        python = sys.version_info
        told = programs.VersionFacts(
            __version__, (python.major, python.minor, python.micro), {}, str(seen.told["version"])
        )
        found += [one for one in programs.check_versions(told) if one.severity is not Severity.OK]
    elif seen.settings.server is None:
        seen.store = inspect_file(seen.database, deep=seen.deep)
    else:
        return []
    found += store_checks.check_store(seen.store, where)
    if isinstance(seen.store, StoreFacts):
        found += store_checks.check_version(seen.store, migrations()[-1].version, where)
        found += store_checks.check_offsets(seen.store, str(seen.settings.destination))
        found += store_checks.check_repairs(seen.store)
        found += store_checks.check_gaps(seen.store)
        found += store_checks.check_dead_letters(seen.store)
    return found


def _log(seen: _Seen) -> list[Finding]:
    destination = seen.settings.destination
    if destination.kind == "kafka":
        from runwire_consumer.doctor.broker import ask_broker  # noqa: PLC0415 - aiokafka: only where there is a broker

        seen.topic = ask_broker(destination)
        return [*log_checks.check_broker(seen.topic, seen.url), *log_checks.check_lag(seen.topic, seen.offsets())]
    if destination.kind == "mqtt":
        return log_checks.check_bridge(_ask_bridge(destination), seen.url)
    folder = Path(destination.path)
    exists = folder.is_dir()
    offsets = seen.offsets()
    if offsets is None and isinstance(seen.store, Unopened):
        return []  # what waits can't be told from what is stored
    files = probes.folder_facts(folder, offsets or {}) if exists else []
    return log_checks.check_folder(files, str(folder), exists=exists)


def _ask_bridge(destination: Destination) -> str:
    """Why what is sent by this broker gets nowhere; "" where a bridge answers."""
    import asyncio  # noqa: PLC0415 - only where there is such a broker

    from runwire._mqtt import MqttTransport  # noqa: PLC0415 - as above

    async def ask() -> None:
        transport = MqttTransport(destination)
        try:
            await transport.open()
            await transport.ask_bridge()
        finally:
            await transport.close()

    try:
        asyncio.run(ask())
    except TransportError as trouble:
        return str(trouble)
    return ""


def _snapshots(seen: _Seen) -> list[Finding]:
    home = seen.settings.home
    if not home.path.is_dir() or seen.settings.server is not None:
        return []
    snapshots = probes.snapshot_facts(home.snapshots)
    if seen.deep and snapshots and snapshots[0].sound is None:
        newest = snapshots[0]
        problem = inspect_snapshot(home.snapshots / newest.name)
        snapshots[0] = home_checks.SnapshotFacts(newest.name, newest.taken_at, newest.bytes, not problem, problem)
    topic = seen.topic
    return home_checks.check_snapshots(
        snapshots,
        None if topic is None else topic.retention_seconds,
        time.time_ns() // 1_000,
        database_exists=seen.database.exists(),
        log_is_whole=topic is not None and topic.is_whole,
    )


def _leftovers(seen: _Seen) -> list[Finding]:
    """What lies beside the database: a plan that waits, files that were set aside."""
    database = seen.database
    if not seen.settings.home.path.is_dir():
        return []
    return [
        *home_checks.check_plan(probes.plan_facts(database), str(plan_path(database))),
        *home_checks.check_leftovers(probes.leftovers(database), database.name),
    ]


def _journals(seen: _Seen) -> list[Finding]:
    folder = seen.settings.home.journal
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir())[:JOURNALS_MAX]:
        if not path.name.startswith(".") and (path / OWNER).exists():
            with contextlib.suppress(FileNotFoundError):  # sent just now
                found.append(_journal(path))
    return home_checks.check_journals(found, str(seen.settings.destination), time.time_ns() // 1_000)


def _clocks(seen: _Seen) -> list[Finding]:
    home = seen.settings.home.path
    names = (seen.database.name, f"{seen.database.name}.wal", f"{seen.database.name}.lock")
    consumer = None
    received_at, answered_at = seen.told.get("received_at"), seen.told.get("answered_at")
    if isinstance(received_at, int) and isinstance(answered_at, int):  # an older one has no such clock
        consumer = programs.Exchange(seen.asked_at, received_at, answered_at, seen.heard_at)
    facts = programs.ClockFacts(
        consumer=consumer,
        now=time.time_ns() // 1_000,
        newest_file=probes.newest_file_micros(home, names),
        newest_append=None if seen.topic is None else seen.topic.newest_append,
    )
    return programs.check_clocks(facts)


def _journal(folder: Path) -> home_checks.JournalFacts:
    files = [path.stat() for path in folder.iterdir()]
    url = ""
    for path in (folder / OWNER, *(segment_path(folder, number) for number in segment_numbers(folder))):
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            url = mask(parse_header(file.read(HEADER_BYTES_MAX))[0].url)
            break
    return home_checks.JournalFacts(
        emitter_id=folder.name,
        alive=probes.is_locked(folder / OWNER),
        url=url,
        bytes=sum(one.st_size for one in files),
        touched_at=max((one.st_mtime_ns for one in files), default=0) // 1_000,
    )


def _file_system(folder: Path) -> FileSystem:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return file_system_of(descriptor)
    finally:
        os.close(descriptor)


def _reader(settings: CommandSettings, address: str) -> HttpReader:
    try:
        return named_consumer(settings, address)
    except (CommandError, ConsumerError):  # what is wrong with a file of tokens is told by its own check
        return HttpReader(address, settings.token)


def _print(findings: list[Finding], output: Output) -> None:
    """What matters first; what is well in a line each."""
    for finding in sorted(findings, key=lambda one: -one.severity):
        line = Text()
        line.append(f"{finding.severity.name.lower():<8}", style=_STYLES[finding.severity])
        line.append(f"{clean(finding.check):<14}", style="bold")
        line.append(clean(finding.what))
        if finding.where and finding.severity > Severity.OK:
            line.append(f"  {clean(finding.where)}", style="dim")
        output.console.print(line, soft_wrap=True)
        if finding.advice:
            output.console.print(Text(f"{'':22}→ {clean(finding.advice)}"), soft_wrap=True)
    counts = [(severity, sum(one.severity is severity for one in findings)) for severity in reversed(Severity)]
    told = ", ".join(f"{count} {severity.name.lower()}" for severity, count in counts if count)
    output.console.print(Text(f"{told}.", style=_STYLES[max(one.severity for one in findings)]))
