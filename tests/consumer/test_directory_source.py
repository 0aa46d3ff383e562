"""The folder source takes complete blocks, whatever stands at the end of a file, and waits for the rest."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_consumer.decode import DeadLetter, Decoded, decode
from runwire_consumer.sources import Message, Position, Source, directory
from runwire_consumer.sources.directory import TORN_TAIL_SECONDS, DirectorySource
from runwire_schemas.envelope import Envelope
from runwire_schemas.folder import HEADER_BYTES_MAX, encode_block, file_header
from tests.consumer.telling import DAY_ONE, Emitter

SYNC = b"0123456789abcdef"


def block(*messages: Message) -> bytes:
    """One block of a topic file."""
    pairs = [(Envelope.from_headers(message.headers), message.payload) for message in messages]  # type: ignore[arg-type]
    return encode_block(pairs, DAY_ONE, SYNC)


def batches(count: int, letter: str = "a") -> list[Message]:
    """Batches of three rows."""
    run = Emitter(letter)
    return [run.logs({step: {"loss": 1.0} for step in range(3)}) for _ in range(count)]


def read(folder: Path, positions: dict[str, Position] | None = None) -> tuple[list[Message], Source]:
    """Everything that one poll finds."""

    async def poll() -> tuple[list[Message], Source]:
        source = DirectorySource(folder, f"dir:{folder}")
        await source.start(positions or {})
        return await source.poll(0.0), source

    return asyncio.run(poll())


async def polled(source: Source, count: int) -> list[Message]:
    """So many messages; after a scan that took long, the next one comes later."""
    found: list[Message] = []
    async with asyncio.timeout(90):
        while len(found) < count:
            found += await source.poll(0.5)
    return found


def first_seqs(messages: list[Message]) -> list[int]:
    """Which batches came."""
    return [item.envelope.first_seq for item in map(decode, messages) if isinstance(item, Decoded)]


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    """Nothing is made there; one that goes away later is trouble."""
    folder = tmp_path / "later"
    found, source = read(folder)
    assert (found, source.status().at_tail, folder.exists()) == ([], True, False)
    folder.mkdir()
    (folder / "s-000000.avro").write_bytes(file_header(SYNC) + block(*batches(1)))

    async def follow() -> None:
        assert len(await polled(source, 1)) == 1
        (folder / "s-000000.avro").unlink()
        folder.rmdir()
        while not (trouble := source.status().trouble):  # folders are looked at now and then
            assert await source.poll(0.5) == []
        assert "can't be read" in trouble

    asyncio.run(follow())


def test_a_slow_folder_is_looked_at_less_often_a_machine_that_stood_still_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth of the time at most, by two looks in a row."""
    source, now, takes = DirectorySource(tmp_path, "dir:x"), 1_000.0, 0.0
    scandir = os.scandir

    def slow(folder: Path) -> Any:
        nonlocal now
        now += takes
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pauses = []
    for takes in (0.001, 10.0, 0.001, 0.5, 0.5, 0.001):  # noqa: B007 - `slow` reads it
        began = now
        source._scan(now)
        pauses.append(round(source._next_scan - began, 6))
    assert pauses == [0.25, 0.25, 0.25, 0.25, 10.0, 0.25]


def test_blocks_of_all_files_in_order_of_their_names(tmp_path: Path) -> None:
    """Positions are block ends; going on from them hands out nothing twice."""
    one, two, three = batches(3)
    (tmp_path / "s-000000.avro").write_bytes(file_header(SYNC) + block(one, two))
    (tmp_path / "s-000001.avro").write_bytes(file_header(SYNC) + block(three))
    found, source = read(tmp_path)
    assert first_seqs(found) == [0, 3, 6]
    assert source.status().at_tail
    assert [message.partition for message in found] == ["s-000000.avro", "s-000000.avro", "s-000001.avro"]
    # A position inside a block leads back to its start.
    assert found[0].next_offset == len(file_header(SYNC))
    assert found[1].next_offset == (tmp_path / "s-000000.avro").stat().st_size
    again, source = read(tmp_path, {message.partition: (message.next_offset, "") for message in found})
    assert again == []
    assert source.status().at_tail


def test_every_cut_of_a_file_gives_its_complete_blocks(tmp_path: Path) -> None:
    """A torn tail is not read, not reported and doesn't count as lag; with the missing bytes it is read."""
    one, two = batches(2)
    blocks = [block(one), block(two)]
    whole = file_header(SYNC) + blocks[0] + blocks[1]
    ends = [len(file_header(SYNC)) + len(blocks[0]), len(whole)]
    path = tmp_path / "s-000000.avro"
    for cut in range(0, len(whole) + 1, 3):
        path.write_bytes(whole[:cut])
        found, source = read(tmp_path)
        assert first_seqs(found) == [0, 3][: sum(end <= cut for end in ends)]
        assert source.status().at_tail


def test_a_growing_file_is_followed(tmp_path: Path) -> None:
    """The same source sees what is appended, and files that appear."""

    async def follow() -> list[list[int]]:
        source = DirectorySource(tmp_path, "dir:x")
        await source.start({})
        seen = [first_seqs(await source.poll(0.0))]
        one, two = batches(2)
        path = tmp_path / "s-000000.avro"
        for data in (file_header(SYNC), block(one)[:40], block(one)[40:], block(two)):
            with path.open("ab") as file:
                file.write(data)
            seen.append(first_seqs(await source.poll(0.6)))
        return seen

    assert asyncio.run(follow()) == [[], [], [], [0], [3]]


def test_damage_in_the_middle_is_a_dead_letter(tmp_path: Path) -> None:
    """Bytes that are no block are set aside up to the next marker; what follows is read."""
    one, two = batches(2)
    garbage = b"\x55" * 100 + SYNC
    (tmp_path / "s-000000.avro").write_bytes(file_header(SYNC) + block(one) + garbage + block(two))
    found, source = read(tmp_path)
    assert first_seqs(found) == [0, 3]
    dead = [item for item in map(decode, found) if isinstance(item, DeadLetter)]
    assert len(dead) == 1
    assert "are no block" in dead[0].reason
    assert source.status().anomalies == {"damaged_block": 1}


@pytest.mark.parametrize("data", [b"PK\x03\x04zip", b"x" * 500, b"Obj\x02" + b"y" * 100])
def test_a_file_of_somebody_else_is_one_dead_letter(tmp_path: Path, data: bytes) -> None:
    """It is reported once, also over restarts, and the others are read."""
    (tmp_path / "foreign.avro").write_bytes(data)
    (tmp_path / "s-000000.avro").write_bytes(file_header(SYNC) + block(*batches(1)))
    found, source = read(tmp_path)
    assert first_seqs(found) == [0]
    assert [item.reason for item in map(decode, found) if isinstance(item, DeadLetter)] == [
        "The file is no topic file of Runwire; it is left alone."
    ]
    assert source.status().at_tail
    again, source = read(tmp_path, {message.partition: (message.next_offset, "") for message in found})
    assert again == []
    assert source.status().at_tail


def test_an_unreadable_folder_is_trouble_not_an_error(tmp_path: Path) -> None:
    """The service says so and goes on trying."""
    (tmp_path / "topic").write_text("a file where the folder should be")
    found, source = read(tmp_path / "topic")
    assert found == []
    assert not source.status().reachable
    assert "can't be read" in source.status().trouble


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    """The consumer may be there before the first trainer."""
    found, source = read(tmp_path / "home" / "topic")
    assert found == []
    assert source.status().at_tail


@given(st.binary(max_size=400), st.sampled_from([b"", SYNC]))
@settings(max_examples=60)
def test_garbage_behind_a_header_never_raises(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, marker: bytes
) -> None:
    """Whatever a disk made of a file: dead letters or nothing, never an exception."""
    folder = tmp_path_factory.mktemp("topic")
    (folder / "s-000000.avro").write_bytes(file_header(SYNC) + tail + marker)
    found, _ = read(folder)
    assert all(isinstance(decode(message), DeadLetter) for message in found)


def test_a_damaged_header_is_one_dead_letter(tmp_path: Path) -> None:
    """One of our own files that can never be read says so; it isn't trouble."""
    broken = bytearray(file_header(SYNC) + block(*batches(1)))
    broken[5:7] = b"\xfe\x7f"
    (tmp_path / "a-000000.avro").write_bytes(bytes(broken) + b"x" * HEADER_BYTES_MAX)
    (tmp_path / "s-000000.avro").write_bytes(file_header(SYNC) + block(*batches(1)))
    found, source = read(tmp_path)
    assert first_seqs(found) == [0]
    assert len([item for item in map(decode, found) if isinstance(item, DeadLetter)]) == 1
    assert source.status().at_tail
    again, _ = read(tmp_path, {message.partition: (message.next_offset, "") for message in found})
    assert again == []


@pytest.mark.parametrize("read_bytes", [len(file_header(SYNC)), 0])
def test_a_torn_tail_that_stands_still_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, read_bytes: int
) -> None:
    """It keeps nobody waiting, and is read when the rest comes after all."""
    whole = file_header(SYNC) + block(*batches(1))
    path = tmp_path / "s-000000.avro"
    path.write_bytes(whole[: read_bytes + 50])
    late = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0], time_ns=time.time_ns)
    monkeypatch.setattr(directory, "time", clock)

    async def follow() -> None:
        source = DirectorySource(tmp_path, "dir:x")
        await source.start({})
        assert await source.poll(0.0) == []
        assert (source.status().at_tail, source.status().anomalies, caplog.messages) == (True, {}, [])
        for _ in range(3):
            late[0] += TORN_TAIL_SECONDS
            assert await source.poll(0.0) == []
            assert source.status().at_tail
            assert source.status().anomalies == {"torn_tail": 1}
        assert len(caplog.messages) == 1
        assert "last 50 bytes" in caplog.text
        assert path.name in caplog.text
        path.write_bytes(whole)
        late[0] += TORN_TAIL_SECONDS
        assert first_seqs(await source.poll(0.0)) == [0]

    with caplog.at_level(logging.WARNING):
        asyncio.run(follow())


def _write_nameless(folder: Path) -> None:
    (folder / os.fsdecode(b"bad\xff.avro")).write_bytes(b"hello")


def _link_secret(folder: Path) -> None:
    (folder.parent / "secret").write_text("hunter2")
    (folder / "a.avro").symlink_to(folder.parent / "secret")


@pytest.mark.parametrize(
    "make",
    [
        _write_nameless,
        _link_secret,
        lambda folder: (folder / "a.avro").symlink_to("/nonexistent"),
        lambda folder: (folder / "a.avro").symlink_to("a.avro"),
        lambda folder: (folder / "a.avro").mkdir(),
        lambda folder: os.mkfifo(folder / "a.avro"),
    ],
    ids=["name", "link", "dangling", "loop", "directory", "fifo"],
)
def test_an_odd_entry_is_passed_over_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]
) -> None:
    """Nothing of it is read, and the others are."""
    topic = tmp_path / "topic"
    topic.mkdir()
    try:
        make(topic)
    except OSError:
        pytest.skip("this file system has no such entries")
    (topic / "s-000000.avro").write_bytes(file_header(SYNC) + block(*batches(1)))

    async def follow() -> None:
        source = DirectorySource(topic, "dir:x")
        await source.start({})
        assert first_seqs(found := await source.poll(0.0)) == [0]
        assert len(found) == 1
        assert await source.poll(0.6) == []
        assert source.status().at_tail
        assert source.status().anomalies == {"entry_passed_over": 1}
        assert len(caplog.messages) == 1
        caplog.text.encode()

    with caplog.at_level(logging.WARNING):
        asyncio.run(follow())


def test_a_file_that_cannot_be_read_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of once, and read as soon as it can be."""
    first, second = batches(2)
    (tmp_path / "a-000000.avro").write_bytes(file_header(SYNC) + block(first))
    (tmp_path / "s-000000.avro").write_bytes(file_header(SYNC) + block(second))
    locked = [True]
    real = directory._open

    def refuse(path: Path) -> io.FileIO:
        if locked[0] and path.name.startswith("a-"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(directory, "_open", refuse)
    monkeypatch.setattr(directory, "RETRY_SECONDS", 0.1)

    async def follow() -> None:
        source = DirectorySource(tmp_path, "dir:x")
        await source.start({})
        assert first_seqs(await source.poll(0.0)) == [3]
        assert await source.poll(0.3) == []
        assert source.status().at_tail
        assert source.status().anomalies == {"entry_passed_over": 1}
        assert len(caplog.messages) == 1
        locked[0] = False
        assert first_seqs(await source.poll(1.0)) == [0]

    with caplog.at_level(logging.WARNING):
        asyncio.run(follow())


def test_what_is_opened_is_a_regular_file(tmp_path: Path) -> None:
    """Also where the entry was exchanged after the scan."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link", "."):
        with pytest.raises(OSError, match=r"regular file|symbolic links"):
            directory._open(tmp_path / name)


def _grown(folder: Path, count: int, sync: bytes = SYNC, letter: str = "a") -> tuple[Path, list[bytes]]:
    """A topic file of some blocks of a batch each, and what its pieces are: the header, then the blocks."""
    pieces = [file_header(sync)]
    for message in batches(count, letter):
        pair = (Envelope.from_headers(message.headers), message.payload)  # type: ignore[arg-type]
        pieces.append(encode_block([pair], DAY_ONE, sync))
    path = folder / "s-000000.avro"
    path.write_bytes(b"".join(pieces))
    return path, pieces


def _cut(path: Path, pieces: list[bytes]) -> None:
    """The file loses its end in place."""
    os.truncate(path, len(b"".join(pieces[:2])))


def _cut_and_grown(path: Path, pieces: list[bytes]) -> None:
    """It lost its end and grew beyond where it was, before anybody looked."""
    other = pieces[3].replace(b"a" * 32, b"b" * 32)
    path.write_bytes(b"".join([*pieces[:2], other, other, other]))


def _put_back(path: Path, pieces: list[bytes]) -> None:
    """A copy of an earlier day, under the same name: another inode."""
    copy = path.with_suffix(".copy")
    copy.write_bytes(b"".join(pieces[:2]))
    copy.rename(path)


def _exchanged(path: Path, pieces: list[bytes]) -> None:
    """Another file of the same size."""
    copy = path.with_suffix(".copy")
    copy.write_bytes(b"".join(pieces).replace(SYNC, b"fedcba9876543210"))
    copy.rename(path)


CHANGES = {
    # what: (how, batches that the file holds afterwards)
    "cut": (_cut, [0]),
    "cut and grown": (_cut_and_grown, [0, 6, 6, 6]),
    "put back": (_put_back, [0]),
    "exchanged": (_exchanged, [0, 3, 6]),
}


@pytest.mark.parametrize("looked", ["up", "down"])
@pytest.mark.parametrize(("change", "holds"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_is_not_what_was_read_is_read_again(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path, list[bytes]], None],
    holds: list[int],
    looked: str,
) -> None:
    """All that it holds comes, whoever looked when, and what may be gone is told of in a record."""
    if (change, looked) == (_exchanged, "down"):
        pytest.skip("the same name and the same size while nobody looked: nothing that a scan sees is different")
    path, pieces = _grown(tmp_path, 3)

    async def follow() -> None:
        source = DirectorySource(tmp_path, "dir:x")
        await source.start({})
        found = await source.poll(0.0)
        assert first_seqs(found) == [0, 3, 6]
        if looked == "down":
            positions = {message.partition: (message.next_offset, message.anchor) for message in found}
            source = DirectorySource(tmp_path, "dir:x")
            await source.start(positions)
        change(path, pieces)
        found = await source.poll(2.0)
        assert first_seqs(found) == holds
        (told,) = [message for message in found if message.damage]
        assert (told.offset, told.next_offset) == (len(b"".join(pieces)), 0)
        assert "replaced, cut or put back" in told.damage
        assert source.status().anomalies == {"file_replaced": 1}
        assert "replaced, cut or put back" in caplog.text
        # From here on it is followed as any other.
        assert await source.poll(0.3) == []

    with caplog.at_level(logging.WARNING):
        asyncio.run(follow())


def test_a_copy_of_the_same_file_is_no_news(tmp_path: Path) -> None:
    """Moved to another disk and back: nothing is read twice, and it goes on where it was."""
    path, pieces = _grown(tmp_path, 3)

    async def follow() -> None:
        source = DirectorySource(tmp_path, "dir:x")
        await source.start({})
        assert first_seqs(await source.poll(0.0)) == [0, 3, 6]
        copy = path.with_suffix(".copy")
        copy.write_bytes(b"".join([*pieces, pieces[3]]))
        copy.rename(path)
        assert first_seqs(await source.poll(2.0)) == [6]
        assert source.status().anomalies == {}

    asyncio.run(follow())


def test_a_position_of_an_earlier_version_has_no_mark(tmp_path: Path) -> None:
    """It is believed, unless the file is too small for it."""
    path, pieces = _grown(tmp_path, 3)
    sizes = [len(b"".join(pieces[:count])) for count in range(5)]
    assert first_seqs(read(tmp_path, {path.name: (sizes[2], "")})[0]) == [3, 6]
    os.truncate(path, sizes[2])
    assert first_seqs(read(tmp_path, {path.name: (sizes[3], "")})[0]) == [0]


def test_a_file_removed_before_it_was_read_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are named; one that was read wholly may go, and one that comes back goes on where it was."""
    path, pieces = _grown(tmp_path, 3)
    whole, read_bytes = path.read_bytes(), len(b"".join(pieces[:2]))
    path.write_bytes(whole[:read_bytes])

    async def follow() -> None:
        source = DirectorySource(tmp_path, "dir:x")
        await source.start({})
        assert first_seqs(await source.poll(0.0)) == [0]
        path.write_bytes(whole)
        monkeypatch.setattr(directory, "POLL_BYTES_MAX", 0)  # seen, not read
        await source.poll(0.6)
        path.unlink()
        (told,) = await polled(source, 1)
        assert told.damage == f"The file was removed before its bytes {read_bytes} to {len(whole) - 1} were read."
        assert (told.offset, told.next_offset) == (read_bytes, read_bytes)
        assert source.status().anomalies == {"file_removed": 1}
        monkeypatch.setattr(directory, "POLL_BYTES_MAX", 2**20)
        path.write_bytes(whole)
        assert first_seqs(await polled(source, 2)) == [3, 6]
        path.unlink()
        assert await source.poll(0.6) == []
        assert source.status().anomalies == {"file_removed": 1}

    asyncio.run(follow())
