"""`runwire watch`: one frame in words, or a picture that a terminal gets line by line and gives back as it was."""

from __future__ import annotations

import fcntl
import io
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from runwire_cli import watch
from runwire_cli.client import ServerFile
from runwire_cli.errors import ServerUnreachable
from runwire_cli.settings import read_command_settings
from tests.cli.commands import ask, clean_environment
from tests.cli.face import TOKEN, served
from tests.consumer.small_store import DIGITS, OLD, OTHER, small_store

SIGN = "\N{REPLACEMENT CHARACTER}"
LEAVE = b"\x1b[?25h\x1b[?1049l"
# The terminal is the process's own, so that its Ctrl-C arrives as a signal.
WATCH = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from runwire_cli.entry import main
sys.argv[0] = "runwire"
main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which a consumer runs."""
    folder = tmp_path_factory.mktemp("watch") / "home"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    database = small_store()
    with served(database) as port:
        ServerFile("127.0.0.1", port, 1).write(folder)
        yield folder
    database.close()


def test_once_in_words(home: Path) -> None:
    """What stands there can be read aloud and searched: no blocks, no dots, no colours, no control characters."""
    answer = ask(home, "watch", "--once")
    assert answer.returncode == 0
    assert answer.stdout.startswith(
        f"brave-fox-1 ({DIGITS}): running\n"
        "  step 30, 0.316 steps/s\n"
        "  ranks: 2 of 2, heard of 0.0 s ago\n"
        "  alerts: 1, the last error: look\n"
        "  train/loss: NaN at step 1; least 2 near step 1, greatest 3 near step 0; 2 NaN\n"
        "  val/acc: Infinity at step 1; least 0.25 near step 0, greatest 0.75 near step 1; 1 infinite\n"
    )
    assert f'odd "name"{SIGN}=1 ({OLD}): failed, because\n' in answer.stdout
    assert f"({OTHER}): finished\n" in answer.stdout
    assert set(answer.stdout) <= set(map(chr, range(32, 127))) | {"\n", SIGN}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([OLD], 0, OLD),
        ([OTHER[:5], "--metric", "val/*"], 0, OTHER),
        (["nothing"], 1, "There is no run 'nothing'"),
        (["brave-fox-1"], 1, "2 runs are called"),
    ],
)
def test_runs_are_named(home: Path, arguments: list[str], code: int, said: str) -> None:
    """By id, the begin of it, or a name that one run bears. A pipe gets words without being asked."""
    answer = ask(home, "watch", *arguments)
    assert answer.returncode == code
    assert said in answer.stdout + answer.stderr
    assert ("train/loss" in answer.stdout) is False
    assert len(answer.stdout.splitlines()) in {0, 3, 4}


def test_a_consumer_is_found_again(home: Path, tmp_path: Path) -> None:
    """It may be away at first and later; a new one may listen elsewhere."""
    settings = read_command_settings(environ={"RUNWIRE_HOME": str(tmp_path)})
    link = watch.Link(settings)
    with pytest.raises(ServerUnreachable, match="start a consumer with `runwire up`"):
        link("SELECT 1 AS one", {})
    (tmp_path / "token").write_text(TOKEN)
    database = small_store()
    with served(database) as port:
        ServerFile("127.0.0.1", port, 1).write(tmp_path)
        assert link("SELECT $two AS two", {"two": 2}) == [{"two": 2}]
    with pytest.raises(ServerUnreachable, match="can't be reached"):
        link("SELECT 1 AS one", {})
    database.close()
    (tmp_path / "server.json").write_bytes((home / "server.json").read_bytes())
    assert link("SELECT 1 AS one", {}) == [{"one": 1}]


def test_only_lines_that_changed_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is cleared behind its end; what is too tall is cut; another size starts from an empty screen."""
    written: list[str] = []
    sizes = [os.terminal_size((20, 3))] * 3 + [os.terminal_size((10, 3))]
    screen = watch.Screen(Console(file=io.StringIO(), force_terminal=True, no_color=True))
    monkeypatch.setattr(watch.Screen, "_write", lambda _, text: written.append(text))
    monkeypatch.setattr(os, "get_terminal_size", lambda _: sizes.pop(0))
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    for text in ("one\ntwo\nthree\nfour", "one\n2\nthree", "one", "one"):
        screen.draw(Text(text))
    assert written == [
        "\x1b[2J\x1b[1;1Hone\x1b[K\x1b[2;1Htwo\x1b[K\x1b[3;1Hthree\x1b[K",
        "\x1b[2;1H2\x1b[K",
        "\x1b[2;1H\x1b[K\x1b[3;1H\x1b[K",
        "\x1b[2J\x1b[1;1Hone\x1b[K",
    ]


class _Terminal:
    """The other side of a pseudo-terminal: what it was sent, and what stands on it."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.side, other = os.openpty()
        self.resize(24, 80)
        self.mode = termios.tcgetattr(other)
        self.sent = b""
        environment = {**clean_environment(home), "TERM": "xterm-256color", "NO_COLOR": "1"}
        environment.pop("COLUMNS")
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCH, "watch", *arguments],
            env=environment, stdin=other, stdout=other, stderr=other, start_new_session=True,
        )  # fmt: skip
        self.other = other

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, pattern: str) -> None:
        """Read until this stands on the screen."""
        deadline = time.monotonic() + 90
        while not re.search(pattern, self.screen):
            assert time.monotonic() < deadline, self.screen
            if select.select([self.side], [], [], 0.5)[0]:
                self.sent += os.read(self.side, 65_536)

    @property
    def screen(self) -> str:
        lines: dict[int, str] = {}
        for move in re.finditer(
            r"\x1b\[2J|\x1b\[(\d+);1H(.*?)\x1b\[K", self.sent.decode("utf-8", "replace"), re.DOTALL
        ):
            if move[1] is None:
                lines.clear()
            else:
                lines[int(move[1])] = re.sub(r"\x1b\[[0-9;]*m", "", move[2])
        return "\n".join(lines.get(at, "") for at in range(1, max(lines, default=0) + 1))

    def end(self) -> int:
        """Take what is still sent, which comes a little later; the exit code."""
        code = self.process.wait(90)
        while select.select([self.side], [], [], 1)[0]:
            self.sent += os.read(self.side, 65_536)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.other)
        os.close(self.side)


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 0), (None, 143)])
def test_a_real_terminal_gets_the_picture_and_is_given_back(
    home: Path, tmp_path: Path, key: bytes | None, code: int
) -> None:
    """It waits for the consumer, draws, follows the terminal's size, and ends by q, Ctrl-C or a signal."""
    terminal = _Terminal(tmp_path, DIGITS)
    try:
        terminal.until(r"Waiting: start a consumer with `runwire up`, none runs in")
        (tmp_path / "token").write_text(TOKEN)
        (tmp_path / "server.json").write_bytes((home / "server.json").read_bytes())
        terminal.until(r"brave-fox-1 +running[^$]*train/loss  NaN[^$]*[\u2801-\u28ff]{5}[^$]*q quits")
        assert "id" not in terminal.screen.splitlines()[0].split()
        terminal.resize(40, 150)
        terminal.until(r" id +\n.* aaaaaaaaaaaaaaaa *\n")
        assert not termios.tcgetattr(terminal.other)[3] & termios.ECHO
        if key is None:
            terminal.process.terminate()
        else:
            os.write(terminal.side, key)
        assert terminal.end() == code
        assert terminal.sent.endswith(LEAVE)
        assert termios.tcgetattr(terminal.other) == terminal.mode
        assert not re.search(rb"\x1b\[(\d+;)*3\d(;\d+)*m", terminal.sent), "no colours where NO_COLOR is set"
    finally:
        terminal.close()
