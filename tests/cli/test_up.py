"""`runwire up` and the commands around it, as a user calls them: real processes, a real home, a real topic folder."""

from __future__ import annotations

import json
import logging
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from runwire_cli import up
from runwire_cli.settings import read_command_settings
from tests.cli.commands import RUNWIRE, TRAIN, ask, clean_environment, have_trained, train
from tests.consumer.certificates import make_certificate
from tests.services.process import PATIENCE_SECONDS, free_ports, wait_until


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


class Consumer:
    """`runwire up` in the home."""

    def __init__(self, home: Path, *arguments: str) -> None:
        (self.port,) = free_ports(1)
        self.address = f"{'https' if '--tls-cert' in arguments else 'http'}://127.0.0.1:{self.port}"
        self.home = home
        home.mkdir(exist_ok=True)
        self.log = home.parent / "up.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [*RUNWIRE, "up", "--port", str(self.port), *arguments],
                env=clean_environment(home), cwd=home.parent, stdout=file, stderr=file,
            )  # fmt: skip
        wait_until(self.is_ready, what="it reads its topic")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            # Whose certificate it is, is no question here.
            return httpx.get(f"{self.address}/readyz", verify=self.address.startswith("http:")).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def consumer(home: Path) -> Iterator[Consumer]:
    made = Consumer(home)
    yield made
    made.process.kill()
    made.process.wait()


def rows(home: Path, *arguments: str) -> Any:
    answer = ask(home, *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_train_then_runs_without_a_daemon(home: Path) -> None:
    """`python train.py && runwire runs` is all on a laptop."""
    train(home, "first")
    found = rows(home, "runs")
    assert [(run["name"], run["state"], run["points"]) for run in found] == [("first", "finished", 101)]
    leaderboard = (
        "SELECT name, params['lr'] AS lr, best['val/acc'] AS acc FROM runs WHERE project = 'digits' ORDER BY acc DESC"
    )
    assert rows(home, "sql", leaderboard) == [{"name": "first", "lr": "0.1", "acc": 0.9}]
    have_trained(home, "second")
    assert rows(home, "verify", "second")["verdict"] == "complete"
    assert len(rows(home, "runs")) == 2
    assert ask(home, "show", "second").returncode == 0
    assert not (home / "token").exists()


def test_once_says_what_it_stored(home: Path) -> None:
    """And finds nothing new the second time."""
    have_trained(home, "first")
    answer = ask(home, "up", "--once")
    assert answer.returncode == 0, answer.stderr
    assert "101 points stored" in answer.stdout
    assert ask(home, "up", "--once").stdout.startswith("0 messages read: 0 rows, 0 points")


def test_once_of_a_folder_that_is_not_there_says_so(home: Path) -> None:
    """A mistyped URL is no empty log, and no folder is made there."""
    folder = home.parent / "mistyped" / "log"
    answer = ask(home, "up", "--once", "--url", f"dir:{folder}")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(f"runwire: There is no folder {folder}: ")
    assert answer.stderr.count("\n") == 1
    assert not folder.parent.exists()


def test_up_waits_for_a_folder_that_is_not_there(home: Path) -> None:
    """It says so once, and is ready to read."""
    folder = home.parent / "later"
    waiting = Consumer(home, "--url", f"dir:{folder}")
    try:
        assert not folder.exists()
        train(home, "first", f"dir:{folder}")
        wait_until(lambda: [run["points"] for run in rows(home, "runs")] == [101], what="the run of 101 points")
        assert waiting.log.read_text().count(f"There is no folder {folder} yet") == 1
    finally:
        waiting.process.kill()
        waiting.process.wait()


def test_sync_says_where_the_rows_went(home: Path) -> None:
    """Not where they were once meant to go."""
    train(home, "offline", "kafka://127.0.0.1:1/none", mode="offline")
    target = f"dir:{home.parent / 'target'}"
    answer = ask(home, "sync", "--to", target)
    assert answer.returncode == 0, answer.stderr
    assert f"rows sent to {target}\n" in answer.stdout
    assert "kafka" not in answer.stdout


def order_snapshot(url: str, headers: dict[str, str]) -> int | None:
    """The status that answers; None where the consumer was gone already."""
    try:
        return httpx.post(url, headers=headers, timeout=60).status_code
    except httpx.TransportError:
        return None


def test_up_serves_and_ends_when_told(home: Path, consumer: Consumer) -> None:
    """Readers use it; after SIGTERM the file is free and its address is gone."""
    address = f"http://127.0.0.1:{consumer.port}"
    assert json.loads((home / "server.json").read_text())["port"] == consumer.port
    token = (home / "token").read_text().strip()
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    assert httpx.post(f"{address}/api/sql", content="SELECT 1").status_code == 401
    have_trained(home, "live")
    headers = {"authorization": f"Bearer {token}"}
    query = "SELECT points FROM runs WHERE name = 'live' AND state = 'finished'"
    wait_until(
        lambda: (
            httpx.post(f"{address}/api/sql", content=query, headers=headers, timeout=60).json() == [{"points": 101}]
        ),
        what="the run in SQL",
    )
    assert 'run="live",metric="val/acc",reduce="mean"} ' in httpx.get(f"{address}/metrics", timeout=60).text
    assert rows(home, "verify", "live")["verdict"] == "complete"
    with ThreadPoolExecutor(30) as clients:
        orders = [clients.submit(order_snapshot, f"{address}/api/snapshots", headers) for _ in range(30)]
        wait_until((home / "snapshots").is_dir, what="a snapshot has begun")
        assert consumer.stop() == 0
        assert {order.result() for order in orders} <= {200, 503, None}
    assert "Traceback" not in consumer.log.read_text()
    assert not (home / "server.json").exists()
    assert [run["name"] for run in rows(home, "runs")] == ["live"]


def test_a_killed_consumer_goes_on_where_it_was(home: Path, consumer: Consumer) -> None:
    """Its stale address confuses nobody, and no row comes twice."""
    have_trained(home, "live")
    wait_until(lambda: [run["points"] for run in rows(home, "runs")] == [101], what="the run of 101 points")
    consumer.process.kill()
    consumer.process.wait()
    assert (home / "server.json").exists()
    receipt = rows(home, "verify", "live")
    assert (receipt["verdict"], receipt["emitters"][0]["twice"]) == ("complete", 0)


def test_a_killed_trainers_journal_is_sent_by_the_next_reader(home: Path) -> None:
    """What returned from log() is there, and the run is crashed, not running."""
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, "killed", "wait"],
        env=clean_environment(home), cwd=home.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert [(run["state"], run["points"]) for run in rows(home, "runs")] == [("crashed", 101)]
    assert rows(home, "verify", "killed")["verdict"] == "complete"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumer]:
    """One that nobody stops."""
    made = Consumer(tmp_path_factory.mktemp("standing") / "home")
    yield made
    made.process.kill()
    made.process.wait()


def test_a_port_in_use_is_one_sentence(tmp_path: Path, standing: Consumer) -> None:
    """The other home's database is given back."""
    other = tmp_path / "other"
    answer = ask(other, "up", "--port", str(standing.port))
    assert answer.returncode == 1
    assert answer.stderr == (
        f"runwire: Port {standing.port} on 127.0.0.1 is in use by another program: "
        "stop it or choose another port with --port or RUNWIRE_PORT.\n"
    )
    assert rows(other, "runs") == []


def test_a_second_consumer_of_a_home_names_the_first(standing: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wait, in one sentence."""
    monkeypatch.setattr("runwire_cli.up.LOCK_WAIT_SECONDS", 0.5)
    answer = ask(standing.home, "up", "--port", "0")
    assert answer.returncode == 1
    assert f"in use by pid {standing.process.pid} on " in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_useless_token_keeps_it_from_starting(home: Path) -> None:
    """An empty variable is absent; a short one is refused."""
    answer = ask(home, "up", "--port", "0", token="short")  # noqa: S106 - a case
    assert answer.returncode == 1
    assert "The token has 5 characters" in answer.stderr


def test_under_tls_nothing_more_is_typed_at_home_and_tokens_come_and_go(home: Path, tmp_path: Path) -> None:
    """Readers of the home know its certificate; a token opens the running consumer until it is revoked."""
    files = make_certificate(tmp_path, names="DNS:localhost")
    consumer = Consumer(home, "--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    try:
        train(home, "first")
        wait_until(lambda: [run["points"] for run in rows(home, "runs")] == [101], what="the run of 101 points")
        token = ask(home, "token", "create", "page", "--project", "digits").stdout.strip()
        with httpx.Client(
            base_url=f"https://localhost:{consumer.port}",
            headers={"authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(files.certificate)),
        ) as asking:
            assert [run["name"] for run in asking.get("/api/runs").json()] == ["first"]
            assert asking.post("/api/snapshots").status_code == 403
            assert ask(home, "token", "revoke", "page").returncode == 0
            assert asking.get("/api/runs").status_code == 401
        assert consumer.stop() == 0
        log = consumer.log.read_text()
        assert f"answering at {consumer.address}" in log
        assert not any(word in log for word in ("Traceback", "without TLS", token))
    finally:
        consumer.process.kill()
        consumer.process.wait()


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("node-7", True)],  # noqa: S104
)
def test_a_face_without_tls_is_said_aloud(
    home: Path, caplog: pytest.LogCaptureFixture, host: str, *, warned: bool
) -> None:
    """Where others could listen in."""
    settings = read_command_settings(environ={"RUNWIRE_HOME": str(home)}, host=host)
    with caplog.at_level(logging.WARNING, "runwire"):
        assert up._tls(settings) is None
    assert (f"Listening on {host} without TLS" in caplog.text) is warned


def test_bad_tls_files_keep_it_from_starting(home: Path) -> None:
    """Before the database is opened, in one sentence."""
    for arguments, words in (
        (("--tls-cert", "a.crt"), "give both --tls-cert and --tls-key"),
        (("--tls-cert", "a.crt", "--tls-key", "a.key"), "The TLS certificate a.crt can't be read: No such file"),
    ):
        answer = ask(home, "up", "--port", "0", *arguments)
        assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)
        assert words in answer.stderr
    assert not (home / "runwire.duckdb").exists()


WRONG_QUESTIONS = [
    (("show", "nothing"), "There is no run 'nothing'"),
    (("verify", "nothing"), "There is no run 'nothing'"),
    (("sql", "DROP TABLE runs"), "Only one SELECT"),
    (("sql", "SELECT * FROM nothing"), "no relation 'nothing'"),
    (("sql", "SELECT nothing FROM runs"), "nothing"),
]


def test_wrong_questions_are_one_sentence(home: Path, consumer: Consumer) -> None:
    """By the consumer and, for some, without it, once Ctrl-C has ended it quietly."""
    for arguments, part in (*WRONG_QUESTIONS, *WRONG_QUESTIONS[::2]):
        answer = ask(home, *arguments)
        assert answer.returncode == 1
        assert part in answer.stderr
        assert answer.stderr.count("\n") == 1
        assert answer.stdout == ""
        if arguments is WRONG_QUESTIONS[-1][0] and consumer.process.poll() is None:
            assert consumer.stop(signal.SIGINT) == 0
            assert "Traceback" not in consumer.log.read_text()
