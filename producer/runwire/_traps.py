"""What stands in C where nobody handles a signal, so that it is noticed and Python shows no handler.

A signal of the whole process is run in the main thread as a rule; but a process that was suspended wakes with it in
any thread there is, also one that Python knows nothing of (OpenBLAS's, torch's). So nothing of Python's can be the
handler: `faulthandler` writes nothing in such a thread, unless it writes the stacks of all, and while it walks those of
threads that run the process may crash. `siginterrupt` of the C library can: it is called as `siginterrupt(signum,
address)`, clears the flag SA_RESTART of that signal, which may be done in a handler, and we can see that it is cleared.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import weakref

_SA_SIGINFO, _SA_ONSTACK, _SA_RESTART = 0x4, 0x08000000, 0x10000000
# Where `_Action` is what the C library has, glibc and musl.
TRAPS_EXIST = sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"} and sys.maxsize > 2**32


class _Action(ctypes.Structure):
    """`struct sigaction`."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Trap:
    """Set for a signal that has Python's default, until it is released; sprung once the signal came."""

    def __init__(self, signum: int) -> None:
        """Set it; OSError or AttributeError where that can't be."""
        self.signum = signum
        libc = ctypes.PyDLL(None, use_errno=True)  # it keeps the GIL: each call takes a microsecond
        self._sigaction = libc.sigaction
        self._address = ctypes.cast(libc.siginterrupt, ctypes.c_void_p).value
        self._exchange(_Action(self._address, flags=_SA_SIGINFO | _SA_ONSTACK | _SA_RESTART))

    def is_sprung(self) -> bool:
        """Whether the signal came; False while somebody else's handler is there."""
        return self._says_it_came(self._exchange(None))

    def is_displaced(self) -> bool:
        """Whether a handler is there that isn't ours and that Python knows nothing of."""
        there = self._exchange(None).handler
        return there not in {None, self._address} and signal.getsignal(self.signum) == signal.SIG_DFL

    def release(self) -> bool:
        """Give the default back, unless the signal is somebody else's by now; returns whether it came."""
        if self._exchange(None).handler != self._address:
            return False
        return self._says_it_came(self._exchange(_Action()))

    def _says_it_came(self, action: _Action) -> bool:
        return action.handler == self._address and not action.flags & _SA_RESTART

    def _exchange(self, new: _Action | None) -> _Action:
        """What is there; None leaves it."""
        old = _Action()
        if self._sigaction(self.signum, None if new is None else ctypes.byref(new), ctypes.byref(old)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return old


class Word:
    """A file that gets bytes when a signal comes that nobody handles; the process dies of it as without us."""

    def __init__(self, signum: int, fd: int) -> None:
        """Take over `fd`; RuntimeError or OSError where that can't be."""
        self._signum = signum
        mouth = _Mouth(fd)
        faulthandler.unregister(signum)  # an old one of ours, where a Python handler came and went in between
        faulthandler.register(signum, mouth, all_threads=False, chain=True)
        self._mouth = weakref.ref(mouth)  # faulthandler keeps it, until somebody else registers there

    def release(self) -> None:
        """Give the default back, unless the signal is somebody else's by now."""
        if self._mouth() is not None and signal.getsignal(self._signum) == signal.SIG_DFL:
            faulthandler.unregister(self._signum)


class _Mouth:
    """A descriptor that faulthandler writes into; closed when nobody keeps it any more."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        """For faulthandler."""
        return self._fd

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
