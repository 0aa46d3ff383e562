"""The guide to SQL: every example runs over real training runs, and it names all that can be asked and nothing else."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.testing import capture
from runwire_consumer.allowlist import MACROS, RELATIONS, TABLE_MACROS
from runwire_consumer.sandbox import Sandbox
from runwire_consumer.service import Service
from runwire_consumer.sources.memory import MemoryLog, MemorySource
from runwire_consumer.store import Store
from tests.docs.blocks import GUIDES
from tools.dictionary import tables, written

TEXT = (GUIDES / "sql.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = _BLOCK.findall(TEXT)
# In a healthy store nothing is found by these: rows that are missing, letters that could not be stored; nor files,
# which trainers can't log yet.
QUIET = ("FROM artifacts", "FROM gaps", "FROM dead_letters", "FROM removals", "NOT complete", "state NOT IN")


def train(run: runwire.Run, steps: range, rate: float, *, rank: int = 0) -> None:
    """Logistic regression on points of two classes: rank by rank other points."""
    draw = np.random.default_rng(rank)
    points = draw.normal(size=(64, 4))
    labels = (points @ [1.0, -2.0, 0.5, 0.0] > 0).astype(float)
    weights = np.zeros(4)
    run.define("val/acc", best="max")
    run.define("val/loss", best="min")
    for step in steps:
        with run.time("data"):
            batch = draw.choice(48, 16)
            time.sleep(0.01 if rank == 2 else 0)  # the slow one
        guess = 1 / (1 + np.exp(-points[batch] @ weights))
        loss = -np.mean(np.log(np.where(labels[batch] > 0, guess, 1 - guess)))
        weights -= rate * points[batch].T @ (guess - labels[batch]) / 16
        run.log({"train/loss": float(loss)}, step=step)
        if step % 5 == 0:
            far = points[48:] @ weights
            acc = float(np.mean((far > 0) == labels[48:]))
            run.log(
                {"val/acc": acc, "val/loss": float(np.mean(np.log1p(np.exp(-far * (2 * labels[48:] - 1)))))}, step=step
            )


def train_all(folder: Path, url: str) -> None:
    """Two runs of a sweep, and one on three ranks that was restarted behind step 9."""
    given: dict[str, Any] = {"project": "digits", "url": url, "home": folder}
    for name, rate in [("base", 0.5), ("low-lr", 0.05)]:
        with runwire.init(name=name, group="sweep", params={"lr": rate, "batch": 16}, **given) as run:
            train(run, range(20), rate)
            run.alert("slow start", "the loss hardly falls", level="info")
    for attempt, steps in enumerate([range(14), range(10, 24)]):
        for rank in range(3):
            with pytest.MonkeyPatch.context() as patch:
                for variable, value in {
                    "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 3, "GROUP_RANK": 0,
                    "TORCHELASTIC_RUN_ID": "job-7", "TORCHELASTIC_RESTART_COUNT": attempt,
                    "MASTER_ADDR": "localhost", "MASTER_PORT": 29_500,
                }.items():  # fmt: skip
                    patch.setenv(variable, str(value))
                resumed = 9 if attempt else None
                with runwire.init(
                    name="ddp", run_id="ddp", params={"lr": 0.5}, resumed_from_step=resumed, **given
                ) as run:
                    train(run, steps, 0.5, rank=rank)
                    if rank != 1:  # rank 1 measures no pace of its own
                        run.log({"time/step": 0.01 + rank}, step=steps[-1])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """What users ask, over what the real library sent and the real consumer stored."""
    folder = tmp_path_factory.mktemp("sql")
    log = MemoryLog()
    with capture() as captured:
        train_all(folder / "home", captured.url)
        for message in captured.messages:
            log.append(message.envelope.to_headers(), message.payload, partition="0")
    asyncio.run(Service(Store.open(folder / "runwire.duckdb"), [MemorySource(log)]).run_once())
    store = Store.open(folder / "runwire.duckdb")
    yield Sandbox(store.cursor)
    store.close()


@pytest.mark.parametrize("sql", EXAMPLES, ids=lambda sql: " ".join(sql.split())[:50])
def test_an_example_runs(sandbox: Sandbox, sql: str) -> None:
    """And finds something, but where there is nothing to complain of."""
    found = list(sandbox.run(sql).rows())
    assert bool(found) is not any(words in sql for words in QUIET)


ANSWERS = [
    ("SELECT rank, slowdown > 2 FROM stragglers('ddp', metric := 'time/data') WHERE straggler", [(2, True)]),
    ("SELECT attempt, count(*) FROM metrics WHERE superseded AND metric = 'train/loss' GROUP BY 1", [(1, 12)]),
    ("SELECT count(*) FROM curves WHERE run = 'ddp' AND metric = 'train/loss' AND ranks = 3", [(24,)]),
    ("SELECT params FROM compare(['base', 'low-lr'], 'val/loss') ORDER BY run", [({"lr": "0.5"},), ({"lr": "0.05"},)]),
    ("SELECT count(*) FROM compare(['base', 'low-lr'], 'val/acc') WHERE best IS NULL", [(0,)]),
    ("SELECT max(relative_seconds(run_id, time) - active_seconds(run_id, time)) >= 0 FROM metrics", [(True,)]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "expected"), ANSWERS)
def test_what_it_says_of_these_runs(sandbox: Sandbox, sql: str, expected: list[Any]) -> None:
    """The story of the runs that the guide tells."""
    found = [
        tuple(dict(cell) if isinstance(cell, (list, dict)) else cell for cell in row) for row in sandbox.run(sql).rows()
    ]
    assert found == expected


def test_everything_that_can_be_asked_is_in_it() -> None:
    """Each relation, macro and function that a query may name has its heading and its table; there are no others."""
    headings = re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)
    assert sorted(headings) == sorted(RELATIONS | TABLE_MACROS | MACROS)
    assert re.findall(r"<!-- columns of (\w+):", TEXT) == [name for name in headings if name not in MACROS]
    assert re.findall(r"<!-- call of (\w+):", TEXT) == headings


def test_its_tables_are_what_the_store_says() -> None:
    """Every column with its type, unit and meaning (make modules)."""
    assert written(TEXT) == TEXT


def test_the_store_describes_what_it_has() -> None:
    """No relation, macro or column without a meaning, and no meaning without its column."""
    store = Store.open(Path(":memory:"))
    cursor = store.cursor()

    def names(sql: str) -> set[Any]:
        return {row[0] if len(row) == 1 else row for row in cursor.execute(sql).fetchall()}

    described = names("SELECT name FROM relations WHERE kind = 'relation'")
    macros = names("SELECT name FROM relations WHERE kind = 'macro'")
    functions = names("SELECT name FROM relations WHERE kind = 'function'")
    ours = "FROM duckdb_functions() WHERE schema_name = 'main' AND NOT internal AND function_type"
    assert described == names("SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal")
    assert described == RELATIONS
    assert macros == names(f"SELECT function_name {ours} = 'table_macro'") == TABLE_MACROS
    assert functions == names(f"SELECT function_name {ours} = 'macro'") == MACROS
    assert names("FROM columns WHERE meaning IS NULL") == set()
    assert names(
        "SELECT relation || '.' || name FROM store.described_columns d "
        "WHERE NOT EXISTS (FROM columns c WHERE c.name = d.name AND d.relation IN (c.relation, '*'))"
    ) == set()  # fmt: skip
    calls = {
        "curve": "'x', 'y', 10", "smoothed": "NULL, 'y'", "rank_spread": "NULL, 'y'", "stragglers": "NULL",
        "compare": "NULL, 'y'",
    }  # fmt: skip
    for macro in sorted(macros):
        found = cursor.execute(f"DESCRIBE SELECT * FROM {macro}({calls[macro]})").fetchall()  # noqa: S608 - names of our own
        said = cursor.execute("SELECT name, type FROM columns WHERE relation = ?", [macro]).fetchall()
        assert [row[:2] for row in found] == said
    store.close()


def test_the_marker_of_a_relation_that_is_gone_is_found() -> None:
    with pytest.raises(KeyError):
        written("<!-- columns of nothing: written by tools/dictionary.py -->\n<!-- end of table -->")
    assert ("columns", "runs") in tables()
