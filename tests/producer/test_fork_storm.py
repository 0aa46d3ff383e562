"""Many processes out of one that logs: forked in any number, ended in any way, pooled; none hangs, none mixes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runwire_schemas.events import EmitterEnded, MetricBatch
from tests.producer.outcome import outcome_of
from tests.producer.programs import Program, of_kind

# Four threads log all the time; every child logs three rows and ends in one of seven ways. A child that hangs is killed
# by its own alarm, and seen by its exit code.
STORM = """
import json, multiprocessing, os, signal, sys, threading, time
run = runwire.init()
done = threading.Event()
steps = [0] * 4

def work(at):
    while not done.is_set():
        run.log({f"thread{at}": steps[at]}, step=steps[at])
        steps[at] += 1
        if steps[at] % 50 == 0: time.sleep(0.001)

def fail(*_):
    raise ValueError("a child's own fault")

def end(number):
    how = number % 7
    if how == 0: os._exit(0)
    if how == 1: os.kill(os.getpid(), signal.SIGKILL)
    if how == 2: os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)
    if how == 3: run.finish(); os._exit(0)
    if how == 4: sys.exit(0)
    if how == 5: sys.exit(3)
    sys.stderr = open(os.devnull, "w")
    fail()

threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
for thread in threads: thread.start()
forks, most = int(os.environ["FORKS"]), 4
codes = {}
alive = {}
def reap():
    child, status = os.wait()
    codes[alive.pop(child)] = os.waitstatus_to_exitcode(status)
for number in range(forks):
    while len(alive) >= most: reap()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        for row in range(3):
            run.log({"child": number}, step=3 * number + row)
        end(number)
    alive[child] = number
while alive: reap()
done.set()
for thread in threads: thread.join()
print(json.dumps([codes, steps]), flush=True)
run.finish()
"""
CODES = {0: 0, 1: -9, 2: -15, 3: 0, 4: 0, 5: 3, 6: 1}


@pytest.mark.parametrize("forks", [50, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_forks_under_load_neither_hang_nor_mix(tmp_path: Path, forks: int) -> None:
    """Every row of every process is stored once, under an emitter of its own, however the process ended."""
    program = Program(tmp_path, STORM)
    program.timeout_seconds += forks
    done = program.run(FORKS=str(forks))
    assert done.returncode == 0, done.stderr
    codes, steps = json.loads(done.stdout)
    assert {int(number): code for number, code in codes.items()} == {
        number: CODES[number % 7] for number in range(forks)
    }
    outcome = outcome_of(program, "child")
    assert outcome.steps == list(range(3 * forks))
    assert (outcome.lost, outcome.reasons) == (0, set())
    batches = of_kind(program.events(), MetricBatch)
    children = {batch.emitter_id for batch in batches if any("child" in block.keys for block in batch.blocks)}
    assert len(children) == forks, "no two share an id"
    for at in range(4):
        stored = sorted({step for name, step, _ in program.points() if name == f"thread{at}"})
        assert stored == list(range(steps[at]))
    crashed = [event.emitter_id for event in of_kind(program.events(), EmitterEnded) if event.how == "crashed"]
    assert len(set(crashed)) == sum(number % 7 < 3 for number in range(forks))


# Sixteen threads log at once while the main thread forks; a lock that a child inherits locked would hang it.
THREADS = """
import json, os, signal, sys, threading
run = runwire.init()
ready = threading.Barrier(17)

def work(at):
    ready.wait()
    for step in range(500):
        run.log({f"thread{at}": step}, step=step)

threads = [threading.Thread(target=work, args=(at,)) for at in range(16)]
for thread in threads: thread.start()
ready.wait()
children = []
for number in range(10):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        run.log({"child": number}, step=number)
        run.alert("a child's")
        sys.exit(0)
    children.append(child)
for thread in threads: thread.join()
print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)
run.finish()
"""


def test_sixteen_threads_log_while_the_main_one_forks(tmp_path: Path) -> None:
    """Every row of every thread and child is there once."""
    program = Program(tmp_path, THREADS)
    done = program.run()
    assert (done.returncode, done.stdout) == (0, f"{[0] * 10}\n"), done.stderr
    outcome = outcome_of(program, "child")
    assert outcome.steps == list(range(10))
    assert outcome.alerts == ["a child's"] * 10
    points = program.points()
    for at in range(16):
        assert [step for name, step, _ in points if name == f"thread{at}"] == list(range(500))


# As a DataLoader does it: workers that live for long, log at each item, and are terminated, or end on their own.
POOL = """
import json, multiprocessing, os, signal, sys

def work(at, items, results):
    if "METHOD" != "fork":
        runwire.init(run_id="shared", role="eval")
    for item in iter(items.get, None):
        runwire.log({"worker": item}, step=item)
        results.put(item)
    if at % 2:
        os._exit(0)

if __name__ == "__main__":
    context = multiprocessing.get_context("METHOD")
    run = runwire.init(run_id="shared")
    items, results = context.Queue(), context.Queue()
    workers = [context.Process(target=work, args=(at, items, results), daemon=True) for at in range(4)]
    for worker in workers: worker.start()
    for item in range(200): items.put(item)
    done = sorted(results.get(timeout=60) for _ in range(200))
    for _ in range(2): items.put(None)
    for worker in workers[:2]: worker.terminate()
    for worker in workers[2:]: worker.join(0.2)
    for worker in workers: worker.kill()
    for worker in workers: worker.join(60)
    print(json.dumps(done == list(range(200))), flush=True)
    run.finish()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_that_are_terminated_leave_what_they_logged(tmp_path: Path, method: str) -> None:
    """Each row whose `log` returned in a worker is there once, whether the worker ended, was terminated or killed."""
    program = Program(tmp_path, POOL.replace("METHOD", method))
    done = program.run()
    assert (done.returncode, done.stdout) == (0, "true\n"), done.stderr
    outcome = outcome_of(program, "worker")
    assert outcome.steps == list(range(200))
    assert outcome.lost == 0


# A timer's handler logs, whatever it interrupts: `init` before there is a run, a `log`, `finish`, what comes behind it.
HANDLER = """
import itertools, json, os, signal, sys, time
numbers, returned, run = itertools.count(), [], None

def handler(*_):
    if run is not None and not run._ended:
        number = next(numbers)
        run.log({"handler": number}, step=number)
        if number % 10 == 0: run.alert("from a handler")
        if not run._ended: returned.append(number)
    else:
        runwire.log({"nobody": 0})
    if again: signal.setitimer(signal.ITIMER_REAL, again)

again = 0.002  # once this one has ended: a disk that is slow would nest them without end
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, again)
run = runwire.init()
step = 0
while len(returned) < 100:
    run.log({"main": step, f"k{step % 7}": step}, step=step)
    step += 1
    if step % 50 == 0: time.sleep(0.001)
again = 0.0005
delivered = run.finish()
again = 0
signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps([step, returned, delivered]), flush=True)
"""


@pytest.mark.parametrize("fsync", ["none", "each"])
def test_a_handler_that_logs_may_interrupt_anything(tmp_path: Path, fsync: str) -> None:
    """`init`, `log`, `finish`: nobody waits for himself, what was logged before the end is there once."""
    program = Program(tmp_path, HANDLER)
    done = program.run(RUNWIRE_FSYNC=fsync)
    assert done.returncode == 0, done.stderr
    steps, returned, delivered = json.loads(done.stdout)
    assert delivered
    assert outcome_of(program, "main").steps == list(range(steps))
    stored = outcome_of(program, "handler").steps
    assert len(set(stored)) == len(stored)
    assert set(stored) >= set(returned[:100])
