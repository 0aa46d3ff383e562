"""Scalars on an accelerator: logged without a wait, true to the moment of the call, in the order of the calls."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import runwire
from runwire._arrivals import WAITING_ROWS_MAX, Arrivals
from runwire._recovery import sync
from runwire.testing import Captured
from runwire_schemas.events import RowsLost
from tests.producer import fake_torch
from tests.producer.fake_torch import STREAM, on_device
from tests.producer.journals import open_journal
from tests.services.process import wait_until


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fake in place of torch, its stream empty."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch.module())
    STREAM.queue.clear()
    yield
    STREAM.queue.clear()


@pytest.fixture
def run(captured: Captured, tmp_path: Path) -> Iterator[runwire.Run]:
    """A run that sends there."""
    opened = runwire.init(project="p", url=captured.url, home=tmp_path)
    yield opened
    STREAM.run()
    opened.finish()


def lost(captured: Captured) -> list[tuple[int, str]]:
    return [(event.count, event.reason) for event in captured.events() if isinstance(event, RowsLost)]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_nobody_waits_and_the_value_is_that_of_the_call(run: runwire.Run, captured: Captured, kind: str) -> None:
    """The device hasn't begun when `log` returns; afterwards the tensor is changed in place."""
    loss = on_device(1.0, kind)
    for step in range(3):
        run.log({"loss": loss}, step=step)
        loss.fill_(step + 2.0)
    if kind == "cuda":
        assert captured.points() == []
    STREAM.run()
    run.finish()
    assert captured.points() == [("loss", 0, 1.0), ("loss", 1, 2.0), ("loss", 2, 3.0)]
    assert lost(captured) == []


def test_rows_keep_the_order_of_their_calls(run: runwire.Run, captured: Captured) -> None:
    """A plain row behind one that waits is sent after it; a mixed row stays one row."""
    run.log({"a": 1.0}, step=0)
    run.log({"loss": on_device(0.5), "lr": 0.1, "acc": on_device(0.25), "n": on_device(3, dtype="int64")}, step=1)
    run.log({"loss": 7.0}, step=1)
    STREAM.run()
    run.finish()
    assert captured.points() == [
        ("a", 0, 1.0), ("loss", 1, 0.5), ("lr", 1, 0.1), ("acc", 1, 0.25), ("n", 1, 3.0), ("loss", 1, 7.0),
    ]  # fmt: skip


def test_the_device_is_asked_for_no_sums(run: runwire.Run, captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick look at a row adds its values up: with tensors no more than once a key set."""
    sums: list[fake_torch.Tensor] = []

    def add(tensor: fake_torch.Tensor, _other: object) -> fake_torch.Tensor:
        sums.append(tensor)
        return tensor

    monkeypatch.setattr(fake_torch.Tensor, "__radd__", add)
    for step in range(3):
        run.log({"loss": 0.5}, step=step)
    for step in range(3, 8):
        run.log({"loss": on_device(step)}, step=step)
    STREAM.run()
    run.finish()
    assert [step for _, step, _ in captured.points()] == list(range(8))
    assert len(sums) <= 1


def test_a_wide_row_is_split_like_any_other(run: runwire.Run, captured: Captured) -> None:
    """Of 1,001 keys, in two rows of the same step."""
    run.log({f"m/{i}": on_device(i) for i in range(1001)}, step=5)
    STREAM.run()
    run.finish()
    assert captured.points() == [(f"m/{i}", 5, float(i)) for i in range(1001)]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2,), "float32"), ((2, 3), "float32"), ((0,), "float32"), ((), "complex64")]
)
def test_what_is_no_number_is_refused_at_once(run: runwire.Run, shape: tuple[int, ...], dtype: str) -> None:
    """By shape and type, which are known without a wait."""
    with pytest.raises(runwire.UsageTypeError, match="loss"):
        run.log({"loss": on_device(1, shape=shape, dtype=dtype)})


def test_a_device_that_never_answers_costs_its_rows_and_not_the_end(captured: Captured, tmp_path: Path) -> None:
    """finish() is bounded; the row is declared lost, the others are there."""
    run = runwire.init(project="p", url=captured.url, home=tmp_path)
    run._finish_timeout_seconds = 0.5
    run.log({"a": 1.0}, step=0)
    run.log({"loss": on_device(1.0)}, step=1)
    run.log({"a": 2.0}, step=2)
    run.finish()
    assert captured.points() == [("a", 0, 1.0), ("a", 2, 2.0)]
    assert lost(captured) == [(1, "its values didn't come from the device")]


def test_a_value_that_cannot_be_read_is_left_out(
    run: runwire.Run, captured: Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed device is said once; what else the row holds is kept, its place is declared lost."""

    def fail(_tensor: object) -> None:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(fake_torch.Tensor, "tolist", fail)
    for step in range(3):
        run.log({"loss": on_device(1.0), "lr": 0.1}, step=step)
    STREAM.run()
    run.finish()
    assert captured.points() == [("lr", step, 0.1) for step in range(3)]
    assert sum(count for count, _ in lost(captured)) == 3
    assert caplog.text.count("device-side assert") == 1


def test_a_value_that_cannot_be_copied_is_left_out(
    run: runwire.Run, captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training doesn't see the framework's error."""
    loss = on_device(1.0)
    monkeypatch.delattr(fake_torch.Tensor, "detach")
    run.log({"loss": loss, "lr": 0.1}, step=0)
    run.log({"loss": loss}, step=1)
    run.finish()
    assert captured.points() == [("lr", 0, 0.1)]


def test_without_a_sender_plain_rows_take_them_up_too(captured: Captured, tmp_path: Path) -> None:
    """One scalar of a device holds the rows behind it back no longer than it takes to come."""
    run = runwire.init(project="p", url=captured.url, home=tmp_path, sender="relay")
    run.log({"val": on_device(1.0)}, step=0)
    STREAM.run()
    assert run._emitter is not None
    arrivals = run._emitter.arrivals
    step = 0
    while len(arrivals):
        step += 1
        run.log({"loss": 0.5}, step=step)
    run.finish()
    sync(tmp_path / "journal")
    assert captured.points() == [("val", 0, 1.0), *(("loss", at, 0.5) for at in range(1, step + 1))]


def test_rows_that_wait_are_bounded(tmp_path: Path) -> None:
    """A device that hangs takes no memory without end: what is too much is declared lost."""
    journal = open_journal(tmp_path / ("e" * 32))
    arrivals = Arrivals(journal)

    class Never:
        def has_arrived(self) -> bool:
            return False

        def read(self) -> list[float]:
            raise AssertionError

    for step in range(WAITING_ROWS_MAX + 5):
        arrivals.add(("a",), step, 0, [None], [(Never(), [0])])
    assert (len(arrivals), journal.rows_lost) == (WAITING_ROWS_MAX, 5)
    journal.close(delete=True)


def test_many_threads_log_tensors(run: runwire.Run, captured: Captured) -> None:
    """Each value arrives once, while the sender takes them up."""
    lock = threading.Lock()  # the fake's queue has none

    def log(thread: int) -> None:
        for step in range(50):
            with lock:
                run.log({f"t{thread}": on_device(step)}, step=step)
                STREAM.run()

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    assert sorted(captured.points()) == sorted((f"t{t}", s, float(s)) for t in range(4) for s in range(50))


class ArrayImpl:
    """An array of jax, as far as `_device.py` looks at it."""

    __module__ = "jaxlib._jax"
    shape, dtype = (), "float32"

    def __init__(self, value: float, platform: str = "cpu", *, is_ready: bool = False) -> None:
        self._value, self._platform, self.ready = value, platform, is_ready
        self.is_deleted = False
        self.copies_begun = 0

    def is_ready(self) -> bool:
        return self.ready

    def devices(self) -> list[types.SimpleNamespace]:
        return [types.SimpleNamespace(platform=self._platform)]

    def copy_to_host_async(self) -> None:
        self.copies_begun += 1

    def item(self) -> float:
        assert self.ready, "a wait for the computation"
        if self.is_deleted:
            raise RuntimeError("Array has been deleted")
        return self._value


class EagerTensor:
    """A tensor of tensorflow, as far as `_device.py` looks at it."""

    __module__ = "tensorflow.python.framework.ops"
    shape, dtype = (), "float32"

    def __init__(self, value: float, device: str) -> None:
        self._value, self.device = value, device
        self.readers: list[str] = []

    def numpy(self) -> np.float32:
        self.readers.append(threading.current_thread().name)
        return np.float32(self._value)


def test_an_array_that_is_still_being_computed_is_not_waited_for(run: runwire.Run, captured: Captured) -> None:
    """On jax's CPU too, where calls return before they are computed; what is there is taken at once."""
    busy, done, far = ArrayImpl(1.0), ArrayImpl(2.0, is_ready=True), ArrayImpl(3.0, "gpu", is_ready=True)
    run.log({"busy": busy, "done": done, "far": far}, step=0)
    assert (busy.copies_begun, done.copies_begun, far.copies_begun) == (1, 0, 1)
    busy.ready = True
    run.finish()
    assert captured.points() == [("busy", 0, 1.0), ("done", 0, 2.0), ("far", 0, 3.0)]


def test_an_array_that_was_given_away_is_left_out(run: runwire.Run, captured: Captured) -> None:
    """A donated buffer is something else's by then: what else the row holds is kept."""
    donated = ArrayImpl(1.0)
    run.log({"loss": donated, "lr": 0.5}, step=0)
    donated.ready = donated.is_deleted = True
    run.finish()
    assert captured.points() == [("lr", 0, 0.5)]


def test_an_eager_tensor_on_a_device_is_read_by_the_sender(run: runwire.Run, captured: Captured) -> None:
    """Where nobody can tell whether it has come, the training thread doesn't ask."""
    far, near = (EagerTensor(0.5, f"/job:localhost/replica:0/task:0/device:{kind}:0") for kind in ("GPU", "CPU"))
    run.log({"far": far, "near": near}, step=0)
    expected = [("far", 0, 0.5), ("near", 0, 0.5)]
    wait_until(lambda: captured.points() == expected, what="the row to arrive")
    assert far.readers == ["runwire-sender"]
    assert near.readers == [threading.current_thread().name]
