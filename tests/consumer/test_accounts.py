"""What the relations say of every row of an emitter, whatever came in which order: the ledger seen by people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer import queries
from runwire_consumer.database import MEMORY
from runwire_consumer.sources import Message
from runwire_consumer.store import Store
from runwire_schemas import events
from tests.consumer.telling import DAY_ONE, RUN, Emitter, store_all

Act = tuple[str, int, int]
A = Emitter("a")


def tell(act: Act) -> Message:
    """(what, first, count) as a message of one emitter: rows, their undecodable twin, their declared loss, the end."""
    what, first, count = act
    match what:
        case "lost":  # the record itself takes the number behind those that it declares
            seq = first + count
            return A.message(events.RowsLost(RUN, A.emitter_id, 0, seq, DAY_ONE, first, count, "the journal was full"))
        case "end" | "crash":
            how = "finished" if what == "end" else "crashed"
            return A.message(events.EmitterEnded(RUN, A.emitter_id, 0, DAY_ONE, first, how))
        case "start":
            return A.message(
                events.RunStarted(
                    RUN, A.emitter_id, 0, first, DAY_ONE, "digits", "calm-river-1", "first", events.Host("")
                )
            )
        case "finish":
            return A.message(events.RunEnded(RUN, A.emitter_id, 0, first, DAY_ONE, "finished"))
    steps, values = list(range(first, first + count)), [float(seq) for seq in range(first, first + count)]
    block = events.Block(("loss",), steps, [DAY_ONE] * count, values)
    rows = A.message(events.MetricBatch(RUN, A.emitter_id, 0, first, (block,)))
    return replace(rows, payload=rows.payload[:-3]) if what == "dead" else rows


def store_of(acts: list[Act]) -> Store:
    """A store that has taken them, a transaction each."""
    store = Store.open(MEMORY)
    for act in acts:
        store_all(store, [tell(act)])
    return store


def accounts(store: Store) -> tuple[dict[str, object], list[tuple[str, int, int]]]:
    """(the emitter's receipt, its gaps) as users read them."""
    cursor = store.cursor()
    names = ("next_seq", "stored", "dead", "lost", "missing", "complete")
    rows = cursor.execute("SELECT next_seq, stored, dead, lost, missing, complete FROM emitters").fetchall()
    gaps = cursor.execute("SELECT kind, first_seq, end_seq FROM gaps ORDER BY first_seq").fetchall()
    return dict(zip(names, rows[0], strict=True)), gaps


ROWS, TWICE = ("rows", 0, 4), ("rows", 2, 2)
STORIES = {
    # what: (what came, next_seq, stored, dead, lost, missing, complete, gaps)
    "in order": ([ROWS, ("end", 4, 0)], 4, 4, 0, 0, 0, True, []),
    "open": ([ROWS], None, 4, 0, 0, 0, False, []),
    "twice": ([ROWS, TWICE, ROWS, ("end", 4, 0)], 4, 4, 0, 0, 0, True, []),
    "hole": ([("rows", 0, 2), ("rows", 3, 1), ("end", 4, 0)], 4, 3, 0, 0, 1, False, [("missing", 2, 3)]),
    "open hole": ([("rows", 2, 2)], None, 2, 0, 0, 2, False, [("missing", 0, 2)]),
    "dead": ([ROWS, ("dead", 4, 2), ("end", 6, 0)], 6, 4, 2, 0, 0, True, [("dead", 4, 6)]),
    "dead, replayed": ([ROWS, ("dead", 4, 2), ("rows", 4, 2), ("end", 6, 0)], 6, 6, 0, 0, 0, True, []),
    "dead after stored": ([ROWS, ("dead", 2, 4), ("end", 6, 0)], 6, 4, 2, 0, 0, True, [("dead", 4, 6)]),
    "lost": ([ROWS, ("lost", 4, 3), ("end", 8, 0)], 8, 5, 0, 3, 0, True, [("lost", 4, 7)]),
    "lost, came after all": ([ROWS, ("lost", 4, 3), ("rows", 4, 3), ("end", 8, 0)], 8, 8, 0, 0, 0, True, []),
    "lost, some had come": ([("rows", 0, 6), ("lost", 4, 3), ("end", 8, 0)], 8, 7, 0, 1, 0, True, [("lost", 6, 7)]),
    "late": ([("end", 4, 0), ("rows", 2, 2), ("rows", 0, 2)], 4, 4, 0, 0, 0, True, []),
    "nothing but the end": ([("end", 4, 0)], 4, 0, 0, 0, 4, False, [("missing", 0, 4)]),
    "ended, then recovered": ([ROWS, ("crash", 4, 0), ("rows", 4, 2), ("end", 6, 0)], 6, 6, 0, 0, 0, True, []),
    "recovery saw less": ([ROWS, ("end", 6, 0), ("crash", 4, 0)], 6, 4, 0, 0, 2, False, [("missing", 4, 6)]),
    "above the end": ([("crash", 4, 0), ROWS, ("rows", 4, 2)], 6, 6, 0, 0, 0, True, []),
    "above the end, with a hole": ([("crash", 4, 0), ROWS, ("rows", 6, 1)], 7, 5, 0, 0, 2, False, [("missing", 4, 6)]),
    "only above the end": ([("end", 5, 0), ("rows", 3, 5)], 8, 5, 0, 0, 3, False, [("missing", 0, 3)]),
    "the end inside a range": (
        [("rows", 3, 5), ("rows", 10, 2), ("end", 5, 0)], 12, 7, 0, 0, 5, False,
        [("missing", 0, 3), ("missing", 8, 10)],
    ),
    "start after rows and end": (
        [("rows", 1, 3), ("finish", 4, 1), ("end", 5, 0), ("start", 0, 1)], 5, 5, 0, 0, 0, True, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_receipt_and_gaps(story: tuple[list[Act], int | None, int, int, int, int, bool, list[Act]]) -> None:
    """`emitters` and `gaps` tell the same story, in literal numbers."""
    acts, next_seq, stored, dead, lost, missing, complete, gaps = story
    receipt, found = accounts(store_of(acts))
    assert list(receipt.values()) == [next_seq, stored, dead, lost, missing, complete]
    assert found == gaps


@pytest.mark.parametrize(
    ("story", "verdict"),
    [
        ("in order", "complete"),
        ("open", "open"),
        ("hole", "faulty"),
        ("dead", "faulty"),
        ("lost", "complete"),
        ("above the end, with a hole", "faulty"),
        ("recovery saw less", "faulty"),
    ],
)
def test_what_verify_says(story: str, verdict: str) -> None:
    """One word a run, the same that decides the exit code."""
    cursor = store_of(STORIES[story][0]).cursor()

    def ask(sql: str, params: object = None) -> list[dict[str, object]]:
        done = cursor.execute(sql, params)
        names = [column[0] for column in done.description]
        return [dict(zip(names, row, strict=True)) for row in done.fetchall()]

    assert queries.receipt(ask, RUN).verdict == verdict


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["rows", "rows", "rows", "dead", "lost", "end", "crash"]),
        st.integers(0, 20),
        st.integers(1, 8),
    ),
    min_size=1,
    max_size=14,
)


@given(ACTS, st.data())
@settings(max_examples=40, deadline=None)
def test_any_history_agrees_with_a_naive_model(acts: list[Act], data: st.DataObject) -> None:
    """Rows by seq in a dictionary: the relations say what it says, and every row is in the table once."""
    acts = [("rows", data.draw(st.integers(0, 3), "first"), 1), *acts]  # an emitter that is known
    model: dict[int, str] = {}
    end = None
    for what, first, count in acts:
        if what in {"end", "crash"}:
            end = max(end or 0, first)
            continue
        if what == "lost" and model.get(first + count) == "stored":
            continue  # the record came before: its number is taken
        told = {"rows": "stored", "dead": "dead", "lost": "lost"}[what]
        if what == "lost":
            model[first + count] = "stored"
        for seq in range(first, first + count):
            if model.get(seq) != "stored":
                model[seq] = told
    known = max([end or 0, *(seq + 1 for seq in model)])
    store = store_of(acts)
    receipt, gaps = accounts(store)
    assert receipt == {
        "next_seq": None if end is None else known,
        "missing": known - len(model),
        "complete": end is not None and known == len(model),
        **{kind: sum(what == kind for what in model.values()) for kind in ("stored", "dead", "lost")},
    }
    told_gaps = {seq: kind for kind, first, stop in gaps for seq in range(first, stop)}
    assert told_gaps == {seq: model.get(seq, "missing") for seq in range(known) if model.get(seq) != "stored"}
    seqs = [seq for (seq,) in store.cursor().execute("SELECT seq FROM store.rows").fetchall()]
    seqs += [seq for (seq,) in store.cursor().execute("SELECT seq FROM store.lifecycle").fetchall()]
    assert sorted(seqs) == sorted(seq for seq, what in model.items() if what == "stored")
