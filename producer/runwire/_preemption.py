"""Signals that end a job: whoever handles them is left alone, and where nobody does, the run is ended first.

1. No handler is replaced, and nobody sees one where there was none: others ask whether a signal is taken before they
   take it. Where a signal has Python's default, a trap in C is set (`_traps`); a thread that looks at it ends the run,
   gives the default back and lets the process die of the same signal. So it needs no main thread: one that hangs in C
   code dies all the same, and nothing of ours ever runs inside of a log() it broke.
2. Until then training goes on, as if the signal had come a little later. Whoever logs meanwhile, or ends, is held.
3. What somebody else handles, before us or after, is only noted, by Python's wake-up file: the C part of Python's
   signal handling writes each number there. Where that file is another's (asyncio's), handlers that are there already
   are wrapped instead: called with the same arguments, what they raise goes on its way.
4. A forked child has what was there before us before it runs a line of its own.

Left alone: what is ignored, what C code handles (jax, MPI), process 1, whose default the kernel ignores.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire._notices import NOTICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from runwire._traps import Trap, Word

LOOK_SECONDS = 0.2  # how often traps are looked at: 50 us each time, a signal that ends a job waits that long
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
        self._traps: list[Trap] = []
        self._words: list[Word] = []
        self._untrapped: list[int] = []
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
            may_start_thread: Without one, signals that nobody handles are left to `leave_word`; so they are where
                no trap can be set.
        """
        from runwire._traps import TRAPS_EXIST, Trap  # noqa: PLC0415 - ctypes: not at import time

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
                    if may_start_thread and TRAPS_EXIST:
                        traps = [trap for trap in self._traps if trap.signum != signum]
                        self._traps = [*traps, Trap(signum)]
                    else:
                        self._untrapped.append(signum)
        except (AttributeError, OSError, RuntimeError, ValueError) as problem:
            NOTICES.say("signals", f"Signals that end the job can't be watched: {problem!r}.")
        if self._traps:
            self._thread = threading.Thread(target=self._watch, args=(end,), name="runwire-preemption", daemon=True)
            self._thread.start()

    def leave_word(self, path_of: Callable[[int], Path]) -> None:
        """Where no thread may be started: a signal that nobody handles kills as ever, and writes into a file first.

        Args:
            path_of: The file for a signal's number; recovery finds it.
        """
        from runwire._traps import Word  # noqa: PLC0415 - ctypes: as above

        for signum in self._untrapped:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                fd = os.open(path_of(signum), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._words.append(Word(signum, fd))

    def stop(self) -> None:
        """Put back what was there, where nobody has taken it since; while the process dies, wait for that."""
        if threading.current_thread() is self._thread:
            return
        self.hold()
        self._untrapped.clear()
        for trap in self._traps:
            if trap.release():  # it came in between
                os.kill(os.getpid(), trap.signum)
        # One whose place C code took is watched on: should that code give ours back, the process can still die.
        self._traps = [trap for trap in self._traps if trap.is_displaced()]
        while self._words:
            self._words.pop().release()
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
        thread = self._thread
        while thread is not None and thread.is_alive() and threading.current_thread() is not thread:
            if not self._dying and not any(trap.is_sprung() for trap in self._traps):
                break
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
            for word in self._words:
                word.release()
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
        for trap in self._traps:
            if trap.is_sprung():
                self._note(trap.signum)
        with self._lock:
            if self._wakeup is not None:
                with contextlib.suppress(OSError):  # nothing there
                    for signum in os.read(self._wakeup[0], _READ_BYTES):
                        if signum in self._signals:
                            self._note(signum)

    def _watch(self, end: Callable[[int], object]) -> None:
        """The thread's life: until a trap is sprung, or none is left, or a later run's thread looks at them."""
        while self._traps and threading.current_thread() is self._thread:
            for trap in self._traps:
                if trap.is_sprung():
                    self._die(trap, end)
            self._look()
            time.sleep(LOOK_SECONDS)

    def _die(self, trap: Trap, end: Callable[[int], object]) -> None:
        self._note(trap.signum)
        self._dying = True
        try:
            end(trap.signum)
        except Exception as problem:  # noqa: BLE001 - the process is to die, whatever we meet
            NOTICES.say("signals", f"Ending the run before the process dies failed: {problem!r}.")
        trap.release()
        os.kill(os.getpid(), trap.signum)
        time.sleep(SURVIVED_SECONDS)
        # Somebody handles it now, or it is blocked: theirs to decide. Or it came once more while the trap was released,
        # and is found sprung again.
        self._dying = False


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
