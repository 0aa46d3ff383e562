"""Rows that are numbered before their values are there: nothing overtakes them, nothing of them is lost unsaid."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire._journal_files import Reservation
from runwire._segments import RECORD_BYTES
from tests.producer.journals import EMITTER, Reader, died, open_journal, recovered

KEYS, OTHER = ("loss", "acc"), ("lr",)
SEGMENT_BYTES = 1024

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["row", "reserve", "fill", "fill", "abandon", "prepare", "read"]), st.integers(0, 10**6)),
    max_size=60,
)


@given(OPERATIONS, st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_of_reserved_rows(
    operations: list[tuple[str, int]],
    mapped: bool,  # noqa: FBT001 - Hypothesis hands it over by place
) -> None:
    """The sender sees rows in order up to the first open place; a recovery has all but the open ones: lost."""
    rows: dict[int, tuple[tuple[str, ...], tuple[float, ...]]] = {}
    waiting: list[Reservation] = []
    abandoned: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder) / EMITTER, mapped=mapped, segment_bytes=SEGMENT_BYTES)
        reader = Reader(journal)
        seen: list[int] = []
        for name, number in operations:
            keys = KEYS if number % 3 else OTHER
            values = (float(number),) * len(keys)
            if name == "row":
                journal.append_row(keys, number, 0, values)
                rows[journal.next_seq - 1] = keys, values
            elif name == "reserve":
                place = journal.reserve_row(keys, number, 0)
                assert place is not None
                waiting.append(place)
            elif name in {"fill", "abandon"} and waiting:
                place = waiting.pop(number % len(waiting))
                if name == "fill":
                    values = (float(number),) * (place.key_set.length // 8)
                    rows[place.seq] = KEYS if len(values) == 2 else OTHER, values
                    journal.fill_row(place, values)
                else:
                    abandoned.add(place.seq)
                    journal.abandon_row(place, "gone")
            elif name == "prepare":
                journal.prepare()
            elif name == "read":
                seen += [row[0] for row in reader.read().rows]
                first_open = min((place.seq for place in waiting), default=journal.next_seq)
                assert seen == sorted(seq for seq in rows if seq < first_open)
        dead = recovered(died(journal, Path(folder) / "dead"))
        assert {row[0]: (row[1], row[3]) for row in dead.rows} == rows
        assert dead.lost_seqs == {place.seq for place in waiting} | abandoned
        dead.assert_complete()
        journal.seal()
        seen += [row[0] for row in reader.read().rows]
        assert seen == sorted(rows)
        sealed = recovered(died(journal, Path(folder) / "sealed"))
        assert sealed.lost_seqs >= dead.lost_seqs  # in so small a segment a declaration may find no room
        assert sealed.lost_seqs.isdisjoint(rows)
        sealed.assert_complete()
        reader.close()
        journal.close(delete=True)


def test_cut_while_filling_gives_the_row_or_a_declared_loss(tmp_path: Path) -> None:
    """Killed at any byte of a fill, no half-filled row arrives."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=SEGMENT_BYTES)
    place = journal.reserve_row(KEYS, 7, 0)
    assert place is not None
    journal.append_row(OTHER, 8, 0, (2.0,))
    folder = died(journal, tmp_path / "dead")
    before = (folder / "000000.seg").read_bytes()
    journal.fill_row(place, (0.5, 0.25))
    after = (journal.folder / "000000.seg").read_bytes()
    journal.close(delete=True)
    start, end = place.at, place.at + RECORD_BYTES + 16
    assert before[end:] == after[end:]
    for cut in range(start + 8, end + 1):  # the body first, the check sum last
        (folder / "000000.seg").write_bytes(before[: start + 8] + after[start + 8 : cut] + before[cut:])
        story = recovered(folder)
        assert story.rows == [(1, OTHER, 8, (2.0,))]
        assert story.lost_seqs == {0}
        story.assert_complete()
    (folder / "000000.seg").write_bytes(after)
    assert recovered(folder).rows == [(0, KEYS, 7, (0.5, 0.25)), (1, OTHER, 8, (2.0,))]


def test_at_the_cap_an_open_place_is_lost_with_its_segment(tmp_path: Path) -> None:
    """What arrives for a dropped place changes nothing, and the rows behind it aren't held back for ever."""
    journal = open_journal(tmp_path / EMITTER, segment_bytes=4096, journal_bytes_max=4 * 4096)
    place = journal.reserve_row(KEYS, 0, 0)
    assert place is not None
    for step in range(600):
        journal.append_row(KEYS, step, 0, (1.0, 2.0))
    assert journal.published.number > 4
    journal.fill_row(place, (0.5, 0.25))
    journal.abandon_row(place, "late")
    story = recovered(died(journal, tmp_path / "dead"))
    assert 0 in story.lost_seqs
    story.assert_complete()
    journal.close(delete=True)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_place_whose_segment_is_full_is_filled_in_its_file(tmp_path: Path, *, mapped: bool) -> None:
    """Segments roll on while a value is on its way."""
    journal = open_journal(tmp_path / EMITTER, mapped=mapped, segment_bytes=SEGMENT_BYTES)
    reader = Reader(journal)
    place = journal.reserve_row(KEYS, 0, 0)
    assert place is not None
    for step in range(1, 50):
        journal.append_row(KEYS, step, 0, (1.0, 2.0))
    assert reader.read().rows == []
    journal.fill_row(place, (0.5, 0.25))
    assert [row[2] for row in reader.read().rows] == list(range(50))
    reader.close()
    journal.close(delete=True)
