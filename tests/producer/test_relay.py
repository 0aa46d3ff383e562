"""The relay as users start it, beside real processes that write: killed, started twice, told to end, fed rubbish."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire import _link, _recovery, _relay
from runwire._errors import TransportError
from runwire._following import LiveJournal
from runwire._journal_files import remove_journal
from runwire._link import Link
from runwire._mark import read_mark
from runwire._memory import FAULTS, REFUSES, TOPICS, Fault
from runwire._recovery import Outcome
from runwire._relay import Relay
from runwire._segments import segment_numbers
from runwire_schemas.events import EmitterEnded, Event, Heartbeat, MetricBatch, RowsLost, RunStarted
from tests.producer.journals import Story, died, log_text, open_journal, tell
from tests.producer.programs import Program, of_kind, read_topic
from tests.services.process import PATIENCE_SECONDS, wait_until

# Logs until it is told to stop, and says of each row that `log` returned.
WRITER = """
import os, pathlib, sys, time
run = runwire.init(sender="relay", run_id="together")
said = os.open(f"said-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
step = 0
while not os.path.exists("stop"):
    for _ in range(20):
        run.log({"pid": os.getpid(), "step": step}, step=step)
        os.write(said, b".")
        step += 1
    time.sleep(0.002)
assert run.finish() is False
"""


class Relayed:
    """A home, its writers, and its relay."""

    def __init__(self, folder: Path, source: str = WRITER) -> None:
        self.program = Program(folder, source)
        self.topic = self.program.topic
        self.journals = self.program.home / "journal"
        self.log = folder / "relay.log"
        self._started: list[subprocess.Popen[str]] = []

    def write(self) -> subprocess.Popen[str]:
        """Start one more writer."""
        return self._start([sys.executable, "-u", self.program.path.name])

    def relay(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a relay of the home."""
        place = arguments or (str(self.program.home),)
        return self._start([sys.executable, "-m", "runwire_cli", "sync", "--follow", *place])

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            process = subprocess.Popen(
                command, cwd=self.program.folder, env=self.program.environment, stdout=log, stderr=log, text=True
            )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what is left."""
        for process in self._started:
            process.kill()
            process.wait()

    def events(self) -> list[Event]:
        """What has arrived."""
        return read_topic(self.topic)

    def rows(self) -> dict[tuple[str, int], tuple[float, ...]]:
        """(pid, step) of each row, by emitter and number: what arrived twice has to be the same."""
        rows: dict[tuple[str, int], tuple[float, ...]] = {}
        for batch in of_kind(self.events(), MetricBatch):
            seq = batch.first_seq
            for block in batch.blocks:
                count = len(block.steps)
                for row in range(count):
                    values = tuple(block.values[row + key * count] for key in range(len(block.keys)))
                    assert rows.setdefault((batch.emitter_id, seq), values) == values
                    seq += 1
        return rows

    def said(self, pid: int) -> int:
        """How many calls of a writer had returned."""
        path = self.program.folder / f"said-{pid}"
        return path.stat().st_size if path.exists() else 0

    def wait_for(self, what: str) -> None:
        """Until the relay says so."""
        wait_until(lambda: what in self.log.read_text(), what=what)

    def wait_for_more(self) -> None:
        """Until more has arrived than now."""

        def size() -> int:
            return sum(path.stat().st_size for path in self.topic.glob("*"))

        enough = size() + 50_000
        wait_until(lambda: size() > enough, what="rows arrive")

    def wait_until_delivered(self) -> None:
        """Until no journal is left."""
        wait_until(
            lambda: not [path for path in self.journals.iterdir() if not path.name.startswith(".")],
            what="no journal is left",
        )


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[Relayed]:
    """Nothing runs yet."""
    relayed = Relayed(tmp_path)
    yield relayed
    relayed.close()


def test_a_trainer_with_a_relay_starts_no_thread(tmp_path: Path) -> None:
    """Nor does it open a socket or import a client; it finishes at once, and its last line says what waits where."""
    program = Program(
        tmp_path,
        """
        import json, os, sys, threading
        import subprocess  # what git is asked with
        def threads():
            return threading.active_count(), len(os.listdir("/proc/self/task"))
        before = threads()
        run = runwire.init(sender="relay")
        for step in range(1_000):
            run.log({"a": step, "b": {"c": 1}})
        during = threads()
        links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name > "2"
                 and os.path.exists(f"/proc/self/fd/{name}")]
        child = os.fork()
        if not child:
            run.log({"a": 0})
            os._exit(threads() != before)
        _, status = os.waitpid(child, 0)
        delivered = run.finish()
        print(json.dumps([before, during, threads(), status, delivered, "aiokafka" in sys.modules,
                          [link for link in links if "socket" in link]]))
        """,
        url="kafka://127.0.0.1:1/nobody",
    )
    done = program.run()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[1, 1], [1, 1], [1, 1], 0, False, False, []]
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("runwire: "))
    assert "1,003 rows wait for the relay in " in line  # two RunStarted and RunEnded among them
    assert "`runwire sync --follow` sends them" in line
    # Neither did it touch the journals of others, nor leave its description out.
    assert len(program.journals()) == 2


def test_the_description_is_there_without_a_thread(relayed: Relayed) -> None:
    """Packages and host stand in the second RunStarted, as with a thread."""
    (relayed.program.folder / "stop").touch()
    assert relayed.write().wait(PATIENCE_SECONDS) == 0
    relay = relayed.relay()
    relayed.wait_until_delivered()
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(PATIENCE_SECONDS) == 0
    first, second = of_kind(relayed.events(), RunStarted)
    assert (bool(first.packages), bool(second.packages)) == (False, True)
    assert second.host.python


def test_killed_writers_and_relays_cost_no_row(relayed: Relayed) -> None:
    """Four writers, one killed; the relay killed twice and started before and after them: each row once, four ends."""
    relay = relayed.relay()  # before there is a home
    writers = [relayed.write() for _ in range(4)]
    for kill in range(2):
        relayed.wait_for_more()
        relay.kill()
        relay.wait()
        if kill == 0:
            wait_until(lambda: relayed.said(writers[0].pid) > 0, what="the first one logs")
            writers[0].kill()
            writers[0].wait()
        relay = relayed.relay()
    (relayed.program.folder / "stop").touch()
    assert [writer.wait(PATIENCE_SECONDS) for writer in writers] == [-signal.SIGKILL, 0, 0, 0]
    relayed.wait_until_delivered()
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(PATIENCE_SECONDS) == 0
    rows = Counter(relayed.rows().values())
    assert set(rows.values()) == {1}
    for writer in writers:
        steps = sorted(int(step) for pid, step in rows if pid == writer.pid)
        returned = relayed.said(writer.pid)
        assert steps == list(range(len(steps)))
        assert returned <= len(steps) <= returned + (writer is writers[0])
    events = relayed.events()
    ends = {event.emitter_id: (event.how, event.next_seq) for event in of_kind(events, EmitterEnded)}
    assert Counter(how for how, _ in ends.values()) == {"crashed": 1, "finished": 3}
    assert of_kind(events, RowsLost) == []
    numbers: dict[str, set[int]] = {emitter: set() for emitter in ends}
    for event in events:
        if isinstance(event, MetricBatch):
            count = sum(len(block.steps) for block in event.blocks)
            numbers[event.emitter_id].update(range(event.first_seq, event.first_seq + count))
        elif hasattr(event, "seq"):
            numbers[event.emitter_id].add(event.seq)
    assert {emitter: len(seen) for emitter, seen in numbers.items()} == {
        e: next_seq for e, (_, next_seq) in ends.items()
    }


def test_signs_of_life_and_a_last_line(relayed: Relayed) -> None:
    """Each living emitter gives signs of life through the relay; told to end, it sends what is there and says so."""
    relayed.write()
    relayed.write()
    relay = relayed.relay()
    wait_until(
        lambda: len({event.emitter_id for event in of_kind(relayed.events(), Heartbeat)}) == 2,
        what="signs of life of both",
    )
    assert {event.next_in_seconds for event in of_kind(relayed.events(), Heartbeat)} == {5.0}
    relay.send_signal(signal.SIGINT)
    assert relay.wait(PATIENCE_SECONDS) == 0
    last = relayed.log.read_text().splitlines()[-1]
    assert " rows sent, 0 journals to their end; 2 are not at their end: another relay" in last
    assert of_kind(relayed.events(), EmitterEnded) == []


def test_a_second_relay_says_who_is_there(relayed: Relayed) -> None:
    """And ends with exit code 1; the first one goes on. When that is gone the next one may."""
    (relayed.program.home / "journal").mkdir(parents=True)
    first = relayed.relay()
    relayed.wait_for("Relaying the journals in ")
    second = relayed.relay(str(relayed.program.home))
    assert second.wait(PATIENCE_SECONDS) == 1
    relayed.wait_for(
        f"are relayed by process {first.pid} on {os.uname().nodename} already: one relay a folder is enough."
    )
    assert first.poll() is None
    first.kill()
    first.wait()
    third = relayed.relay(str(relayed.journals))
    wait_until(
        lambda: relayed.log.read_text().count("Relaying the journals in ") == 2,
        what="the third relay begins",
    )
    third.send_signal(signal.SIGTERM)
    assert third.wait(PATIENCE_SECONDS) == 0


def test_a_thread_of_its_own_delivers_alone(relayed: Relayed) -> None:
    """A relay leaves a living journal alone that has a sender; an offline one it follows while it runs."""
    relayed.program.path.write_text(
        relayed.program.path.read_text().replace('sender="relay"', 'mode=os.environ["MODE"]').replace(
            "assert run.finish() is False", "run.finish()")
    )  # fmt: skip
    nobody = relayed.program.folder / "nobody"
    nobody.touch()  # no folder can be made there: its own sender waits
    relayed.program.environment |= {"MODE": "on", "RUNWIRE_URL": f"dir:{nobody}/topic"}
    threaded = relayed.write()
    relayed.program.environment |= {"MODE": "offline", "RUNWIRE_URL": f"dir:{relayed.topic}"}
    offline = relayed.write()
    relay = relayed.relay("--to", f"dir:{relayed.topic}", str(relayed.program.home))
    wait_until(
        lambda: relayed.topic.exists() and len(relayed.rows()) > 100 and relayed.said(threaded.pid) > 100,
        what="rows of the offline one",
    )
    assert {int(pid) for pid, _ in relayed.rows().values()} == {offline.pid}
    threaded.kill()
    threaded.wait()
    wait_until(
        lambda: [event.how for event in of_kind(relayed.events(), EmitterEnded)] == ["crashed"],
        what="the dead one is recovered",
    )
    (relayed.program.folder / "stop").touch()
    assert offline.wait(PATIENCE_SECONDS) == 0
    relayed.wait_until_delivered()
    relay.kill()


class Hostile:
    """A folder of journals with a good dead one, relayed in this process to an in-memory destination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "journal"
        self.folder.mkdir()
        self.name = secrets.token_hex(8)
        self._alive = folder / "alive"
        self.outcomes: list[Outcome] = []

    def add(self, rows: int = 50) -> Path:
        """One more good journal of a dead emitter."""
        journal = open_journal(self._alive / secrets.token_hex(16), url=f"memory:{self.name}", segment_bytes=2048)
        for step in range(rows):
            journal.append_row(("a",), step, 0, [float(step)])
        log_text(journal, "last")
        folder = died(journal, self.folder)
        journal.close(delete=True)
        return folder

    @property
    def story(self) -> Story:
        """What arrived."""
        return tell(TOPICS[self.name])

    def relay(self, journals: int) -> None:
        """Relay until so many are delivered."""

        async def run() -> None:
            stop = asyncio.Event()

            def count(outcome: Outcome) -> None:
                self.outcomes.append(outcome)
                if len(self.outcomes) >= journals:
                    stop.set()

            async with asyncio.timeout(PATIENCE_SECONDS):
                await Relay(self.folder, None, count).run(stop)

        asyncio.run(run())


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """No pauses."""
    for module, name in ((_link, "POLL_INTERVAL_SECONDS"), (_link, "RECONNECT_SECONDS_MIN")):
        monkeypatch.setattr(module, name, 0.001)
    monkeypatch.setattr(_link, "RECONNECT_SECONDS_MAX", 0.01)
    monkeypatch.setattr(_relay, "SCAN_INTERVAL_SECONDS", 0.01)
    hostile = Hostile(tmp_path)
    yield hostile
    for table in (TOPICS, FAULTS, REFUSES):
        table.pop(hostile.name, None)


def test_a_journal_that_somebody_recovered_meanwhile_is_let_go(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its header and the lock: nothing is said in its name, and the others arrive."""
    gone, real = hostile.add(), _recovery.try_lock

    def late(owner: int) -> bool:
        if gone.exists() and os.path.samestat((gone / "owner").stat(), os.fstat(owner)):
            remove_journal(gone)
        return real(owner)

    monkeypatch.setattr(_relay, "try_lock", late)
    kept = hostile.add()
    hostile.relay(1)
    assert {message.envelope.emitter_id for message in TOPICS[hostile.name]} == {kept.name}


def test_rubbish_keeps_no_other_journal(hostile: Hostile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Noise for segments, headers that lie, links, pipes, files: each is said once and left; the good ones arrive."""
    aside = tmp_path / "aside"
    aside.mkdir()
    (aside / "precious").write_text("kept")
    (hostile.folder / ("0" * 32)).symlink_to(aside)
    (hostile.folder / "file").write_text("no folder")
    noise = hostile.folder / ("1" * 32)
    noise.mkdir()
    (noise / "owner").write_bytes(b"noise")
    (noise / "000000.seg").write_bytes(b"noise" * 1000)
    ownerless = hostile.folder / ("2" * 32)
    ownerless.mkdir()
    stolen = hostile.add()
    stolen = stolen.rename(stolen.with_name("3" * 32))
    linked = hostile.add()
    (linked / "000000.seg").rename(aside / "000000.seg")
    (linked / "000000.seg").symlink_to(aside / "000000.seg")
    piped = hostile.add()
    (piped / "000000.seg").unlink()
    os.mkfifo(piped / "000000.seg")
    left_early = hostile.folder / ("4" * 32)
    left_early.mkdir()
    (left_early / "owner").write_bytes(b"")
    good = [hostile.add() for _ in range(6)]
    hostile.relay(len(good))
    assert {outcome.emitter_id for outcome in hostile.outcomes} >= {folder.name for folder in good}
    assert (aside / "precious").read_text() == "kept"
    assert (aside / "000000.seg").exists()
    assert noise.exists()
    assert not left_early.exists()
    warned = Counter(record.message.split(" is left alone")[0].rpartition("/")[2] for record in caplog.records)
    assert {warned.pop(folder.name) for folder in (noise, ownerless, stolen, linked)} == {1}
    assert set(warned.values()) <= {1}


def test_a_link_that_breaks_loses_nothing(hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """The destination is away, comes back, breaks in the middle: everything arrives; one warning a minute."""
    good = [hostile.add() for _ in range(3)]
    FAULTS[hostile.name] += [TransportError("away")] * 20
    hostile.relay(len(good))
    assert [outcome.state for outcome in hostile.outcomes] == ["sent"] * 3
    assert Counter(hostile.story.steps) == Counter(range(50))
    assert len(hostile.story.rows) >= 150
    assert [record.message for record in caplog.records] == ["away Rows wait in the journals."]


class Linked:
    """Journals that are written here, and the link that delivers them as if from another process."""

    def __init__(self, folder: Path, name: str, journals: int) -> None:
        self.journals = [
            open_journal(folder / secrets.token_hex(16), sender="relay", segment_bytes=2048) for _ in range(journals)
        ]
        url = f"memory:{name}"
        self.troubles: list[Path] = []
        self.link = Link(
            url,
            on_buried=lambda burial: pytest.fail(f"{burial.folder} is alive"),
            on_trouble=lambda folder, _: self.troubles.append(folder),
            warn=lambda *_: None,
        )
        for journal in self.journals:
            self.link.live[journal.folder.name] = LiveJournal(journal.folder, journal.header, url)

    def log(self, at: int, *steps: int) -> None:
        """Rows of one of them."""
        for step in steps:
            self.journals[at].append_row(("a",), step, 0, [float(step)])

    def deliver(self) -> None:
        """What is there, to the end."""

        async def run() -> None:
            self.link.finish()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.link.run()

        asyncio.run(run())
        self.link.settle()

    def close(self) -> None:
        """End."""
        for live in self.link.live.values():
            live.close()
        for journal in self.journals:
            journal.close(delete=True)


def test_a_refusal_hits_its_own_row_alone(hostile: Hostile, tmp_path: Path) -> None:
    """Journals share a window, and what is sent together is refused together: only what went alone is given up."""
    linked = Linked(tmp_path, hostile.name, 5)
    for at in range(5):
        linked.log(at, 17 if at == 2 else 3)  # one message of one row each
    linked.log(2, 18)
    REFUSES[hostile.name] = lambda message: any(17 in part.steps for part in message.rows)
    linked.deliver()
    assert hostile.story.steps == {3, 18}
    marks = [read_mark(journal.folder) for journal in linked.journals]
    assert [(mark.acknowledged_seq, [loss.first_seq for loss in mark.losses]) for mark in marks] == [
        (1, []), (1, []), (2, [0]), (1, []), (1, []),
    ]  # fmt: skip
    linked.close()


def test_a_long_backlog_keeps_nobody_waiting(hostile: Hostile, tmp_path: Path) -> None:
    """Signs of life go first, then journals take turns: a few messages of the long one, then the short ones."""
    linked = Linked(tmp_path, hostile.name, 3)
    linked.log(0, *range(20_000))
    linked.log(1, 1)
    linked.log(2, 2)
    linked.deliver()
    emitters = [message.envelope.emitter_id for message in TOPICS[hostile.name]]
    assert [message.envelope.type for message in TOPICS[hostile.name]][:3] == ["Heartbeat"] * 3
    for at in (1, 2):
        assert emitters.index(linked.journals[at].folder.name, 3) < 3 + 3 * _link.TURN_MESSAGES
    assert len(hostile.story.rows) == 20_002
    assert [len(segment_numbers(journal.folder)) for journal in linked.journals] == [1, 1, 1]
    linked.close()


@pytest.mark.parametrize("breaks", ["segment", "header"])
def test_a_journal_that_breaks_while_it_is_followed_stops_no_other(
    hostile: Hostile, tmp_path: Path, breaks: str
) -> None:
    """The relay hears of it and leaves it alone; the others go on."""
    linked = Linked(tmp_path, hostile.name, 2)
    linked.log(0, *range(5))
    linked.log(1, *range(5))
    if breaks == "segment":
        (linked.journals[0].folder / "000001.seg").write_bytes(b"noise" * 100)
    else:  # good JSON with a good check sum, of other types
        live = linked.link.live[linked.journals[0].folder.name]
        live.header = replace(live.header, run_id=[7])  # type: ignore[arg-type]
    linked.deliver()
    assert set(linked.troubles) == {linked.journals[0].folder}
    assert Counter(hostile.story.steps) == Counter(range(5))
    linked.close()


def test_one_poison_message_stops_no_other(hostile: Hostile) -> None:
    """Its row is halved out and declared lost behind the last one of its journal; all others arrive."""
    poisoned, *others = (hostile.add() for _ in range(4))
    REFUSES[hostile.name] = lambda message: (
        message.envelope.emitter_id == poisoned.name and any(17 in part.steps for part in message.rows)
    )
    hostile.relay(4)
    assert {outcome.emitter_id: outcome.lost for outcome in hostile.outcomes} == {
        poisoned.name: 1,
        **{folder.name: 0 for folder in others},
    }
    assert hostile.story.lost_seqs == {17}
    assert Counter(row[2] for row in hostile.story.rows) == {step: 4 - (step == 17) for step in range(50)}


def test_a_failed_send_loses_nothing_that_was_read(hostile: Hostile, tmp_path: Path) -> None:
    """Windows end in the middle of a journal's turn: what they left is sent too, after any error."""
    linked = Linked(tmp_path, hostile.name, 1)
    for step in range(200):
        linked.log(0, step)
        log_text(linked.journals[0], "so that each is a message")
    FAULTS[hostile.name] += [Fault(), Fault(), TransportError("away"), Fault(), TransportError("away")]

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            task = asyncio.create_task(linked.link.run())
            while FAULTS[hostile.name]:  # noqa: ASYNC110 - the link tells nobody
                await asyncio.sleep(0.001)
            linked.link.finish()
            await task

    asyncio.run(run())
    linked.link.settle()
    assert sorted(hostile.story.steps) == list(range(200))
    assert hostile.story.seqs == list(range(400))


def test_writers_hear_what_arrived_before_the_link_broke(hostile: Hostile, tmp_path: Path) -> None:
    """While the destination is away, the mark says how far all is: a journal at its cap would lose it again."""
    linked = Linked(tmp_path, hostile.name, 1)
    for step in range(100):
        linked.log(0, step)
        log_text(linked.journals[0], "so that each is a message")
    FAULTS[hostile.name] += [Fault()] * 2 + [TransportError("away")] * 1_000

    async def run() -> None:
        task = asyncio.create_task(linked.link.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(FAULTS[hostile.name]) > 995:  # noqa: ASYNC110 - the link tells nobody
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert read_mark(linked.journals[0].folder).acknowledged_seq > 20
    linked.close()
