"""Histories for the layout: runs and ranks that restart, late rows, odd values; and what is plainly true of them.

The plain definitions are the relations as version 6 had them, over one table of points and one of rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import duckdb

from runwire_consumer import rollups
from runwire_consumer.compaction import Limits, describe
from runwire_consumer.decode import decode
from runwire_consumer.migrations import migrate, migrations
from runwire_consumer.runstate import RunState
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, SECOND, Emitter, in_log

RUN_IDS = tuple(letter * 16 for letter in "abc")
METRICS = ("loss", "acc", "val/acc")
# Sums of these are exact in every order.
VALUES = (0.5, 1.0, -2.25, 3.0, -0.0, 8.0, math.nan, math.inf, -math.inf)
TINY = Limits(slice_points_max=60, piece_points_min=25, loose_pieces_max=3, hot_points_max=20, summaries_max=2)
RELATIONS = (
    "runs", "params", "curves", "curves_by_rank", "metrics", "latest", "attempts", "emitters", "events", "gaps",
)  # fmt: skip
_TABLES = (
    "runs", "emitters", "starts", "costs", "metrics", "ledger", "lifecycle", "params", "definitions", "edits",
    "losses", "run_states", "dead_letters",
)  # fmt: skip
# In small histories a block has to be small too, and a rollup to be worth it soon.
_SMALL = (("/ (512 *", "/ (8 *"), ("l.plenty >= 16", "l.plenty >= 2"))


class History:
    """What several processes say, in any order, with compaction in between.

    Args:
        seed: Of everything.
    """

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.store.compaction.limits = TINY
        self.moved = 0
        self._chance = random.Random(seed)
        self._emitters: list[Emitter] = []
        self._steps: dict[int, int] = {}
        self._ended: set[int] = set()
        self._late: list[Message] = []

    def play(self, turns: int, *, compacts: bool = True) -> None:
        """So many transactions and slices."""
        for _ in range(turns):
            if self._chance.random() < 0.45 and compacts:
                done = self.store.compaction.step()
                self.moved += done.points if done is not None else 0
                if done is None:
                    self._summarize()
            else:
                self._tell([self._next() for _ in range(self._chance.randint(1, 3))])

    def settle(self) -> None:
        """Everything arrives, every run ends, everything is compacted."""
        self._tell(self._late)
        self._late = []
        self.end_all()
        while (done := self.store.compaction.step()) is not None:
            self.moved += done.points
        self.store.compaction.finish(self.store.cursor())

    def end_all(self) -> None:
        """Every run ends."""
        runs = self.store.catalog.run_keys
        self._tell([], {key: RunState("finished", 5, "It ended.") for key in runs.values()})

    def _summarize(self) -> None:
        """Runs may be touched while their summaries are worked out."""
        keys = self.store.compaction.unsettled()
        table = describe(self.store.cursor(), keys)
        if self._chance.random() < 0.3:
            self._tell([self._next()])
        self.store.compaction.settle(table)

    def _tell(self, messages: list[Message], states: dict[int, RunState] | None = None) -> None:
        offset = self.store.positions("memory:log").get("0", (0, ""))[0]
        items = [decode(message) for message in in_log(messages, offset)]
        change = self.store.admit(items, DAY_ONE + 86_400 * SECOND, at_tail=False)
        keys = {emitter.run_key for emitter in change.emitters.values()}
        if states is None:
            kind = self._chance.choice(("running", "running", "running", "crashed", "finished"))
            states = {key: RunState(kind, self._chance.randint(1, 9), "So it is.") for key in keys}
        self.store.write(change, states)

    def _next(self) -> Message:
        chance = self._chance
        if self._late and chance.random() < 0.15:
            return self._late.pop(chance.randrange(len(self._late)))
        if not self._emitters or (len(self._emitters) < 14 and chance.random() < 0.2):
            return self._new_emitter()
        living = [one for one in range(len(self._emitters)) if one not in self._ended]
        if not living:
            return self._new_emitter()
        number = chance.choice(living)
        if chance.random() < 0.2:
            return self._record(number)
        emitter = self._emitters[number]
        message = emitter.logs(dict(self._rows(number)))
        if chance.random() < 0.1:
            self._late.append(message)
            return emitter.signals(events.Heartbeat, next_seq=emitter.seq, next_in_seconds=2.0)
        return message

    def _record(self, number: int) -> Message:
        chance, emitter = self._chance, self._emitters[number]
        what = chance.random()
        if what < 0.3:
            return emitter.says(events.MetricDefined, metric=chance.choice(METRICS), best=chance.choice(("min", "max")))
        if what < 0.6:
            return emitter.says(events.ParamsLogged, params={"lr": chance.choice((0.1, 1, True, "x"))})
        if what < 0.85:
            return emitter.says(events.RunEdited, name=chance.choice(("calm", "rough", None)), notes="n")
        if what < 0.9 and emitter.run_id == RUN_IDS[0]:
            return emitter.says(events.RunDeleted)
        self._ended.add(number)
        return emitter.signals(events.EmitterEnded, next_seq=emitter.seq, how="finished")

    def _new_emitter(self) -> Message:
        chance = self._chance
        letter = "0123456789abcdefghijklmnopqrstuvwxyz"[len(self._emitters)]
        attempt = chance.choice(("one", "one", "one", "two", "three"))
        emitter = Emitter(
            letter, chance.choice(RUN_IDS), chance.choice((0, 0, 0, 1, 2)), attempt, float(chance.randrange(400))
        )
        self._emitters.append(emitter)
        self._steps[len(self._emitters) - 1] = chance.choice((0, 0, 5, 20))
        if chance.random() < 0.2:
            return emitter.logs(dict(self._rows(len(self._emitters) - 1)))
        return emitter.starts(
            name=chance.choice(("calm", "rough", "wild")),
            restart_count=chance.choice((0, 0, 1)),
            resumed_from_step=chance.choice((None, None, None, 10)),
            role=chance.choice(("train", "train", "train", "train", "eval")),
        )

    def _rows(self, number: int) -> Iterator[tuple[int, dict[str, float]]]:
        chance = self._chance
        jumps = chance.choice(((1,), (1,), (1,), (1,), (2, 3), (0, 1), (1, -7)))
        for _ in range(chance.randint(1, 12)):
            self._steps[number] += chance.choice(jumps)
            names = METRICS if chance.random() < 0.7 else METRICS[:1]
            yield self._steps[number], {name: chance.choice(VALUES) for name in names}


def make_blocks_small(cursor: duckdb.DuckDBPyConnection, patch: Any) -> None:
    """Blocks of 4 and 8 points, and a `curve` that knows."""
    for name, value in (("BLOCK_POINTS", 4), ("LEVEL_BLOCKS", 2), ("SERIES_POINTS_MIN", 3)):
        patch.setattr(rollups, name, value)
    text = next(one.sql for one in migrations() if "CREATE MACRO main.curve(" in one.sql)
    macro = "CREATE OR REPLACE MACRO main.curve(" + text.split("CREATE MACRO main.curve(")[1]
    for found, put in _SMALL:
        assert found in macro
        macro = macro.replace(found, put)
    cursor.execute(macro)


def plain(store: Store) -> duckdb.DuckDBPyConnection:
    """A database of version 6 with what the store holds: its relations are the plain definitions."""
    oracle = duckdb.connect()
    migrate(oracle, migrations()[:6])
    cursor = store.cursor()
    sources = {**{name: name for name in (*_TABLES, "series")}, "points": "all_points", "rows": "all_rows"}
    for table, source in sources.items():
        names = [f'"{row[0]}"' for row in oracle.execute(f"DESCRIBE store.{table}").fetchall()]
        incoming = cursor.execute(f"SELECT {', '.join(names)} FROM store.{source}").to_arrow_table()  # noqa: S608 - our own names
        oracle.register("incoming", incoming)
        oracle.execute(f"INSERT INTO store.{table} SELECT * FROM incoming")  # noqa: S608 - as above
    cursor.close()
    return oracle


def everything(cursor: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """Every row of every relation, by bits."""
    found = {}
    for name in RELATIONS:
        columns = [row[0] for row in cursor.execute(f"DESCRIBE {name}").fetchall() if row[0] != "full_resolution"]
        listed = ", ".join(f'"{one}"' for one in columns)
        found[name] = sorted(map(repr, cursor.execute(f"SELECT {listed} FROM {name}").fetchall()))  # noqa: S608 - as above
    return found
