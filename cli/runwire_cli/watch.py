"""`runwire watch`: the live view in a terminal, line by line only what changed; or once, in words."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from runwire_cli.client import HttpReader, Reader, local_consumer, named_consumer, rows_of
from runwire_cli.errors import ServerUnreachable
from runwire_cli.frame import rate
from runwire_cli.live import Choose, LiveView, Query, living
from runwire_cli.output import Form, Output
from runwire_cli.text import clean, duration, number
from runwire_consumer import queries

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runwire_cli.chart import Bucket
    from runwire_cli.frame import Shown
    from runwire_cli.settings import CommandSettings

DRAW_SECONDS = 0.5
UNLIMITED = (80, 1_000_000)
_ENTER, _LEAVE, _CLEAR = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[2J"
_REDRAW, _SUSPEND = b"\x0c", b"\x1a"
_INPUT_BYTES = 64


def can_draw() -> bool:
    """Whether stdout is a terminal that a cursor moves in."""
    return sys.stdout.isatty() and not Console().is_dumb_terminal


def watch(settings: CommandSettings, runs: Sequence[str] | None, metrics: Sequence[str] | None) -> int:
    """Draw until q or Ctrl-C; returns the exit code.

    Raises:
        CommandError, ConsumerError: The consumer refuses, or there is no such run.
    """
    view = LiveView(Link(settings), _chooser(runs), metrics or (), charts=bool(runs))
    view.hint = "q quits"
    with suppress(KeyboardInterrupt), ended_in_order(), Screen(Output(Form.TABLE).console) as screen, view.following():
        while view.failed is None:
            screen.draw(view)
            if screen.wants_to_quit(DRAW_SECONDS):
                break
    return 0


def once(reader: Reader, output: Output, runs: Sequence[str] | None, metrics: Sequence[str] | None) -> int:
    """Say how the runs stand, in words that a screen reader can read; returns the exit code."""
    view = LiveView(rows_of(reader), _chooser(runs), metrics or (), charts=bool(runs), size=UNLIMITED)
    with output.waiting("Reading the runs …"):
        view.refresh()
    if not view.shown:
        output.say(f"No run is running in {reader.place}.")
    for shown in view.shown:
        for line in told(shown, [metric for metric in shown.metrics(metrics or ()) if metric in shown.curves]):
            output.console.print(line, soft_wrap=True)
    return 0


def _chooser(wanted: Sequence[str] | None) -> Choose:
    """All living runs, or those that are meant; what a name means is asked once."""
    if not wanted:
        return living
    ids: list[str] = []

    def choose(ask: Query) -> list[str]:
        if not ids:
            ids.extend(dict.fromkeys([queries.find_run(ask, name) for name in wanted]))
        return ids

    return choose


def told(shown: Shown, metrics: Sequence[str]) -> Iterator[str]:
    """A run in words, a line a fact."""
    row = shown.row
    reason = "" if row["state"] in {"running", "finished"} or not row["state_reason"] else f", {row['state_reason']}"
    yield clean(f"{row['name']} ({row['run_id']}): {row['state']}{reason}")
    if row["step"] is not None:
        goal = "" if shown.goal is None else f" of {shown.goal:,.0f}"
        pace = "" if shown.pace is None else f", {rate(shown.pace)} steps/s"
        left = "" if shown.left_seconds is None else f", {duration(shown.left_seconds)} left"
        yield f"  step {row['step']:,}{goal}{pace}{left}"
    heard = "" if shown.heard_seconds is None else f", heard of {duration(shown.heard_seconds)} ago"
    yield f"  ranks: {row['ranks']} of {row['world_size'] or 'an unknown number'}{heard}"
    if row["alerts"]:
        yield clean(f"  alerts: {row['alerts']}, the last {row['alert']}")
    for metric in metrics:
        yield f"  {clean(metric)}: {shown.value(metric)}{_course(shown.curves.get(metric, []))}"


def _course(buckets: Sequence[Bucket]) -> str:
    """What a chart would show."""
    ends = [(bucket, bucket.ends) for bucket in buckets]
    finite = [(bucket, end) for bucket, end in ends if end is not None]
    said = f" at step {buckets[-1].last_step:,}" if buckets else ""
    if finite:
        least, most = min(finite, key=lambda one: one[1][0]), max(finite, key=lambda one: one[1][1])
        said += f"; least {number(least[1][0])} near step {least[0].first_step:,}"
        said += f", greatest {number(most[1][1])} near step {most[0].first_step:,}"
    for name, count in (
        ("NaN", sum(bucket.nan for bucket in buckets)),
        ("infinite", sum(bucket.infinite for bucket in buckets)),
    ):
        said += f"; {count:,} {name}" if count else ""
    return said


class Link:
    """Asks the consumer of these settings, and looks for it anew whenever it doesn't answer."""

    def __init__(self, settings: CommandSettings) -> None:
        """Nothing is sent yet."""
        self._settings = settings
        self._reader: HttpReader | None = None

    def __call__(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of a SELECT.

        Raises:
            CommandError: It is away, or refuses.
        """
        server = self._settings.server
        if self._reader is None:
            self._reader = named_consumer(self._settings, server) if server else local_consumer(self._settings)
        if self._reader is None:
            raise ServerUnreachable(f"start a consumer with `runwire up`, none runs in {self._settings.home.path}.")
        try:
            return self._reader.table(sql, params).rows
        except ServerUnreachable:
            self._reader = None
            raise


class Screen:
    """The terminal's other screen: what stood there comes back at the end; keys are read, not echoed."""

    def __init__(self, console: Console) -> None:
        """Nothing is written yet."""
        self._console = console
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._lines: list[str] = []
        self._size = (0, 0)
        self._woken, self._wake = os.pipe()

    def __enter__(self) -> Self:
        """Take the terminal."""
        os.set_blocking(self._wake, False)  # as set_wakeup_fd wants it
        self._handler = signal.signal(signal.SIGWINCH, lambda *_: None)  # a new size ends the waiting for a key
        self._wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back as it was."""
        self._give_back()
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGWINCH, self._handler)
        os.close(self._woken)
        os.close(self._wake)

    def draw(self, drawn: RenderableType) -> None:
        """Show it; only lines that changed are written, so that a slow connection carries little."""
        size = os.get_terminal_size(sys.stdout.fileno())
        text = ""
        if size != self._size:
            self._size, self._lines, text = size, [], _CLEAR
            self._console.size = size
        with self._console.capture() as captured:
            self._console.print(drawn, end="")
        lines = captured.get().split("\n")[: size.lines]
        for at in range(max(len(lines), len(self._lines))):
            new = lines[at] if at < len(lines) else ""
            if at >= len(self._lines) or new != self._lines[at]:
                text += f"\x1b[{at + 1};1H{new}\x1b[K"
        self._lines = lines
        if text:
            self._write(text)

    def wants_to_quit(self, seconds: float) -> bool:
        """Wait for a key, a new size or so many seconds: whether the key was q."""
        watched = [self._woken] if self._keys is None else [self._woken, self._keys]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, _INPUT_BYTES)
        if self._keys not in ready:
            return False
        pressed = os.read(self._keys, _INPUT_BYTES)
        if pressed == _REDRAW:
            self._size = (0, 0)
        if pressed == _SUSPEND:
            self._give_back()
            os.killpg(0, signal.SIGTSTP)  # until `fg`
            self._take()
        return pressed in {b"q", b"Q", b""}  # nothing at all: the terminal is gone

    def _take(self) -> None:
        self._size = (0, 0)
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            mode = termios.tcgetattr(self._keys)
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            # Ctrl-Z comes as a key: the screen is given back before the process stops.
            mode[6][termios.VSUSP] = bytes([os.fpathconf(self._keys, "PC_VDISABLE")])
            termios.tcsetattr(self._keys, termios.TCSADRAIN, mode)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with suppress(OSError):  # a terminal that is gone has nothing to restore
            self._write(_LEAVE)
        if self._keys is not None and self._before is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        sys.stdout.flush()
        content = text.encode(sys.stdout.encoding, "replace")
        while content:
            content = content[os.write(sys.stdout.fileno(), content) :]


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Who ends the process by a signal gets the terminal back, too."""

    def end(number_of_signal: int, _: object) -> None:
        raise SystemExit(128 + number_of_signal)

    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
