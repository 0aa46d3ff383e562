"""The questions that the HTTP face and the commands ask: the runs, one run, a run's receipt.

Every function takes an `Ask`: SQL with named parameters in, rows as dicts of JSON values out. So the same questions
run on an open database and on a consumer behind HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runwire_consumer.errors import RunAmbiguous, RunNotFound

Row = dict[str, Any]
Ask = Callable[[str, Mapping[str, Any]], Sequence[Row]]

RUNS_MAX = 1_000
EVENTS_MAX = 200
CANDIDATES_SHOWN_MAX = 5
ID_CHARACTERS_MIN = 4

STEPS_IN_ALL = (
    "(.*[./_])?(max|total|num|num_train|training|train)_?(steps|iters|iterations|timesteps)",
    "steps",
    "iterations",
)
"""Parameters that tell how many steps a run will have, whatever a training script calls them: regular expressions."""

# The maps are read of those runs only that are shown.
RUNS_SQL = """
SELECT run_id, project, name, "group", "user", tags, notes, state, started_at, ended_at, duration_seconds, "commit",
       dirty, params, last, best, world_size, ranks, attempts, points, tracking_share
FROM runs
WHERE run_id IN (
    SELECT run_id FROM runs WHERE $project::VARCHAR IS NULL OR project = $project
    ORDER BY started_at DESC NULLS LAST, run_id LIMIT $limit
)
ORDER BY started_at DESC NULLS LAST, run_id
"""

# The proof of "twice" is counted from the points themselves, not from the ledger that is to be proved.
RECEIPT_SQL = """
WITH twice AS (
    SELECT emitter_id, count(*) - count(DISTINCT (seq, metric)) AS twice
    FROM metrics WHERE run_id = $run_id GROUP BY emitter_id
)
SELECT emitter_id, "rank", attempt, role, started_at, ended, next_seq, stored, dead, lost, missing, complete,
       coalesce(twice, 0) AS twice
FROM emitters LEFT JOIN twice USING (emitter_id)
WHERE run_id = $run_id
ORDER BY attempt NULLS LAST, "rank", started_at, emitter_id
"""


@dataclass(frozen=True, slots=True)
class EmitterReceipt:
    """What became of the rows of one emitter (one process start).

    Attributes:
        sent: Rows that the emitter numbered; None while it has not ended.
        stored: Rows in the store.
        dead: Rows that arrived unreadable.
        lost: Rows whose loss was declared.
        missing: Rows that nothing explains; of an open emitter they may be on their way.
        twice: Points that are stored more than once.
    """

    emitter_id: str
    rank: int
    attempt: int | None
    role: str
    ended: str | None
    sent: int | None
    stored: int
    dead: int
    lost: int
    missing: int
    twice: int
    complete: bool

    @property
    def open(self) -> bool:
        """The emitter hasn't ended: nobody knows yet how many rows there are."""
        return self.sent is None

    @property
    def faulty(self) -> bool:
        """Rows are gone without an explanation, unreadable or doubled."""
        return self.dead > 0 or self.twice > 0 or (not self.open and self.missing > 0)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The receipt of a run."""

    run_id: str
    name: str
    emitters: tuple[EmitterReceipt, ...]
    ranks_unseen: tuple[int, ...]

    @property
    def faulty(self) -> bool:
        """Some emitter's rows are gone without an explanation, unreadable or doubled."""
        return any(emitter.faulty for emitter in self.emitters)

    @property
    def open(self) -> bool:
        """Some emitter hasn't ended, or a rank has not been heard of."""
        return bool(self.ranks_unseen) or any(emitter.open for emitter in self.emitters)

    @property
    def verdict(self) -> str:
        """`faulty`, `open` or `complete`."""
        return "faulty" if self.faulty else "open" if self.open else "complete"


def list_runs(ask: Ask, project: str | None = None, limit: int = RUNS_MAX) -> Sequence[Row]:
    """The newest runs first."""
    return ask(RUNS_SQL, {"project": project, "limit": limit})


def find_run(ask: Ask, wanted: str) -> str:
    """The id of the run that is meant by an id, a unique name or a unique begin (4 characters or more) of an id.

    Raises:
        RunNotFound: There is none.
        RunAmbiguous: There are several.
    """
    # Ids come from a small relation; only a name has to be looked for in `runs`, which computes the best values.
    ids = [
        str(row["run_id"])
        for row in ask(
            "SELECT DISTINCT run_id FROM emitters WHERE starts_with(run_id, $wanted) ORDER BY run_id",
            {"wanted": wanted},
        )
    ]
    if wanted in ids:
        return wanted
    named = ask(
        "SELECT run_id, project, state FROM runs WHERE name = $wanted ORDER BY started_at DESC NULLS LAST, run_id",
        {"wanted": wanted},
    )
    if len(named) == 1:
        return str(named[0]["run_id"])
    if named:
        texts = [f"{row['run_id']} ({row['project']}, {row['state']})" for row in named]
        raise RunAmbiguous(f"{len(named)} runs are called {wanted!r}: name one by its id: {_some(texts)}.")
    if len(wanted) < ID_CHARACTERS_MIN or not ids:
        raise RunNotFound(f"There is no run {wanted!r}: `runwire runs` lists the runs.")
    if len(ids) > 1:
        raise RunAmbiguous(f"{len(ids)} ids begin with {wanted!r}: write more of it: {_some(ids)}.")
    return ids[0]


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - CANDIDATES_SHOWN_MAX} more" if len(texts) > CANDIDATES_SHOWN_MAX else ""
    return ", ".join(texts[:CANDIDATES_SHOWN_MAX]) + more


def show_run(ask: Ask, run_id: str) -> Row:
    """Everything about one run: its row of `runs`, and lists of metrics, attempts, events, alerts, removals, gaps.

    Raises:
        RunNotFound: There is no run with this id.
    """
    key = {"run_id": run_id}
    found = ask("SELECT * FROM runs WHERE run_id = $run_id", key)
    if not found:
        raise RunNotFound(f"There is no run {run_id!r}: `runwire runs` lists the runs.")
    return {
        **found[0],
        "param_types": {
            row["key"]: row["type"] for row in ask("SELECT key, type FROM params WHERE run_id = $run_id", key)
        },
        "metrics": list(
            ask(
                "SELECT metric, max(step) AS last_step, max(time) AS last_time, count(*) AS ranks, "
                "avg(value) AS last_mean FROM latest WHERE run_id = $run_id GROUP BY metric ORDER BY metric",
                key,
            )
        ),
        "attempt_list": list(
            ask("SELECT * EXCLUDE (run_id) FROM attempts WHERE run_id = $run_id ORDER BY attempt", key)
        ),
        "emitters": list(
            ask(
                "SELECT * EXCLUDE (run_id) FROM emitters WHERE run_id = $run_id ORDER BY started_at, rank",
                key,
            )
        ),
        "events": list(
            ask(
                "SELECT time, rank, attempt, type, body FROM events WHERE run_id = $run_id "
                "ORDER BY time DESC LIMIT $limit",
                {**key, "limit": EVENTS_MAX},
            )
        )[::-1],
        "alerts": list(
            ask("SELECT * EXCLUDE (run_id) FROM alerts WHERE run_id = $run_id ORDER BY time LIMIT 100", key)
        ),
        "removals": list(
            ask("SELECT kind, time, points, reason FROM removals WHERE run_id = $run_id ORDER BY time", key),
        ),
        "gaps": list(
            ask(
                "SELECT * EXCLUDE (run_id) FROM gaps WHERE run_id = $run_id ORDER BY rank, first_seq LIMIT 100",
                key,
            )
        ),
    }


def receipt(ask: Ask, run_id: str) -> Receipt:
    """What became of every row of a run.

    Raises:
        RunNotFound: There is no run with this id.
    """
    found = ask("SELECT name, world_size, attempts FROM runs WHERE run_id = $run_id", {"run_id": run_id})
    if not found:
        raise RunNotFound(f"There is no run {run_id!r}: `runwire runs` lists the runs.")
    emitters = tuple(
        EmitterReceipt(
            emitter_id=row["emitter_id"],
            rank=row["rank"],
            attempt=row["attempt"],
            role=row["role"],
            ended=row["ended"],
            sent=row["next_seq"],
            stored=row["stored"],
            dead=row["dead"],
            lost=row["lost"],
            missing=row["missing"],
            twice=row["twice"],
            complete=row["complete"],
        )
        for row in ask(RECEIPT_SQL, {"run_id": run_id})
    )
    newest = {emitter.rank for emitter in emitters if emitter.attempt == found[0]["attempts"]}
    unseen = tuple(rank for rank in range(found[0]["world_size"] or 0) if rank not in newest)
    return Receipt(run_id, found[0]["name"], emitters, unseen)
