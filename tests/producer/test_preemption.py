"""Signals that end a job, in real processes: exit codes and handlers stay everybody's own, and the run is preempted."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from runwire._recovery import sync
from tests.producer.programs import Program

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
LOGS = """
import asyncio, ctypes, faulthandler, os, signal, subprocess, sys, threading, time
TERM = signal.SIGTERM
libc = ctypes.CDLL(None)

def is_caught():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> TERM - 1 & 1)

def spin(until=lambda: False):
    print("ready", flush=True)
    while not until():
        time.sleep(0.001)

came = []
def note(signum, frame):
    came.append(signum)

def leave(signum, frame):
    sys.exit(7)
"""
INIT = """
run = runwire.init()
run.log({"loss": 0.5}, step=1)
"""
HANGS_IN_C = """
mutex = ctypes.create_string_buffer(64)
print("ready", flush=True)
libc.pthread_mutex_lock(mutex); libc.pthread_mutex_lock(mutex)
"""
NO_THREAD_OF_PYTHON = """
thread = ctypes.c_ulong()
assert libc.pthread_create(ctypes.byref(thread), None, libc.pause, None) == 0
print("ready", flush=True)
libc.pthread_kill(thread, TERM)
while True:
    time.sleep(0.001)
"""
ASYNC = """
async def main():
    stop = asyncio.Event()
    FIRST
    SECOND
    print("ready", flush=True)
    await stop.wait()
    print("stopped", flush=True)
asyncio.run(main())
"""
HANDLE = "asyncio.get_running_loop().add_signal_handler(TERM, stop.set)"
SLOW_END = """
import runwire._start
runwire._start.FINISH_TIMEOUT_SECONDS = 1.0
"""
SLOWER_END = SLOW_END.replace("1.0", "8.0")  # a signal of a machine that stands still arrives within it, too
KILLED = ("preempted", 128 + TERM, None)
PREEMPTED = ("preempted", None, None)

# Program, signals, exit code, how its run ends.
ENDINGS = {
    "nobody handles it": (INIT + "spin()", [TERM], -TERM, KILLED),
    "it comes three times": (INIT + "spin()", [TERM, TERM, TERM], -TERM, KILLED),
    "the main thread hangs in C code": (INIT + HANGS_IN_C, [TERM], -TERM, KILLED),
    "a thread that Python knows nothing of takes it": (INIT + NO_THREAD_OF_PYTHON, [], -TERM, KILLED),
    "init in a thread": (
        "thread = threading.Thread(target=runwire.init); thread.start(); thread.join(); spin()", [TERM], -TERM, KILLED
    ),
    "the second run of the process": (INIT + INIT + "spin()", [TERM], -TERM, KILLED),
    "a handler that was there before": (
        "signal.signal(TERM, note)" + INIT + "spin(lambda: came == [TERM])", [TERM], 0, PREEMPTED
    ),
    "a handler that came later": (
        INIT + "assert signal.signal(TERM, note) == signal.SIG_DFL; spin(lambda: came == [TERM])", [TERM], 0, PREEMPTED
    ),
    "a handler that exits": (INIT + "signal.signal(TERM, leave); spin()", [TERM], 7, ("preempted", 7, "SystemExit: 7")),
    "a handler that exits, from before": (
        "signal.signal(TERM, leave)" + INIT + "spin()", [TERM], 7, ("preempted", 7, "SystemExit: 7")
    ),
    "a with block around it": (
        "signal.signal(TERM, leave)\nwith runwire.init(): spin()", [TERM], 7, ("preempted", 7, "SystemExit: 7")
    ),
    "an explicit word stays": (
        INIT + "signal.signal(TERM, note); spin(lambda: came); run.finish('failed')", [TERM], 0, ("failed", None, None)
    ),
    "SIGINT is no preemption": (INIT + "spin()", [INT], -INT, ("failed", 130, "KeyboardInterrupt")),
    "asyncio's handler from before": (
        ASYNC.replace("FIRST", HANDLE).replace("SECOND", "runwire.init()"), [TERM], 0, PREEMPTED
    ),
    # It takes Python's one wake-up file from us and tells nobody: what its callback does is all there is to see.
    "asyncio's handler from after": (
        ASYNC.replace("FIRST", "runwire.init()").replace("SECOND", HANDLE), [TERM], 0, ("finished", None, None)
    ),
    "another's wake-up file": (
        "r, w = os.pipe(); os.set_blocking(w, False); signal.set_wakeup_fd(w); signal.signal(TERM, note)" + INIT
        + "spin(lambda: came); run.finish(); assert signal.set_wakeup_fd(-1) == w and os.read(r, 9) == bytes([TERM])\n"
        "assert signal.getsignal(TERM) is note", [TERM], 0, PREEMPTED
    ),
    "inside of init": (
        "import runwire._start as start\nopen_ = start._open\ndef slow(*args):\n    print('ready', flush=True)\n"
        "    time.sleep(0.3)\n    return open_(*args)\nstart._open = slow" + INIT + "spin()", [TERM], -TERM, KILLED
    ),
    "SLURM warns, nobody handles it": (INIT + "spin()", [USR1], -USR1, None),
    "it is ignored": (
        "signal.signal(TERM, signal.SIG_IGN)" + INIT + "spin(); run.finish()", [TERM, INT], -INT,
        ("failed", 130, "KeyboardInterrupt"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(tmp_path: Path, name: str) -> None:
    """Exit codes are those without us; everything that was logged and how it ended is delivered."""
    source, signums, exit_code, ending = ENDINGS[name]
    program = Program(tmp_path, LOGS + source)
    done = program.interrupt(*signums)
    assert done.returncode == exit_code, done.stderr
    assert program.endings()[-1:] == ([] if ending is None else [ending])
    assert program.journals() == [] or ending is None
    assert "Traceback" not in done.stderr or signums[-1:] == [INT]


IN_SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bash"}
SETTINGS = [
    # Variables, program, signal, exit code, how its run ends.
    (IN_SLURM, INIT + "spin()", USR1, -USR1, ("preempted", 128 + USR1, None)),
    (IN_SLURM, INIT + "signal.signal(signal.SIGUSR1, note); spin(lambda: came)", USR1, 0, PREEMPTED),
    (IN_SLURM | {"RUNWIRE_PREEMPT_SIGNALS": "TERM"}, INIT + "spin()", USR1, -USR1, None),
    ({"RUNWIRE_PREEMPT_SIGNALS": "SIGUSR1, term"}, INIT + "spin()", USR1, -USR1, ("preempted", 128 + USR1, None)),
    ({"RUNWIRE_PREEMPT_SIGNALS": "none"}, INIT + "spin()", TERM, -TERM, None),
    ({"RUNWIRE_MODE": "off"}, INIT + "spin()", TERM, -TERM, None),
]  # fmt: skip


@pytest.mark.parametrize("row", SETTINGS)
def test_which_signals_are_watched(tmp_path: Path, row: tuple[dict[str, str], str, int, int, Any]) -> None:
    """SIGTERM; inside a SLURM job its warnings too; or what is set. The others kill as ever."""
    variables, source, signum, exit_code, ending = row
    program = Program(tmp_path, LOGS + source)
    assert program.interrupt(signum, **variables).returncode == exit_code
    assert program.endings() == ([] if ending is None else [ending])


WITHOUT_THREADS = {
    "nobody handles it": ("spin()", -TERM, [KILLED]),
    "the main thread hangs in C code": (HANGS_IN_C, -TERM, [KILLED]),
    "a handler that came later": ("signal.signal(TERM, note); spin(lambda: came == [TERM])", 0, [PREEMPTED]),
    "a child of the process": (
        """
        child = os.fork()
        if child == 0:
            while True:
                time.sleep(1)
        else:
            print("ready", flush=True)
            os.kill(child, TERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -TERM
            os._exit(0)
        """,
        0,
        [],
    ),
}


@pytest.mark.parametrize("name", WITHOUT_THREADS)
def test_without_a_thread_recovery_says_it(tmp_path: Path, name: str) -> None:
    """A trainer that leaves sending to a relay dies of the signal as without us, and leaves a word."""
    source, exit_code, endings = WITHOUT_THREADS[name]
    program = Program(tmp_path, LOGS + INIT + textwrap.dedent(source))
    done = program.interrupt(*([TERM] if endings else []), RUNWIRE_SENDER="relay")
    assert done.returncode == exit_code, done.stderr
    sync(program.home / "journal")
    assert program.endings() == endings
    assert program.points() == [("loss", 1, 0.5)]
    assert program.journals() == []


def test_offline_the_journal_has_the_end(tmp_path: Path) -> None:
    """The next start sends it."""
    program = Program(tmp_path, LOGS + INIT + "spin()")
    assert program.interrupt(TERM, RUNWIRE_MODE="offline").returncode == -TERM
    Program(tmp_path, INIT).run()
    assert sorted(program.endings()) == [("finished", None, None), KILLED]


TIGHT = """
import mmap, struct
counts = mmap.mmap(os.open("counts", os.O_RDWR | os.O_CREAT), 32) if os.truncate("counts", 32) is None else None
def train(place):
    step = 0
    while True:
        run.log({f"loss{place}": float(step)}, step=step)
        step += 1
        struct.pack_into("q", counts, 8 * place, step)
        if step == 2000 and place == 0:
            print("ready", flush=True)
for place in range(1, 4):
    threading.Thread(target=train, args=(place,), daemon=True).start()
train(0)
"""


def test_every_row_whose_log_returned_is_delivered(tmp_path: Path) -> None:
    """Four threads in tight loops: none is told that a row is kept which comes behind the end; none is stored twice."""
    counts = tmp_path / "counts"
    counts.write_bytes(bytes(32))
    program = Program(tmp_path, LOGS + INIT + TIGHT)
    assert program.interrupt(TERM).returncode == -TERM
    assert program.endings() == [KILLED]
    points = program.points()
    data = counts.read_bytes()
    for place in range(4):
        returned = int.from_bytes(data[8 * place : 8 * place + 8], "little")
        steps = [step for metric, step, _ in points if metric == f"loss{place}"]
        assert steps == list(range(len(steps)))
        assert returned <= len(steps) <= returned + 1
    assert program.journals() == []


def test_a_signal_while_the_run_finishes_waits_for_that(tmp_path: Path) -> None:
    """Its own end counts; then the process dies, and doesn't go on to what comes behind."""
    ends = 'print("ready", flush=True)\nrun.finish()\nspin()'
    program = Program(tmp_path, LOGS + SLOWER_END + INIT + ends, url="kafka://127.0.0.1:1/t")
    done = program.interrupt(TERM)
    assert (done.returncode, done.stdout) == (-TERM, "")
    Program(tmp_path, "runwire.init().finish()").run()
    assert len(program.journals()) == 1  # of another destination: kept


def test_who_ends_by_himself_meanwhile_dies_of_the_signal_all_the_same(tmp_path: Path) -> None:
    """The end of the run takes a while; the exit waits for it."""
    ends = 'print("ready", flush=True)\nwhile runwire.current_run(): time.sleep(0.001)'
    program = Program(tmp_path, LOGS + SLOW_END + INIT + ends, url="kafka://127.0.0.1:1/t")
    assert program.interrupt(TERM).returncode == -TERM


def test_nobody_sees_a_handler_where_there_was_none(tmp_path: Path) -> None:
    """Others ask before they take a signal; after the end all is as it was, also what faulthandler does for them."""
    source = """
assert signal.getsignal(TERM) == signal.SIG_DFL and not is_caught()
INIT
assert signal.getsignal(TERM) == signal.SIG_DFL and is_caught()
run.finish()
assert signal.getsignal(TERM) == signal.SIG_DFL and not is_caught()
assert signal.set_wakeup_fd(-1) == -1
faulthandler.register(TERM, file=open("mine", "w"))
INIT
run.finish()
assert is_caught()
faulthandler.unregister(TERM)
INIT
faulthandler.register(TERM, file=open("mine", "w"))
run.finish()
os.kill(os.getpid(), TERM)
assert is_caught() and os.path.getsize("mine")
signal.signal(TERM, note)
INIT
assert signal.getsignal(TERM) is note
signal.signal(TERM, leave)
run.finish()
assert signal.getsignal(TERM) is leave
signal.signal(TERM, signal.SIG_DFL)
INIT
spin()
"""
    program = Program(tmp_path, LOGS + source.replace("INIT", INIT))
    done = program.interrupt(TERM)
    assert done.returncode == -TERM, done.stderr
    assert [status for status, _, _ in program.endings()] == ["finished"] * 4 + ["preempted"]


CHILDREN = """
import multiprocessing
def work():
    assert signal.getsignal(TERM) == signal.SIG_DFL and not is_caught() and signal.set_wakeup_fd(-1) == -1
    time.sleep(60)
if __name__ == "__main__":
    run = runwire.init()
    codes = set()
    for method in ["fork"] * 30 + ["spawn", "forkserver"]:
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.terminate()
        process.join()
        codes.add(process.exitcode)
    child = os.fork()
    if child == 0:
        run.log({"child": 1.0}, step=1)
        time.sleep(60)
    while not os.listdir(os.environ["RUNWIRE_HOME"] + "/journal")[1:]: time.sleep(0.001)
    os.kill(child, TERM)
    codes.add(-os.waitpid(child, 0)[1])
    forked = []
    def fork():
        forked.append(os.fork() or work())
        codes.add(-os.waitpid(forked[0], 0)[1])
    thread = threading.Thread(target=fork)
    thread.start()
    while not forked: time.sleep(0.001)
    sleep = subprocess.Popen(["sleep", "60"])
    sleep.terminate()
    codes.add(sleep.wait())
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                fields = open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                os.kill(int(entry), TERM)
    thread.join()
    print("ready", flush=True)
    run.log({"loss": 1.0}, step=1)
    print(codes)
"""


def test_children_die_of_it_as_ever(tmp_path: Path) -> None:
    """Forked, spawned, served, right after their start: their parent isn't touched, and its run goes on."""
    program = Program(tmp_path, LOGS + CHILDREN)
    done = program.interrupt()
    assert done.stdout == f"{{{-TERM}}}\n", done.stderr
    assert program.endings() == [("finished", None, None)]
    assert ("loss", 1, 1.0) in program.points()
