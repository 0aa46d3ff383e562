"""How a run ended, as its last record tells it: exit code and error, without secrets and of bounded size."""

from __future__ import annotations

import signal

from runwire._context.redaction import redact_text
from runwire._params import printable, text_of
from runwire._values import checked_int

EXIT_CODE_MAX = 2**31 - 1


def checked_exit_code(code: object) -> int:
    """An exit code as 32 bits can hold it.

    Raises:
        UsageTypeError: It is no int.
    """
    return max(-EXIT_CODE_MAX, min(EXIT_CODE_MAX, checked_int("exit_code", code)))


def exit_code_of(error: BaseException) -> int:
    """What Python makes the exit code after this exception, as a shell shows it."""
    if isinstance(error, SystemExit):
        code = error.code
        return 0 if code is None else int(code) if isinstance(code, int) else 1
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def error_text(error: BaseException) -> str:
    """Its type and what it says."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception that can't be shown is an exception all the same
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def safe_text(error: object) -> str:
    """What went wrong, without secrets, and no longer than a record should be."""
    # Cut before it is searched: an assertion may quote megabytes.
    return printable(redact_text(text_of(error)))


def is_of_a_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler raised it on top of our code: it is the caller's then, such as a time-out's.

    A handler is known by its arguments: it gets the very frame that it interrupts.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        interrupted, trace = trace.tb_frame, trace.tb_next
        for value in trace.tb_frame.f_locals.values():
            if value is interrupted or (type(value) is tuple and any(one is interrupted for one in value)):
                return True
    return False
