"""Readers step back: their threads get the processor when the writer, and whoever else runs here, leaves it.

On Linux a thread has a nice value of its own, which the threads it starts inherit. A reader at nice 10 gets about a
tenth of what the writer gets where both want the same core, and all of a core that nobody wants.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

READERS_NICE = 10

_Made = TypeVar("_Made")


def step_back() -> None:
    """Lower the calling thread's priority; where threads have none, nothing happens."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), READERS_NICE)


def stepped_back(work: Callable[[], _Made]) -> _Made:
    """What `work` returns or raises, done in a thread that has stepped back, as will the threads that it starts."""
    with ThreadPoolExecutor(1, initializer=step_back) as thread:
        return thread.submit(work).result()
