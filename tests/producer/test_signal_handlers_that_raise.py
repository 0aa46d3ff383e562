"""What a signal handler raises in the middle of a call is training's: a time-out must end what it is to end."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import runwire


class TimeOut(Exception):
    """Training's own."""


def _with_names(signum: int, frame: object) -> None:
    raise TimeOut(signum, frame)


def _with_any(*_: object) -> None:
    raise TimeOut


@pytest.fixture
def alarm() -> Iterator[None]:
    """The handler that was there comes back; no collection runs the callbacks of what earlier tests left.

    Python drops what a handler raises inside the callback of a weak reference, whoever's it is.
    """
    before = signal.getsignal(signal.SIGALRM)
    gc.collect()
    gc.disable()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.enable()


@pytest.mark.parametrize("handler", [_with_names, _with_any, partial(_with_any, 1)], ids=["names", "any", "partial"])
@pytest.mark.parametrize("value", [1.0, np.float32(1)], ids=["float", "numpy"])
@pytest.mark.usefixtures("alarm")
def test_it_reaches_training(tmp_path: Path, handler: Callable[..., None], value: object) -> None:
    """A hundred of them, nearly all inside of `log`: each arrives, and the run goes on."""
    signal.signal(signal.SIGALRM, handler)
    run = runwire.init(project="p", home=tmp_path, mode="offline", auto_metrics=False)
    step = 0
    for _ in range(100):
        with pytest.raises(TimeOut):  # noqa: PT012 - it comes from anywhere in here
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            while step < 1_000_000:
                step += 1
                run.log({"a": value, "b": 2.0}, step=step)
    assert "running" in repr(run)
    run.finish()
