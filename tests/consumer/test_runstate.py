"""Run states and attempts as tables of values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumer.attempts import newest_by_rank, number_attempts
from runwire_consumer.runstate import RunState, Signs, evaluate, lost_after
from tests.consumer.telling import Emitter, told

SECOND = 1_000_000
NOW = 1_000 * SECOND


def signs(rank: int = 0, *, attempt: str = "one", silent: float = 0.0, started: float = 0.0, **more: Any) -> Signs:
    """An emitter that was seen `silent` seconds ago and promised a heartbeat every 5 s."""
    base = Signs(
        emitter_id=f"{attempt}-{rank}-{started}",
        rank=rank,
        attempt=attempt,
        role="train",
        restart_count=0,
        started_at=int(started * SECOND),
        seen_at=NOW - int(silent * SECOND),
        next_in_seconds=5.0,
    )
    return replace(base, **more)


ENDED = 900 * SECOND
STATES = [
    # Emitters, state, reason.
    ([signs()], "running", "1 of 1 ranks"),
    ([signs(0, status="finished", ended_at=ENDED), signs(1)], "running", "1 of 2 ranks"),
    (
        [signs(0, status="finished", ended_at=ENDED), signs(1, status="finished", ended_at=ENDED)],
        "finished",
        "2 of 2 ranks",
    ),
    ([signs(0, silent=60), signs(1)], "lost", "rank 0 is silent"),
    ([signs(0, silent=12)], "running", "1 of 1 ranks"),
    ([signs(0, silent=12.1)], "lost", "rank 0 is silent"),
    ([signs(0, silent=60), signs(1, status="preempted", ended_at=ENDED)], "preempted", "rank 1"),
    (
        [signs(0, how="crashed", ended_at=ENDED), signs(1, status="preempted", ended_at=ENDED)],
        "crashed",
        "rank 0 died without a word",
    ),
    (
        [signs(0, how="crashed", ended_at=ENDED), signs(1, status="failed", error="ValueError: x", ended_at=ENDED)],
        "failed",
        "rank 1: ValueError: x",
    ),
    # The signal that a failure sends to the peers doesn't mask it.
    (
        [signs(0, status="preempted", ended_at=ENDED), signs(1, status="failed", error="E", ended_at=ENDED)],
        "failed",
        "rank 1: E",
    ),
    # A rank that was restarted alone counts by its newest process.
    ([signs(0), signs(1, how="crashed", ended_at=ENDED), signs(1, started=50)], "running", "2 of 2 ranks"),
    # Only the newest attempt counts, even while an older one still speaks.
    ([signs(0, attempt="one"), signs(0, attempt="two", started=9, silent=60)], "lost", "rank 0 is silent"),
    ([signs(0, status="failed", ended_at=ENDED), signs(0, attempt="two", started=9)], "running", "1 of 1 ranks"),
    # An evaluator's end is not the run's.
    ([signs(0), signs(0, attempt="judge", role="eval", status="failed", ended_at=ENDED)], "running", "1 of 1 ranks"),
    ([signs(0, how="finished", ended_at=ENDED)], "finished", "1 of 1 ranks"),
    # Ranks of the launch that never came are counted, too; a larger launch before is over.
    ([signs(0, how="finished", ended_at=ENDED, world_size=4)], "finished", "1 of 4 ranks"),
    ([signs(0, world_size=4), signs(2, how="finished", ended_at=ENDED, world_size=4)], "running", "1 of 4 ranks"),
    ([signs(0, attempt="one", world_size=8), signs(0, attempt="two", started=9)], "running", "1 of 1 ranks"),
    # A loop past its own promise, while its process heartbeats; a dead one is lost, an ended one has ended.
    ([signs(0), signs(1, overdue_seconds=0.5)], "stuck", "rank 1 makes no progress"),
    ([signs(0, silent=60, overdue_seconds=3.0)], "lost", "rank 0 is silent"),
    ([signs(0, silent=60), signs(1, overdue_seconds=3.0)], "lost", "rank 0 is silent"),
    ([signs(0, overdue_seconds=3.0, status="preempted", ended_at=ENDED)], "preempted", "rank 0"),
    ([signs(0, overdue_seconds=3.0, how="crashed", ended_at=ENDED)], "crashed", "rank 0 died without a word"),
    ([signs(0), signs(0, attempt="judge", role="eval", overdue_seconds=9.0)], "running", "1 of 1 ranks"),
]


@pytest.mark.parametrize(("emitters", "state", "reason"), STATES)
def test_states(emitters: list[Signs], state: str, reason: str) -> None:
    """The worst of the newest attempt's ranks, each by its newest process."""
    found = evaluate(emitters, NOW)
    assert found is not None
    assert (found.state, found.reason) == (state, reason)


def test_nobody_is_no_state() -> None:
    """Without a rank, or with an editor alone, there is nothing to say."""
    assert evaluate([], NOW) is None
    assert evaluate([signs(role="edit")], NOW) is None


def test_an_outage_gives_everyone_a_new_promise() -> None:
    """Silence while the log was away is not the trainer's; a promise after it ended counts."""
    silent = signs(silent=600)
    assert evaluate([silent], NOW, reachable_since=NOW - 5 * SECOND) == RunState("running", 0, "1 of 1 ranks")
    lost = evaluate([silent], NOW + 10 * SECOND, reachable_since=NOW - 5 * SECOND)
    assert lost == RunState("lost", NOW + 7 * SECOND, "rank 0 is silent")


def test_lost_within_fifteen_seconds() -> None:
    """The default promise of 5 s makes a killed node lost 12 s after its last sign."""
    assert lost_after(signs()) - NOW == 12 * SECOND
    assert lost_after(signs(next_in_seconds=0.0)) - NOW == 12 * SECOND


SENDERS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 5),
        st.sampled_from(["train", "eval"]),
    ),
    max_size=8,
)


@given(SENDERS)
def test_numbers_are_dense_and_only_training_gets_one(drawn: list[tuple[str, int, int, int, str]]) -> None:
    """1, 2, ... without a hole; the newest attempt's ranks are each other's peers."""
    senders = [
        signs(rank, attempt=token, started=start, restart_count=restarts, role=role)
        for token, rank, restarts, start, role in drawn
    ]
    numbers = number_attempts(senders)
    assert sorted(numbers.values()) == list(range(1, len(numbers) + 1))
    assert set(numbers) == {sender.attempt for sender in senders if sender.role == "train"}
    chosen = newest_by_rank(senders)
    if numbers:
        newest = max(numbers, key=numbers.__getitem__)
        assert {sender.attempt for sender in chosen.values()} == {newest}


def test_sql_numbers_attempts_as_python_does() -> None:
    """The view and the pure function agree."""
    emitters = [
        Emitter("a", attempt="x", started=50),
        Emitter("b", attempt="y", started=10),
        Emitter("c", attempt="x", started=5, rank=1),
        Emitter("d", attempt="z", started=0),
        Emitter("e", attempt="w", started=1),
    ]
    restarts = [0, 1, 0, 1, 0]
    roles = ["train", "train", "train", "train", "eval"]
    cursor = told(
        *(
            emitter.starts(restart_count=count, role=role)
            for emitter, count, role in zip(emitters, restarts, roles, strict=True)
        )
    )
    pure = number_attempts(
        signs(emitter.rank, attempt=emitter.attempt, started=emitter.started, restart_count=count, role=role)
        for emitter, count, role in zip(emitters, restarts, roles, strict=True)
    )
    assert dict(cursor.execute("SELECT token, attempt FROM attempts").fetchall()) == pure == {"x": 1, "z": 2, "y": 3}
    assert cursor.execute("SELECT count(*) FROM emitters WHERE role = 'eval' AND attempt IS NULL").fetchall() == [(1,)]
