"""Forked, spawned and served children that log: each is an emitter of its own, and none hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_schemas.events import EmitterEnded, RunEnded, RunStarted
from tests.producer.programs import Program, of_kind

FORK = """
import os, sys
run = runwire.init()
run.log({"parent": 1}, step=1)
child = os.fork()
if child == 0:
    run.log({"child": 2}, step=2)
    CHILD_END
os.waitpid(child, 0)
run.log({"parent": 3}, step=3)
run.finish()
"""
POOL = """
import multiprocessing
def work(step):
    runwire.log({"worker": step}, step=step)
if __name__ == "__main__":
    run = runwire.init()
    processes = [multiprocessing.get_context("fork").Process(target=work, args=(step,)) for step in range(3)]
    for process in processes: process.start()
    for process in processes: process.join()
    run.finish()
"""
OWN_INIT = """
import multiprocessing
def work(step):
    run = runwire.init(run_id="shared")
    run.log({"worker": step}, step=step)
    if step == 1:
        raise ValueError("step 1")
if __name__ == "__main__":
    context = multiprocessing.get_context("METHOD")
    processes = [context.Process(target=work, args=(step,)) for step in range(2)]
    for process in processes: process.start()
    for process in processes: process.join()
    print([process.exitcode for process in processes])
"""
EARLY = """
import os, signal, time
run = runwire.init()
run.log({"a": 1.0})
children = []
for number in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        import numpy
        numpy.zeros(3).sum()
        os._exit(0)
    children.append(child)
    time.sleep(0.017)
print([os.waitpid(child, 0)[1] for child in children])
os._exit(0)
"""


@pytest.mark.parametrize("url", [None, "kafka://127.0.0.1:1/t"])
def test_children_forked_right_after_init_import_what_they_like(tmp_path: Path, url: str | None) -> None:
    """The sender imports numpy just then: no child may inherit the lock of a module that is half imported."""
    done = Program(tmp_path, EARLY, url=url).run()
    assert done.stdout == f"{[0] * 30}\n", done.stderr


@pytest.mark.parametrize("end", ["sys.exit(0)", "run.finish(); os._exit(0)"])
def test_a_forked_child_is_an_emitter_of_the_same_run(tmp_path: Path, end: str) -> None:
    """It delivers what it logged, as a worker of its parent's attempt, and doesn't end the run."""
    program = Program(tmp_path, FORK.replace("CHILD_END", end))
    assert program.run().returncode == 0
    assert program.points() == [("child", 2, 2.0), ("parent", 1, 1.0), ("parent", 3, 3.0)]
    events = program.events()
    started = of_kind(events, RunStarted)
    assert {event.role for event in started} == {"train", "worker"}
    assert len({event.run_id for event in started}) == len({event.attempt for event in started}) == 1
    assert len({event.emitter_id for event in of_kind(events, EmitterEnded)}) == 2
    assert len(of_kind(events, RunEnded)) == 1
    assert program.journals() == []


def test_what_a_killed_child_left_is_sent_by_the_next_start(tmp_path: Path) -> None:
    """`os._exit` runs nothing of ours: the child's journal waits, and the next start in this home sends it."""
    program = Program(tmp_path, FORK.replace("CHILD_END", "os._exit(0)"))
    assert program.run().returncode == 0
    Program(tmp_path, "runwire.init().finish()").run()
    assert program.journals() == []
    assert set(program.points()) == {("child", 2, 2.0), ("parent", 1, 1.0), ("parent", 3, 3.0)}
    ended = of_kind(program.events(), EmitterEnded)
    assert sorted(event.how for event in ended) == ["crashed", "finished", "finished"]


def test_a_child_that_logs_nothing_leaves_nothing(tmp_path: Path) -> None:
    """No emitter, no line, no end of a run that is its parent's."""
    source = FORK.replace('run.log({"child": 2}, step=2)', "pass").replace("CHILD_END", "sys.exit(0)")
    program = Program(tmp_path, source)
    done = program.run()
    assert len(done.stderr.splitlines()) == 1
    assert len(of_kind(program.events(), EmitterEnded)) == 1


def test_forked_workers_of_multiprocessing_deliver_at_their_end(tmp_path: Path) -> None:
    """They end without exit handlers, but not without theirs."""
    program = Program(tmp_path, POOL)
    done = program.run()
    assert done.returncode == 0, done.stderr
    assert program.points() == [("worker", 0, 0.0), ("worker", 1, 1.0), ("worker", 2, 2.0)]
    assert program.journals() == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_with_a_run_of_their_own_end_it(tmp_path: Path, method: str) -> None:
    """However they were started: finished, or failed with what they raised."""
    program = Program(tmp_path, OWN_INIT.replace("METHOD", method))
    done = program.run()
    assert done.stdout == "[0, 1]\n", done.stderr
    assert sorted(program.endings()) == [("failed", 1, "ValueError: step 1"), ("finished", None, None)]
    assert program.points() == [("worker", 0, 0.0), ("worker", 1, 1.0)]


def test_a_child_may_begin_a_run_of_its_own(tmp_path: Path) -> None:
    """Its `init` ends nothing of its parent's, and says nothing about it."""
    source = FORK.replace('run.log({"child": 2}, step=2)', 'runwire.init(run_id="own").log({"child": 2}, step=2)')
    program = Program(tmp_path, source.replace("CHILD_END", "sys.exit(0)"))
    done = program.run()
    assert "new one begins" not in done.stderr
    assert len({event.run_id for event in of_kind(program.events(), RunEnded)}) == 2
