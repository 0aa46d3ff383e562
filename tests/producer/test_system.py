"""System metrics: who samples, what arrives, and that the sampler never outlives, hurts or follows a run anywhere."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire import _system
from runwire._forks import ForkLock
from runwire._system import Sampler, Turn, unit_of
from runwire.testing import capture
from runwire_schemas.events import MetricBatch, MetricDefined, RunEnded, RunStarted
from tests.producer.programs import Program, of_kind, points, read_topic
from tests.producer.test_system_gpus import FakeNvml, of_gpu
from tests.services.process import PATIENCE_SECONDS


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def sampling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "runwire-system"]


class Kept:
    """The run's twin: keeps rows in a list."""

    def __init__(self, highest_step: int | None = None, error: Exception | None = None) -> None:
        self.highest_step = highest_step
        self.error = error
        self.rows: list[tuple[dict[str, float], int]] = []
        self.units: list[tuple[str, str | None]] = []

    def log_automatic(self, metrics: Mapping[str, float], step: int, units: Mapping[str, str | None]) -> None:
        if self.error is not None:
            raise self.error
        self.rows.append((dict(metrics), step))
        self.units += units.items()


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_system, "FIRST_AFTER_SECONDS", 0.001)
    monkeypatch.setattr(_system, "INTERVAL_SECONDS", 0.001)


def sampler(kept: Kept, folder: Path, first_step: int | None = 0, nvml: Any = None) -> Sampler:
    turn = Turn(folder / "sampling.lock", "run", "host")
    return Sampler(kept, turn, folder=folder, visible_gpus=None, ranks=1, first_step=first_step, nvml=lambda: nvml)


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("system/cpu_percent", "%"),
        ("system/gpu0/memory_percent", "%"),
        ("system/memory_bytes", "B"),
        ("system/disk_read_bytes_per_second", "B/s"),
        ("system/gpu12/power_watts", "W"),
        ("system/gpu0/temperature_celsius", "°C"),
        ("system/other", None),
    ],
)
def test_names_end_with_their_units(metric: str, unit: str | None) -> None:
    assert unit_of(metric) == unit


def test_rows_arrive_with_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a real topic folder: at the highest step so far, no call of `log`, each metric defined once."""
    monkeypatch.setattr(_system, "INTERVAL_SECONDS", 1e9)
    run = runwire.init("p", home=tmp_path / "home", url=f"dir:{tmp_path / 'topic'}", auto_metrics=True)
    run.log({"loss": 1.0}, step=40)
    run.log({"loss": 1.0}, step=7)
    wait_for(lambda: any(name == "system/memory_percent" for name, _, _ in points(read_topic(tmp_path / "topic"))))
    assert run.calls == 2
    assert run.finish()
    wait_for(lambda: sampling_threads() == [])
    events = read_topic(tmp_path / "topic")
    found = {name: (step, value) for name, step, value in points(events) if name != "loss"}
    assert {step for step, _ in found.values()} == {40}
    assert all(name.startswith("system/") for name in found)
    assert 0 < found["system/memory_percent"][1] <= 100
    units = {event.metric: event.unit for event in of_kind(events, MetricDefined)}
    assert len(of_kind(events, MetricDefined)) == len(units)
    assert units == {name: unit_of(name) for name in found}
    (ended,) = of_kind(events, RunEnded)
    assert ended.cost is not None
    assert (ended.cost.rows, ended.cost.points) == (2, 2 + len(found))


@pytest.mark.usefixtures("_fast")
def test_gpus_are_measured_beside_the_machine(tmp_path: Path) -> None:
    """And NVML is given back at the end."""
    kept, nvml = Kept(3), FakeNvml()
    measuring = sampler(kept, tmp_path, nvml=nvml)
    measuring.start()
    wait_for(lambda: len(kept.rows) >= 2)
    measuring.stop()
    measuring.join(PATIENCE_SECONDS)
    assert not measuring.is_alive()
    assert nvml.is_open == 0
    metrics, step = kept.rows[-1]
    assert step == 3
    assert (of_gpu(0) | of_gpu(1)).items() <= metrics.items()
    assert ("system/gpu1/power_watts", "W") in kept.units
    assert len(kept.units) == len(dict(kept.units))
    assert measuring.cpu_seconds > 0


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ({}, {}, 1),
        ({"mode": "offline"}, {}, 1),
        ({"mode": "off"}, {}, 0),
        ({"auto_metrics": False}, {}, 0),
        ({"auto_metrics": None}, {}, 0),  # off in these tests' environment
        ({"role": "eval"}, {}, 0),
        ({}, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, 0),
        ({}, {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, 1),
    ],
)
def test_who_samples(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    environ: dict[str, str],
    expected: int,
) -> None:
    """Each node's first rank, when it trains and something is kept; its thread ends with the run."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with capture() as captured:
        run = runwire.init(url=captured.url, home=tmp_path, run_id="r", **{"auto_metrics": True, **arguments})
        assert len(sampling_threads()) == expected
        run.finish()
        wait_for(lambda: sampling_threads() == [])


@pytest.mark.parametrize(
    ("calls", "set_step", "expected"),
    [([], None, None), ([], 5, 5), ([3], None, 3), ([9, 3], None, 9), ([-4], None, -4), ([None, None], None, 1)],
)
def test_the_highest_step_so_far(
    tmp_path: Path, calls: list[int | None], set_step: int | None, expected: int | None
) -> None:
    with capture() as captured, runwire.init(url=captured.url, home=tmp_path) as run:
        if set_step is not None:
            run.step = set_step
        for step in calls:
            run.log({"a": 1.0}, step=step)
        assert run.highest_step == expected


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ({}, {}, 0),
        ({"resumed_from_step": 900}, {}, 900),
        ({"run_id": "named", "resumed_from_step": 900}, {}, 900),
        ({"run_id": "named"}, {}, None),  # perhaps a restart: a step too low would hide what was measured before
        ({}, {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "named"}, None),
    ],
)
def test_the_step_of_samples_before_the_first_call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    environ: dict[str, str],
    expected: int | None,
) -> None:
    """It is where the run starts from; where nobody knows that, nothing is kept before the first call."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with capture() as captured, runwire.init(url=captured.url, home=tmp_path, auto_metrics=True, **arguments):
        (thread,) = sampling_threads()
        assert isinstance(thread, Sampler)
        assert thread._first_step == expected


@pytest.mark.usefixtures("_fast")
def test_nothing_is_kept_while_no_step_is_known(tmp_path: Path) -> None:
    kept = Kept(None)
    measuring = sampler(kept, tmp_path, first_step=None)
    measuring.start()
    wait_for(lambda: measuring.cpu_seconds > 0)
    assert kept.rows == []
    kept.highest_step = 1_000
    wait_for(lambda: len(kept.rows) >= 2)
    measuring.stop()
    assert {step for _, step in kept.rows} == {1_000}


@pytest.mark.usefixtures("_fast")
def test_its_own_fault_ends_it_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    measuring = sampler(Kept(1, ZeroDivisionError("x")), tmp_path)
    measuring.start()
    measuring.join(PATIENCE_SECONDS)
    assert [record.message for record in caplog.records] == ["System metrics are off: ZeroDivisionError('x')."]
    other = Turn(tmp_path / "sampling.lock", "run", "host")
    assert other.take()
    other.give_back()


@pytest.mark.parametrize("missing", ["psutil", "home"])
def test_what_is_missing_costs_the_metrics_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    if missing == "psutil":
        monkeypatch.setitem(sys.modules, "psutil", None)
    measuring = sampler(Kept(1), tmp_path if missing == "psutil" else tmp_path / "gone")
    measuring.start()
    measuring.join(PATIENCE_SECONDS)
    assert not measuring.is_alive()
    (record,) = caplog.records
    assert record.message.startswith("System metrics are off: ")


@pytest.mark.usefixtures("_fast")
def test_one_warning_a_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A GPU that fell off is told once, however long it stays away."""
    kept, nvml = Kept(1), FakeNvml()
    calls = ("utilization", "memory", "power", "temperature")
    measuring = sampler(kept, tmp_path, nvml=nvml)
    measuring.start()
    wait_for(lambda: len(kept.rows) >= 2)
    nvml.faults = {(call, 1): OSError("fell off") for call in calls}
    wait_for(lambda: "system/gpu1/power_watts" not in kept.rows[-1][0])
    at = len(kept.rows)
    wait_for(lambda: len(kept.rows) >= at + 3)
    measuring.stop()
    assert of_gpu(0).items() <= kept.rows[-1][0].items()
    assert [record.message for record in caplog.records] == [
        "System metrics: GPU 1 can't be read and is left out: OSError('fell off')."
    ]


def test_one_process_at_a_time_has_the_turn(tmp_path: Path) -> None:
    """Of one run on one node; other runs and other nodes that share the home have turns of their own."""
    path = tmp_path / "sampling.lock"
    asks = (
        "import sys; from pathlib import Path; from runwire._system import Turn\n"
        "print([Turn(Path(sys.argv[1]), *name.split('@')).take() for name in ('r@h', 'other@h', 'r@other')])"
    )

    def ask() -> str:
        command = [sys.executable, "-c", asks, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    turn = Turn(path, "r", "h")
    assert turn.take()
    assert turn.take()
    assert ask() == "[False, True, True]"
    turn.give_back()
    assert ask() == "[True, True, True]"
    assert path.stat().st_size == 0


SHARED = """
import os, sys
from runwire import _system
_system.FIRST_AFTER_SECONDS = _system.INTERVAL_SECONDS = 0.02
run = runwire.init(run_id="shared", auto_metrics=True)
run.log({"a": 1.0}, step=1)
print(run._emitter.id, flush=True)
sys.stdin.read()
"""


def test_two_processes_of_one_run_on_a_node_have_one_sampler(tmp_path: Path) -> None:
    """Without a launcher both are rank 0. When the first is killed the second one goes on, and not before."""
    program = Program(tmp_path, SHARED)

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-u", program.path.name], cwd=tmp_path, env=program.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def times(emitter: str) -> list[int]:
        """Of its system rows."""
        batches = [event for event in of_kind(program.events(), MetricBatch) if event.emitter_id == emitter]
        blocks = [block for event in batches for block in event.blocks if "a" not in block.keys]
        return [time_us for block in blocks for time_us in block.times]

    first, first_id = start()
    with first:
        wait_for(lambda: bool(times(first_id)))
        second, second_id = start()
        with second:
            at = len(times(first_id))
            wait_for(lambda: len(times(first_id)) >= at + 10)
            first.kill()
            wait_for(lambda: bool(times(second_id)))
            second.communicate("", timeout=PATIENCE_SECONDS)
            assert second.returncode == 0
    assert max(times(first_id)) < min(times(second_id))


FORKS = """
import os, signal, threading, time
import psutil
from runwire import _system
_system.FIRST_AFTER_SECONDS = _system.INTERVAL_SECONDS = 0.0005
run = runwire.init(auto_metrics=True)
run.log({"a": 1.0}, step=1)
children = []
for number in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        psutil.net_io_counters(); psutil.disk_io_counters()
        threads = [thread.name for thread in threading.enumerate()]
        run.log({"child": 1.0}, step=1)
        run.finish()
        os._exit(0 if threads == ["MainThread"] and run._sampler is None else 1)
    children.append(child)
    time.sleep(0.001)
print([os.waitpid(child, 0)[1] for child in children])
run.finish()
"""


def test_no_child_inherits_a_sampler_or_its_locks(tmp_path: Path) -> None:
    """Forty forks beside a sampler that never rests: none hangs, each child logs, none measures."""
    program = Program(tmp_path, FORKS)
    done = program.run()
    assert done.stdout == f"{[0] * 40}\n", done.stderr
    events = program.events()
    workers = {event.emitter_id for event in of_kind(events, RunStarted) if event.role == "worker"}
    assert len(workers) == 40
    batches = of_kind(events, MetricBatch)
    assert {tuple(b.keys) for e in batches if e.emitter_id in workers for b in e.blocks} == {("child",)}
    assert any("system/memory_percent" in block.keys for event in batches for block in event.blocks)


HELD = """
import os, threading, time
from runwire._forks import ForkLock
lock, busy, over = ForkLock(WAIT), False, threading.Event()
def work():
    global busy
    while not over.is_set():
        with lock:
            busy = True
            time.sleep(0.002)
            busy = False
        time.sleep(0.0005)
threading.Thread(target=work).start()
codes = []
for _ in range(50):
    child = os.fork()
    if child == 0:
        with lock:
            os._exit(busy)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
print(sum(codes))
"""


@pytest.mark.parametrize(("wait_seconds", "expected"), [("10", True), ("0", False)])
def test_a_fork_waits_for_what_is_under_way(tmp_path: Path, wait_seconds: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """But not for ever; in the child the lock is free in any case."""
    done = Program(tmp_path, HELD.replace("WAIT", wait_seconds)).run()
    assert done.returncode == 0, done.stderr
    assert (done.stdout == "0\n") is expected


def test_a_fork_lock_is_reentrant() -> None:
    lock = ForkLock(1.0)
    with lock, lock:
        pass
