"""The model of DuckDB behind the real `Store`, and DuckDB itself behind the same seam.

A transaction costs DuckDB some 25 ms, a history has dozens, and ten thousand histories are to fit into minutes. So the
model engine understands just the statements that the consumer's writer says: its effects are kept aside until COMMIT
and then happen at once. Whoever changes those statements meets `UnknownStatement` here. Everything above (admit, the
order of effects, offsets compared and set, the catalog) is the real code, and `test_simulation.py` runs the same
histories over DuckDB: the same contents have to come out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from runwire_consumer import store as real
from runwire_consumer.catalog import Catalog
from runwire_consumer.database import MEMORY, Database
from runwire_consumer.store import Store
from tests.simulation.loop import Killed

Tables = dict[str, Any]
Hook = Callable[[str], None]
"""Called with each statement of a writer before it is done; may raise Killed."""

KEYS = {
    "offsets": ("source", "partition"),
    "emitters": ("emitter_key",),
    "ledger": ("emitter_key", "first_seq"),
    "run_states": ("run_key",),
    "series": ("emitter_key", "metric_key"),
    "dead_letters": ("letter_id",),
    "letter_payloads": ("letter_key",),
}
_INSERT = re.compile(r"INSERT INTO store\.(\w+) (?:BY NAME )?SELECT \* FROM incoming$")
_MERGE = re.compile(r'MERGE INTO store\.(\w+) AS t USING incoming AS n ON (t\."\w+" = n\."\w+"(?: AND )?)+')
_SELECT = re.compile(r"SELECT (.+?) FROM store\.(\w+)(?: WHERE (\w+) IN \(FROM wanted\))?$")
_WAITING = re.compile(
    r"SELECT (.+?) FROM \(FROM store\.dead_letters WHERE status <> 'replayed' AND count > 0 "
    r'AND "rank" IS NOT NULL\) WHERE emitter_id IN \(FROM wanted\) ORDER BY letter_key LIMIT \d+$'
)
_NEXT_KEYS = (
    "SELECT (SELECT coalesce(max(run_key) + 1, 0) FROM store.runs), "
    "(SELECT coalesce(max(emitter_key) + 1, 0) FROM store.emitters), "
    "(SELECT coalesce(max(metric_key) + 1, 0) FROM store.metrics)"
)
_TOTALS = (
    "SELECT (SELECT coalesce(sum(bytes), 0)::BIGINT FROM store.letter_payloads), "
    "(SELECT coalesce(max(letter_key), -1) + 1 FROM store.dead_letters)"
)
_NOT_SETTLED = (
    "SELECT r.run_key, s.state FROM store.runs r LEFT JOIN store.run_states s USING (run_key) "
    "WHERE s.state IS NULL OR s.state NOT IN (FROM wanted)"
)
_DELETED = "SELECT run_key FROM store.runs WHERE deleted_at IS NOT NULL"
_LETTER_TABLES = ("dead_letters", "letter_payloads")


class UnknownStatement(Exception):
    """The model engine has to be taught a statement that the consumer says now."""


@cache
def columns_of() -> dict[str, pa.Schema]:
    """The schema of every table, from the migrations; read once a process."""
    database = Database.open(MEMORY)
    cursor = database.cursor()
    names = cursor.execute(
        "SELECT table_name FROM information_schema.tables "
        "WHERE table_schema = 'store' AND table_type = 'BASE TABLE' AND table_name <> 'meta'"
    ).fetchall()
    found = {name: cursor.execute(f"FROM store.{name} LIMIT 0").to_arrow_table().schema for (name,) in sorted(names)}
    cursor.close()
    database.close()
    return found


class ModelDatabase:
    """Committed tables, rows as dictionaries: lists, or by key where rows are replaced.

    Attributes:
        committed: Called after each COMMIT with what it inserted, by table.
    """

    path = MEMORY
    wal_bytes = 0

    def __init__(self, committed: Callable[[dict[str, list[dict[str, Any]]]], None]) -> None:
        self.tables: Tables = {name: {} if name in KEYS else [] for name in columns_of()}
        self.committed = committed
        self.commits = 0

    def cursor(self) -> ModelConnection:
        return ModelConnection(self, lambda _: None)

    def close(self, **_: object) -> None:
        return None

    def copy(self) -> Tables:
        """What a snapshot holds."""
        return {name: rows.copy() for name, rows in self.tables.items()}


class ModelConnection:
    """Understands the writer's statements."""

    def __init__(self, database: ModelDatabase, hook: Hook) -> None:
        self._database = database
        self._hook = hook
        self._incoming: list[dict[str, Any]] = []
        self._wanted: list[Any] = []
        self._effects: list[Callable[[], None]] | None = None
        self._letters: Tables = {}  # the two tables as this transaction changed them: it reads them itself
        self._inserted: dict[str, list[dict[str, Any]]] = {}
        self._result: list[tuple[Any, ...]] = []

    def register(self, name: str, table: pa.Table) -> None:
        if name == "wanted":
            self._wanted = table.column(0).to_pylist()
        else:
            assert name == "incoming"
            self._incoming = table.to_pylist()

    def close(self) -> None:
        return None

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._result

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._result[0] if self._result else None

    def execute(self, sql: str, parameters: list[Any] | None = None) -> ModelConnection:
        assert parameters is None
        sql = sql.strip()
        self._result = []
        self._hook(sql)
        if sql.startswith("SELECT"):
            self._result = list(self._select(" ".join(sql.split())))
        elif sql == "BEGIN":
            self._effects, self._inserted, self._letters = [], {}, {}
        elif sql == "ROLLBACK":
            self._effects, self._inserted, self._letters = None, {}, {}
        elif sql == "COMMIT":
            self._commit()
        else:
            effect = self._effect(sql, self._incoming)
            if self._effects is None:
                effect()
            else:
                self._effects.append(effect)
        if sql == "COMMIT":
            self._hook("after COMMIT")
        return self

    def _commit(self) -> None:
        for effect in self._effects or ():
            effect()
        self._database.tables.update(self._letters)
        inserted, self._effects, self._inserted, self._letters = self._inserted, None, {}, {}
        self._database.commits += 1
        self._database.committed(inserted)

    def _effect(self, sql: str, incoming: list[dict[str, Any]]) -> Callable[[], None]:
        tables = self._database.tables
        if "store.letter_payloads" in sql or "store.dead_letters" in sql:
            self._letters = self._letters or {name: tables[name].copy() for name in _LETTER_TABLES}
            _change_letters(sql, self._letters["dead_letters"], self._letters["letter_payloads"], incoming)
            return lambda: None
        if found := _INSERT.match(sql):
            name = found[1]
            self._inserted.setdefault(name, []).extend(incoming)
            return lambda: tables[name].extend(incoming)
        if sql.startswith("MERGE INTO store.series"):
            return lambda: _merge_series(tables["series"], incoming)
        if found := _MERGE.match(sql):
            return lambda: _merge(tables[found[1]], KEYS[found[1]], incoming)
        if sql.startswith(("UPDATE store.offsets", "INSERT INTO store.offsets")):
            moved = list(self._moved(sql, incoming))
            self._result = [(len(moved),)]
            return lambda: _merge(tables["offsets"], KEYS["offsets"], moved)
        if sql.startswith("DELETE FROM store.ledger"):
            return lambda: _delete(tables["ledger"], KEYS["ledger"], incoming)
        if sql.startswith("UPDATE store.runs"):
            return lambda: _delete_runs(tables, incoming)
        raise UnknownStatement(f"tests/simulation/store.py doesn't understand: {sql}")

    def _moved(self, sql: str, incoming: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Offsets that this statement may set: the text is asked, for planted bugs change it."""
        offsets = self._database.tables["offsets"]
        compares = "o.next_offset = n.expected" in sql
        for row in incoming:
            known = offsets.get((row["source"], row["partition"]))
            if sql.startswith("UPDATE"):
                moves = known is not None and (not compares or known["next_offset"] == row["expected"])
            else:
                moves = known is None and row["expected"] is None
            if moves:
                yield {name: row[name] for name in ("source", "partition", "next_offset", "anchor")}

    def _select(self, sql: str) -> Iterator[tuple[Any, ...]]:
        tables = self._database.tables | self._letters
        wanted = set(self._wanted)
        if sql == _NEXT_KEYS:
            keys = (("runs", "run_key"), ("emitters", "emitter_key"), ("metrics", "metric_key"))
            yield tuple(max((row[key] + 1 for row in _rows(tables[name])), default=0) for name, key in keys)
        elif sql == _TOTALS:
            keys_used = (row["letter_key"] for row in _rows(tables["dead_letters"]))
            yield sum(row["bytes"] for row in _rows(tables["letter_payloads"])), max(keys_used, default=-1) + 1
        elif sql == _NOT_SETTLED:
            states = {key: row["state"] for (key,), row in tables["run_states"].items()}
            found = [(run["run_key"], states.get(run["run_key"])) for run in tables["runs"]]
            yield from (one for one in found if one[1] not in wanted)
        elif sql == _DELETED:
            yield from ((run["run_key"],) for run in tables["runs"] if run.get("deleted_at") is not None)
        elif match := _WAITING.match(sql):
            rows = sorted(_rows(tables["dead_letters"]), key=lambda row: row["letter_key"])
            yield from _columns(
                match[1],
                (
                    row
                    for row in rows
                    if row["status"] != "replayed"
                    and (row["count"] or 0) > 0
                    and row["rank"] is not None
                    and row["emitter_id"] in wanted
                ),
            )
        elif match := _SELECT.match(sql):
            rows = _rows(tables[match[2]])
            yield from _columns(match[1], (row for row in rows if not match[3] or row[match[3]] in wanted))
        else:
            raise UnknownStatement(f"tests/simulation/store.py doesn't understand: {sql}")


def _columns(names: str, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    wanted = [name.strip().strip('"') for name in names.split(",")]
    return (tuple(row[name] for name in wanted) for row in rows)


Rows = dict[Any, dict[str, Any]]


def _change_letters(sql: str, letters: Rows, payloads: Rows, incoming: list[dict[str, Any]]) -> None:
    """What `letterbox.py` says."""
    if sql.startswith("INSERT INTO store.letter_payloads"):
        fresh = (row for row in incoming if row["whole"] and (row["letter_id"],) not in letters)
        _merge(payloads, KEYS["letter_payloads"], [_payload_of(row) for row in fresh])
    elif sql.startswith("MERGE INTO store.dead_letters"):
        for row in incoming:
            _merge_letter(letters, row)
    elif sql.startswith("DELETE FROM store.letter_payloads"):
        _delete(payloads, KEYS["letter_payloads"], incoming)
    elif sql.startswith("UPDATE store.dead_letters AS t SET status"):
        settled = {row["letter_key"]: {**row, "whole": False} for row in incoming}
        for place, known in letters.items():
            letters[place] = {**known, **settled.get(known["letter_key"], {})}
    else:
        raise UnknownStatement(f"tests/simulation/store.py doesn't understand: {sql}")


def _payload_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"letter_key": row["letter_key"], "bytes": row["kept_bytes"], "payload": row["payload"]}


def _merge_letter(letters: Rows, row: dict[str, Any]) -> None:
    place = (row["letter_id"],)
    if place not in letters:
        letters[place] = {name: value for name, value in row.items() if name not in {"payload", "kept_bytes"}}
    elif letters[place]["status"] == "dead":
        letters[place] = {**letters[place], "reason": row["reason"]}


def _merge(table: dict[Any, Any], keys: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        key = tuple(row[name] for name in keys)
        table[key] = {**table.get(key, {}), **row}


def _delete(table: dict[Any, Any], keys: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        table.pop(tuple(row[name] for name in keys), None)


def _delete_runs(tables: Tables, rows: list[dict[str, Any]]) -> None:
    gone = {row["run_key"]: row["deleted_at"] for row in rows}
    tables["runs"] = [
        {**run, "deleted_at": gone[run["run_key"]]} if run["run_key"] in gone and run.get("deleted_at") is None else run
        for run in tables["runs"]
    ]


def _merge_series(table: dict[Any, Any], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        key = (row["emitter_key"], row["metric_key"])
        old = table.get(key)
        if old is None:
            table[key] = {"dropped": 0, **row}
            continue
        new = {**old, "points": old["points"] + row["points"], "nonfinite": old["nonfinite"] + row["nonfinite"]}
        behind = row["first_seq"] > old["last_seq"] and row["min_step"] > old["max_step"]
        before = row["last_seq"] < old["first_seq"] and row["max_step"] < old["min_step"]
        new |= {
            "min_step": min(old["min_step"], row["min_step"]),
            "max_step": max(old["max_step"], row["max_step"]),
            "increasing": old["increasing"] and row["increasing"] and (behind or before),
        }
        if row["first_seq"] < old["first_seq"]:
            new |= {"first_seq": row["first_seq"], "first_step": row["first_step"]}
        if row["last_seq"] > old["last_seq"]:
            new |= {name: row[name] for name in ("last_seq", "last_step", "last_time", "last_value")}
        table[key] = new


class NoPlaces:
    """What follows from other tables, and compaction, are left out: the laws don't read what they write."""

    def look(self, *_: object) -> None:
        return None

    def write(self, *_: object) -> None:
        return None

    def commit(self) -> None:
        return None

    def arrived(self, _: object) -> None:
        return None


class ModelStore(Store):
    """The real store over the model engine."""

    def __init__(self, database: ModelDatabase, hook: Hook) -> None:
        self.database = database  # type: ignore[assignment]
        self._writer = ModelConnection(database, hook)  # type: ignore[assignment]
        self.places = self.compaction = NoPlaces()  # type: ignore[assignment]
        self.catalog = Catalog.load(self._writer)
        self._schemas = {name: columns_of()[name] for name in real._SMALL_TABLES}


class ModelEngine:
    """A database that outlives the consumers of it."""

    def __init__(self, committed: Callable[[dict[str, list[dict[str, Any]]]], None]) -> None:
        self.database = ModelDatabase(committed)
        self._snapshots: list[Tables] = []

    def open(self, hook: Hook) -> Store:
        return ModelStore(self.database, hook)

    def abandon(self) -> None:
        """Its process was killed: what wasn't committed never was."""

    def snapshot(self) -> None:
        self._snapshots.append(self.database.copy())

    def restore(self, number: int) -> bool:
        """An older state is put back; nobody has it open."""
        if not self._snapshots:
            return False
        taken = self._snapshots[number % len(self._snapshots)]
        self.database.tables = {name: rows.copy() for name, rows in taken.items()}
        return True

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        """Every table's rows, columns complete."""
        return {
            name: [{column: row.get(column) for column in columns.names} for row in _rows(self.database.tables[name])]
            for name, columns in columns_of().items()
        }

    def close(self) -> None:
        return None


def _rows(table: Any) -> list[dict[str, Any]]:
    return list(table.values()) if isinstance(table, dict) else table


class _Hooked:
    """A connection of DuckDB that asks before each statement, and after COMMIT."""

    def __init__(self, connection: Any, hook: Hook) -> None:
        self._connection = connection
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        self._hook(sql.strip())
        done = self._connection.execute(sql, *parameters)
        if sql == "COMMIT":
            self._hook("after COMMIT")
        return done


class RealEngine:
    """The same over DuckDB, in a file; slow."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "runwire.duckdb"
        self._database: Database | None = None
        self._snapshots: list[dict[str, pa.Table]] = []

    def open(self, hook: Hook) -> Store:
        """Consumers that live at once share the database, as two processes can't."""
        if self._database is None:
            self._database = Database.open(self._path)
            self._close = self._database.close
            self._database.close = lambda **_: None  # type: ignore[method-assign]
        store = Store(self._database)
        store._writer = _Hooked(store._writer, hook)  # type: ignore[assignment]
        store.places = store.compaction = NoPlaces()  # type: ignore[assignment]
        return store

    def abandon(self) -> None:
        """Uncommitted work was rolled back by the dying `Store.write`; the file stays open for the next one."""

    def snapshot(self) -> None:
        self._snapshots.append(self._tables())

    def restore(self, number: int) -> bool:
        if not self._snapshots:
            return False
        taken = self._snapshots[number % len(self._snapshots)]
        self.close()
        self._path = self._path.with_suffix(f".{self._path.suffix}x")
        self.open(lambda _: None)
        assert self._database is not None
        cursor = self._database.cursor()
        for name, table in taken.items():
            cursor.register("incoming", table)
            cursor.execute(f"INSERT INTO store.{name} BY NAME SELECT * FROM incoming")  # noqa: S608 - our own names
        cursor.close()
        return True

    def _tables(self) -> dict[str, pa.Table]:
        self.open(lambda _: None)
        assert self._database is not None
        cursor = self._database.cursor()
        found = {name: cursor.execute(f"FROM store.{name}").to_arrow_table() for name in columns_of()}
        cursor.close()
        return found

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        return {name: table.to_pylist() for name, table in self._tables().items()}

    def close(self) -> None:
        if self._database is not None:
            self._close()
            self._database = None


class CrashPoint:
    """The hook of one consumer: it dies before its n-th statement from now on that begins with given words.

    Attributes:
        full: So many transactions meet a full disk.
    """

    def __init__(self, is_alive: Callable[[], bool], kill: Callable[[], None]) -> None:
        self._is_alive = is_alive
        self._kill = kill
        self._words = ""
        self._left = 0
        self.full = 0

    def plan(self, words: str, count: int) -> None:
        """Die at the `count`-th."""
        self._words, self._left = words, count

    def __call__(self, sql: str) -> None:
        if sql == "ROLLBACK":
            return
        if not self._is_alive():
            raise Killed
        if self.full and sql.startswith(("MERGE", "COMMIT")):
            self.full -= 1
            raise duckdb.IOException("Could not write: No space left on device")
        if self._left and sql.startswith(self._words):
            self._left -= 1
            if self._left == 0:
                self._kill()
                raise Killed
