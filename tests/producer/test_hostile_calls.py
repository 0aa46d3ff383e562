"""Whatever is logged, wherever, whenever: only UsageError is raised, and what was accepted is stored as it is."""

from __future__ import annotations

import inspect
import logging
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import runwire
from runwire import _emitter
from runwire.testing import Captured, capture
from runwire_schemas.events import AlertRaised, MetricDefined, ParamsLogged, RunEnded
from tests.producer import hostile
from tests.producer.journals import died, recovered, tell

QUICK_CALLS = 30_000
LONG_CALLS, LONG_ROUNDS = 25_000, 40
MEMORY_GROWTH_MAX_BYTES = 48 * 2**20

Point = tuple[str, int, str]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that are soon full."""
    monkeypatch.setattr(_emitter, "segment_bytes_for", lambda _journal_bytes_max: 64 * 2**10)


def exact(points: list[tuple[str, int, float]]) -> list[Point]:
    """Points whose NaNs are equal and whose zeros have a sign."""
    return [(key, step, repr(value)) for key, step, value in points]


def log_anything(run: runwire.Run, numbers: random.Random, *, with_step: bool = False) -> list[Point]:
    """One hostile call of `log`; returns what must be stored of it."""
    metrics, flat = hostile.metrics(numbers)
    step, at = hostile.step(numbers) if with_step or numbers.random() < 0.7 else (None, run.step)
    if flat is None or at is None:
        with pytest.raises(runwire.UsageError) as refused:
            run.log(metrics, step=step)
        assert str(refused.value)
        return []
    run.log(metrics, step=step)
    return exact([(key, at, value) for key, value in flat])


def hostile_rows(seed: int, calls: int, home: Path) -> None:
    """So many calls, then a look at what arrived."""
    numbers = random.Random(seed)
    with capture() as captured:
        run = runwire.init(project="p", url=captured.url, home=home)
        expected: list[Point] = []
        for _ in range(calls):
            expected += log_anything(run, numbers)
        assert run.finish()
        assert exact(captured.points()) == expected


def test_hostile_rows(tmp_path: Path) -> None:
    """Odd names, numbers, mappings and steps: refused by a UsageError, or stored exactly, in order."""
    hostile_rows(1, QUICK_CALLS, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_hostile_rows_take_no_memory(tmp_path: Path) -> None:
    """The same a million times; what the process holds for itself stays bounded."""
    process = psutil.Process()
    before = 0
    for seed in range(LONG_ROUNDS):
        hostile_rows(seed, LONG_CALLS, tmp_path)
        if seed == LONG_ROUNDS // 4:
            before = anonymous_bytes(process)
    assert anonymous_bytes(process) - before < MEMORY_GROWTH_MAX_BYTES


def anonymous_bytes(process: psutil.Process) -> int:
    memory = process.memory_full_info()
    return int(memory.uss)


def test_names_that_change_with_each_call_are_not_all_remembered(run: runwire.Run, captured: Captured) -> None:
    """A thousand new names a call: what is kept of them for speed has a limit."""
    for call in range(250):
        run.log({f"{call}/{key}": 1.0 for key in range(1_000)}, step=call)
    assert sum(map(len, run._known_keys)) <= 100_000
    assert run.finish()
    assert len(captured.points()) == 250_000


METHODS: list[tuple[str, int, tuple[str, ...]]] = [
    ("log", 1, ("step",)),
    ("log_params", 1, ()),
    ("define", 1, ("unit", "best")),
    ("alert", 2, ("level", "step")),
]


def other_calls(target: object, numbers: random.Random, calls: int) -> None:
    """Any of the calls with any arguments: UsageError or nothing."""
    for _ in range(calls):
        name, positional, keywords = numbers.choice(METHODS)
        given = {keyword: hostile.anything(numbers) for keyword in keywords if numbers.random() < 0.3}
        try:
            getattr(target, name)(*(hostile.anything(numbers) for _ in range(positional)), **given)
        except runwire.UsageError as error:
            assert str(error)  # noqa: PT017 - whether it raises is the caller's throw of dice


@pytest.mark.parametrize("target", ["run", "module"])
def test_every_other_call_with_anything(
    target: str, run: runwire.Run, captured: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the run and of the module: afterwards the run is as alive as before, and has said nothing."""
    other_calls(run if target == "run" else runwire, random.Random(2), 4_000)
    numbers = random.Random(3)
    for _ in range(200):
        with pytest.raises(runwire.UsageError):
            run.step = numbers.choice(("x", None, 1.5, hostile.Hostile(), hostile.Liar(int)))  # type: ignore[assignment]
    run.step = 41
    run.log({"alive": 1.0})
    run.alert(hostile.Hostile(), hostile.OddText("odd"), level=hostile.Text("info"))  # type: ignore[arg-type]
    assert run.finish()
    assert captured.points()[-1] == ("alive", 41, 1.0)
    alert = [event for event in captured.events() if isinstance(event, AlertRaised)][-1]
    assert (alert.title, alert.text, alert.level, alert.step) == ("<Hostile>", "<OddText>", "info", 41)
    kinds = Counter(type(event) for event in captured.events())
    assert min(kinds[kind] for kind in (AlertRaised, MetricDefined, ParamsLogged)) > 40
    assert caplog.records == []


def test_mode_off_refuses_what_mode_on_refuses(tmp_path: Path) -> None:
    """A wrong call is wrong wherever it is tried out."""
    run = runwire.init(project="p", home=tmp_path, mode="off")
    numbers = random.Random(4)
    for _ in range(3_000):
        log_anything(run, numbers)
    other_calls(run, numbers, 1_000)
    assert run.finish()
    assert list(tmp_path.iterdir()) == []


def test_hostile_ends(captured: Captured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`finish` and `fail` with anything: refused, or the run has ended and all of it arrived."""
    numbers = random.Random(5)
    ended = 0
    for number in range(40):
        run = runwire.init(project="p", url=captured.url, home=tmp_path)
        run.log({"row": 1.0}, step=number)
        how: Callable[[], bool] = numbers.choice(
            (
                lambda: run.finish(hostile.anything(numbers)),  # noqa: B023 - called at once
                lambda: run.finish(exit_code=hostile.anything(numbers)),  # noqa: B023
                lambda: run.finish(error=hostile.anything(numbers)),  # noqa: B023
                lambda: run.fail(hostile.anything(numbers)),  # noqa: B023
            )
        )
        try:
            assert how()
            ended += 1
        except runwire.UsageError:
            assert runwire.current_run() is run
            assert run.finish()
    assert 10 < ended < 40
    assert [step for _, step, _ in captured.points()] == list(range(40))
    assert sum(isinstance(event, RunEnded) for event in captured.events()) == 40
    assert len(capsys.readouterr().err.splitlines()) == 40


def test_hostile_beginnings(captured: Captured, tmp_path: Path) -> None:
    """`init` with anything raises ours or begins a run; a wrong call leaves the current run alone."""
    numbers = random.Random(6)
    current = runwire.init(project="p", url=captured.url, home=tmp_path)
    names = [name for name in inspect.signature(runwire.init).parameters if name not in {"home", "url", "mode"}]
    begun = 0
    for _ in range(300):
        given = {name: hostile.anything(numbers) for name in numbers.sample(names, 1)}
        try:
            run = runwire.init(url=captured.url, home=tmp_path, **given)
            begun += 1
            current = run
        except runwire.RunwireError as error:
            assert str(error)  # noqa: PT017 - as above
            assert runwire.current_run() is current
    current.finish()
    assert begun > 10
    for name in ("home", "url", "mode"):
        for thing in hostile.ANYTHING:
            if not issubclass(type(thing), str):  # a folder of any name would be made
                where = {"home": tmp_path, "url": captured.url, name: thing}
                try:
                    runwire.init(**where).finish()
                except runwire.RunwireError as error:
                    assert str(error)  # noqa: PT017 - as above


def test_hostile_threads(run: runwire.Run, captured: Captured) -> None:
    """From four threads at once: what each had accepted is stored, nothing else."""
    expected: list[list[Point]] = [[] for _ in range(4)]

    def work(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(2_000):
            expected[seed].extend(log_anything(run, numbers, with_step=True))
        other_calls(run, numbers, 200)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.finish()
    stored = Counter(exact(captured.points()))
    assert not sum(map(Counter, expected), Counter()) - stored


def test_hostile_signal_handlers(run: runwire.Run, captured: Captured) -> None:
    """From handlers that come at any moment, in the middle of hostile calls."""
    expected: list[Point] = []
    numbers, inside = random.Random(7), random.Random(8)

    def handle(_number: int, _frame: object) -> None:
        expected.extend(log_anything(run, inside, with_step=True))

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(3_000):
            expected.extend(log_anything(run, numbers, with_step=True))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert run.finish()
    assert Counter(exact(captured.points())) == Counter(expected)


def test_a_handler_that_logs_a_thousand_rows_in_the_middle_of_one(run: runwire.Run, captured: Captured) -> None:
    """What waits beside an interrupted call needs no deeper stack the more it is, also where ints are huge."""

    class Interrupting:
        def __call__(self, *values: Any) -> bytes:
            key_set.pack = packs
            for number in range(2_000):
                run.log({"inside": float(number)}, step=number)
            run.log({"inside": 10**400}, step=2_000)
            packed: bytes = packs(*values)
            return packed

    run.log({"inside": 0.0}, step=-1)
    run.log({"outside": 0.5}, step=0)
    assert run._emitter is not None
    segment = run._emitter.journal._segment
    assert segment is not None
    key_set = segment.key_sets["outside",]
    packs, key_set.pack = key_set.pack, Interrupting()
    run.log({"outside": 0.5}, step=1)
    assert run.finish()
    inside = [(step, value) for key, step, value in captured.points() if key == "inside"]
    assert inside == [(-1, 0.0), *((step, float(step)) for step in range(2_000)), (2_000, float("inf"))]
    assert [step for key, step, _ in captured.points() if key == "outside"] == [0, 1]


def test_near_the_recursion_limit(run: runwire.Run, captured: Captured, caplog: pytest.LogCaptureFixture) -> None:
    """RecursionError is the caller's, at every depth; the run goes on, and what returned is stored once."""
    returned: list[int] = []

    def dig(step: int, row: dict[str, Any], levels: int) -> None:
        if levels:
            dig(step, row, levels - 1)
        else:
            run.log(row, step=step)
            returned.append(step)

    limit, depth = sys.getrecursionlimit(), len(inspect.stack())
    refused = 0
    for step, levels in enumerate(range(limit - depth - 60, limit - depth)):
        for row in ({"a": 1.0}, {"b": {"c": 1}}, {f"new/{step}": 1.0}):
            try:
                dig(step, row, levels)
            except RecursionError:
                refused += 1
    run.log({"a": 1.0}, step=-1)
    returned.append(-1)
    assert run.finish()
    assert 0 < refused < 180
    stored = Counter(step for _, step, _ in captured.points())
    assert not Counter(returned) - stored
    assert max(stored.values()) <= 3
    tell(captured.messages).assert_complete()
    assert caplog.records == []


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place where Python looks for signals: a function begins, C has returned."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, _frame: object, event: str, _argument: object) -> None:
        if event in {"call", "c_return"}:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def interrupted(at: int, call: Callable[[], None]) -> bool:
    """Whether the call was interrupted; False means that it returned."""
    try:
        sys.setprofile(Interrupt(at))
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("name", ["known", "new", "nested", "wide"])
def test_interrupted_at_every_moment(
    name: str, run: runwire.Run, captured: Captured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C anywhere inside of `log`: what returned is in the journal once, what didn't at most once, none is torn."""
    rows: dict[str, Callable[[int], Any]] = {
        "known": lambda _: {"a": 1.0},
        "new": lambda step: {f"new/{step}": 1.0},
        "nested": lambda step: {"x": {"y": step, "z": 10**400}},
        "wide": lambda _: {f"w/{at}": 1.0 for at in range(600)},  # a new segment every thirteen rows
    }
    make, repetitions = rows[name], 15 if name == "wide" else 1
    returned: list[int] = []
    step = at = 0
    while at < 400:
        at += 1
        lasted = 0
        for _ in range(repetitions):
            step += 1
            row = make(step)
            if interrupted(at, lambda: run.log(row, step=step)):  # noqa: B023 - called at once
                lasted += 1
            else:
                returned.append(step)
        step += 1
        run.log({"after": 1.0}, step=step)
        returned.append(step)
        if not lasted:
            break
    assert at > 20
    assert run._emitter is not None
    stories = []
    if name != "wide":  # of many segments most are sent and gone
        stories.append(recovered(died(run._emitter.journal, tmp_path / "copy")))
    assert run.finish()
    for told in (*stories, tell(captured.messages)):
        told.assert_complete()
        stored = Counter(row[2] for row in told.rows)
        assert set(stored) >= set(returned)
        assert max(stored.values()) == 1
        assert told.lost == []
    assert caplog.records == []


@pytest.mark.usefixtures("small_segments")
def test_records_interrupted_at_every_moment(run: runwire.Run, captured: Captured) -> None:
    """Ctrl-C anywhere inside of `alert`: the same."""
    returned = []
    for at in range(1, 600):
        if not interrupted(at, lambda: run.alert("look", str(at))):  # noqa: B023 - called at once
            returned.append(str(at))
            break
        run.alert("look", f"after {at}")
        returned.append(f"after {at}")
    assert len(returned) > 20
    assert run.finish()
    tell(captured.messages).assert_complete()
    stored = Counter(event.text for event in captured.events() if isinstance(event, AlertRaised))
    assert set(stored) >= set(returned)
    assert max(stored.values()) == 1


@pytest.mark.long
def test_interrupted_by_real_signals(run: runwire.Run, captured: Captured) -> None:
    """The same by SIGINT from another thread at random moments."""
    returned: list[int] = []
    main = threading.main_thread().ident
    assert main is not None
    done = threading.Event()
    numbers = random.Random(9)

    def interrupt() -> None:
        while not done.wait(numbers.uniform(0.0001, 0.002)):
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    step = 0
    try:
        thread.start()
        while step < 60_000:
            try:
                while step < 60_000:
                    step += 1
                    run.log({"a": 1.0, f"b/{step % 5}": 2.0}, step=step)
                    returned.append(step)
            except KeyboardInterrupt:
                continue
    finally:
        while thread.is_alive():
            try:
                done.set()
                thread.join()
            except KeyboardInterrupt:
                continue
        signal.signal(signal.SIGINT, previous)
    assert run.finish()
    story = tell(captured.messages)
    story.assert_complete()
    stored = Counter(row[2] for row in story.rows)
    assert set(stored) >= set(returned)
    assert max(stored.values()) == 1


class RaisingHandler(logging.Handler):
    """A handler of training's own that is broken."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError(record.msg)


def test_a_log_handler_that_raises_reaches_nobody(captured: Captured, tmp_path: Path) -> None:
    """Neither the caller nor the sender's thread: notices are lost, rows are not."""
    handler = RaisingHandler()
    logging.getLogger("runwire").addHandler(handler)
    try:
        first = runwire.init(project="p", url=captured.url, home=tmp_path)
        captured.fail_next(*[runwire.TransportError("away")] * 3, RuntimeError("a fault of ours"))
        first.log({"a": 1.0}, step=1)
        second = runwire.init(project="p", url=captured.url, home=tmp_path)  # finishes the first, with a notice
        first.log({"late": 1.0})
        second.log({"a": 2.0}, step=2)
        assert second.finish()
        runwire.log({"none": 1.0})
    finally:
        logging.getLogger("runwire").removeHandler(handler)
    assert captured.points() == [("a", 1, 1.0), ("a", 2, 2.0)]
