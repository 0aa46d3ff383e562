"""Signals that end a job: whoever handles them is left alone, and where nobody does, the run is ended first.

1. No handler is replaced, and nobody sees one where there was none: others ask whether a signal is taken before they
   take it. Where a signal has Python's default, a C handler of `faulthandler` writes into a pipe of ours; a thread
   that waits there ends the run, gives the default back and lets the process die of the same signal. So it needs no
   main thread: one that hangs in C code dies all the same, and nothing of ours ever runs inside of a log() it broke.
2. Until then training goes on, as if the signal had come a little later. Whoever logs meanwhile, or ends, is held.
3. What somebody else handles, before us or after, is only noted, by Python's wake-up file: the C part of Python's
   signal handling writes each number there. Where that file is another's (asyncio's), handlers that are there already
   are wrapped instead: called with the same arguments, what they raise goes on its way.
4. A forked child has what was there before us before it runs a line of its own.

Left alone: what is ignored, what C code handles (jax, MPI), process 1, whose default the kernel ignores.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire._notices import NOTICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

LOOK_SECONDS = 5.0  # how often the wake-up file is emptied: every signal of the process is written there
LEAVE_SECONDS = 1.0  # how long calls that are under way may take to be done
SURVIVED_SECONDS = 1.0
_HELD_SECONDS = 0.05
_READ_BYTES = 2**16
_STATUS = Path("/proc/self/status")


class Preemption:
    """What this process knows of signals that end its job; one of it a process."""

    def __init__(self) -> None:
        """Nothing is watched."""
        self._forget()
        self._fork = threading.local()

    def _forget(self) -> None:
        self._signals: frozenset[int] = frozenset()
        self._lock = threading.RLock()
        self._traps: list[_Trap] = []
        self._unhandled: list[int] = []
        self._wakeup: tuple[int, int] | None = None
        self._wrapped: dict[int, _Wrapped] = {}
        self._thread: threading.Thread | None = None
        self._noted: int | None = None
        self._dying = False

    def begin(self, signals: Iterable[int], end: Callable[[int], object], *, may_start_thread: bool = True) -> None:
        """Watch signals until `stop`.

        Args:
            signals: Their numbers.
            end: Called in a thread of ours with the number of one that nobody handles; ends the run within seconds.
            may_start_thread: Without one, signals that nobody handles are left to `leave_word`.
        """
        self._signals = frozenset(signals)
        self._noted = None
        try:
            in_main = threading.current_thread() is threading.main_thread()
            if in_main and self._signals and self._wakeup is None:
                self._wakeup = _take_wakeup()
            for signum in sorted(self._signals):
                handler = signal.getsignal(signum)
                if callable(handler):
                    if in_main and self._wakeup is None:
                        self._wrapped[signum] = _Wrapped(handler, self._note)
                        signal.signal(signum, self._wrapped[signum])
                elif handler == signal.SIG_DFL and not _is_caught(signum) and os.getpid() != 1:
                    if may_start_thread:
                        self._traps.append(_Trap(signum))
                    else:
                        self._unhandled.append(signum)
        except (OSError, RuntimeError, ValueError) as problem:
            NOTICES.say("signals", f"Signals that end the job can't be watched: {problem!r}.")
        if self._traps:
            self._thread = threading.Thread(
                target=self._watch, args=(tuple(self._traps), end), name="runwire-preemption", daemon=True
            )
            self._thread.start()

    def leave_word(self, path_of: Callable[[int], Path]) -> None:
        """Where no thread may be started: a signal that nobody handles kills as ever, and writes into a file first.

        Args:
            path_of: The file for a signal's number; recovery finds it.
        """
        for signum in self._unhandled:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                fd = os.open(path_of(signum), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._traps.append(_Trap(signum, fd))

    def stop(self) -> None:
        """Put back what was there, where nobody has taken it since; while the process dies, wait for that."""
        if threading.current_thread() is self._thread:
            return
        self.hold()
        self._unhandled.clear()
        while self._traps:
            self._traps.pop().release()
        if threading.current_thread() is threading.main_thread():  # no other may
            self._put_back()

    def noted(self) -> int | None:
        """The first watched signal that came, whoever handled it."""
        self._look()
        return self._noted

    def status_or(self, status: str) -> str:
        """How a run ends: this way, or preempted where a watched signal came."""
        return status if self.noted() is None else "preempted"

    def hold(self) -> None:
        """While the process is dying: wait for it. Who went on would log what nobody keeps."""
        while self._dying and threading.current_thread() is not self._thread:
            time.sleep(_HELD_SECONDS)

    def wait_until_left(self, module: str) -> None:
        """Wait until no other thread is inside of a call to this module, but for those that are held."""
        deadline = time.monotonic() + LEAVE_SECONDS
        mine = threading.get_ident()
        while time.monotonic() < deadline:
            frames = sys._current_frames()  # noqa: SLF001 - the documented way
            if not any(_is_inside(frame, module) for thread, frame in frames.items() if thread != mine):
                return
            del frames
            time.sleep(0.001)

    def before_fork(self) -> None:
        """A signal to the child must not reach a handler that writes into its parent's pipes."""
        self._fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals) if self._signals else None

    def after_fork_in_parent(self) -> None:
        """Signals come again."""
        mask = getattr(self._fork, "mask", None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def after_fork_in_child(self) -> None:
        """What was there before us, then what came meanwhile."""
        mask = getattr(self._fork, "mask", None)
        self._lock = threading.RLock()  # a thread that isn't here may hold the old one
        with contextlib.suppress(Exception):
            for trap in self._traps:
                trap.release()
                if trap.reader >= 0:
                    os.close(trap.reader)
            self._put_back()
        self._forget()
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _put_back(self) -> None:
        """In the main thread: wrapped handlers and the wake-up file."""
        while self._wrapped:
            signum, wrapped = self._wrapped.popitem()
            if signal.getsignal(signum) is wrapped:
                signal.signal(signum, wrapped.handler)
        with self._lock:
            wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            now_there = signal.set_wakeup_fd(-1)
            if now_there != wakeup[1]:
                signal.set_wakeup_fd(now_there, warn_on_full_buffer=False)
            for fd in wakeup:
                os.close(fd)

    def _note(self, signum: int) -> None:
        if self._noted is None:
            self._noted = signum

    def _look(self) -> None:
        with self._lock:
            if self._wakeup is not None:
                with contextlib.suppress(OSError):  # nothing there
                    for signum in os.read(self._wakeup[0], _READ_BYTES):
                        if signum in self._signals:
                            self._note(signum)

    def _watch(self, traps: tuple[_Trap, ...], end: Callable[[int], object]) -> None:
        """The thread's life: until a trap is sprung, or none is left."""
        readers = {trap.reader: trap for trap in traps}
        poll = select.poll()
        for reader in readers:
            poll.register(reader, select.POLLIN)
        while readers:
            for reader, event in poll.poll(1000 * LOOK_SECONDS):
                if event & select.POLLIN:
                    self._die(readers[reader], end)
                # Put back, or another faulthandler.register took its place.
                poll.unregister(reader)
                readers.pop(reader).reader = -1
                os.close(reader)
            self._look()

    def _die(self, trap: _Trap, end: Callable[[int], object]) -> None:
        self._note(trap.signum)
        self._dying = True
        try:
            end(trap.signum)
        except Exception as problem:  # noqa: BLE001 - the process is to die, whatever we meet
            NOTICES.say("signals", f"Ending the run before the process dies failed: {problem!r}.")
        trap.release()
        os.kill(os.getpid(), trap.signum)
        time.sleep(SURVIVED_SECONDS)
        self._dying = False  # somebody handles it now, or it is blocked: theirs to decide


class _Trap:
    """A pipe that gets bytes when a signal comes that nobody handles; who reads closes `reader` and makes it -1.

    With a file to write into instead, the process then dies of the signal as without us.
    """

    def __init__(self, signum: int, file: int | None = None) -> None:
        """Set it; RuntimeError or OSError where that can't be."""
        self.signum = signum
        self.reader, writer = os.pipe() if file is None else (-1, file)
        mouth = _Mouth(writer)
        # An old one of ours, where a Python handler came and went in between.
        faulthandler.unregister(signum)
        # All threads, though nobody reads it: of the one that took the signal alone nothing is written where it isn't
        # Python's, and a process that was suspended wakes with its signal in any thread there is (OpenBLAS's, torch's).
        faulthandler.register(signum, mouth, all_threads=True, chain=file is not None)
        self._mouth = weakref.ref(mouth)  # faulthandler keeps it, until somebody else registers there

    def release(self) -> None:
        """Give the default back, unless the signal is somebody else's by now."""
        if self._mouth() is not None and signal.getsignal(self.signum) == signal.SIG_DFL:
            faulthandler.unregister(self.signum)


class _Mouth:
    """The end of a pipe that faulthandler writes into; closed when nobody keeps it any more."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        """For faulthandler."""
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)


class _Wrapped:
    """Somebody's handler, noted and called."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], note: Callable[[int], None]) -> None:
        """Keep both."""
        self.handler = handler
        self._note = note

    def __call__(self, signum: int, frame: FrameType | None) -> Any:
        self._note(signum)
        return self.handler(signum, frame)


def _take_wakeup() -> tuple[int, int] | None:
    """Both ends of a pipe that gets the number of each signal; None where another has that file."""
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if before == -1:
        return reader, writer
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)
    os.close(reader)
    os.close(writer)
    return None


def _is_caught(signum: int) -> bool:
    """Whether C code has a handler there that Python knows nothing of; False where that can't be known."""
    with (
        contextlib.suppress(OSError, ValueError),
        _STATUS.open(encoding="ascii", errors="replace") as file,
    ):
        for line in file:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return False


def _is_inside(frame: FrameType | None, module: str) -> bool:
    while frame is not None:
        if frame.f_code is Preemption.hold.__code__:
            return False
        if frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False


PREEMPTION = Preemption()
os.register_at_fork(
    before=PREEMPTION.before_fork,
    after_in_parent=PREEMPTION.after_fork_in_parent,
    after_in_child=PREEMPTION.after_fork_in_child,
)
