"""The size cap, end to end: no broker for longer than the disk may hold, and what is in the store afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runwire._cap import JOURNAL_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Cap, segment_bytes_for
from runwire._journal_files import FullSegment
from runwire_schemas.events import RunEnded
from tests.producer.journals import EMITTER, died, log_text, open_journal, recovered
from tests.producer.outcome import outcome_of
from tests.producer.programs import Program, of_kind

# An alert every thousand rows; the destination comes when it is told to, or never.
PROGRAM = """
import json, os, signal, sys, time
from runwire import _start
_start.FINISH_TIMEOUT_SECONDS = 30.0 if "COMES" in os.environ else 0.3
run = runwire.init(params={"lr": 1})
run.define("m0", best="max")
KEYS = [f"m{i}" for i in range(100)]
rows = int(os.environ["ROWS"])
for step in range(rows):
    if step % 1000 == 0:
        run.alert(f"{step:07d}")
        time.sleep(0.001)
    run.log(dict.fromkeys(KEYS, float(step)), step=step)
journal = run._emitter.journal
used = sum(file.stat().st_size for file in os.scandir(journal.folder) if file.name != "owner")
print(json.dumps([used, journal.rows_lost]), flush=True)
if "COMES" in os.environ:
    os.unlink(os.environ["COMES"])
    run.finish()
elif "KILLED" in os.environ:
    os.kill(os.getpid(), signal.SIGKILL)
else:
    run.finish()
"""
BROKER_DOWN = "kafka://127.0.0.1:1/t"


@pytest.mark.parametrize(
    ("cap", "ending"),
    [
        ("16MiB", "finished"),
        ("16MiB", "killed"),
        ("16MiB", "comes"),
        pytest.param("64MiB", "finished", marks=pytest.mark.long),
        pytest.param("64MiB", "comes", marks=pytest.mark.long),
    ],
)
def test_a_broker_that_is_down_for_longer_than_the_disk_can_hold(tmp_path: Path, cap: str, ending: str) -> None:
    """The journal keeps to its cap; afterwards each record is there once, each row once or in a declared loss."""
    cap_bytes = int(cap.removesuffix("MiB")) * 2**20
    rows = cap_bytes // 840 * 3 // 2
    program = Program(tmp_path, PROGRAM, url=BROKER_DOWN)
    variables = {"RUNWIRE_JOURNAL_BYTES": cap, "ROWS": str(rows)}
    if ending == "comes":
        program.topic.write_text("in the way")
        variables |= {"RUNWIRE_URL": f"dir:{program.topic}", "COMES": str(program.topic)}
    elif ending == "killed":
        variables["KILLED"] = "1"
    done = program.run(**variables)
    assert done.returncode == (-9 if ending == "killed" else 0), done.stderr
    used, rows_lost = json.loads(done.stdout)
    reason = f"the journal reached {cap_bytes:,} bytes"
    assert done.stderr.count(f"{reason}. Its oldest rows are lost, and counted, until") == 1
    assert cap_bytes // 2 < used <= cap_bytes
    assert rows_lost >= rows // 4
    outcome = outcome_of(program, "m0")
    assert len(outcome.steps) == rows - rows_lost
    if ending != "comes":  # else what the sender had read before is there too
        assert outcome.steps == list(range(rows_lost, rows))
    assert outcome.alerts == [f"{step:07d}" for step in range(0, rows, 1000)]
    kinds = {kind: outcome.events.count(kind) for kind in set(outcome.events) - {"AlertRaised", "RowsLost"}}
    assert kinds.pop("RunStarted") == 2 or ending == "killed"  # the second one says what took long to find out
    assert kinds == {"ParamsLogged": 1, "MetricDefined": 1, **({} if ending == "killed" else {"RunEnded": 1})}
    assert outcome.reasons == {reason}
    # Beside rows: numbers of records that were copied forward, and of losses that became one with later ones.
    assert rows_lost < outcome.lost < rows_lost + 2 * len(outcome.events)
    for event in of_kind(program.events(), RunEnded):
        assert event.cost is not None
        assert event.cost.rows_dropped >= rows_lost


@pytest.mark.parametrize("mapped", [True, False])
def test_records_alone_never_go(tmp_path: Path, *, mapped: bool) -> None:
    """A journal of nothing but lifecycle records is larger than its cap, and has each once; rows between them go."""
    journal = open_journal(tmp_path / EMITTER, mapped=mapped, segment_bytes=2048, journal_bytes_max=8 * 2048)
    for number in range(300):
        log_text(journal, f"{number} {'x' * 200}")
        journal.append_row(("a",), number, 0, [1.0])
    story = recovered(died(journal, tmp_path / "dead"))
    assert sorted(int(text.split()[0]) for _, text in story.texts) == list(range(300))
    assert len(list(journal.folder.iterdir())) > 8
    story.assert_complete()
    assert 299 in story.steps
    journal.close(delete=True)


def test_records_that_find_no_room_are_held_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts in a storm while the disk is full: what is beyond the bound is a declared loss."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=2048)
    with monkeypatch.context() as patch:
        patch.setattr("runwire._waiting.HELD_BYTES_MAX", 20_000)
        patch.setattr("os.posix_fallocate", _full)
        for number in range(200):
            log_text(journal, f"{number} {'x' * 200}")
    journal._retry_at = 0.0
    log_text(journal, "200")
    journal.seal()
    story = recovered(died(journal, tmp_path / "dead"))
    story.assert_complete()
    kept = [int(text.split()[0]) for _, text in story.texts]
    assert len(kept) + journal.rows_lost == 201
    assert (kept[0], kept[-1], journal.rows_lost > 50) == (0, 200, True)
    journal.close(delete=True)


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("events", "victim"),
    [
        ([0, 0, 0], 0),
        ([512, 0, 0], 1),  # half of a segment of 1,024: copying it forward would free next to nothing
        ([511, 0, 0], 0),
        ([512, 512, 512], None),
        ([0, 0], None),  # with the next one and its spare, four
    ],
)
def test_the_oldest_segment_that_is_mostly_rows_goes(events: list[int], victim: int | None) -> None:
    """Never one that lifecycle records fill by half."""
    full = {number: FullSegment(1024, 0, [(0, size)], []) for number, size in enumerate(events)}
    assert Cap(4096, 1024).victim(full) == victim


@pytest.mark.parametrize(
    ("journal_bytes_max", "segment_bytes"),
    [
        (JOURNAL_BYTES_MIN, SEGMENT_BYTES_MIN),
        (64 * 2**20, 8 * 2**20),
        (40 * 2**20, 5 * 2**20),
        (2**40, SEGMENT_BYTES_MAX),
    ],
)
def test_a_small_cap_has_small_segments(journal_bytes_max: int, segment_bytes: int) -> None:
    """What goes at once is at most an eighth."""
    assert segment_bytes_for(journal_bytes_max) == segment_bytes
