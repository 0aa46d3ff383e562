"""Faults of the disk under a training that logs: no exception, no signal, and the law holds once they are healed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.producer.disks import ext4_disk, small_disk
from tests.producer.outcome import outcome_of
from tests.producer.programs import Program

# Every program: segments of 64 KiB, 320 rows each, so that a fault of 1,000 rows meets three changes of segment.
DRIVER = """
import contextlib, errno, json, mmap, os, resource, shutil, sys, time
from runwire import _emitter, _filesystem, _fsync, _segment_writer, _start
_segment_writer.RETRY_SECONDS = _fsync.REFUSED_SECONDS_MIN = 0.001
_fsync.SYNC_INTERVAL_SECONDS = 0.001
_start.FINISH_TIMEOUT_SECONDS = float(os.environ.get("FINISH_SECONDS", "20"))
_emitter.segment_bytes_for = lambda _: 65536
if os.environ.get("BY_PWRITE"):
    _segment_writer.file_system_of = lambda fd: _filesystem.FileSystem("overlay", "/")
KEYS = [f"m{i}" for i in range(20)]
HOME = os.environ["RUNWIRE_HOME"]
step = 0
run = runwire.init(params={"lr": 1})

def log(rows):
    global step
    for _ in range(rows):
        run.log(dict.fromkeys(KEYS, float(step)), step=step)
        step += 1

@contextlib.contextmanager
def failing(code, *names, module=os):
    real = {name: getattr(module, name) for name in names}
    def fail(*_, **__): raise OSError(code, os.strerror(code))
    for name in names: setattr(module, name, fail)
    try: yield
    finally:
        for name in names: setattr(module, name, real[name])

@contextlib.contextmanager
def limited(what, most):
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try: yield
    finally: resource.setrlimit(what, before)

@contextlib.contextmanager
def deleted(folder):
    shutil.rmtree(folder)
    yield
"""
# The faults one after another, each with a healthy stretch behind it: what each cost is printed.
ROUNDS = """
log(500)
costs = {}
for name, fault in FAULTS.items():
    # A segment that the sender can't open for ESTALE is gone for good, with its records: it has read them all before.
    while name == "stale" and run._emitter.journal._full: time.sleep(0.001)
    before = run._emitter.journal.rows_lost
    with fault():
        log(1000)
        run.alert(name)
        time.sleep(0.01)
    time.sleep(0.01)
    log(500)
    costs[name] = run._emitter.journal.rows_lost - before
print(json.dumps([step, costs]), flush=True)
run.finish()
"""

WRITTEN = "the journal couldn't be written: "
KEPT = "the disk doesn't keep the journal: "
REFUSED = "the disk refused what was written"
DELETED = "somebody deleted the journal's folder"
PWRITE = {"BY_PWRITE": "1"}
DOWN = {"RUNWIRE_URL": "kafka://127.0.0.1:1/t", "FINISH_SECONDS": "0.3"}

# How it logs -> (its environment; fault -> (context, what the one warning says: rows are lost then, or not)).
FAULTS: dict[str, tuple[dict[str, str], dict[str, tuple[str, str]]]] = {
    "mapped": (
        {},
        {
            "no space": ("failing(errno.ENOSPC, 'posix_fallocate')", WRITTEN + "No space left on device"),
            "quota": ("failing(errno.EDQUOT, 'posix_fallocate', 'pwrite')", WRITTEN + "Disk quota exceeded"),
            "header": ("failing(errno.EIO, 'pwrite')", WRITTEN + "Input/output error"),
            "name": ("failing(errno.EPERM, 'rename')", WRITTEN + "Operation not permitted"),
            "no memory": ("failing(errno.ENOMEM, 'mmap', module=mmap)", WRITTEN + "Cannot allocate memory"),
            "read-only": ("failing(errno.EROFS, 'open', 'rename', 'unlink')", WRITTEN + "Read-only file system"),
            "stale": ("failing(errno.ESTALE, 'open', 'pwrite', 'rename')", WRITTEN + "Stale file handle"),
            "descriptors": ("limited(resource.RLIMIT_NOFILE, 3)", WRITTEN + "Too many open files"),
            "file size": ("limited(resource.RLIMIT_FSIZE, 16384)", WRITTEN + "File too large"),
            "trimming": ("failing(errno.EIO, 'unlink')", ""),
        },
    ),
    "mapped, broker down": (
        DOWN,
        {
            "no space": ("failing(errno.ENOSPC, 'posix_fallocate')", WRITTEN + "No space left on device"),
            "descriptors": ("limited(resource.RLIMIT_NOFILE, 3)", WRITTEN + "Too many open files"),
            "file size": ("limited(resource.RLIMIT_FSIZE, 16384)", WRITTEN + "File too large"),
        },
    ),
    "pwrite": (
        PWRITE,
        {
            "no space": ("failing(errno.ENOSPC, 'pwrite')", WRITTEN + "No space left on device"),
            "quota": ("failing(errno.EDQUOT, 'pwrite')", WRITTEN + "Disk quota exceeded"),
            "broken": ("failing(errno.EIO, 'pwrite')", WRITTEN + "Input/output error"),
            "stale": ("failing(errno.ESTALE, 'open', 'pwrite', 'rename')", WRITTEN + "Stale file handle"),
            "trimming": ("failing(errno.EIO, 'unlink')", ""),
        },
    ),
    "pwrite, broker down": (
        PWRITE | DOWN,
        {"file size": ("limited(resource.RLIMIT_FSIZE, 16384)", WRITTEN + "File too large")},
    ),
    "fsync each": (
        {"RUNWIRE_FSYNC": "each"},
        {
            "file": ("failing(errno.EIO, 'fdatasync')", KEPT + "Input/output error"),
            "folder": ("failing(errno.EROFS, 'fsync')", KEPT + "Read-only file system"),
            "copy": ("failing(errno.EDQUOT, 'fdatasync', 'ftruncate')", KEPT + "Disk quota exceeded"),
            "no space": ("failing(errno.ENOSPC, 'posix_fallocate')", WRITTEN + "No space left on device"),
        },
    ),
    "fsync interval, broker down": (
        {"RUNWIRE_FSYNC": "interval", **DOWN},
        {
            "file": ("failing(errno.EIO, 'fdatasync')", KEPT + "Input/output error"),
            "no space": ("failing(errno.ENOSPC, 'posix_fallocate')", WRITTEN + "No space left on device"),
        },
    ),
}


@pytest.mark.parametrize("how", FAULTS)
def test_faults_in_the_middle_of_training(tmp_path: Path, how: str) -> None:
    """It goes on and ends well; one line tells each cause; records all arrive, each row once or in a declared loss."""
    environment, faults = FAULTS[how]
    table = "".join(f"{name!r}: lambda: {context}, " for name, (context, _) in faults.items())
    program = Program(tmp_path, f"{DRIVER}\nFAULTS = {{{table}}}\n{ROUNDS}")
    done = program.run(**environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    logged, costs = json.loads(done.stdout)
    assert {name: cost > 0 for name, cost in costs.items()} == {
        name: says.startswith(WRITTEN) for name, (_, says) in faults.items()
    }
    outcome = outcome_of(program, "m0")
    assert outcome.alerts == sorted(faults)
    assert outcome.steps == sorted(set(outcome.steps)), "no row is there twice"
    assert logged - len(outcome.steps) == sum(costs.values())
    assert outcome.reasons == {says for _, says in faults.values() if says.startswith(WRITTEN)}
    lines = [line.removeprefix("runwire: ") for line in done.stderr.splitlines()]
    said = [line for line in lines if line.startswith(f"{program.home}/journal/")]
    for says in {says for _, says in faults.values()} - {""}:
        assert sum(says in line for line in said) == 1, done.stderr
    assert len(said) == len({line.partition(": ")[2] for line in said}), "one line a minute a cause"


@pytest.mark.parametrize(
    ("folder", "environment"),
    [("HOME", {}), ("HOME + '/journal'", PWRITE), ("HOME", DOWN), ("HOME + '/journal'", {"RUNWIRE_FSYNC": "each"})],
    ids=["mapped", "pwrite", "broker down", "fsync each"],
)
def test_a_folder_deleted_under_a_training(tmp_path: Path, folder: str, environment: dict[str, str]) -> None:
    """`rm -rf` costs what wasn't sent yet, which is declared and said once; then it goes on as before."""
    program = Program(tmp_path, f"{DRIVER}\nFAULTS = {{'deleted': lambda: deleted({folder})}}\n{ROUNDS}")
    done = program.run(**environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stderr.count(DELETED) <= 1
    logged, _ = json.loads(done.stdout)
    outcome = outcome_of(program, "m0")
    assert outcome.steps == sorted(set(outcome.steps)), "no row is there twice"
    assert set(range(1000, logged)) <= set(outcome.steps)
    assert outcome.reasons <= {DELETED, "the journal couldn't be read: No such file or directory"}


# A disk that is really full; the rest of the program mends it, and the topic folder lies elsewhere.
FULL = """
import subprocess
log(500)
run.alert("before")
FAULT
log(3000)
run.alert("inside")
MENDED
time.sleep(0.01)
log(500)
print(json.dumps([step, run._emitter.journal.rows_lost]), flush=True)
run.finish()
"""
GROWN = "subprocess.run(['mount', '-o', 'remount,size=8m', os.path.dirname(HOME)], check=True)"
EMPTIED = "os.unlink(HOME + '/filler')"
FILLER = "with open(HOME + '/filler', 'wb') as file:\n    with contextlib.suppress(OSError): file.write(bytes(2**20))"


def on_a_small_disk(folder: Path, disk: Path, source: str) -> Program:
    """A program whose home lies on `disk`."""
    program = Program(folder, source)
    program.home = disk / "home"
    program.environment["RUNWIRE_HOME"] = str(program.home)
    return program


@pytest.mark.parametrize(
    ("environment", "mended"),
    [({}, GROWN), (DOWN, EMPTIED), ({}, ""), (PWRITE, EMPTIED), (PWRITE | DOWN, GROWN), (PWRITE | DOWN, "")],
    ids=["grown", "broker down, emptied", "never", "pwrite, emptied", "pwrite, broker down, grown", "pwrite, never"],
)
def test_a_really_full_disk(tmp_path: Path, environment: dict[str, str], mended: str) -> None:
    """No SIGBUS; records all arrive, rows from before and behind it; where there is no room until the end, too."""
    with small_disk(tmp_path / "disk", size="512k") as disk:
        source = DRIVER + FULL.replace("FAULT", FILLER).replace("MENDED", mended)
        program = on_a_small_disk(tmp_path, disk, source)
        done = program.run(**environment)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        logged, lost = json.loads(done.stdout)
        outcome = outcome_of(program, "m0")
    assert lost > 0
    assert done.stderr.count(WRITTEN + "No space left on device") == 1
    assert outcome.steps == sorted(set(outcome.steps)), "no row is there twice"
    assert set(range(500)) <= set(outcome.steps)
    if mended:
        assert outcome.alerts == ["before", "inside"]
        assert set(range(3500, 4000)) <= set(outcome.steps)
        assert logged - len(outcome.steps) == lost


@pytest.mark.parametrize("environment", [{}, {"RUNWIRE_FSYNC": "each"}, PWRITE], ids=["mapped", "fsync each", "pwrite"])
def test_a_disk_that_the_kernel_gives_up(tmp_path: Path, environment: dict[str, str]) -> None:
    """An ext4 whose device fails becomes read-only under a mapped journal: training goes on, what was sent is there."""
    aborting = "subprocess.run(['mount', '-o', 'remount,abort', os.path.dirname(HOME)], check=True)"
    with ext4_disk(tmp_path / "disk") as disk:
        program = on_a_small_disk(tmp_path, disk, DRIVER + FULL.replace("FAULT", aborting).replace("MENDED", ""))
        done = program.run(**environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    steps = [step for name, step, _ in program.points() if name == "m0"]
    assert set(range(500)) <= set(steps)
    logged, lost = json.loads(done.stdout)
    assert len(set(steps)) + lost == logged


def test_no_room_at_init_is_one_sentence(tmp_path: Path) -> None:
    """Which names the folder and what to set; the disk has what it had."""
    source = """
import os
try:
    runwire.init()
except runwire.RunwireError as error:
    print(error)
print(os.listdir(os.environ["RUNWIRE_HOME"] + "/journal"))
"""
    with small_disk(tmp_path / "disk", size="64k") as disk:
        done = on_a_small_disk(tmp_path, disk, source).run()
    assert done.stderr == ""
    sentence, left = done.stdout.splitlines()
    assert sentence.startswith(f"Journal folder {disk}/home/journal/")
    assert sentence.endswith(
        "can't be written: No space left on device. Set RUNWIRE_HOME to a folder on a local disk that has room."
    )
    assert left == "[]"


FORKED = """
from runwire import _opening
_opening.RETRY_SECONDS = 0.01
log(100)
run.alert("before")
FILLER
child = os.fork()
if child == 0:
    for number in range(300):
        run.log({"child": number}, step=number)
        if number == 200: os.unlink(HOME + "/filler")
        time.sleep(0.001 * (number > 190))
    sys.exit(0)
print(os.waitpid(child, 0)[1])
log(100)
run.finish()
"""


def test_no_room_in_a_forked_child(tmp_path: Path) -> None:
    """One line says so; it opens a journal of its own when there is room, and declares what it lost till then."""
    with small_disk(tmp_path / "disk", size="512k") as disk:
        program = on_a_small_disk(tmp_path, disk, DRIVER + FORKED.replace("FILLER", FILLER))
        done = program.run()
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "0\n", False), done.stderr
        outcome = outcome_of(program, "m0")
    assert outcome.steps == list(range(200))
    assert done.stderr.count("No space left on device") == 1
    children = [step for name, step, _ in program.points() if name == "child"]
    assert children == list(range(min(children), 300))
    assert 200 <= outcome.lost == min(children)


PERMISSIONS = """
import os
if "INSIDE" not in os.environ:
    os.environ["INSIDE"] = "1"
    PREFIX = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    os.execvp((PREFIX + [sys.executable])[0], PREFIX + [sys.executable, *sys.argv])
"""


def test_permissions_taken_away_and_given_back(tmp_path: Path) -> None:
    """`chmod 0` of the journal's folder: what is open is written on, the rest waits, or is declared lost."""
    changed = """
@contextlib.contextmanager
def forbidden():
    (name,) = os.listdir(HOME + "/journal")
    os.chmod(f"{HOME}/journal/{name}", 0)
    try: yield
    finally: os.chmod(f"{HOME}/journal/{name}", 0o700)
FAULTS = {"forbidden": forbidden}
"""
    program = Program(tmp_path, "import sys\n" + PERMISSIONS + DRIVER + changed + ROUNDS)
    done = program.run()
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    logged, costs = json.loads(done.stdout)
    outcome = outcome_of(program, "m0")
    assert outcome.alerts == ["forbidden"]
    assert outcome.steps == sorted(set(outcome.steps)), "no row is there twice"
    assert logged - len(outcome.steps) == costs["forbidden"] > 0
    assert outcome.reasons == {WRITTEN + "Permission denied"}
    assert done.stderr.count(WRITTEN) == 1
