"""The command line itself: help, a bare install, and errors in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runwire_cli.commands import COMMANDS, GROUPS
from runwire_cli.errors import CommandError
from runwire_cli.settings import read_command_settings
from tests.cli.commands import RUNWIRE, ask, call, clean_environment

# Installed but invisible, as in `pip install runwire`.
BARE = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"typer", "click", "rich", "duckdb", "pyarrow", "starlette", "uvicorn",
                                      "prometheus_client"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util
found = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return found(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
from runwire_cli.entry import main
sys.argv[0] = "runwire"
main()
"""


def test_help_names_every_command(tmp_path: Path) -> None:
    """So does a call without a command; what it imports is told in test_imports.py."""
    answer = call(RUNWIRE, tmp_path / "home", "--help")
    assert answer.returncode == 0
    assert all(command in answer.stdout for command in COMMANDS)
    listed = answer.stdout[answer.stdout.index(f"{next(iter(GROUPS))}:") :]
    assert "..." not in listed, "a line is cut"
    words = [line.split()[0].rstrip(":") for line in listed.splitlines() if line.strip()]
    assert words == [word for title, names in GROUPS.items() for word in (title.split()[0], *names)], (
        "each group with its commands, in order"
    )
    for alone in (ask(tmp_path / "home"), ask(tmp_path / "home", "--help")):
        assert (alone.returncode, alone.stdout, alone.stderr) == (0, answer.stdout, "")


def test_a_bare_install_helps_and_syncs(tmp_path: Path) -> None:
    """Both need nothing but the trainer's SDK."""
    bare = [sys.executable, "-c", BARE]
    answer = call(bare, tmp_path / "home", "--help")
    assert answer.returncode == 0, answer.stderr
    assert all(command in answer.stdout for command in COMMANDS)
    assert "pip install 'runwire[local]'" in answer.stdout
    version = call(bare, tmp_path / "home", "--version")
    assert (version.returncode, version.stdout) == (0, call(RUNWIRE, tmp_path / "home", "--version").stdout)
    answer = call(bare, tmp_path / "home", "sync")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Nothing waits." in answer.stdout


@pytest.mark.parametrize("command", [RUNWIRE, [sys.executable, "-c", BARE]], ids=["whole", "bare"])
def test_a_relay_waits_for_a_folder_and_ends_when_it_is_told_to(tmp_path: Path, command: list[str]) -> None:
    """In either install: it names the folder that isn't there yet, and SIGTERM is no failure."""
    relay = subprocess.Popen(
        [*command, "sync", "--follow", "--to", f"dir:{tmp_path}/topic"],
        env=clean_environment(tmp_path / "home"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert relay.stdout is not None
    assert relay.stdout.readline() == f"There is no journal in {tmp_path}/home yet: waiting for the first process.\n"
    (tmp_path / "home" / "journal").mkdir(parents=True)
    assert relay.stdout.readline() == f"Relaying the journals in {tmp_path}/home/journal to dir:{tmp_path}/topic.\n"
    relay.terminate()
    printed, errors = relay.communicate(timeout=60)
    assert (relay.returncode, errors) == (0, "")
    assert printed.startswith("0 rows sent, 0 journals to their end; 0 are not")


@pytest.mark.parametrize("arguments", [["runs"], ["up", "--once"], ["sql", "SELECT 1", "--json"], ["show"], ["demo"]])
def test_a_bare_install_names_the_extra(tmp_path: Path, arguments: list[str]) -> None:
    """One line, non-zero exit."""
    answer = call([sys.executable, "-c", BARE], tmp_path / "home", *arguments)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert f"pip install 'runwire[{'demo' if arguments == ['demo'] else 'local'}]'" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["nothing"], 2, "No such command 'nothing'"),
        (["show"], 2, "Missing argument 'RUN'"),
        (["runs", "--json", "--csv"], 2, "Choose one of --json and --csv"),
        (["runs", "--nothing"], 2, "No such option"),
        (["up", "--port", "99999"], 2, "65535"),
        (["up", "--url", "ftp://x"], 1, "ftp://x"),
        (["sync", "/does/not/exist"], 1, "no folder '/does/not/exist'"),
        (["sync", "--to", "ftp://x"], 1, "ftp://x"),
        (["sync", "--follow", "--to", "ftp://x"], 1, "ftp://x"),
        (["runs"], 1, "Nothing is tracked here yet"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, arguments: list[str], code: int, part: str) -> None:
    """On stderr, with a non-zero exit, without a trace."""
    answer = ask(tmp_path / "home", *arguments)
    assert answer.returncode == code, answer.stderr
    assert part in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""
    assert not (tmp_path / "home").exists() or arguments[0] == "up"


def test_a_process_ends_as_its_command_does(tmp_path: Path) -> None:
    """Exit code, stdout and stderr are those that the other tests ask for in their own process."""
    for arguments in (["nothing"], ["runs"], ["sync"], ["snapshot", "--list"]):
        process, here = call(RUNWIRE, tmp_path / "home", *arguments), ask(tmp_path / "home", *arguments)
        assert (process.returncode, process.stdout, process.stderr) == (here.returncode, here.stdout, here.stderr)


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("http://host:1", "http://host:1"),
        ("https://host/", "https://host"),
        ("host:8470", "http://host:8470"),
        ("", None),
    ],
)
def test_the_server_is_an_address(tmp_path: Path, server: str, address: str | None) -> None:
    """With or without a scheme; empty is absent."""
    environ = {"RUNWIRE_SERVER": server, "RUNWIRE_HOME": str(tmp_path)}
    assert read_command_settings(environ=environ).server == address


@pytest.mark.parametrize(
    "environ",
    [
        {"RUNWIRE_SERVER": "ftp://host"},
        {"RUNWIRE_SERVER": "http://user:secret@host"},
        {"RUNWIRE_SERVER": "http://"},
        {"RUNWIRE_PORT": "many"},
        {"RUNWIRE_PORT": "70000"},
        {"RUNWIRE_PORT": "-1"},
    ],
)
def test_a_variable_that_cant_be_used_is_named(environ: dict[str, str]) -> None:
    """The sentence begins with its name and shows no secret."""
    with pytest.raises(CommandError, match=f"^{next(iter(environ))}") as refusal:
        read_command_settings(environ=environ)
    assert "secret" not in str(refusal.value)


def test_options_win_over_the_environment(tmp_path: Path) -> None:
    """And the token masks itself."""
    environ = dict.fromkeys(("RUNWIRE_TOKEN", "RUNWIRE_READ_TOKEN"), "secret")
    environ |= {"RUNWIRE_PORT": "1", "RUNWIRE_HOST": "a", "RUNWIRE_HOSTS": "X.example, y"}
    settings = read_command_settings(home=str(tmp_path), port=0, environ=environ)
    assert (settings.port, settings.host, settings.hosts) == (0, "a", ("x.example", "y"))
    assert (settings.token, settings.read_token) == ("secret", "secret")
    assert "secret" not in repr(settings)
    assert read_command_settings(home=str(tmp_path), environ={}).port == 8470
