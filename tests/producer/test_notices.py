"""At most one log line a minute a cause: the notices alone, a broker that flaps, and every place that may give one."""

from __future__ import annotations

import ast
import logging
import secrets
from pathlib import Path

import pytest

from runwire import _sender
from runwire._errors import TransportError
from runwire._memory import FAULTS, Fault
from runwire._notices import Notices
from runwire._sender import Sender
from runwire_schemas.topics import Destination
from tests.producer.journals import EMITTER, open_journal
from tests.producer.test_sender import Speaker
from tests.repo.files import dotted, python_files, tree

SAYS = ("info", "warning", "error", "exception", "critical", "log", "warn")


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_line_a_minute_a_cause(caplog: pytest.LogCaptureFixture) -> None:
    """Each cause has a minute of its own."""
    clock = Clock()
    notices = Notices(clock)
    for seconds, cause in [(0, "a"), (1, "a"), (2, "b"), (59.9, "a"), (60, "a"), (61, "b"), (62, "b"), (119.9, "a")]:
        clock.seconds = 100.0 + seconds
        notices.say(cause, f"{cause} at {seconds}")
    assert caplog.messages == ["a at 0", "b at 2", "a at 60", "b at 62"]


def test_a_handler_that_logs_to_the_run_ends() -> None:
    """What is said is remembered first: a handler that gives the same notice isn't called again."""
    notices, calls = Notices(Clock()), []

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            calls.append(record.getMessage())
            notices.say("a", "again")
            raise LookupError

    echo = Echo()
    logging.getLogger("runwire").addHandler(echo)
    try:
        notices.say("a", "first")
    finally:
        logging.getLogger("runwire").removeHandler(echo)
    assert calls == ["first"]


def test_a_broker_that_flaps_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It breaks at every second send, a second after it came back: sixty lines, not eighteen hundred."""
    monkeypatch.setattr(_sender, "FLUSH_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(_sender, "RECONNECT_SECONDS_MIN", 0.0)
    monkeypatch.setattr(_sender, "RECONNECT_SECONDS_MAX", 0.0)
    name, clock, breaks = secrets.token_hex(8), Clock(), 1_800

    class Break(TransportError):
        """Lets two seconds pass when it is raised."""

        def __str__(self) -> str:
            return f"memory:{name} is away."

    def flap(appended: int) -> Fault:
        return Fault(Break("away"), appended=appended)

    class Ticking(Notices):
        """Time passes with each break."""

        def say(self, cause: str, text: str) -> None:
            super().say(cause, text)
            clock.seconds += 2

    FAULTS[name] += [fault for at in range(breaks) for fault in (Fault(), flap(at % 2))]
    journal = open_journal(tmp_path / EMITTER)
    sender = Sender(journal, Destination("memory", path=name), Speaker(journal), notices=Ticking(clock))
    sender.start()
    step = 0
    while FAULTS[name]:
        journal.append_row(("loss",), step, 0, [1.0])
        step += 1
    journal.seal()
    assert sender.finish(20)
    journal.close(delete=True)
    assert clock.seconds == 100 + 2 * breaks
    assert len(caplog.records) == 60
    assert set(caplog.messages) == {f"memory:{name} is away. Training goes on; events wait in {journal.folder}."}


def test_every_line_goes_through_the_notices() -> None:
    """No other module of the producer logs or warns by itself."""
    found = [
        f"{name}:{node.lineno}"
        for name in python_files("producer")
        if not name.endswith("/_notices.py")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call)
        and (called := dotted(node.func)).rpartition(".")[2] in SAYS
        and called.split(".")[0] in {"_log", "log", "logger", "logging", "warnings"}
    ]
    assert found == []
