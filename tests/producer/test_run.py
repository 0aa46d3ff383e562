"""A run as training sees it: what `log()` and its siblings take, keep, refuse and survive."""

from __future__ import annotations

import argparse
import dataclasses
import math
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.testing import Captured
from runwire_schemas.events import AlertRaised, MetricBatch, MetricDefined, ParamsLogged, RunEnded


def of_kind(captured: Captured, kind: type[Any]) -> list[Any]:
    return [event for event in captured.events() if isinstance(event, kind)]


def test_rows_arrive_as_they_were_logged(run: runwire.Run, captured: Captured) -> None:
    """Numbers of every make, nested names, changing keys, steps in any order; infinities are kept."""
    run.log({"loss": 0.5, "n": 3, "ok": True}, step=7)
    run.log({"loss": np.float32(0.25), "nested": {"a": np.int64(2)}}, step=-1)
    run.log({"loss": math.inf, "n": 10**400, "ok": False}, step=2**63 - 1)
    run.finish()
    assert captured.points() == [
        ("loss", 7, 0.5),
        ("n", 7, 3.0),
        ("ok", 7, 1.0),
        ("loss", -1, 0.25),
        ("nested/a", -1, 2.0),
        ("loss", 2**63 - 1, math.inf),
        ("n", 2**63 - 1, math.inf),
        ("ok", 2**63 - 1, 0.0),
    ]


def test_steps_count_calls_until_one_is_set(run: runwire.Run, captured: Captured) -> None:
    """A refused call counts for nothing, an empty one is a call without a row."""
    run.log({"a": 1})
    with pytest.raises(runwire.UsageTypeError):
        run.log({"a": "text"})
    run.log({})
    run.log({"a": 2})
    assert run.step == 3
    run.step = 40
    run.log({"a": 3})
    run.log({"a": 4})
    assert run.step == 40
    run.finish()
    assert [step for _, step, _ in captured.points()] == [0, 2, 40, 40]


BAD_CALLS: list[tuple[Any, Any, type[Exception], str]] = [
    (3, None, TypeError, "metrics"),
    ({1: 2.0}, None, TypeError, "metrics"),
    ({"a": None}, None, TypeError, "a"),
    ({"a": "x"}, None, TypeError, "a"),
    ({"a": [1, 2]}, None, TypeError, "a"),
    ({"a": np.ones(3)}, None, TypeError, "a"),
    ({"": 1}, None, ValueError, "metrics"),
    ({"a" * 1_025: 1}, None, ValueError, "metrics"),
    ({"a": {"b": 1}, "a/b": 2}, None, ValueError, "metrics"),
    ({"a": 1}, 1.5, TypeError, "step"),
    ({"a": 1}, "3", TypeError, "step"),
    ({"a": 1}, 2**63, ValueError, "step"),
]


@pytest.mark.parametrize(("metrics", "step", "error", "named"), BAD_CALLS)
def test_wrong_calls_name_the_argument(
    run: runwire.Run, metrics: Any, step: Any, error: type[Exception], named: str
) -> None:
    """Wrong use raises one of ours that is also Python's, and harms nothing."""
    with pytest.raises(error, match=named) as caught:
        run.log(metrics, step=step)
    assert isinstance(caught.value, runwire.UsageError)
    run.log({"good": 1})


class Ticklish(Exception):
    """One that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("don't")


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (ValueError("password=hunter2 is wrong"), ("failed", 1, "ValueError: password=*** is wrong")),
        (Ticklish(), ("failed", 1, "Ticklish")),
        (KeyboardInterrupt(), ("failed", 130, "KeyboardInterrupt")),
        (SystemExit(3), ("failed", 3, "SystemExit: 3")),
        (SystemExit(2**40), ("failed", 2**31 - 1, "SystemExit: 1099511627776")),
        (SystemExit("no data"), ("failed", 1, "SystemExit: no data")),
        (SystemExit(0), ("finished", 0, None)),
        (SystemExit(), ("finished", 0, None)),
        (GeneratorExit(), ("finished", None, None)),
    ],
)
def test_an_exception_ends_the_run_and_goes_on(
    captured: Captured, tmp_path: Path, error: BaseException, ending: tuple[str, int | None, str | None]
) -> None:
    """The very exception leaves the `with` block; its text is in the record, its secrets are not."""
    with pytest.raises(type(error)) as caught, runwire.init(url=captured.url, home=tmp_path):
        raise error
    assert caught.value is error
    [ended] = of_kind(captured, RunEnded)
    assert (ended.status, ended.exit_code, ended.error) == ending


def test_long_errors_are_cut(run: runwire.Run, captured: Captured) -> None:
    """An assertion that quotes megabytes makes no record of megabytes."""
    run.finish("failed", error="x " * 2_000_000)
    [ended] = of_kind(captured, RunEnded)
    assert len(ended.error) <= 16_384


def test_the_end_is_the_end(run: runwire.Run, captured: Captured, caplog: pytest.LogCaptureFixture) -> None:
    """A second finish returns the same; what is logged later is taken, not kept, and said once."""
    run.log({"a": 1})
    assert run.finish()
    assert run.finish("failed")
    for _ in range(3):
        run.log({"a": 2})
        run.alert("late")
    run.log_params({"late": 1})
    assert captured.points() == [("a", 0, 1.0)]
    assert [event.status for event in of_kind(captured, RunEnded)] == ["finished"]
    assert [record.message for record in caplog.records if "has ended" in record.message] == [
        f"Run {run.name} has ended: what is logged now is not kept."
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"status": "done"}, ValueError),
        ({"status": np.ones(2)}, ValueError),
        ({"exit_code": "3"}, TypeError),
    ],
)
def test_a_wrong_finish_leaves_the_run_open(
    run: runwire.Run, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        run.finish(**arguments)
    assert runwire.current_run() is run


def test_definitions_alerts_and_params(run: runwire.Run, captured: Captured) -> None:
    """Each becomes a record; secrets among parameters are masked, odd ones become text."""

    @dataclasses.dataclass
    class Optimizer:
        lr: float = 0.1

    run.define("val/acc", unit="%", best="max")
    run.alert("diverged", "loss is NaN", level="error", step=3)
    run.log_params({"api_key": "abc", "optimizer": Optimizer(), "odd": object})
    run.log_params(argparse.Namespace(depth=3))
    run.finish()
    [defined] = of_kind(captured, MetricDefined)
    assert (defined.metric, defined.unit, defined.best) == ("val/acc", "%", "max")
    [raised] = of_kind(captured, AlertRaised)
    assert (raised.title, raised.text, raised.level, raised.step) == ("diverged", "loss is NaN", "error", 3)
    assert [event.params for event in of_kind(captured, ParamsLogged)] == [
        {"api_key": "***", "optimizer/lr": 0.1, "odd": "object"},
        {"depth": 3},
    ]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda run: run.define("a", best="most"), "best"),
        (lambda run: run.define(3), "metric"),
        (lambda run: run.define(""), "metric"),
        (lambda run: run.alert("a", level="loud"), "level"),
        (lambda run: run.alert("a", step=1.5), "step"),
        (lambda run: run.log_params(3), "params"),
        (lambda run: setattr(run, "step", "x"), "step"),
    ],
)
def test_other_wrong_calls_name_the_argument(run: runwire.Run, call: Any, named: str) -> None:
    with pytest.raises(runwire.UsageError, match=named):
        call(run)


def test_a_row_of_many_keys_becomes_several_of_one_step(run: runwire.Run, captured: Captured) -> None:
    row = {f"m{at}": float(at) for at in range(2_500)}
    run.log(row, step=5)
    run.log(row, step=6)
    run.finish()
    assert captured.points() == [(key, step, value) for step in (5, 6) for key, value in row.items()]
    batches = of_kind(captured, MetricBatch)
    assert sum(len(block.steps) for batch in batches for block in batch.blocks) == 6


def test_threads_share_a_run(run: runwire.Run, captured: Captured) -> None:
    """No call is lost, and none has the step of another."""

    def work() -> None:
        for _ in range(500):
            run.log({"a": 1.0})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    assert sorted(step for _, step, _ in captured.points()) == list(range(4_000))
    [ended] = of_kind(captured, RunEnded)
    assert (ended.cost.rows, ended.cost.points) == (4_000, 4_000)


def test_a_dict_that_another_thread_changes_switches_nothing_off(
    run: runwire.Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys and values taken at different moments don't fit together: then they are taken again."""
    metrics: dict[str, float] = {"a": 1.0}
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            metrics["b"] = 2.0
            metrics.pop("b", None)

    thread = threading.Thread(target=change)
    thread.start()
    for _ in range(3_000):
        run.log(metrics)
    done.set()
    thread.join()
    assert not [record for record in caplog.records if "is off" in record.message]


def test_signal_handlers_log(run: runwire.Run, captured: Captured) -> None:
    """A handler that logs in the middle of a log() loses and repeats nothing."""
    fired = 0

    def handle(_number: int, _frame: object) -> None:
        nonlocal fired
        number = fired  # the next signal may come before this one's row is written
        fired += 1
        run.log({"signal": number}, step=number)

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        step = 0
        while fired < 50:
            run.log({"a": 1.0, "b": float(step)}, step=step)
            step += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    run.finish()
    points = captured.points()
    assert sorted(at for name, at, _ in points if name == "signal") == list(range(fired))
    assert [at for name, at, _ in points if name == "a"] == list(range(step))


def test_an_internal_fault_switches_tracking_off_and_keeps_the_journal(
    run: runwire.Run, captured: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, every later call is taken, and what was kept is still delivered."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    run.log({"a": 1.0})
    run.log({"a": 2.0})
    run._append = broken
    for _ in range(3):
        run.log({"a": 3.0})
    assert [record.message for record in caplog.records].count(caplog.records[-1].message) == 1
    assert "is off" in caplog.records[-1].message
    assert run.finish()
    assert captured.points() == [("a", 0, 1.0), ("a", 1, 2.0)]


def test_a_network_that_breaks_is_nobodys_problem(run: runwire.Run, captured: Captured) -> None:
    """Sends that fail are repeated; nothing is lost."""
    captured.fail_next(*[runwire.TransportError("away") for _ in range(2)])
    for step in range(100):
        run.log({"a": float(step)}, step=step)
    assert run.finish()
    assert captured.points() == [("a", step, float(step)) for step in range(100)]


def test_the_last_line_says_what_tracking_cost(run: runwire.Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.log({"a": 1.0, "b": 2.0})
    run.finish()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"runwire: {run.name} ({run.id}) 2 points, all sent to memory:")
    assert "tracking cost" in line
