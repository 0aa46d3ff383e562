"""The auditor: compares a stopped consumer's file with what each writer was told, row by row and value by value.

Its laws, for a writer whose `log()` returned n times:

1. Each of the rows 0 .. n - 1 is stored with all its values, or it is lost. The row after them, which was being logged
   when the process died, may be stored, but wholly.
2. No point and no row is stored twice, under whatever number or emitter.
3. Every stored value, step and name is one that was logged: anything else is wrong.
4. Rows may be declared lost only by writers of whom the plan of faults says so (a full disk), and so many at most as
   the ledger names.
5. Every receipt is closed, no range of the ledger overlaps another, and each stored row is in a stored range.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from tests.chaos.told import KEY_BITS, KEYS, METRICS, ROW_BITS

EXAMPLES_MAX = 5

_A_CODE = "isfinite(p.value) AND p.value = trunc(p.value) AND abs(p.value) < 2::DOUBLE ** 53"

# One line a (writer, row): how many points there are, how many different keys, and under which names they are kept.
_STORED = f"""
CREATE TEMP TABLE stored AS
SELECT
    code >> {KEY_BITS + ROW_BITS} AS writer, (code >> {KEY_BITS}) & {2**ROW_BITS - 1} AS row,
    count(*) AS points, bit_count(bit_or(1 << (code & {2**KEY_BITS - 1}))::BIGINT) AS keys,
    min(emitter_key) AS emitter_key, max(emitter_key) AS last_emitter_key, min(seq) AS seq, max(seq) AS last_seq,
    count(*) FILTER (name <> 'chaos/' || (code & {2**KEY_BITS - 1})) AS misnamed
FROM (
    SELECT p.emitter_key, p.seq, m.name, p.value::BIGINT AS code
    FROM store.all_points p JOIN store.metrics m USING (metric_key)
    WHERE {_A_CODE}
)
GROUP BY writer, row
"""  # noqa: S608 - numbers of our own

_WRITERS = f"""
CREATE TEMP TABLE writers AS
SELECT
    t.writer, t.rows, t.lossy, coalesce(s.there, 0) AS there, coalesce(d.declared, 0) AS declared
FROM told t
LEFT JOIN (
    SELECT s.writer, count(*) FILTER (s.row < t.rows AND s.keys = {KEYS}) AS there
    FROM stored s JOIN told t USING (writer) GROUP BY s.writer
) s ON s.writer = t.writer
LEFT JOIN (
    SELECT writer, sum(end_seq - first_seq) AS declared
    FROM (SELECT DISTINCT writer, emitter_key FROM stored) JOIN store.ledger USING (emitter_key)
    WHERE disposition = 'lost' GROUP BY writer
) d ON d.writer = t.writer
"""  # noqa: S608 - as above

_TWICE_POINTS = "SELECT coalesce(sum(points - keys), 0) FROM stored"
_TWICE_ROWS = """
SELECT coalesce(sum(times - 1), 0) FROM (SELECT count(*) AS times FROM store.all_rows GROUP BY emitter_key, seq)
"""

# What should not be: (what it is, a query of the cases).
_WRONG = (
    (
        "a value that nobody logged",
        f"SELECT value FROM store.all_points p WHERE NOT ({_A_CODE})",  # noqa: S608 - as above
    ),
    (
        "a row that nobody logged",
        "SELECT * FROM stored s LEFT JOIN told t USING (writer) WHERE s.row > t.rows OR t.rows IS NULL",
    ),
    ("a value under another's name", "SELECT * FROM stored WHERE misnamed > 0"),
    ("half a row", f"SELECT * FROM stored WHERE keys <> {KEYS}"),  # noqa: S608 - as above
    ("a row under several numbers", "SELECT * FROM stored WHERE emitter_key <> last_emitter_key OR seq <> last_seq"),
    (
        "an emitter of several writers",
        "SELECT emitter_key FROM stored GROUP BY emitter_key HAVING count(DISTINCT writer) > 1",
    ),
    (
        "a row with another step",
        "FROM stored s LEFT JOIN store.all_rows r USING (emitter_key, seq) WHERE r.step IS DISTINCT FROM s.row",
    ),
    (
        "a row whose points aren't there",
        "SELECT emitter_key, seq FROM store.all_rows r ANTI JOIN stored s USING (emitter_key, seq)",
    ),
    (
        "ranges of the ledger that overlap",
        """
        SELECT * FROM store.ledger a JOIN store.ledger b ON a.emitter_key = b.emitter_key
        AND a.first_seq < b.end_seq AND b.first_seq < a.end_seq AND a.rowid < b.rowid
        """,
    ),
    (
        "a stored row that the ledger doesn't call stored",
        """
        SELECT r.emitter_key, r.seq FROM store.all_rows r ASOF LEFT JOIN store.ledger l
        ON r.emitter_key = l.emitter_key AND r.seq >= l.first_seq
        WHERE l.disposition IS DISTINCT FROM 'stored' OR r.seq >= l.end_seq
        """,
    ),
)

_OPEN = "SELECT emitter_id, next_seq, missing, stored FROM emitters WHERE NOT complete"
_DECLARED = """
SELECT coalesce(x.reason, l.disposition), sum(l.end_seq - l.first_seq)::BIGINT
FROM store.ledger l LEFT JOIN (
    SELECT emitter_key, first_seq, any_value(reason) AS reason FROM store.losses GROUP BY ALL
) x ON x.emitter_key = l.emitter_key AND x.first_seq = l.first_seq
WHERE l.disposition <> 'stored' GROUP BY ALL
"""
_DEAD_LETTERS = "SELECT reason, count(*) FROM store.dead_letters GROUP BY ALL"


@dataclass(frozen=True, slots=True)
class Findings:
    """What the file holds.

    Attributes:
        points: Stored.
        rows: Of them, those that a writer was told of.
        lost: Rows whose `log()` returned and that are neither stored nor declared where that may be.
        twice: Points and rows that are there more often than once.
        wrong: Things that break laws 1, 3 and 5, by what they are.
        open_receipts: Emitters whose receipt isn't closed.
        declared: Rows that the ledger calls lost or dead, by reason.
        dead_letters: Messages by reason.
        examples: Some lines that tell where to look.
    """

    points: int
    rows: int
    lost: int
    twice: int
    wrong: Mapping[str, int]
    open_receipts: int
    declared: Mapping[str, int]
    dead_letters: Mapping[str, int]
    examples: tuple[str, ...] = field(default=())


def audit(database: Path, told: Mapping[int, int], lossy: AbstractSet[int] = frozenset()) -> Findings:
    """Compare a stopped consumer's file with what writers were told.

    Args:
        database: The DuckDB file; nobody has it open.
        told: How many calls of each writer returned.
        lossy: Writers that may have declared losses.
    """
    with contextlib.closing(duckdb.connect(str(database), read_only=True)) as connection:
        return _Audit(connection).run(told, lossy)


class _Audit:
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._examples: list[str] = []

    def run(self, told: Mapping[int, int], lossy: AbstractSet[int]) -> Findings:
        self._connection.execute("CREATE TEMP TABLE told (writer BIGINT, rows BIGINT, lossy BOOLEAN)")
        for writer, rows in told.items():
            self._connection.execute("INSERT INTO told VALUES (?, ?, ?)", [writer, rows, writer in lossy])
        self._connection.execute(_STORED)
        self._connection.execute(_WRITERS)
        missing = "greatest(rows - there - CASE WHEN lossy THEN declared ELSE 0 END, 0)"
        self._show("rows are lost", f"SELECT *, {missing} AS lost FROM writers WHERE {missing} > 0")  # noqa: S608
        self._show("points are twice there", "SELECT * FROM stored WHERE points > keys")
        return Findings(
            points=self._number("SELECT count(*) FROM store.all_points"),
            rows=self._number("SELECT coalesce(sum(there), 0) FROM writers"),
            lost=self._number(f"SELECT coalesce(sum({missing}), 0) FROM writers"),  # noqa: S608
            twice=self._number(_TWICE_POINTS) + self._number(_TWICE_ROWS),
            wrong={what: count for what, query in _WRONG if (count := self._show(what, query))},
            open_receipts=self._show("a receipt is open", _OPEN),
            declared=self._totals(_DECLARED),
            dead_letters=self._totals(_DEAD_LETTERS),
            examples=tuple(self._examples),
        )

    def _show(self, what: str, query: str) -> int:
        """How many cases a query has; some become examples."""
        found = self._connection.execute(query)
        names = [column[0] for column in found.description or ()]
        for case in found.fetchmany(EXAMPLES_MAX):
            self._examples.append(f"{what}: {dict(zip(names, case, strict=False))}")
        return self._number(f"SELECT count(*) FROM ({query})")  # noqa: S608 - queries of our own

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchall()[0][0])

    def _totals(self, query: str) -> dict[str, int]:
        return {str(reason): int(count) for reason, count in self._connection.execute(query).fetchall()}


assert len(METRICS) == KEYS <= 2**KEY_BITS
