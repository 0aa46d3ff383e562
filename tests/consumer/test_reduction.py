"""Which runs give up their full resolution: none that may still change, and none whose project has no rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runwire_consumer import reduction
from runwire_consumer.database import MEMORY
from runwire_consumer.errors import SettingsError
from runwire_consumer.reduction import DAY_MICROS, Due, Retention
from runwire_consumer.runstate import RunState
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, store_all

RULES = Retention({"digits": 30})
DAY_30 = DAY_ONE + 30 * DAY_MICROS


@pytest.mark.parametrize(
    ("texts", "days", "others"),
    [
        ([], {}, None),
        (["digits=30d"], {"digits": 30}, None),
        (["digits=30d", "digits=7d,*=90d"], {"digits": 7}, 90),
        ([" a,b = 3 d , c=d=4d,*=1d"], {"a,b ": 3, "c=d": 4}, 1),
        (["a\nb=36500d"], {"a\nb": 36_500}, None),
    ],
)
def test_rules(texts: list[str], days: dict[str, int], others: int | None) -> None:
    """Later ones count; a project may be called almost anything."""
    found = Retention.of(texts)
    assert (found.days, found.others, bool(found)) == (days, others, bool(texts))


@pytest.mark.parametrize(
    "text", ["30d", "=30d", "digits=30", "digits=0d", "digits=36501d", "a=3d;b=4d", "a=3dd", "a=-3d"]
)
def test_what_is_no_rule(text: str) -> None:
    """It is quoted, with what would be one."""
    with pytest.raises(SettingsError, match="write PROJECT=30d"):
        Retention.of([text])


def finished(run: Emitter, **fields: Any) -> list[Message]:
    """A run of one row that ended."""
    return [
        run.starts(**fields),
        run.logs({0: {"loss": 1.0}}),
        run.says(events.RunEnded, status="finished"),
        run.signals(events.EmitterEnded, next_seq=run.seq, how="finished"),
    ]


def lively(run: Emitter) -> list[Message]:
    """It never says that it ended."""
    return [run.starts(), run.logs({0: {"loss": 1.0}})]


def with_a_hole(run: Emitter) -> list[Message]:
    """One row never came."""
    first = [run.starts()]
    run.seq += 1
    return [*first, *finished(run)[1:]]


def with_a_dead_row(run: Emitter) -> list[Message]:
    """It may be replayed after an upgrade."""
    start, row = run.starts(), run.logs({0: {"loss": 1.0}})
    dead = replace(run.logs({1: {"loss": 1.0}}), payload=b"\0")
    end = run.says(events.RunEnded, status="finished")
    return [start, row, dead, end, run.signals(events.EmitterEnded, next_seq=run.seq, how="finished")]


def renamed(run: Emitter) -> list[Message]:
    """An edit is no sign of life of a trainer."""
    edit = Emitter("e", run.run_id, attempt="edit", started=DAY_30 / SECOND)
    return [*finished(run), edit.says(events.RunEdited, name="x")]


def deleted(run: Emitter) -> list[Message]:
    """The purge has it."""
    return [*finished(run), Emitter("e", run.run_id, attempt="edit").says(events.RunDeleted)]


def store_of(story: list[Message], state: str) -> Store:
    """A store whose every run is in this state."""
    store = Store.open(MEMORY)
    store_all(store, story)
    keys = [key for (key,) in store.cursor().execute("SELECT run_key FROM store.runs").fetchall()]
    store_all(store, [], {key: RunState(state, DAY_ONE, "why") for key in keys})
    return store


@pytest.mark.parametrize(
    ("tell", "state", "retention", "reduced"),
    [
        (finished, "finished", RULES, True),
        (finished, "failed", Retention({}, 30), True),
        (renamed, "crashed", RULES, True),
        (finished, "finished", Retention({"other": 1}), False),
        (finished, "finished", Retention({"digits": 31}, 1), False),
        (finished, "running", RULES, False),
        (finished, "stuck", RULES, False),
        (finished, "lost", RULES, False),
        (lively, "finished", RULES, False),
        (with_a_hole, "finished", RULES, False),
        (with_a_dead_row, "finished", RULES, False),
        (lambda run: finished(run, world_size=2), "finished", RULES, False),
        (deleted, "finished", RULES, False),
    ],
)
def test_who_is_reduced(
    tell: Callable[[Emitter], list[Message]],
    state: str,
    retention: Retention,
    reduced: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Thirty days and some seconds after it was last heard of."""
    store = store_of(tell(Emitter("a")), state)
    found = reduction.due(store, retention, DAY_30 + 60 * SECOND)
    assert found == ([Due(0, 30)] if reduced else [])
    assert reduction.due(store, retention, DAY_30 + 60 * SECOND, only=1) == []
    assert reduction.due(store, retention, DAY_30 - SECOND) == []
    store.close()
