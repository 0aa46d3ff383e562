"""The questions of the HTTP face and the commands: runs, one run, a run's receipt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from runwire_consumer import queries
from runwire_consumer.errors import RunAmbiguous, RunNotFound
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.values import json_text
from tests.consumer.small_store import DIGITS, OLD, OTHER, small_store


@pytest.fixture(scope="module")
def ask() -> Iterator[queries.Ask]:
    database = small_store()
    sandbox = Sandbox(database.cursor)

    def run(sql: str, params: Mapping[str, Any]) -> Sequence[queries.Row]:
        return list(sandbox.run(sql, params).objects())

    yield run
    database.close()


def test_the_newest_run_comes_first(ask: queries.Ask) -> None:
    """Of all projects or of one."""
    assert [row["run_id"] for row in queries.list_runs(ask)] == [OTHER, DIGITS, OLD]
    assert [row["run_id"] for row in queries.list_runs(ask, "old")] == [OLD]
    assert len(queries.list_runs(ask, limit=1)) == 1
    assert queries.list_runs(ask, "nothing") == []


@pytest.mark.parametrize(
    ("wanted", "run_id"), [(DIGITS, DIGITS), ("aaaa", DIGITS), ("cccccc", OLD), ('odd "name"\n=1', OLD)]
)
def test_a_run_is_found_by_id_begin_or_name(ask: queries.Ask, wanted: str, run_id: str) -> None:
    """As long as it is meant alone."""
    assert queries.find_run(ask, wanted) == run_id


@pytest.mark.parametrize("wanted", ["", "aaa", "nothing", "' OR 1=1 --", "%"])
def test_an_unknown_run_is_one_sentence(ask: queries.Ask, wanted: str) -> None:
    """It says how to list the runs."""
    with pytest.raises(RunNotFound, match=r"There is no run .*runwire runs"):
        queries.find_run(ask, wanted)


def test_an_ambiguous_name_lists_the_ids(ask: queries.Ask) -> None:
    """Whoever asked can copy one."""
    with pytest.raises(RunAmbiguous, match=f"2 runs are called 'brave-fox-1'.*{OTHER}.*{DIGITS}"):
        queries.find_run(ask, "brave-fox-1")


def test_one_run_is_shown_whole(ask: queries.Ask) -> None:
    """With what is in it and what became of it."""
    run = queries.show_run(ask, DIGITS)
    assert (run["name"], run["state"], run["commit"]) == ("brave-fox-1", "running", "c0ffee")
    assert run["params"] == {"lr": "0.1"}
    assert run["param_types"] == {"lr": "float"}
    assert run["last"] == {"train/loss": "NaN", "val/acc": "Infinity"}
    assert [metric["metric"] for metric in run["metrics"]] == ["train/loss", "val/acc"]
    assert [attempt["attempt"] for attempt in run["attempt_list"]] == [1, 2]
    assert [(emitter["rank"], emitter["ended"]) for emitter in run["emitters"]] == [
        (0, "failed"),
        (0, None),
        (1, "finished"),
    ]
    assert [alert["title"] for alert in run["alerts"]] == ["look"]
    assert {gap["kind"] for gap in run["gaps"]} == {"lost", "missing"}
    assert json_text(run)
    with pytest.raises(RunNotFound):
        queries.show_run(ask, "nothing")


def test_times_without_a_zone_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the consumer runs: a dashboard's time range must not be off by an hour."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    database = small_store()
    sandbox = Sandbox(database.cursor)
    sql = "SELECT TIMESTAMP '2023-11-14 22:13:20' = to_timestamp(1700000000) AS same"
    assert list(sandbox.run(sql).objects()) == [{"same": True}]
    database.close()


def test_the_receipt_tells_open_from_missing(ask: queries.Ask) -> None:
    """Two rows of rank 1 are unexplained, three declared lost; rank 0's second process still lives."""
    receipt = queries.receipt(ask, DIGITS)
    rows = [(e.rank, e.sent, e.stored, e.lost, e.missing, e.open, e.faulty) for e in receipt.emitters]
    assert rows == [
        (0, 10, 10, 0, 0, False, False),
        (0, None, 7, 0, 0, True, False),
        (1, 10, 5, 3, 2, False, True),
    ]
    assert receipt.verdict == "faulty"


def test_the_receipt_of_a_whole_run_is_complete(ask: queries.Ask) -> None:
    """Everything sent is stored, nothing twice."""
    receipt = queries.receipt(ask, OTHER)
    assert receipt.verdict == "complete"
    assert [(e.sent, e.stored, e.missing, e.twice) for e in receipt.emitters] == [(4, 4, 0, 0)]


def test_dead_rows_and_doubled_points_are_faults() -> None:
    """The count of doubles is taken from the points, not from the ledger."""
    database = small_store()
    sandbox = Sandbox(database.cursor)
    cursor = database.cursor()
    cursor.execute("INSERT INTO store.points VALUES (4, 1, 1, 0.5)")

    def ask(sql: str, params: Mapping[str, Any]) -> Sequence[queries.Row]:
        return list(sandbox.run(sql, params).objects())

    assert queries.receipt(ask, OLD).emitters[0].dead == 1
    assert queries.receipt(ask, OLD).verdict == "faulty"
    assert queries.receipt(ask, OTHER).emitters[0].twice == 1
    assert queries.receipt(ask, OTHER).verdict == "faulty"
    cursor.execute("UPDATE store.emitters SET world_size = 3")
    assert queries.receipt(ask, DIGITS).ranks_unseen == (2,)
    with pytest.raises(RunNotFound):
        queries.receipt(ask, "nothing")
    cursor.close()
    database.close()


def test_a_receipt_without_faults_is_open_until_everybody_ended() -> None:
    """A rank that was never heard of keeps it open."""
    emitter = queries.EmitterReceipt("e", 0, 1, "train", None, None, 5, 0, 0, 1, 0, complete=False)
    assert queries.Receipt("r", "n", (emitter,), ()).verdict == "open"
    assert queries.Receipt("r", "n", (), (1,)).verdict == "open"
    assert not math.isnan(emitter.missing)
