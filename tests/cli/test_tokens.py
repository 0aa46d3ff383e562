"""`runwire token`, `login` and `logout`: made for others here, kept by them there, shown nowhere else."""

from __future__ import annotations

import getpass
import io
import json
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_cli import entry
from runwire_cli.client import ServerFile
from runwire_cli.credentials import Credentials
from runwire_cli.errors import CommandError
from runwire_cli.login import login
from runwire_cli.output import Form, Output
from runwire_cli.settings import read_command_settings
from tests.cli.face import TOKEN, served
from tests.consumer.small_store import small_store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of somebody who has nothing set."""
    for name in ("SERVER", "TOKEN", "CA", "URL"):
        monkeypatch.delenv(f"RUNWIRE_{name}", raising=False)
    monkeypatch.setenv("RUNWIRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def port(home: Path) -> Iterator[int]:
    """Where the home's consumer answers."""
    database = small_store()
    (home / "token").write_text(TOKEN)
    with served(database, home=home) as port:
        yield port
    database.close()


def run(*arguments: str, stdin: str = "") -> int:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdin", io.StringIO(stdin))
        return entry.run(arguments)


def test_a_token_is_printed_once_alone_on_stdout(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that it can be piped on; what it may is said beside it."""
    arguments = ("create", "page", "--project", "digits", "--project", "b", "--expires", "30d")
    assert run("token", *arguments) == 0
    printed, said = capsys.readouterr()
    assert (printed.startswith("rwt_"), printed.count("\n")) == (True, 1)
    assert "it may read what belongs to b, digits, and expires at 20" in said
    assert printed.strip() not in said
    assert run("token", "list") == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("page", "read", "b, digits"))
    assert run("token", "list", "--json") == 0
    told = capsys.readouterr().out
    assert [(each["name"], each["projects"]) for each in json.loads(told)] == [("page", ["b", "digits"])]
    for shown in (listed, told, (home / "tokens.json").read_text()):
        assert printed.strip() not in shown
    assert run("token", "revoke", "page") == 0
    assert "opens nothing from now on" in capsys.readouterr().err
    assert run("token", "list") == 0
    assert "no tokens but the home's own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("create", "a", "--scope", "root"), 1, "A token has a name and a scope: read, write, admin."),
        (("create", "a", "--scope", "write", "--project", "p"), 1, "can only read"),
        (("create", "a", "--expires", "soon"), 2, "write it as in 30d, 12h or 45m"),
        (("create", "a", "--expires", "0d"), 2, "write it as in 30d"),
        (("create", "a b"), 1, "A token's name has letters"),
        (("revoke", "a"), 1, "There is no token 'a'"),
    ],
)
def test_what_cant_be_is_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert run("token", *arguments) == code
    printed, said = capsys.readouterr()
    assert (printed, said.count("\n")) == ("", 1)
    assert words in said
    assert not (home / "tokens.json").exists()


def test_the_consumer_of_a_server_makes_them_too(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an admin's token; one that may only read is told so."""
    monkeypatch.setenv("RUNWIRE_SERVER", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("RUNWIRE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("RUNWIRE_TOKEN", TOKEN)
    assert run("token", "create", "far") == 0
    made = capsys.readouterr().out.strip()
    assert [each["name"] for each in json.loads((home / "tokens.json").read_text())["tokens"]] == ["far"]
    monkeypatch.setenv("RUNWIRE_TOKEN", made)
    assert run("token", "create", "further") == 1
    assert "The token 'far' may only read: this takes one with scope admin." in capsys.readouterr().err
    monkeypatch.setenv("RUNWIRE_TOKEN", TOKEN)
    assert run("token", "revoke", "far") == 0
    assert json.loads((home / "tokens.json").read_text())["tokens"] == []


def test_log_in_read_and_log_out(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another machine: the token is typed once, and readers of that server use it until it is revoked."""
    assert run("token", "create", "reader", "--project", "old") == 0
    token = capsys.readouterr().out.strip()
    monkeypatch.setenv("RUNWIRE_HOME", str(home / "elsewhere"))
    address = f"http://127.0.0.1:{port}"
    assert run("login", f"127.0.0.1:{port}/", stdin=token + "\n") == 0
    printed, said = capsys.readouterr()
    assert f"Logged in at {address} as 'reader', with scope read in old." in said
    assert token not in printed + said
    kept = home.parent / "config" / "runwire" / "credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("RUNWIRE_SERVER", address)
    assert run("runs", "--json") == 0
    assert [each["project"] for each in json.loads(capsys.readouterr().out)] == ["old"]
    assert run("verify", "cccc") in {0, 1}
    capsys.readouterr()
    assert run("snapshot") == 1
    assert run("logout") == 0
    assert run("logout") == 1
    assert f"No token is kept for {address}" in capsys.readouterr().err
    assert run("runs") == 1
    assert f"refuses the token: set RUNWIRE_TOKEN, or `runwire login {address}` keeps one" in capsys.readouterr().err


def test_a_token_that_opens_nothing_is_not_kept(
    home: Path, port: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for stdin, words in (("rwt_wrong", "refuses the token"), ("", "is no token"), ("a b", "is no token")):
        assert run("login", f"http://127.0.0.1:{port}", stdin=stdin) == 1
        assert words in capsys.readouterr().err
    assert run("login", "http://127.0.0.1:9", stdin="rwt_x") == 1
    assert "can't be reached" in capsys.readouterr().err
    assert run("login", stdin="rwt_x") == 1
    assert "Say where" in capsys.readouterr().err
    assert not (tmp_path / "config").exists()
    ServerFile("127.0.0.1", port, 1).write(home)
    assert run("login", stdin=TOKEN) == 0
    assert "as 'home', with scope admin." in capsys.readouterr().err


def test_a_terminal_is_asked_without_an_echo(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.is_dir()
    asked: list[str] = []
    blind = False

    def ask(prompt: str) -> str:
        asked.append(prompt)
        if blind:
            warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=1)
        return TOKEN

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    settings, output = read_command_settings(), Output(Form.TABLE)
    address = f"http://127.0.0.1:{port}"
    assert login(settings, output, address, ask) == 0
    assert asked == [f"Token for {address}: "]
    assert TOKEN not in "".join(capsys.readouterr())
    blind = True
    with pytest.raises(CommandError, match="would show what is typed"):
        login(settings, output, address, ask)


def test_a_way_without_tls_is_said_aloud(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the token is sent."""
    assert home.is_dir()
    assert run("login", "http://nowhere.invalid", stdin="rwt_x") == 1
    assert "WARNING: http://nowhere.invalid has no TLS" in capsys.readouterr().err


def test_kept_tokens_are_by_server(tmp_path: Path) -> None:
    """One replaces the earlier of its server; two commands at once undo none of each other."""
    kept = Credentials(tmp_path / "config" / "credentials.json")
    assert (kept.token("a"), kept.forget("a")) == (None, False)
    threads = [
        threading.Thread(target=lambda number=number: Credentials(kept.path).keep(f"server-{number}", "x"))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept.keep("server-0", "y")
    assert [kept.token(f"server-{number}") for number in range(9)] == ["y", *["x"] * 7, None]
    assert kept.forget("server-0")
    assert kept.token("server-0") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tokens": []}', '{"tokens": {"a": 1}}'])
def test_a_spoilt_file_of_tokens_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(content)
    with pytest.raises(CommandError, match=r"credentials.json can't be understood: delete it and log in again"):
        Credentials(path).token("a")
