"""Makes statements out of what is allowed and what isn't, and breaks some: the same seed, the same statements."""
# ruff: noqa: E501 - tables read best wide

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from runwire_consumer.allowlist import FUNCTIONS, RELATIONS
from tests.consumer.attacks import ATTACKS, HARMLESS
from tests.consumer.honest_grammar import Columns, HonestGrammar

_FORBIDDEN_FUNCTIONS = (
    "getenv", "nextval", "getvariable", "current_setting", "query_table", "write_log", "json_execute_serialized_sql",
    "list_reduce", "to_base", "bar", "bitstring", "pg_sleep", "setseed", "txid_current", "create_sort_key",
)  # fmt: skip
_FORBIDDEN_RELATIONS = (
    "store.points", "read_text('/etc/passwd')", "read_csv('{canary}')", "read_blob('{canary}')", "'{canary}'", "glob('*')",
    "duckdb_settings()", "enable_logging('QueryLog')", "checkpoint()", "query('DROP VIEW runs')", "sqlite_master",
    "information_schema.tables", "pragma_storage_info('runs')", "store.canary", "runwire.store.points",
)  # fmt: skip
_STATEMENTS = (
    "DROP VIEW runs", "DELETE FROM store.points", "UPDATE store.points SET value = 0", "INSERT INTO store.canary VALUES (1)",
    "COPY (SELECT 1) TO '{folder}/written.csv'", "EXPORT DATABASE '{folder}/written'", "ATTACH '{folder}/written.db' AS w",
    "SET threads = 1", "SET lock_configuration = false", "PRAGMA force_checkpoint", "CHECKPOINT", "CREATE TABLE store.t (x INT)",
    "INSTALL httpfs", "LOAD httpfs", "VACUUM", "BEGIN", "ROLLBACK", "EXPLAIN ANALYZE DELETE FROM store.points",
    "PREPARE p AS SELECT 1", "CALL force_checkpoint()", "TRUNCATE store.points", "ALTER TABLE store.points ADD COLUMN x INT",
)  # fmt: skip
_VALUES = (
    "1", "-1", "0", "1.5", "NULL", "'x'", "''", "'nan'::DOUBLE", "true", "[1, 2]", "['a', NULL]", "{'a': 1}", "map {'a': 1}",
    "1000000000", "9223372036854775807", "'[1, 2]'::JSON", "DATE '2025-01-01'", "TIMESTAMP '2025-01-01'", "INTERVAL 1 DAY",
    "x -> x", "lambda x: x", "$1", "$name", "?", "range(100)", "repeat('x', 100)", "'%1000d'", "'{:>500}'", "'.*'", "'%Y'",
)  # fmt: skip
_COLUMNS = ("name", "run_id", "params", "step", "value", "metric", "time", "notes", "tags", "best", "*", "#1", "rowid")
_OPERATORS = (
    "+",
    "-",
    "*",
    "/",
    "||",
    "=",
    "<>",
    "<",
    "AND",
    "OR",
    "LIKE",
    "IN",
    "->",
    "->>",
    "::",
    ".",
    "~",
    "**",
    "^",
    "//",
)
_TYPES = (
    "INT",
    "VARCHAR",
    "DOUBLE[]",
    "JSON",
    "BLOB",
    "INTEGER[1000]",
    "STRUCT(a INT)",
    "ENUM('a')",
    "store.x",
    "BIT",
    "UNION(a INT)",
)
_ODD = (
    "\0",
    "\ufeff",
    "\u202e",
    "ü",
    "'",
    '"',
    ";",
    "--",
    "/*",
    "*/",
    "(",
    ")",
    "\\",
    "$$",
    "\n",
    "\ud800",
    "{",
    "}",
    ",",
)


class Grammar:
    """Statements from one seed.

    Args:
        seed: Of every choice.
        folder: Where a statement may try to write.
        canary: A file that none may read.
        columns: Of the relations, for statements that mean something.
    """

    def __init__(self, seed: int, folder: str, canary: str, columns: Columns) -> None:
        self._random = random.Random(seed)
        self._honest = HonestGrammar(self._random, columns)
        self._places = {"{folder}": folder, "{canary}": canary}
        self._functions = sorted(FUNCTIONS)
        self._relations = sorted(RELATIONS)

    def statements(self, count: int) -> Iterator[str]:
        """So many."""
        shapes: Sequence[tuple[Callable[[], str], int]] = (
            (self._honest.statement, 11), (self._select, 8), (self._stacked, 2), (self._mutated, 5), (self._spliced, 3),
        )  # fmt: skip
        for _ in range(count):
            (shape,) = self._random.choices([one for one, _ in shapes], [weight for _, weight in shapes])
            text = shape()
            for name, place in self._places.items():
                text = text.replace(name, place)
            yield text

    def _pick(self, choices: Sequence[str]) -> str:
        return self._random.choice(choices)

    def _rarely(self, one_in: int) -> bool:
        return self._random.randrange(one_in) == 0

    def _select(self, depth: int = 0) -> str:
        items = ", ".join(
            self._expression(depth) + (f" AS {self._pick('abc')}" if self._rarely(3) else "")
            for _ in range(self._random.randint(1, 3))
        )
        text = f"SELECT {items}"
        if not self._rarely(4):
            text += f" FROM {self._relation(depth)}"
        for words in ("WHERE {}", "GROUP BY {}", "HAVING {}", "QUALIFY {}", "ORDER BY {}", "LIMIT {}"):
            if self._rarely(6):
                text += " " + words.format(self._expression(depth + 1))
        if depth < 3 and self._rarely(6):
            text += f" {self._pick(['UNION ALL', 'EXCEPT', 'INTERSECT', 'UNION BY NAME'])} {self._select(depth + 1)}"
        if depth < 2 and self._rarely(5):
            text = f"WITH {self._pick(['a', 'runs', 'points', 'RECURSIVE a'])} AS ({self._select(depth + 1)}) {text}"
        return text

    def _relation(self, depth: int) -> str:
        if self._rarely(6):
            return self._pick(_FORBIDDEN_RELATIONS)
        if depth < 3 and self._rarely(4):
            lateral = "LATERAL " if self._rarely(3) else ""
            return f"{lateral}({self._select(depth + 1)}) AS q{self._random.randint(1, 3)}"
        if self._rarely(6):
            return f"range({self._pick(['10', '1000', '$1', '10000000', '100000000000', '(SELECT 5)'])}) t(i)"
        if self._rarely(5):
            join = self._pick(["JOIN", "LEFT JOIN", "CROSS JOIN", ",", "POSITIONAL JOIN", "SEMI JOIN", "ASOF JOIN"])
            on = f" ON {self._expression(depth + 1)}" if "CROSS" not in join and join != "," and self._rarely(2) else ""
            return f"{self._pick(self._relations)} {join} {self._pick(self._relations)}{on}"
        return self._pick(self._relations)

    def _expression(self, depth: int) -> str:
        deep = depth > 4
        shape = self._random.randrange(4 if deep else 12)
        inner = depth + 1
        match shape:
            case 0 | 1:
                return self._pick(_VALUES)
            case 2 | 3:
                return self._pick(_COLUMNS)
            case 4 | 5 | 6:
                name = self._pick(_FORBIDDEN_FUNCTIONS) if self._rarely(10) else self._pick(self._functions)
                call = (
                    f'"{name}"(' + ", ".join(self._expression(inner) for _ in range(self._random.randint(0, 3))) + ")"
                )
                over = self._pick(["OVER ()", "OVER (ORDER BY 1)", "FILTER (true)", "OVER (PARTITION BY name)"])
                return f"{call} {over}" if self._rarely(6) else call
            case 7:
                return f"({self._expression(inner)} {self._pick(_OPERATORS)} {self._expression(inner)})"
            case 8:
                return f"{'TRY_' if self._rarely(2) else ''}CAST({self._expression(inner)} AS {self._pick(_TYPES)})"
            case 9:
                return f"CASE WHEN {self._expression(inner)} THEN {self._expression(inner)} END"
            case 10:
                return f"{self._pick(['', 'EXISTS ', '1 IN ', 'ARRAY'])}({self._select(inner)})"
            case _:
                return f"[{self._expression(inner)} FOR x IN {self._expression(inner)}]"

    def _stacked(self) -> str:
        parts = [self._select(), self._pick(_STATEMENTS)]
        self._random.shuffle(parts)
        return self._pick(["; ", " ; ;", ";\n--", ") ; (", " /*;*/ ; "]).join(parts[: self._random.randint(1, 2)])

    def _spliced(self) -> str:
        """A harmless statement with a piece of an attack in it."""
        words = self._pick(HARMLESS).split(" ")
        other = self._pick([sql for sql in ATTACKS if len(sql) < 500]).split(" ")
        at, begin = self._random.randrange(len(words) + 1), self._random.randrange(max(1, len(other)))
        end = begin + self._random.randint(1, 6)
        return " ".join([*words[:at], *other[begin:end], *words[at + self._random.randint(0, 2) :]])

    def _mutated(self) -> str:
        """A known statement with characters or words lost, doubled, exchanged, or strange ones added."""
        text = self._pick([sql for sql in (HARMLESS if self._rarely(2) else ATTACKS) if len(sql) < 2_000])
        for _ in range(self._random.randint(1, 3)):
            words = text.split(" ")
            at = self._random.randrange(len(words))
            other = self._random.randrange(len(words))
            where = self._random.randrange(len(text) + 1)
            match self._random.randrange(6):
                case 0:
                    text = text[:where] + text[where + 1 :]
                case 1:
                    text = text[:where] + self._pick(_ODD) + text[where:]
                case 2:
                    words[at], words[other] = words[other], words[at]
                    text = " ".join(words)
                case 3:
                    words.insert(at, words[other])
                    text = " ".join(words)
                case 4:
                    words[at] = self._pick([*_VALUES, *_COLUMNS, *_FORBIDDEN_RELATIONS])
                    text = " ".join(words)
                case _:
                    text = text.swapcase() if self._rarely(2) else text + self._pick([";", " --", " /*", " ; SELECT 1"])
        return text
