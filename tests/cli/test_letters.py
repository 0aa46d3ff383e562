"""`runwire dead-letters`: what it prints, and what it has done, on the file of a home where no consumer runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_cli.entry import run
from runwire_cli.letters import hex_dump
from runwire_consumer.repair import doubt
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_consumer.writing import Moment, Writer
from tests.consumer.newer_trainers import from_newer, upgrade
from tests.consumer.telling import DAY_ONE, RUN, Emitter, in_log

SIGN = "\N{REPLACEMENT CHARACTER}"
Asking = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose store has read a start, three letters (newer, garbage, removed by retention) and a good batch."""
    trainer = Emitter("a")
    start = trainer.starts()
    newer = from_newer(trainer.logs({1: {"loss": 1.0}, 2: {"loss": 2.0}}))
    odd = [("\x1b[2Jname", b"\x1b]0;title\x07"), ("bytes", b"\xff"), ("none", None)]
    garbage = replace(newer, payload=b"\x1b[31m=cmd\x00\xff" * 3, headers=odd)
    gone = Message("kafka://b/t", "0", 5, 10, DAY_ONE, (), b"", damage="Records 5 to 9 were removed.")
    folder = tmp_path / "home"
    writer = Writer(Store.open(folder / "runwire.duckdb"))
    moment = Moment(DAY_ONE + 10**9, at_tail=False, judged_at=None)
    writer.write(in_log([start, newer, garbage, trainer.logs({3: {"loss": 3.0}})]), moment)
    writer.write([gone], moment)
    writer.close()
    return folder


@pytest.fixture
def ask(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Asking:
    """Runs a sub-command on the home: (exit code, stdout, stderr)."""
    monkeypatch.setenv("RUNWIRE_URL", f"dir:{home / 'topic'}")
    for name in ("RUNWIRE_SERVER", "RUNWIRE_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def asking(*words: str) -> tuple[int, str, str]:
        code = run(["dead-letters", *words, "--home", str(home)])
        out, err = capfd.readouterr()
        return code, out, err

    return asking


def test_list_as_json_and_csv(ask: Asking) -> None:
    """The newest first; filters by status, reason and run; a limit."""
    code, out, _ = ask("list", "--json")
    letters = json.loads(out)
    assert code == 0
    assert {(one["status"], one["whole"], one["first_seq"], one["run_id"]) for one in letters} == {
        ("dead", False, None, None),
        ("dead", True, None, None),
        ("dead", True, 1, RUN),
    }
    assert len(json.loads(ask("list", "--json", "--reason", "UPGRADE the consumer")[1])) == 1
    assert len(json.loads(ask("list", "--json", "--run", RUN[:5])[1])) == 1
    assert json.loads(ask("list", "--json", "--status", "replayed")[1]) == []
    rows = list(csv.DictReader(io.StringIO(ask("list", "--csv", "--limit", "2")[1])))
    assert len(rows) == 2
    assert set(rows[0]["whole"]) <= set("truefalse")
    assert ask("list", "--reason", "nothing says this")[2].startswith("No dead letters with these filters in ")
    code, _, err = ask("list", "--status", "odd")
    assert code == 2
    assert "none of dead, replayed, discarded, all" in err


def test_show_is_safe_for_a_terminal(ask: Asking) -> None:
    """Headers, reason, place and bytes; no escape sequence of a letter reaches the terminal."""
    letters = json.loads(ask("list", "--json")[1])
    garbage = next(one for one in letters if "Avro marker" in one["reason"] or "lacks" in one["reason"])
    code, out, _ = ask("show", garbage["letter_id"][:8])
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    for words in (
        garbage["letter_id"], "memory:log", "can be replayed", f"{SIGN}[2Jname", "base64", "null",
        "00000000  1b 5b 33 31 6d 3d 63 6d 64 00 ff 1b 5b 33 31 6d  .[31m=cmd...[31m",
    ):  # fmt: skip
        assert words in out, words
    gone = next(one for one in letters if not one["whole"])
    assert "can't be replayed" in ask("show", gone["letter_id"])[1]
    code, _, err = ask("show", "0000000000000000")
    assert code == 1
    assert "No dead letter has the id" in err
    assert "headers" in json.loads(ask("show", garbage["letter_id"], "--json")[1])


def test_replay_and_discard_on_the_file(
    ask: Asking, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    """After the upgrade the newer trainer's rows are stored; what stays dead is said, then given up."""
    for words in ([], ["--all", "abcd"]):
        code, _, err = ask("replay", *words)
        assert code == 2
        assert "or all of them with --all" in err
    upgrade(monkeypatch)
    code, out, err = ask("replay", "--all")
    assert code == 1
    assert out.startswith("1 dead letters replayed: 2 rows, 2 points stored, 0 rows were there already.")
    assert "2 stay dead:" in err
    assert "nothing to replay" in err
    newer = json.loads(ask("list", "--json", "--status", "replayed")[1])[0]["letter_id"]
    code, out, err = ask("replay", newer, "--json")
    assert (code, json.loads(out)["settled"]) == (0, 1)
    assert json.loads(ask("discard", "--all", "--json")[1]) == {"discarded": 2, "settled": 0}
    assert ask("list")[2] == f"No dead letters in {home / 'runwire.duckdb'}.\n"
    assert len(json.loads(ask("list", "--json", "--status", "all")[1])) == 3
    assert run(["sql", "--csv", "SELECT step, value FROM metrics ORDER BY step", "--home", str(home)]) == 0
    assert capfd.readouterr().out == "step,value\n1,1.0\n2,2.0\n3,3.0\n"


def test_a_file_that_is_to_be_replaced_gets_no_orders(ask: Asking, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be done to a file that the next start sets aside would be undone: it is replaced first."""
    upgrade(monkeypatch)
    database = home / "runwire.duckdb"
    doubt(database, "A block can't be read.", DAY_ONE)
    code, out, err = ask("replay", "--all")
    assert (code, out[:24]) == (0, "0 dead letters replayed:")
    assert "A block can't be read. The file is set aside as" in err
    (aside,) = home.glob("runwire.duckdb.damaged-*[0-9Z]")
    store = Store.open(aside)
    assert store.cursor().execute("SELECT DISTINCT status FROM dead_letters").fetchall() == [("dead",)]
    store.close()


def test_no_database_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An order makes no database where none is."""
    assert run(["dead-letters", "replay", "--all", "--home", str(tmp_path / "none")]) == 1
    assert "There is no database" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"A\x00\x7f\xff ~", ["00000000  41 00 7f ff 20 7e                                A... ~"]),
        (bytes(17), ["00000000  " + "00 " * 16 + " " + "." * 16, "00000010  00" + " " * 47 + "."]),
    ],
)
def test_hex_dump(data: bytes, lines: list[str]) -> None:
    assert hex_dump(data) == lines
