"""What the doctor says of facts: tables of facts and the findings they must give, nothing is looked at."""

from __future__ import annotations

import re
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_consumer.doctor import Finding, Severity, error, exit_code, note, ok, probed, warning
from runwire_consumer.doctor.home import (
    DiskFacts,
    JournalFacts,
    LockFacts,
    PlanFacts,
    ServerFacts,
    SnapshotFacts,
    TokenFacts,
    check_disk,
    check_journals,
    check_leftovers,
    check_lock,
    check_plan,
    check_private,
    check_server,
    check_snapshots,
    check_token,
    size,
    span,
)
from runwire_consumer.doctor.log import FileFacts, check_broker, check_folder, check_lag
from runwire_consumer.doctor.probes import private_facts
from runwire_consumer.doctor.programs import (
    TRIED_VERSIONS,
    ClockFacts,
    Exchange,
    VersionFacts,
    check_addresses,
    check_clocks,
    check_versions,
)
from runwire_consumer.doctor.store import (
    LAWS,
    Anomaly,
    StoreFacts,
    Unopened,
    check_dead_letters,
    check_gaps,
    check_offsets,
    check_repairs,
    check_store,
    check_version,
)
from runwire_consumer.doctor.topic import BrokerFacts, PartitionFacts
from runwire_consumer.issued import IssuedTokens
from tests.repo.files import REPOSITORY

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
GIB = 2**30
OK, NOTE, WARNING, ERROR = Severity

HELD = LockFacts(True, 7, "node", True, "noon", "running")
DISK = DiskFacts("home", "ext4", False, True, 20 * GIB, 10**6, GIB, 2**20, 64 * 2**20)
VERSIONS = VersionFacts("1.0", (3, 11, 7), {"aiokafka": "0.14.0", "duckdb": "1.5.5", "prometheus-client": "0.26.1"})
TOPIC = BrokerFacts(
    "events",
    exists=True,
    brokers=3,
    partitions=(PartitionFacts(0, True, 3, 3, 10, 50, 20), PartitionFacts(1, True, 3, 3, 0, 0, 0)),
    config={
        "message.timestamp.type": "LogAppendTime",
        "cleanup.policy": "delete",
        "retention.ms": "604800000",
        "retention.bytes": "-1",
        "min.insync.replicas": "2",
        "max.message.bytes": "1048588",
    },
)
STORE = StoreFacts(3, 1, 10, 20, offsets=(("kafka://b:9092/events", "0", 50),))


def seen(findings: list[Finding]) -> list[tuple[Severity, str]]:
    """Severity and sentence of each."""
    return [(one.severity, one.what) for one in findings]


def only(findings: list[Finding], severity: Severity, words: str) -> None:
    """One finding of this severity that has these words; whoever must act is told what to do."""
    assert [one.severity for one in findings] == [severity]
    assert words in findings[0].what
    assert severity < WARNING or findings[0].advice


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (LockFacts(held=False), OK, "Nobody has"),
        (HELD, OK, "pid 7 on node, since noon"),
        (replace(HELD, process="stopped"), ERROR, "stopped by a signal"),
        (replace(HELD, process="gone"), NOTE, "doesn't show"),
        (replace(HELD, here=False, process="unknown"), WARNING, "another machine"),
        (LockFacts(held=True), NOTE, "another process"),
    ],
)
def test_the_lock(facts: LockFacts, severity: Severity, words: str) -> None:
    """Who holds the database, and whether that process goes on."""
    only(check_lock(facts, "file"), severity, words)


def test_a_stopped_holder_is_told_how_to_go_on() -> None:
    """The advice is a command."""
    assert check_lock(replace(HELD, process="stopped"), "file")[0].advice == "Let it go on: kill -CONT 7."


@pytest.mark.parametrize(
    ("facts", "lock", "severity", "words"),
    [
        (None, LockFacts(held=False), NOTE, "No consumer runs"),
        (None, HELD, NOTE, "answers no questions"),
        (ServerFacts(7, "http://a", alive=True, answers=True), HELD, OK, "answers at http://a"),
        (ServerFacts(7, "http://a", alive=True, answers=False), HELD, WARNING, "doesn't answer"),
        (ServerFacts(8, "http://a", alive=True, answers=False), HELD, NOTE, "is gone"),
        (ServerFacts(7, "http://a", alive=False, answers=False), LockFacts(held=False), NOTE, "is gone"),
    ],
)
def test_the_consumer(facts: ServerFacts | None, lock: LockFacts, severity: Severity, words: str) -> None:
    """Running, starting, stuck, killed."""
    only(check_server(facts, lock), severity, words)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (DISK, [(OK, "20.0 GiB are free on ext4.")]),
        (
            replace(DISK, free_bytes=200 * 2**20, database_bytes=2**21),
            [(WARNING, "Only 200.0 MiB are free, and below 64.0 MiB nothing is written.")],
        ),
        (
            replace(DISK, free_bytes=2 * GIB, database_bytes=3 * GIB),
            [(WARNING, "2.0 GiB are free, the database has 3.0 GiB: a copy of it (a snapshot) won't fit.")],
        ),
        (
            replace(DISK, free_bytes=300 * 2**20, wal_bytes=200 * 2**20),
            [
                (
                    ERROR,
                    "The disk of home is almost full: 300 MiB are free, and below 401 MiB nothing is written.",
                )
            ],
        ),
        (replace(DISK, writable=False), [(ERROR, "The home can't be written to by this user.")]),
        (replace(DISK, free_files=3), [(WARNING, "Only 3 more files can be made there (inodes).")]),
        (
            replace(DISK, kind="nfs4", is_network=True),
            [(WARNING, "The home lies on a network file system (nfs4): its locks and latest bytes may not hold.")],
        ),
    ],
)
def test_the_disk(facts: DiskFacts, expected: list[tuple[Severity, str]]) -> None:
    """Room, rights, kind."""
    assert seen(check_disk(facts)) == expected


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (TokenFacts(exists=False), OK, "no token yet"),
        (TokenFacts(exists=True), OK, "owner's alone"),
        (TokenFacts(True, 0o640), WARNING, "mode 0640"),
        (TokenFacts(True, 0o602), WARNING, "mode 0602"),
        (TokenFacts(True, 0o600, ours=False), WARNING, "another user"),
    ],
)
def test_the_token(facts: TokenFacts, severity: Severity, words: str) -> None:
    """Others that could read it."""
    only(check_token(facts, "token"), severity, words)


@pytest.mark.parametrize(
    ("content", "mode", "severity", "words"),
    [
        (None, 0, None, ""),
        ('{"tokens": []}', 0o600, OK, "owner's alone"),
        ('{"tokens": []}', 0o644, WARNING, "mode 0644"),
        ('{"tokens": []}', 0o620, WARNING, "mode 0620"),
        ("{", 0o600, ERROR, "can't be understood: delete it"),
    ],
)
def test_further_files_of_tokens(
    tmp_path: Path, content: str | None, mode: int, severity: Severity | None, words: str
) -> None:
    """Issued ones and those of `runwire login`: who else can read or change them."""
    issued = IssuedTokens(tmp_path)
    if content is not None:
        issued.path.write_text(content)
        issued.path.chmod(mode)
    found = check_private(private_facts(issued.path, issued.listed), "tokens.json")
    if severity is None:
        assert found == []
    else:
        only(found, severity, words)


def shot(age_hours: float, sound: bool | None = None) -> SnapshotFacts:  # noqa: FBT001 - as the field
    """A snapshot of some hours ago."""
    return SnapshotFacts("s", NOW - round(age_hours * 3600 * SECOND), GIB, sound, "torn." if sound is False else "")


@pytest.mark.parametrize(
    ("snapshots", "retention_hours", "expected"),
    [
        ([], None, [NOTE]),
        ([], 24, [WARNING]),
        ([shot(5)], 24, [OK]),
        ([shot(7)], 24, [WARNING]),
        ([shot(25)], 24, [ERROR]),
        ([shot(25)], None, [OK]),
        ([shot(25), shot(1)], 24, [OK]),
        ([shot(5), shot(1, sound=False)], 24, [ERROR]),
        ([shot(1, sound=False)], 24, [ERROR, WARNING]),
    ],
)
def test_snapshots_against_retention(
    snapshots: list[SnapshotFacts], retention_hours: float | None, expected: list[Severity]
) -> None:
    """A quarter of what the log keeps is late, all of it too late; damaged ones don't count."""
    retention = None if retention_hours is None else retention_hours * 3600
    found = check_snapshots(snapshots, retention, NOW, database_exists=True)
    assert [one.severity for one in found] == expected


def test_nothing_to_take_a_snapshot_of() -> None:
    """A home without a database needs none, and a log that still has everything is one."""
    found = check_snapshots([], 3600, NOW, database_exists=True, log_is_whole=True)
    assert [one.severity for one in found] == [NOTE]
    assert TOPIC.is_whole is False
    assert replace(TOPIC, partitions=TOPIC.partitions[1:]).is_whole
    assert [one.severity for one in check_snapshots([], 3600, NOW, database_exists=False)] == [OK]


def journal(age_seconds: float, *, alive: bool = False, url: str = "here") -> JournalFacts:
    """A journal last written to some time ago."""
    return JournalFacts("e" * 32, alive, url, 2**20, NOW - round(age_seconds * SECOND))


@pytest.mark.parametrize(
    ("journals", "expected"),
    [
        ([], [OK]),
        ([journal(9_000, alive=True)], [OK]),
        ([journal(30)], [NOTE]),
        ([journal(300)], [WARNING]),
        ([journal(300), journal(10, url="there")], [WARNING, NOTE]),
        ([journal(300, url="")], [WARNING, WARNING]),
    ],
)
def test_journals_of_the_dead(journals: list[JournalFacts], expected: list[Severity]) -> None:
    """Nobody's journals are told once nobody has sent them for a while."""
    assert [one.severity for one in check_journals(journals, "here", NOW)] == expected


def test_leftovers_are_named_with_their_sizes() -> None:
    """Largest first, some of many; what was set aside says when it may go."""
    name = "runwire.duckdb"
    files = [(f"{name}.{n}", 2**20) for n in range(5)]
    only(check_leftovers([], name), OK, "No file")
    only(check_leftovers(files, name), NOTE, "5.0 MiB in runwire.duckdb.0 (1.0 MiB), runwire.duckdb.1 (1.0 MiB), ")
    assert "and 2 more" in check_leftovers(files, name)[0].what
    damaged = [(f"{name}.damaged-20260101T000000Z{end}", 2**20) for end in ("", ".wal")]
    only(check_leftovers(damaged, name), NOTE, "Set aside as damaged: 2 files, 2.0 MiB")
    assert "verify" in check_leftovers(damaged, name)[0].advice
    replaced = [(f"{name}.replaced-20260101T000000Z", 2**30)]
    only(check_leftovers(replaced, name), NOTE, "Replaced by `runwire restore`: 1 file, 1.0 GiB")
    assert len(check_leftovers([*files, *damaged, *replaced], name)) == 3


@pytest.mark.parametrize(
    ("plan", "severity", "words"),
    [(PlanFacts("It is torn."), WARNING, "replaced: It is torn."), (PlanFacts(unreadable=True), NOTE, "binds nobody")],
)
def test_a_plan_that_waits(plan: PlanFacts, severity: Severity, words: str) -> None:
    """The next start carries it out."""
    only(check_plan(plan, "plan"), severity, words)
    assert check_plan(None, "plan") == []


def test_repairs_are_told() -> None:
    """How many, the last one's reason and what took its place; nothing where there was none."""
    assert check_repairs(STORE) == []
    first, last = ("20260101T000000Z", "Torn.", ""), ("20260131T180000Z", "No block.", "runwire-1.duckdb")
    text = "replaced 2 times, last at 2026-01-31 18:00:00 UTC: No block. The snapshot runwire-1.duckdb took its place."
    only(check_repairs(replace(STORE, repairs=(first, last))), NOTE, text)
    only(check_repairs(replace(STORE, repairs=(first,))), NOTE, "replaced once, last at 2026-01-01 00:00:00 UTC: Torn.")


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (VERSIONS, OK, "runwire 1.0, Python 3.11.7"),
        (replace(VERSIONS, installed={"duckdb": "1.5.6"}), ERROR, "duckdb 1.5.6 is another version"),
        (replace(VERSIONS, installed={"duckdb": "1.5.5.dev1"}), OK, "duckdb 1.5.5.dev1"),
        (replace(VERSIONS, installed={"duckdb": "2.0.0"}), ERROR, "duckdb 2.0.0 is another version"),
        (replace(VERSIONS, installed={"aiokafka": None}), ERROR, "aiokafka is not installed"),
        (replace(VERSIONS, python=(3, 10, 2)), ERROR, "Python 3.10.2 is too old"),
        (replace(VERSIONS, consumer="0.9"), NOTE, "The consumer is runwire 0.9"),
    ],
)
def test_versions(facts: VersionFacts, severity: Severity, words: str) -> None:
    """What runs beside what was tried."""
    only(check_versions(facts), severity, words)


def test_tried_versions_are_those_that_are_asked_for() -> None:
    """The table and pyproject.toml say the same."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["consumer"]}
    for name, (low, below) in TRIED_VERSIONS.items():
        assert asked & {f"{name}=={low}", f"{name}>={low},<{below}"}


def exchange(*, skew: int = 0, there: int = 0, looked: int = 0, back: int = 0) -> Exchange:
    """A question that took so long there, was answered by another clock so much later, and took so long back."""
    received_at = NOW + there + skew
    return Exchange(NOW, received_at, received_at + looked, NOW + there + looked + back)


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (ClockFacts(NOW), OK, "One clock only"),
        (ClockFacts(NOW, exchange(skew=SECOND), newest_file=NOW - 10**12), OK, "2 compared"),
        (ClockFacts(NOW, exchange(skew=60 * SECOND)), WARNING, "The consumer's clock is 60 s ahead of"),
        (ClockFacts(NOW, exchange(skew=-7200 * SECOND)), WARNING, "The consumer's clock is 2 h behind"),
        (ClockFacts(NOW, exchange(skew=-60 * SECOND, there=180 * SECOND)), OK, "1 compared"),
        (ClockFacts(NOW, exchange(skew=-60 * SECOND, looked=180 * SECOND)), WARNING, "is 60 s behind"),
        (ClockFacts(NOW, exchange(looked=180 * SECOND, back=3 * SECOND)), OK, "1 compared"),
        (ClockFacts(NOW, newest_file=NOW + 3 * SECOND), WARNING, "The file system's clock is 3 s ahead of"),
        (ClockFacts(NOW, newest_append=NOW + 86_400 * SECOND), WARNING, "The broker's clock is 24 h ahead of"),
    ],
)
def test_clocks(facts: ClockFacts, severity: Severity, words: str) -> None:
    """Others' clocks against this machine's."""
    only(check_clocks(facts), severity, words)


@pytest.mark.parametrize(
    ("url", "server", "severity"),
    [
        ("dir:/data", None, OK),
        ("kafka://127.0.0.1:9092,[::1]:9092/t", "http://localhost:8470", OK),
        ("kafka://10.0.0.7:9092/t", None, NOTE),
        ("kafka://127.example.org:9092/t", None, NOTE),
        ("kafkas://10.0.0.7:9092/t", None, OK),
        ("mqtt://10.0.0.7:1883/t", None, NOTE),
        ("mqtts://10.0.0.7:8883/t", None, OK),
        ("dir:/data", "http://10.0.0.7:8470", WARNING),
        ("dir:/data", "http://[::1]:8470", OK),
        ("dir:/data", "https://runs.example.org", OK),
    ],
)
def test_what_leaves_the_machine_in_the_clear(url: str, server: str | None, severity: Severity) -> None:
    """The token is worth a warning."""
    assert [one.severity for one in check_addresses(url, server)] == [severity]


def setting(**changes: str) -> BrokerFacts:
    """The good topic with other settings."""
    return replace(TOPIC, config={**TOPIC.config, **{name.replace("_", "."): text for name, text in changes.items()}})


def replicas(count: int, in_sync: int, brokers: int = 3) -> BrokerFacts:
    """The good topic with other replicas."""
    return replace(TOPIC, brokers=brokers, partitions=(PartitionFacts(0, True, count, in_sync),))


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (TOPIC, OK, "2 partitions, replication 3, kept for 7 d."),
        (setting(message_timestamp_type="CreateTime"), WARNING, "message.timestamp.type is CreateTime"),
        (setting(cleanup_policy="compact"), ERROR, "cleanup.policy is compact"),
        (setting(cleanup_policy="compact,delete"), ERROR, "cleanup.policy is compact,delete"),
        (setting(retention_ms="3600000"), WARNING, "Records are kept for 60 min only"),
        (setting(retention_ms="-1"), OK, "kept for ever"),
        (setting(retention_bytes="1073741824"), NOTE, "keeps 1.0 GiB at most"),
        (setting(max_message_bytes="20000"), WARNING, "more than 19.5 KiB are refused"),
        (setting(min_insync_replicas="1"), WARNING, "min.insync.replicas is 1"),
        (replace(TOPIC, config={}), NOTE, "doesn't tell the topic's settings"),
        (replicas(1, 1), WARNING, "one copy only, though there are 3 brokers"),
        (replicas(1, 1, brokers=1), NOTE, "one copy only"),
        (replicas(3, 2), WARNING, "Replicas of partitions 0 are not in sync"),
        (replace(TOPIC, partitions=(PartitionFacts(4, False, 3, 0),)), ERROR, "Partitions 4 have no leader"),
    ],
)
def test_the_topic(facts: BrokerFacts, severity: Severity, words: str) -> None:
    """Settings and replicas that lose rows, or may."""
    broker, *found = check_broker(facts, "url")
    assert broker.severity is OK
    only(found, severity, words)


def test_a_broker_that_is_away_and_a_topic_that_is_not_there() -> None:
    """The one is an error, the other comes with the first sender."""
    only(check_broker(BrokerFacts("events", trouble="No broker."), "url"), ERROR, "No broker.")
    only(check_broker(BrokerFacts("events", brokers=1), "url"), NOTE, "doesn't exist yet")


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        (None, []),
        ({"0": 50}, [(OK, "Everything in the log is stored.")]),
        ({"0": 40, "1": 0}, [(NOTE, "The log holds 10 messages that the store hasn't.")]),
        (
            {"0": 15},
            [
                (ERROR, "What waits in partitions 0 is older than half of what the log keeps."),
                (NOTE, "The log holds 35 messages that the store hasn't."),
            ],
        ),
        (
            {"0": 60},
            [(ERROR, "Partition 0 ends at 50, 60 records of it are stored: the topic was made anew.")],
        ),
    ],
)
def test_lag(offsets: dict[str, int] | None, expected: list[tuple[Severity, str]]) -> None:
    """Our offsets against the log's."""
    assert seen(check_lag(TOPIC, offsets)) == expected


def test_records_that_expired_unread() -> None:
    """Of a partition that was read they are lost; one that never was may have had any past."""
    assert seen(check_lag(TOPIC, {"0": 4}))[0] == (
        ERROR,
        "Records 4 to 9 of partition 0 expired before they were stored.",
    )
    never_read = check_lag(replace(TOPIC, partitions=(PartitionFacts(0, True, 3, 3, 10, 50),)), {"1": 0})
    assert seen(never_read) == [(NOTE, "The log holds 40 messages that the store hasn't.")]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], [OK]),
        ([FileFacts("a", 10, 0, 0, 1)], [NOTE]),
        ([FileFacts("a", 0, 0, 10, 5)], [OK]),
        ([FileFacts("a", 0, 0, 10, 100)], [NOTE, OK]),
        ([FileFacts("a", 0, 5, 0, 100)], [ERROR, OK]),
    ],
)
def test_the_folder(files: list[FileFacts], expected: list[Severity]) -> None:
    """Torn ends are told once their writers are gone, damage at once."""
    assert [one.severity for one in check_folder(files, "folder", exists=True)] == expected


def test_a_folder_that_is_not_there() -> None:
    """It comes with the first sender."""
    only(check_folder([], "folder", exists=False), NOTE, "doesn't exist yet")


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (None, OK, "no database yet"),
        (STORE, OK, "1 run, 10 rows, 20 points agree with the ledger (by counts"),
        (replace(STORE, deep=True), OK, "(each row and point)"),
        (replace(STORE, anomalies=(Anomaly("rows_once", 2, ("a", "b")),)), ERROR, "2 rows are stored twice (a, b)."),
        (replace(STORE, anomalies=(Anomaly("offsets_there", 1),)), WARNING, "no offset"),
        (replace(STORE, anomalies=(Anomaly("a law of a newer consumer", 1),)), ERROR, "a law of a newer consumer"),
        (replace(STORE, unchecked=("points: out of time",)), WARNING, "Not checked: 1 thing: points: out of time."),
        (Unopened("locked", "In use."), NOTE, "In use."),
        (Unopened("damaged", "Torn."), ERROR, "Torn."),
        (Unopened("crashed", "Gone."), ERROR, "Gone."),
        (Unopened("foreign", "Not ours."), ERROR, "Not ours."),
        (Unopened("newer", "Newer."), ERROR, "Newer."),
        (Unopened("something", "Odd."), ERROR, "Odd."),
    ],
)
def test_the_store(facts: StoreFacts | Unopened | None, severity: Severity, words: str) -> None:
    """It opens or not, and keeps its laws or not."""
    only(check_store(facts, "file"), severity, words)


def test_every_law_has_a_sentence_with_a_number() -> None:
    """What is broken can be said."""
    for law in LAWS:
        text = check_store(replace(STORE, anomalies=(Anomaly(law, 1_234),)), "file")[0].what
        assert "{" not in text
        assert law == "offsets_there" or "1,234" in text


@pytest.mark.parametrize(
    ("facts", "findings"),
    [
        (STORE, [ok("schema", "The database has version 3, as this program.")]),
        (replace(STORE, version=2), [NOTE]),
        (replace(STORE, version=9), [ERROR]),
    ],
)
def test_versions_of_the_file(facts: StoreFacts, findings: list[Finding | Severity]) -> None:
    """Older ones are brought up, newer ones aren't touched."""
    found = check_version(facts, 3, "file")
    assert found == findings or [one.severity for one in found] == findings


def test_offsets_gaps_and_dead_letters() -> None:
    """What the store says of its own past."""
    only(check_offsets(STORE, "kafka://b:9092/events"), OK, "1 partition ")
    only(check_offsets(STORE, "dir:/elsewhere"), NOTE, "filled from kafka://b:9092/events, never from dir:/elsewhere")
    only(check_gaps(STORE), OK, "No row")
    only(check_gaps(replace(STORE, gaps=(("run", 3), ("other", 1)))), WARNING, "4 rows of 2 runs: run (3), other (1).")
    only(check_dead_letters(STORE), OK, "Every message")
    letters = replace(STORE, dead_letters=(("It is garbage.", 2), ("Unknown schema.", 1)))
    only(check_dead_letters(letters), WARNING, "3 messages: 2 times It is garbage; 1 times Unknown schema.")


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("a", "")], 0),
        ([note("a", ""), ok("b", "")], 0),
        ([warning("a", ""), note("b", "")], 1),
        ([warning("a", ""), error("b", ""), ok("c", "")], 2),
    ],
)
def test_the_worst_finding_decides_the_exit_code(findings: list[Finding], code: int) -> None:
    """0 for nothing to do, 1 for soon, 2 for now."""
    assert exit_code(findings) == code


def test_facts_and_findings_go_through_json() -> None:
    """What a consumer tells is what the command reads; anything else is refused."""
    facts = replace(
        STORE,
        anomalies=(Anomaly("rows_once", 1, ("x",)),),
        gaps=(("r", 1),),
        dead_letters=(("why", 1),),
        unchecked=("y",),
    )
    assert StoreFacts.of(facts.fields()) == facts
    finding = error("store", "what", "where", "advice")
    assert Finding.of(finding.fields()) == finding
    for broken in ({}, {**facts.fields(), "anomalies": [1]}, {**facts.fields(), "rows": "many"}):
        with pytest.raises(ValueError, match="no facts"):
            StoreFacts.of(broken)
    with pytest.raises(ValueError, match="no finding"):
        Finding.of({**finding.fields(), "severity": "fatal"})


def test_a_probe_that_fails_or_hangs_is_a_finding() -> None:
    """Nothing is raised, nobody is waited for."""
    assert probed("disk", lambda: 7, 10) == (7, [])

    def fail() -> None:
        raise OSError(5, "Input/output error")

    assert probed("disk", fail, 10)[1][0].what == "This could not be looked at: [Errno 5] Input/output error"
    let_go = threading.Event()
    value, found = probed("disk", let_go.wait, 0.01)
    let_go.set()
    assert value is None
    only(found, WARNING, "gave no answer within 0.01 s")


def test_sizes_and_spans_are_for_people() -> None:
    """One unit, few digits."""
    assert [size(n) for n in (0, 1_023, 1_536, 3 * 2**30, 5 * 2**40)] == [
        *("0 bytes", "1,023 bytes", "1.5 KiB", "3.0 GiB", "5.0 TiB")
    ]
    assert [span(n) for n in (0.4, 119, 120, 7_200, 172_800)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]


def test_every_check_is_in_the_guide() -> None:
    """What `runwire doctor` can print has a row that says what it means."""
    guide = (REPOSITORY / "docs" / "guides" / "doctor.md").read_text().partition("## Checks")[2]
    rows = set(re.findall(r"^\| `([\w-]+)` \|", guide, re.MULTILINE))
    sources = [
        path.read_text()
        for folder in ("consumer/runwire_consumer/doctor", "cli/runwire_cli")
        for path in (REPOSITORY / folder).glob("*.py")
    ]
    made = {name for text in sources for name in re.findall(r'\b(?:ok|note|warning|error)\(\s*"([\w-]+)"', text)}
    assert made == rows
