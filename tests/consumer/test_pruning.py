"""Topic files go only when every snapshot holds them, and no row of a writer that wakes up goes with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runwire._batch import Message
from runwire._directory import DirectoryTransport
from runwire._errors import TransportError
from runwire_consumer import pruning
from runwire_consumer.pruning import QUIET_SECONDS, covered, forget, prune, put_back, remove
from runwire_schemas.envelope import Envelope
from runwire_schemas.topics import Destination
from tests.consumer.telling import DAY_ONE, SECOND
from tests.pipeline.homes import SOURCE, TopicHome, told_anew

COVERED: list[tuple[list[dict[str, int]], dict[str, int]]] = [
    ([{}], {}),
    ([{"a": 5, "b": 7}, {"a": 5, "b": 6}], {"a": 5}),
    ([{"a": 5}, {"a": 5}, {}], {}),
    ([{"a": 5}, {"a": 5, "b": 1}], {"a": 5}),
]


@pytest.mark.parametrize(("everywhere", "expected"), COVERED)
def test_what_is_read_to_the_same_place_everywhere(everywhere: list[dict[str, int]], expected: dict[str, int]) -> None:
    assert covered(everywhere) == expected


def a_message(number: int) -> Message:
    """One whose payload can be found again in the bytes of a folder."""
    envelope = Envelope("MetricBatch", "p", "r" * 16, "e" * 32, "first", 0, number, 1)
    return Message(envelope, b"payload-%d;" % number)


@pytest.fixture
def home(tmp_path: Path) -> TopicHome:
    """File a is in both snapshots, b in the newer one, c in none; all are old."""
    home = TopicHome(tmp_path / "home")
    for letter in "abc":
        home.sends(30, letter)
        home.ingest()
        if letter != "c":
            home.snapshot()
    old = (home.now - (QUIET_SECONDS + 10) * SECOND) / SECOND
    for path in home.topic.iterdir():
        os.utime(path, (old, old))
    return home


def pruned(home: TopicHome) -> list[str]:
    """Prune and forget, as the consumer does."""
    store = home.open()
    try:
        names = prune(store.database, home.snapshots, home.topic, SOURCE, home.now)
        forget(store, SOURCE, names)
        return names
    finally:
        store.close()


def test_only_what_all_snapshots_hold_goes(home: TopicHome, tmp_path: Path) -> None:
    """Whichever of them is restored, the rows are all there again; the offsets of what is gone leave the store."""
    expected = [line for line in told_anew(tmp_path / "anew", home) if line[0] != "offset"]
    assert pruned(home) == ["a-000000.avro"]
    assert sorted(path.name for path in home.topic.iterdir()) == ["b-000000.avro", "c-000000.avro"]
    assert [line[2] for line in home.content() if line[0] == "offset"] == ["b-000000.avro", "c-000000.avro"]
    home.ingest()
    assert [line for line in home.content() if line[0] != "offset"] == expected
    home.database.write_bytes(b"x" * 20_000)
    home.snapshots.joinpath(max(path.name for path in home.snapshots.iterdir())).unlink()
    home.ingest()
    assert [line for line in home.content() if line[0] != "offset"] == expected
    assert pruned(home) == []


def test_offsets_that_a_crash_left_are_forgotten_later(home: TopicHome) -> None:
    store = home.open()
    assert prune(store.database, home.snapshots, home.topic, SOURCE, home.now) == ["a-000000.avro"]
    store.close()  # the consumer dies before it forgets
    assert pruned(home) == ["a-000000.avro"]
    assert pruned(home) == []


def grow(home: TopicHome) -> None:
    home.sends(10, "a")


def touch(home: TopicHome) -> None:
    os.utime(home.topic / "a-000000.avro")


def lose_a_snapshot(home: TopicHome) -> None:
    next(home.snapshots.iterdir()).unlink()


def have_a_dead_letter(home: TopicHome) -> None:
    store = home.open()
    store.cursor().execute(
        "INSERT INTO store.dead_letters BY NAME SELECT 0 AS letter_key, 'ab' AS letter_id, ? AS source, "
        "'a-000000.avro' AS \"partition\", 0 AS \"offset\", 0 AS appended_at, 'r' AS reason, 1 AS bytes, "
        "''::BLOB AS head, 'dead' AS status, false AS whole",
        [SOURCE],
    )
    store.close()


def link(home: TopicHome) -> None:
    path = home.topic / "a-000000.avro"
    path.rename(home.path / "elsewhere")
    path.symlink_to(home.path / "elsewhere")


@pytest.mark.parametrize("reason", [grow, touch, lose_a_snapshot, have_a_dead_letter, link])
def test_what_keeps_a_file(reason: Callable[[TopicHome], None], home: TopicHome) -> None:
    reason(home)
    if reason is touch:
        home.now = int((home.topic / "a-000000.avro").stat().st_mtime) * SECOND
    assert pruned(home) == []
    assert len(list(home.topic.iterdir())) == 3


def test_a_crash_in_between_leaves_what_is_put_back(home: TopicHome) -> None:
    name = home.topic / "a-000000.avro"
    name.rename(home.topic / ".a-000000.avro.pruned")
    put_back(home.topic)
    assert name.exists()


def test_grown_between_the_look_and_the_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer wrote before the file lost its name, so it may have acknowledged: the file is put back."""
    path = tmp_path / "a-000000.avro"
    path.write_bytes(b"x" * 10)
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self == path:
            with path.open("ab") as file:
                file.write(b"late")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    now = (path.stat().st_mtime_ns // 1_000) + QUIET_SECONDS * SECOND
    assert not remove(path, 10, now)
    assert path.read_bytes() == b"x" * 10 + b"late"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def listed_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_writer_that_wakes_up_sends_again(tmp_path: Path) -> None:
    """Its file is gone, or about to be: nothing is acknowledged, and the next send goes into a new file."""
    transport = DirectoryTransport(Destination("dir", path=str(tmp_path)))
    await transport.open()
    await transport.send([a_message(1)])
    (path,) = listed_in(tmp_path)
    assert remove(path, path.stat().st_size, path.stat().st_mtime_ns // 1_000 + QUIET_SECONDS * SECOND)
    with pytest.raises(TransportError, match="can't be written"):
        await transport.send([a_message(2)])
    await transport.send([a_message(2)])
    await transport.close()
    assert [entry.name != path.name for entry in listed_in(tmp_path)] == [True]


def test_no_acknowledged_block_is_ever_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer and a pruner as fast as they can: every block that `send` returned from was read, or is there."""
    monkeypatch.setattr(pruning, "QUIET_SECONDS", 0)
    acknowledged = 0
    done = threading.Event()

    def write() -> None:
        nonlocal acknowledged

        async def story() -> None:
            nonlocal acknowledged
            transport = DirectoryTransport(Destination("dir", path=str(tmp_path)))
            await transport.open()
            while acknowledged < 400 or not gone:
                with contextlib.suppress(TransportError):  # the file went: once more
                    await transport.send([a_message(acknowledged)])
                    acknowledged += 1
            await transport.close()

        asyncio.run(story())
        done.set()

    gone: list[bytes] = []
    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        for path in tmp_path.glob("*.avro"):
            try:
                data = path.read_bytes()  # what a consumer has stored
            except FileNotFoundError:
                continue
            if remove(path, len(data), DAY_ONE * 2):
                gone.append(data)
    writer.join()
    whole = b"".join([*gone, *(path.read_bytes() for path in tmp_path.glob("*.avro"))])
    assert acknowledged >= 400
    assert all(b"payload-%d;" % number in whole for number in range(acknowledged))
