"""Makes statements that mean something: every expression has a type, so that most of them pass the check and run."""
# ruff: noqa: E501, S608 - a form a line reads best; SQL out of our own tables; templates that are filled in later

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.consumer.small_store import DIGITS, OLD, OTHER

Columns = Mapping[str, Sequence[tuple[str, str]]]
"""Relation -> names and types of its columns."""

_KINDS = {
    "INTEGER": "number", "BIGINT": "number", "DOUBLE": "number", "VARCHAR": "text", "TIMESTAMP": "time",
    "BOOLEAN": "truth", "VARCHAR[]": "texts", "MAP(VARCHAR, VARCHAR)": "text map", "MAP(VARCHAR, DOUBLE)": "number map",
}  # fmt: skip
_RUNS = (DIGITS, OTHER, OLD)
_CALLS = {
    "curve": "curve('{run}', '{metric}', {count})",
    "smoothed": "smoothed('{run}', '{metric}', weight := 0.{digit})",
    "rank_spread": "rank_spread('{run}', '{metric}')",
    "stragglers": "stragglers('{run}', metric := '{metric}')",
    "compare": "compare(['{run}'], '{metric}', best := 'min')",
}
# {n} {x} {t} {b} {l}: an expression that is a number, a text, a time, a truth value, a list of numbers.
_FORMS = {
    "number": (
        "({n} + {n})", "({n} - {n})", "({n} * 0.5)", "({n} / nullif({n}, 0))", "abs({n})", "round({n}, 2)", "floor({n})",
        "sqrt(abs({n}))", "ln(abs({n}) + 1)", "greatest({n}, {n})", "least({n}, 1, {n})", "coalesce({n}, 0)", "-({n})",
        "CASE WHEN {b} THEN {n} ELSE {n} END", "TRY_CAST({n} AS INTEGER)", "TRY_CAST({x} AS DOUBLE)", "length({x})",
        "strlen({x})", "date_part('hour', {t})", "epoch({t})", "epoch_ms({t})", "date_diff('minute', {t}, {t})", "instr({x}, 'a')",
        "list_sum({l})", "len({l})", "list_max({l})", "({l})[1]", "jaccard('ab', 'ac')", "levenshtein({x}, 'loss')", "sign({n})",
        "isnan({n}::DOUBLE)::INTEGER", "atan2({n}, 2)", "hash({x}) % 7", "relative_seconds('{run}', {t})", "active_seconds('{run}', {t})",
        "list_unique({l})", "hamming('ab', 'cd')", "unicode({x})", "bit_count({count})", "(SELECT count(*) FROM runs)",
    ),
    "text": (
        "upper({x})", "lower({x})", "trim({x})", "left({x}, 3)", "right({x}, 2)", "substring({x}, 2, 4)", "({x} || '/' || {x})",
        "concat({x}, {n})", "concat_ws('-', {x}, {x})", "replace({x}, 'a', 'b')", "reverse({x})", "md5({x})", "sha256({x})",
        "({n})::VARCHAR", "({t})::VARCHAR", "strftime({t}, '%Y-%m-%d')", "format('{{}}: {{:.2f}}', {x}, ({n})::DOUBLE)",
        "printf('%s %d', {x}, {count})", "repeat({x}, 3)", "lpad({x}, 12, '.')", "split_part({x}, '/', 1)", "typeof({n})",
        "regexp_extract({x}, '[a-z]+')", "regexp_replace({x}, '[aeiou]', '_', 'g')", "string_split({x}, '/')[1]", "nullif({x}, 'a')",
        "CASE WHEN {b} THEN {x} END", "coalesce({x}, 'none')", "to_json({l})::VARCHAR", "hex(left({x}, 8))", "dayname({t})", "{{'a': {x}}}.a",
        "list_extract([{x}, {x}], 2)", "array_to_string({l}, ',')", "url_encode({x})", "ucase({x})", "json_extract_string('{{\"a\": 1}}', '$.a')",
        "(SELECT max(name) FROM runs)", "map {{'k': {x}}}['k']", "strip_accents({x})", "translate({x}, 'ab', 'ba')",
    ),
    "time": (
        "date_trunc('minute', {t})", "({t} + INTERVAL 1 HOUR)", "time_bucket(INTERVAL '5 seconds', {t})", "greatest({t}, {t})",
        "coalesce({t}, TIMESTAMP '2025-01-01')", "({t} - INTERVAL '2 days')", "make_timestamp(1700000000000000)", "TIMESTAMP '2025-01-01 12:00'",
        "CASE WHEN {b} THEN {t} ELSE {t} END", "strptime('2025-01-31', '%Y-%m-%d')", "date_add({t}, INTERVAL 1 MONTH)", "last_day({t})::TIMESTAMP",
    ),
    "truth": (
        "({n} > {n})", "({n} <= {n})", "({x} = {x})", "({x} <> 'a')", "({x} LIKE '%a%')", "({x} ILIKE 'B%')", "({n} BETWEEN 0 AND {n})",
        "({x} IN ('a', {x}))", "({n} IS NULL)", "({x} IS NOT DISTINCT FROM {x})", "({t} > {t})", "({b} AND {b})", "({b} OR {b})", "(NOT {b})",
        "regexp_matches({x}, '^[a-z]')", "starts_with({x}, 'train')", "contains({x}, 'o')", "list_contains({l}, 1)", "isfinite({n}::DOUBLE)",
        "EXISTS (SELECT 1 FROM curves WHERE step = 1)", "({x} IN (SELECT run_id FROM runs))", "({n} = ANY({l}))", "regexp_full_match({x}, '.*')",
    ),
    "list": (
        "[{n}, {n}]", "[1, 2, {n}]", "list_transform([1, 2, {n}], lambda v: v + 1)", "list_filter([1, {n}], lambda v: v > 0)", "list_sort([3, {n}])",
        "range({count})", "list_distinct([{n}, 1, 1])", "[v * 2 FOR v IN [1, {n}]]", "list_slice([1, 2, 3], 1, 2)", "list_concat([1], [{n}])",
    ),
}  # fmt: skip
_AGGREGATES = (
    "count(*)", "count({x})", "count(DISTINCT {x})", "sum({n})", "avg({n})", "min({n})", "max({t})", "median({n})", "stddev({n}::DOUBLE)",
    "quantile_cont({n}, 0.9)", "arg_min({x}, {n})", "arg_max({n}, {t})", "string_agg(left({x}, 3), ',')", "bool_or({b})", "mode({x})",
    "list({n} ORDER BY {n})[1]", "max({n}) FILTER (WHERE {b})", "corr({n}, {n})", "first({x} ORDER BY {n})", "approx_count_distinct({x})",
    "regr_slope({n}, {n})", "histogram({count})", "max({n}, 2)", "any_value({x})", "count_if({b})", "list_distinct(list({x}))",
)  # fmt: skip
_WINDOWS = (
    "row_number() OVER (PARTITION BY {x} ORDER BY {n})", "rank() OVER (ORDER BY {n} DESC)", "lag({n}) OVER (ORDER BY {t})",
    "lead({n}, 2, 0) OVER (PARTITION BY {x} ORDER BY {n})", "avg({n}) OVER (ORDER BY {n} ROWS BETWEEN 9 PRECEDING AND CURRENT ROW)",
    "sum({n}) OVER (PARTITION BY {x})", "first_value({x}) OVER (PARTITION BY {b} ORDER BY {n})", "ntile(4) OVER (ORDER BY {n})",
    "max({n}) OVER (ORDER BY {t} RANGE BETWEEN INTERVAL 1 MINUTE PRECEDING AND CURRENT ROW)", "percent_rank() OVER (ORDER BY {n})",
)  # fmt: skip
_CONSTANTS = {
    "number": ("1", "0", "-7", "2.5", "1e9", "0.1"),
    "text": ("'a'", "'train/loss'", "'brave-fox-1'", "''", "'ü'"),
    "time": ("TIMESTAMP '2025-01-01'", "to_timestamp(1700000000)::TIMESTAMP"),
    "truth": ("true", "false", "NULL::BOOLEAN"),
    "list": ("[1, 2]", "[0.5]"),
}


@dataclass(frozen=True, slots=True)
class _Source:
    """What stands behind FROM, and the columns it offers by kind."""

    sql: str
    columns: Mapping[str, Sequence[str]]


class HonestGrammar:
    """Statements out of one source of chance.

    Args:
        chance: Of every choice.
        columns: Of all relations and of the macros that make tables.
    """

    def __init__(self, chance: random.Random, columns: Columns) -> None:
        self._random = chance
        self._columns = columns
        self._relations = sorted(name for name in columns if name not in _CALLS)

    def statement(self, depth: int = 0) -> str:
        """One; `depth` says how many stand around it."""
        source = self._source(depth)
        match self._random.randrange(12):
            case 0 | 1 | 2 | 3:
                items = self._items(source)
                text = f"SELECT {items} FROM {source.sql}{self._where(source)}{self._tail(items)}"
            case 4 | 5 | 6:
                key = self._expression(self._pick(("text", "number", "time")), source, 2)
                calls = ", ".join(
                    self._filled(self._pick(_AGGREGATES), source, 2) for _ in range(self._random.randint(1, 3))
                )
                having = " HAVING count(*) > 0" if self._rarely(4) else ""
                text = f"SELECT {key} AS k, {calls} FROM {source.sql}{self._where(source)} GROUP BY ALL{having} ORDER BY ALL"
            case 7 | 8:
                window = self._filled(self._pick(_WINDOWS), source, 2)
                text = f"SELECT {self._items(source)}, {window} AS w FROM {source.sql}"
                text += self._pick((" QUALIFY w IS NOT NULL", " ORDER BY w", " LIMIT 5", ""))
            case 9:
                kind, word = (
                    self._pick(("number", "text", "time")),
                    self._pick(("UNION ALL", "UNION", "EXCEPT", "INTERSECT")),
                )
                sides = [
                    f"SELECT {self._expression(kind, side, 1)} FROM {side.sql}"
                    for side in (source, self._source(depth))
                ]
                text = f" {word} ".join(sides)
            case 10 if depth == 0:
                text = f"{self._pick(('DESCRIBE', 'SUMMARIZE'))} {self._pick(self._relations)}"
            case _:
                kind = self._pick(("number", "text", "time", "truth", "list"))
                text = f"SELECT {self._expression(kind, source, 0)} AS v FROM {source.sql} LIMIT 10"
        if depth == 0 and self._rarely(6):
            text = (
                f"WITH w AS ({self.statement(1)}) SELECT count(*) FROM w" if not text.startswith(("D", "SU")) else text
            )
        return text

    def _source(self, depth: int) -> _Source:
        choice = self._random.randrange(10)
        if choice == 0:
            return _Source(f"range({self._random.randint(1, 50)}) s(i)", {"number": ["s.i"]})
        if choice == 1:
            return _Source("(VALUES (1, 'a'), (2, NULL)) s(i, x)", {"number": ["s.i"], "text": ["s.x"]})
        if choice == 2 and depth < 2:
            return _Source(f"({self.statement(depth + 1)}) AS s", {})
        if choice in {3, 4}:
            name = self._pick(sorted(_CALLS))
            return _Source(f"{self._placed(_CALLS[name])} AS s", self._kinds(name, "s"))
        first = self._pick(self._relations)
        if choice in {5, 6}:
            other = self._pick(self._relations)
            both = {name for name, _ in self._columns[first]} & {name for name, _ in self._columns[other]}
            joined = " AND ".join(f's."{name}" = o."{name}"' for name in sorted(both & {"run_id", "metric"}))
            join = self._pick(("JOIN", "LEFT JOIN", "FULL JOIN"))
            if "time" in both and joined and self._rarely(3):
                join, joined = "ASOF JOIN", joined + ' AND s."time" >= o."time"'
            on = f"{join} {other} AS o ON {joined or 'true'}"
            kinds, others = self._kinds(first, "s"), self._kinds(other, "o")
            return _Source(
                f"{first} AS s {on}",
                {kind: [*kinds.get(kind, ()), *others.get(kind, ())] for kind in {*kinds, *others}},
            )
        return _Source(f"{first} AS s", self._kinds(first, "s"))

    def _kinds(self, relation: str, alias: str) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for name, kind in self._columns[relation]:
            column = f'{alias}."{name}"'
            match _KINDS.get(kind):
                case "texts":
                    found.setdefault("text", []).append(f"{column}[1]")
                case "text map":
                    found.setdefault("text", []).append(f"{column}['lr']")
                case "number map":
                    found.setdefault("number", []).append(f"{column}['val/acc']")
                case None:
                    pass
                case known:
                    found.setdefault(known, []).append(column)
        return found

    def _items(self, source: _Source) -> str:
        if self._rarely(8):
            return "*"
        kinds = [self._pick(("number", "text", "time", "truth")) for _ in range(self._random.randint(1, 4))]
        return ", ".join(f"{self._expression(kind, source, 1)} AS c{place}" for place, kind in enumerate(kinds))

    def _where(self, source: _Source) -> str:
        return f" WHERE {self._expression('truth', source, 1)}" if self._rarely(2) else ""

    def _tail(self, items: str) -> str:
        if items == "*":
            return ""
        return self._pick(
            ("", " ORDER BY 1", " ORDER BY ALL", " LIMIT 20", " ORDER BY c0 DESC NULLS LAST LIMIT 3 OFFSET 1")
        )

    def _expression(self, kind: str, source: _Source, depth: int) -> str:
        columns = source.columns.get(kind, ())
        if depth > 3 or self._rarely(3):
            if columns and not self._rarely(5):
                return self._pick(columns)
            return self._pick(_CONSTANTS[kind])
        return self._filled(self._pick(_FORMS[kind]), source, depth + 1)

    def _filled(self, form: str, source: _Source, depth: int) -> str:
        kinds = {"n": "number", "x": "text", "t": "time", "b": "truth", "l": "list"}
        for letter, kind in kinds.items():
            while f"{{{letter}}}" in form:
                form = form.replace(f"{{{letter}}}", self._expression(kind, source, depth), 1)
        return self._placed(form)

    def _placed(self, form: str) -> str:
        for name, value in {
            "{run}": self._pick(_RUNS), "{metric}": self._pick(("train/loss", "val/acc", "nothing")),
            "{count}": str(self._random.randint(1, 90)), "{digit}": str(self._random.randint(0, 9)), "{{": "{", "}}": "}",
        }.items():  # fmt: skip
            form = form.replace(name, value)
        return form

    def _pick(self, choices: Sequence[str]) -> str:
        return self._random.choice(choices)

    def _rarely(self, one_in: int) -> bool:
        return self._random.randrange(one_in) == 0
