"""Which reader a command gets: the named server, the home's own consumer, else the file under its lock."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_cli import client
from runwire_cli.client import FileReader, HttpReader, ServerFile, open_reader
from runwire_cli.credentials import Credentials
from runwire_cli.errors import CommandError, ServerUnreachable
from runwire_cli.settings import CommandSettings, read_command_settings
from runwire_consumer.database import Database, EngineOptions
from runwire_consumer.errors import StoreLocked
from runwire_consumer.tls import own_certificate
from tests.cli.face import TOKEN, served
from tests.consumer.certificates import make_certificate
from tests.consumer.small_store import small_store

HOLDER = """
import sys
from pathlib import Path
from runwire_consumer.lock import LockFile
lock = LockFile.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> CommandSettings:
    (tmp_path / "home").mkdir()
    return read_command_settings(environ={"RUNWIRE_HOME": str(tmp_path / "home")})


def open_file(settings: CommandSettings) -> client.OpenFile:
    """What `runwire up --once` opens, without reading anything."""
    return lambda wait: Database.open(settings.home.database, EngineOptions(lock_wait_seconds=wait))


@pytest.fixture
def holder(settings: CommandSettings) -> Iterator[subprocess.Popen[str]]:
    """A process that has locked the home's database."""
    lock = f"{settings.home.database}.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()


def test_without_a_home_there_is_nothing_to_read(tmp_path: Path) -> None:
    """And no home is made by looking."""
    settings = read_command_settings(environ={"RUNWIRE_HOME": str(tmp_path / "home")})
    with pytest.raises(CommandError, match="Nothing is tracked here yet"):
        open_reader(settings, open_file(settings))
    assert list(tmp_path.iterdir()) == []


def test_without_a_consumer_the_file_is_read(settings: CommandSettings) -> None:
    """Also when a consumer that was killed has left its address behind."""
    ServerFile("127.0.0.1", 9, 1).write(settings.home.path)
    reader = open_reader(settings, open_file(settings))
    assert isinstance(reader, FileReader)
    assert reader.place == str(settings.home.database)
    assert reader.table("SELECT count(*) AS n FROM runs").rows == [{"n": 0}]
    reader.close()
    open_reader(settings, open_file(settings)).close()


def test_the_homes_consumer_is_asked(settings: CommandSettings) -> None:
    """By the address and the token that it keeps there."""
    database = small_store()
    (settings.home.path / "token").write_text(TOKEN)
    with served(database) as port:
        ServerFile("127.0.0.1", port, 1).write(settings.home.path)
        reader = open_reader(settings, open_file(settings))
        assert isinstance(reader, HttpReader)
        assert reader.table("SELECT count(*) AS n FROM runs").rows == [{"n": 3}]
        reader.close()
    database.close()


def test_a_named_server_wins(settings: CommandSettings, tmp_path: Path) -> None:
    """With its own token; the home isn't looked at."""
    database = small_store()
    with served(database) as port:
        environ = {
            "RUNWIRE_SERVER": f"127.0.0.1:{port}",
            "RUNWIRE_TOKEN": TOKEN,
            "RUNWIRE_HOME": str(tmp_path / "nowhere"),
        }
        reader = open_reader(read_command_settings(environ=environ), open_file(settings))
        assert reader.table("SELECT count(*) AS n FROM runs").rows == [{"n": 3}]
        assert reader.place == f"http://127.0.0.1:{port}"
        reader.close()
    database.close()


def test_a_locked_database_names_its_holder(
    settings: CommandSettings, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a wait, in one sentence."""
    monkeypatch.setattr(client, "LOCK_WAIT_SECONDS", 0.5)
    with pytest.raises(StoreLocked, match=f"in use by pid {holder.pid} on "):
        open_reader(settings, open_file(settings))


def test_a_lock_that_is_given_back_in_time_is_taken(settings: CommandSettings, holder: subprocess.Popen[str]) -> None:
    """The wait goes on for 10 s."""
    tries = 0

    def open_and_count(wait: float) -> Database:
        nonlocal tries
        tries += 1
        if tries == 2:
            holder.kill()
            holder.wait()
        return open_file(settings)(wait)

    open_reader(settings, open_and_count).close()
    assert tries == 2


def test_a_consumer_that_is_still_starting_is_found(settings: CommandSettings, holder: subprocess.Popen[str]) -> None:
    """It holds the lock before it has an address: the reader looks again."""
    database = small_store()
    (settings.home.path / "token").write_text(TOKEN)
    assert holder.poll() is None
    with served(database) as port:

        def open_late(wait: float) -> Database:
            ServerFile("127.0.0.1", port, 1).write(settings.home.path)
            return open_file(settings)(wait)

        reader = open_reader(settings, open_late)
        assert isinstance(reader, HttpReader)
        reader.close()
    database.close()


@pytest.mark.parametrize(
    ("server", "environ", "sent"),
    [
        ("http://127.0.0.1:1", {}, "home-home-home-home"),
        ("http://localhost:1", {}, "home-home-home-home"),
        ("http://[::1]:1", {}, "home-home-home-home"),
        ("http://node-7:8470", {}, "home-home-home-home"),  # where the home's own consumer says it is
        ("http://node-7:8471", {}, None),
        ("https://runwire.example.org", {}, "kept-kept-kept-kept"),
        ("https://other.example.org", {}, None),
        ("https://127.0.0.1.example.org", {}, None),
        ("https://runwire.example.org", {"RUNWIRE_TOKEN": "given-given-given"}, "given-given-given"),
        ("http://127.0.0.1:1", {"RUNWIRE_TOKEN": "given-given-given"}, "given-given-given"),
    ],
)
def test_which_token_goes_where(tmp_path: Path, server: str, environ: dict[str, str], sent: str | None) -> None:
    """The one that is set; the one kept for the address; the home's to its own consumer and to no strange machine."""
    (tmp_path / "token").write_text("home-home-home-home")
    ServerFile("node-7", 8470, 1).write(tmp_path)
    variables = {"RUNWIRE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), **environ}
    settings = read_command_settings(environ=variables)
    Credentials(settings.credentials).keep("https://runwire.example.org", "kept-kept-kept-kept")
    reader = client.named_consumer(settings, server)
    given = reader._headers.get("authorization")
    reader.close()
    assert given == (None if sent is None else f"Bearer {sent}")


def test_a_consumer_of_the_home_is_trusted_by_its_certificate(settings: CommandSettings, tmp_path: Path) -> None:
    """Whatever name it bears; another one at the same address is not."""
    database = small_store()
    (settings.home.path / "token").write_text(TOKEN)
    files = make_certificate(tmp_path, names="DNS:runwire.example.org")
    other = make_certificate(tmp_path, "other")
    with served(database, files=files) as port:
        ServerFile("127.0.0.1", port, 1, own_certificate(files.certificate)).write(settings.home.path)
        reader = open_reader(settings, open_file(settings))
        assert reader.place == f"https://127.0.0.1:{port}"
        assert reader.table("SELECT count(*) AS n FROM runs").rows == [{"n": 3}]
        reader.close()
        strange = ServerFile("127.0.0.1", port, 1, own_certificate(other.certificate)).reader(TOKEN)
        with pytest.raises(ServerUnreachable, match="isn't trusted"):
            strange.session()
        strange.close()
    database.close()


def test_a_consumer_elsewhere_is_trusted_by_ca(tmp_path: Path) -> None:
    """RUNWIRE_CA names who signed; without it the sentence says so, and a file that is none is named."""
    database = small_store()
    files = make_certificate(tmp_path)
    with served(database, files=files) as port:
        environ = {
            "RUNWIRE_SERVER": f"https://localhost:{port}",
            "RUNWIRE_TOKEN": TOKEN,
            "RUNWIRE_HOME": str(tmp_path / "none"),
        }
        for ca, words in (("", "isn't trusted .*: set RUNWIRE_CA"), (str(files.key), "RUNWIRE_CA can't be used")):
            settings = read_command_settings(environ={**environ, "RUNWIRE_CA": ca})
            with pytest.raises(CommandError, match=words):
                open_reader(settings, open_file(settings)).table("SELECT 1")
        settings = read_command_settings(environ={**environ, "RUNWIRE_CA": str(files.certificate)})
        reader = open_reader(settings, open_file(settings))
        assert reader.table("SELECT count(*) AS n FROM runs").rows == [{"n": 3}]
        reader.close()
    database.close()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RUNWIRE_TLS_CERT": "a"}, "give both --tls-cert and --tls-key"),
        ({"RUNWIRE_TLS_KEY": "a"}, "give both --tls-cert and --tls-key"),
        ({"RUNWIRE_METRICS": "closed"}, "RUNWIRE_METRICS must be open or token"),
        ({"RUNWIRE_SERVER": "ftp://a"}, "RUNWIRE_SERVER can't be understood: write http://HOST:PORT"),
        ({"RUNWIRE_SERVER": "http://user:secret@a"}, "RUNWIRE_SERVER can't be understood: write http://HOST:PORT"),
    ],
)
def test_settings_that_make_no_sense(environ: dict[str, str], words: str) -> None:
    """Are said, without what they hold."""
    with pytest.raises(CommandError, match=words) as raised:
        read_command_settings(environ=environ)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),  # noqa: S104 - a case
        ("::", "http://[::1]:1"),
        ("node-7", "http://node-7:1"),
    ],
)
def test_an_address_that_means_all_is_reached_on_this_machine(tmp_path: Path, host: str, address: str) -> None:
    """And the file comes back as it was written."""
    written = ServerFile(host, 1, 7)
    written.write(tmp_path)
    assert ServerFile.read(tmp_path) == written
    assert written.address == address
    ServerFile("other", 1, 8).remove(tmp_path)
    assert ServerFile.read(tmp_path) == written
    written.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "a"}', '{"host": "a", "port": "x", "pid": 1}'])
def test_a_garbled_address_is_no_address(tmp_path: Path, text: str) -> None:
    """The command goes on to the file."""
    (tmp_path / "server.json").write_text(text)
    assert ServerFile.read(tmp_path) is None


def test_a_consumer_that_stands_still_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port takes connections, and nobody answers on them."""
    monkeypatch.setattr("runwire_cli.client.HEALTH_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = HttpReader(f"http://127.0.0.1:{listener.getsockname()[1]}", None)
        assert not reader.answers()
        reader.close()


@pytest.mark.parametrize(
    ("address", "token", "sentence"),
    [
        ("http://host:99999", None, r"http://host:99999 is no address"),
        ("http://[::1", None, "is no address"),
        ("http://host", "s3cret\n", "^RUNWIRE_TOKEN may only hold visible ASCII"),
    ],
)
def test_what_can_not_be_asked_is_a_sentence(address: str, token: str | None, sentence: str) -> None:
    """Before anything is sent; no secret is in it."""
    with pytest.raises(CommandError, match=sentence) as refusal:
        HttpReader(address, token)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", f"http://{'a' * 70}", "http://a..b"])
def test_who_can_not_be_reached_is_named(address: str) -> None:
    """A closed port; a name that no host can have."""
    reader = HttpReader(address, None)
    assert not reader.answers()
    assert reader.unready() == "it doesn't answer."
    with pytest.raises(ServerUnreachable, match=f"The consumer at {address} can't be reached"):
        reader.table("SELECT 1")


def test_an_answer_that_is_no_consumers_is_said() -> None:
    """Another program listens there: it refuses, speaks HTTP of its own, or no HTTP at all."""
    for said, sentence in (
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", "answers with HTTP status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "it is no Runwire consumer"),
        (b"SSH-2.0-OpenSSH\r\n", "can't be reached"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer(listener: socket.socket = listener, said: bytes = said) -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(said)

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(CommandError, match=sentence):
                HttpReader(f"http://127.0.0.1:{listener.getsockname()[1]}", None).table("SELECT 1")
            thread.join()
