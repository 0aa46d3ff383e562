"""Tables fit the terminal: no number, id or other word is broken, columns go before that."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console, RenderableType

from runwire_cli import views
from runwire_cli.output import Grid, cell
from runwire_consumer.queries import EmitterReceipt, Receipt

NOW = datetime(2025, 1, 10, 12, 0, tzinfo=UTC)
WIDTHS = (20, 40, 60, 80, 100, 120, 140, 200)
RUNS = [
    {
        "name": name, "run_id": run_id, "project": "digits", "state": "finished",
        "started_at": "2025-01-10T11:52:51Z", "duration_seconds": 26.4, "points": 1_928_600, "commit": "c0ffee11" * 5,
        "dirty": True, "params": {"lr": lr, "optimizer": "sgd", "average_steps": "200"},
        "best": {"train/loss": 0.00256273, "val/acc": 0.913889}, "last": {"train/grad_norm": 0.304955},
    }
    for name, run_id, lr in [
        ("polite-juniper-181", "nkpkdbwzhuvyf2tv", "0.3"), ("noble-pine-687", "jvfkcl6d7edgjxfe", "0.02"),
    ]
]  # fmt: skip
EMITTERS = tuple(
    EmitterReceipt(
        f"{rank:032x}", rank, 1, "train", "finished", 12_066_000, 12_066_000, 0, 0, 0, 0, complete=True
    )
    for rank in range(4)
)  # fmt: skip
RECEIPT = Receipt("jvfkcl6d7edgjxfe", "noble-pine-687", EMITTERS, ())


def printed(shown: RenderableType, width: int) -> str:
    """What a terminal of this width gets."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(shown: RenderableType) -> set[str]:
    """All words of a table, from a terminal that is wide enough."""
    return set(printed(shown, 500).split())


@pytest.mark.parametrize("width", WIDTHS)
def test_a_receipt_breaks_nothing(width: int) -> None:
    """At 80 columns ranks and counts are there, the emitters' ids are not."""
    table = views.receipt_table(RECEIPT)
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    if width > 40:
        assert set(text.split()) <= words(table)
        assert text.count("12,066,000") == 8
    if width == 80:
        assert text.split()[:7] == ["rank", "attempt", "sent", "stored", "dead", "lost", "missing"]


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_runs_break_nothing(width: int) -> None:
    """Name, id, state and best values are there at 80 columns, each in one piece."""
    table = views.runs_table(RUNS, NOW, width)
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert set(text.split()) <= words(views.runs_table(RUNS, NOW, 500)) | words(table)
    assert all(part in text.split() for part in ("polite-juniper-181", "nkpkdbwzhuvyf2tv", "finished"))
    assert width < 80 or "train/loss=0.00256273" in text.split()


def test_what_the_training_logged_comes_first() -> None:
    """System metrics stand behind, and their units are no events."""
    last = {"a/b": 1.0, "system/cpu_percent": 2.0, "train/loss": 3.0}
    text = printed(views.runs_table([{**RUNS[0], "best": {}, "last": last}], NOW, 500), 500)
    assert text.index("train/loss=3") < text.index("system/cpu_percent=2")
    lines = [{"metric": name, "last_step": 1, "ranks": 1, "last_time": "2025-01-10T11:52:51Z"} for name in last]
    table = views._metrics({"metrics": lines, "last": last, "best": {}}, NOW)
    assert table is not None
    text = printed(table, 200)
    assert text.index("a/b") < text.index("train/loss") < text.index("system/cpu_percent")
    event = {"time": "2025-01-10T11:52:51Z", "rank": 0, "attempt": 1, "type": "MetricDefined"}
    bodies = [f'{{"metric": "{name}", "unit": "x", "best": null}}' for name in last]
    table = views._events({"events": [{**event, "body": body} for body in bodies]}, NOW)
    assert table is not None
    assert [name in printed(table, 200) for name in last] == [True, False, True]


def test_a_row_too_wide_for_any_table_is_printed_as_lines() -> None:
    """Nothing of an answer to SQL is left out."""
    columns = [f"column_{at}" for at in range(20)]
    rows = [{name: 123_456_789 + at for at, name in enumerate(columns)} for _ in range(2)]
    lines = printed(views.result_table(columns, rows), 80).splitlines()
    assert [line.split() for line in lines[:2]] == [["column_0", "123456789"], ["column_1", "123456790"]]
    assert len(lines) == 2 * 20 + 1


def test_prose_takes_what_is_left() -> None:
    """A long word of a sentence is broken before a column goes."""
    table = Grid("rank", "error", prose=("error",), drop=("rank",))
    table.add_row(cell(1), cell(f"OSError: {'x' * 100} is gone"))
    text = printed(table, 40)
    assert text.split()[0] == "rank"
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("x") == 100
