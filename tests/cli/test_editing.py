"""`runwire edit` and `runwire delete`: orders in the log of the trainers, exactly once, with and without a consumer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runwire import _orders
from runwire._errors import TransportError
from runwire._memory import FAULTS, TOPICS, Fault
from runwire._orders import Order, messages_of, send_orders
from runwire_cli.editing import changed_tags
from runwire_cli.entry import run
from runwire_cli.errors import CommandError
from runwire_schemas import events
from runwire_schemas.codec import decode
from runwire_schemas.events import EmitterEnded, RunDeleted, RunEdited
from runwire_schemas.topics import message_key, parse_url
from tests.cli.data_home import ODD, send, small_home
from tests.consumer.telling import DAY_ONE, Emitter

Asking = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Asking:
    """Runs a command on a small home: (exit code, stdout, stderr)."""
    small_home(tmp_path / "home")
    for name in ("RUNWIRE_URL", "RUNWIRE_SERVER", "RUNWIRE_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def asking(*words: str) -> tuple[int, str, str]:
        code = run([*words, "--home", str(tmp_path / "home")])
        out, err = capfd.readouterr()
        return code, out, err

    return asking


def described(ask: Asking, run_id: str) -> list[Any]:
    """What a run is called."""
    found = json.loads(ask("show", run_id, "--json")[1])
    return [found[name] for name in ("name", "group", "tags", "notes")]


def test_edits_without_a_consumer(ask: Asking) -> None:
    """Each names only what changes; a run is found by its name, its id, and the begin of it; what is empty clears."""
    code, out, err = ask("edit", "calm-river-1", "--name", "new name", "--tag", "+x", "--group", ODD)
    assert (code, "calm-river-1 (whole): name 'new name'" in out, "whoever reads it next" in err) == (0, True, True)
    assert described(ask, "whole") == ["new name", ODD, ["base", "x"], None]
    assert ask("edit", "whol", "--tag", "-base", "--note", "a\nb", "--json")[0] == 0
    assert described(ask, "whole") == ["new name", ODD, ["x"], "a\nb"]
    code, out, _ = ask("edit", "whole", "--note", "", "--group", "", "--tag", "", "--json")
    assert json.loads(out) == {"run_id": "whole", "notes": "", "group": "", "tags": [], "applied": False}
    assert described(ask, "whole") == ["new name", "", [], ""]


def test_a_clock_that_is_behind_loses_to_no_earlier_edit(ask: Asking, tmp_path: Path) -> None:
    """Somebody's clock was years ahead."""
    ahead = Emitter("7", "whole", attempt="edit", started=10**9)
    send(tmp_path / "home", [ahead.says(events.RunEdited, name="ahead")])
    assert described(ask, "whole")[0] == "ahead"
    assert ask("edit", "whole", "--name", "now")[0] == 0
    assert described(ask, "whole")[0] == "now"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("edit", "whole"), "Say what to change"),
        (("edit", "whole", "--name", ""), "a run needs a name"),
        (("edit", "whole", "--name", "x" * 1_025), "name has 1,025 characters, at most 1,024"),
        (("edit", "whole", "--note", "x" * 65_537), "note has 65,537 characters"),
        (("edit", "whole", "--tag", "x", "--tag", "+y"), "not both"),
        (("edit", "nobody", "--name", "x"), "There is no run 'nobody'"),
        (("delete", "whole"), "add --yes"),
        (("delete", "whole", "nobody", "--yes"), "There is no run 'nobody'"),
    ],
)
def test_what_cant_be_done_changes_nothing(ask: Asking, tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    """One sentence says why, and nothing goes into the log."""
    code, out, err = ask(*words)
    assert (code != 0, out) == (True, "")
    assert sentence in err
    assert len(list((tmp_path / "home" / "topic").iterdir())) == 1


def test_a_deletion_stays_after_a_replay_and_after_late_rows(ask: Asking, tmp_path: Path) -> None:
    """Several at once, also one that goes on; the database is made anew from the log."""
    code, out, _ = ask("delete", "whole", "brave-fox-2", "whole", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"deleted": ["whole", "going"], "applied": False})
    going = Emitter("5", "going", started=300, seq=2)
    send(tmp_path / "home", [going.logs({1: {"loss": 2.0}})])
    for _ in range(2):
        runs = json.loads(ask("runs", "--json")[1])
        assert [one["run_id"] for one in runs] == ["died", "../odd\n"]
        assert json.loads(ask("sql", "SELECT count(*) AS n FROM metrics WHERE run_id <> 'died'", "--json")[1]) == [
            {"n": 4}
        ]
        assert ask("verify", "whole")[0] == 1
        for path in (tmp_path / "home").glob("runwire.duckdb*"):
            path.unlink()


def test_the_question(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what goes; anything but yes leaves all as it is."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return len(asked) > 1

    monkeypatch.setattr("typer.confirm", confirm)
    code, _, err = ask("delete", "brave-fox-2", "whole")
    assert (code, "Nothing was deleted." in err, "running, and goes on" in err, "15" in err) == (1, True, True, True)
    assert ask("delete", "whole")[0] == 0
    assert asked == ["Delete 2 runs?", "Delete 1 run?"]


def test_a_consumer_elsewhere_needs_its_log(monkeypatch: pytest.MonkeyPatch, ask: Asking) -> None:
    """Its address says nothing of the log that it reads."""
    monkeypatch.setenv("RUNWIRE_SERVER", "http://127.0.0.1:9")
    code, _, err = ask("edit", "whole", "--name", "x")
    assert (code, "set RUNWIRE_URL" in err) == (1, True)


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        (["a"], ["b", "c", "b"], ["b", "c"]),
        (["a"], ["+b", "+b"], ["a", "b"]),
        (["a", "b"], ["-a", "+c"], ["b", "c"]),
        (["a"], ["-z"], ["a"]),
        (["a"], [""], []),
        (["+x"], ["-+x", "+-y"], ["-y"]),
        (["a"], ["+"], ["a"]),
        ([f"t{n}" for n in range(100)], ["+one more", "-t0"], [*(f"t{n}" for n in range(1, 100)), "one more"]),
    ],
)
def test_tags(before: list[str], words: list[str], after: list[str]) -> None:
    assert changed_tags(before, words) == after


def test_too_many_tags() -> None:
    with pytest.raises(CommandError, match="101 tags"):
        changed_tags([f"t{n}" for n in range(100)], ["+x"])


def order(kind: type[RunEdited | RunDeleted] = RunEdited, **fields: Any) -> Order:
    """About one run."""
    return Order("digits", "a" * 16, kind, fields or {"name": "x"}, DAY_ONE)


def test_an_order_is_an_emitter_of_its_own() -> None:
    """One record with number 0 and its end, keyed by the run."""
    record, end = messages_of(order(), "e" * 32)
    assert decode(record.payload) == RunEdited("a" * 16, "e" * 32, 0, 0, DAY_ONE, name="x")
    assert decode(end.payload) == EmitterEnded("a" * 16, "e" * 32, 0, DAY_ONE, next_seq=1, how="finished")
    for message in (record, end):
        assert (message.envelope.project, message.envelope.attempt) == ("digits", "edit")
        assert message_key(message.envelope.run_id) == b"a" * 16


def test_an_order_is_sent_until_it_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same numbers each time, so that it counts once."""
    monkeypatch.setattr(_orders, "RETRY_SECONDS", 0.0)
    FAULTS["orders"] = [Fault(TransportError("not now"), 1), Fault(TransportError("not now"), 2)]
    ids = send_orders(parse_url("memory:orders"), [order(), order(RunDeleted, reason=None)])
    sent = [(one.envelope.emitter_id, one.envelope.type, one.envelope.first_seq) for one in TOPICS.pop("orders")]
    once = [
        (ids[0], "RunEdited", 0),
        (ids[0], "EmitterEnded", 0),
        (ids[1], "RunDeleted", 0),
        (ids[1], "EmitterEnded", 0),
    ]
    assert sent == [*once[:1], *once[:2], *once]


def test_an_order_that_isnt_taken_is_an_error() -> None:
    """Not in time, or never."""
    FAULTS["orders"] = [TransportError("not now")]
    with pytest.raises(TransportError, match="not now"):
        send_orders(parse_url("memory:orders"), [order()], seconds_max=0.2)
    FAULTS["orders"] = [TransportError("too large", refused=True)]
    with pytest.raises(TransportError, match="too large"):
        send_orders(parse_url("memory:orders"), [order()])
    TOPICS.pop("orders", None)
