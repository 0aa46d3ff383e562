"""The `dir:` transport: whole blocks in files of one writer, and no litter when the disk is full."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from runwire import _directory
from runwire._batch import Message, messages
from runwire._directory import DirectoryTransport
from runwire._errors import TransportError
from runwire._recovery import DeadJournal
from runwire_schemas.envelope import Envelope
from runwire_schemas.folder import RawBlock, decode_block, parse_header, split_blocks
from runwire_schemas.topics import Destination
from tests.producer.journals import EMITTER, HEADER, open_journal


def batches(folder: Path, count: int) -> list[Message]:
    """Messages of one row each."""
    journal = open_journal(folder / EMITTER)
    for step in range(count):
        journal.append_row(("a",), step, 0, [1.0])
    made = list(messages(DeadJournal(journal.folder, HEADER)._read(), HEADER, 1, 2**20))
    journal.close(delete=True)
    return made


def stored(folder: Path) -> list[tuple[int, bytes]]:
    """(first_seq, payload) of everything a reader takes, file by file."""
    found = []
    for path in sorted(folder.glob("*.avro")):
        data = path.read_bytes()
        header = parse_header(data)
        if header is None:
            continue
        sync, start = header
        for block in split_blocks(data[start:], sync):
            assert isinstance(block, RawBlock)
            found += [(Envelope.from_fields(record.fields).first_seq, record.payload) for record in decode_block(block)]
    return found


def send(transport: DirectoryTransport, *parts: Sequence[Message]) -> None:
    """Open, send each part, close."""

    async def run() -> None:
        await transport.open()
        try:
            for part in parts:
                await transport.send(part)
        finally:
            await transport.close()

    asyncio.run(run())


def transport(folder: Path) -> DirectoryTransport:
    """To that folder."""
    return DirectoryTransport(Destination("dir", path=str(folder)))


def test_a_send_is_a_block(tmp_path: Path) -> None:
    """Sent messages are read back in order; a transport has one file, made with its first message."""
    made = batches(tmp_path, 5)
    topic = tmp_path / "a" / "topic"
    send(transport(topic))
    assert list(topic.iterdir()) == []
    send(transport(topic), made[:2], made[2:])
    assert stored(topic) == [(message.envelope.first_seq, message.payload) for message in made]
    assert len(list(topic.iterdir())) == 1


def test_files_are_rolled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond FILE_BYTES_MAX the next block begins a file, and the order of names is the order of writing."""
    monkeypatch.setattr(_directory, "FILE_BYTES_MAX", 1500)
    made = batches(tmp_path, 30)
    topic = tmp_path / "topic"
    send(transport(topic), *[[message] for message in made])
    assert [seq for seq, _ in stored(topic)] == list(range(30))
    assert len(list(topic.iterdir())) > 1


@pytest.mark.parametrize(
    ("writes_ok", "part_bytes", "stored_seqs", "files"),
    [
        (0, 0, [], 0),
        (0, 10, [], 0),
        (1, 0, [], 0),
        (1, 20, [], 0),
        (2, 0, [0], 1),
        (2, 50, [0], 1),
    ],
    ids=["no header", "half a header", "no block", "half a block", "second block", "half a second block"],
)
def test_a_full_disk_is_an_error_and_leaves_no_litter(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes_ok: int,
    part_bytes: int,
    *,
    stored_seqs: list[int],
    files: int,
) -> None:
    """A torn block ends its file; a file without a whole block goes; the next transport sends all of it again."""
    made = batches(tmp_path, 2)
    topic = tmp_path / "topic"
    write, calls = os.write, 0

    def failing(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls <= writes_ok:
            return write(fd, data)
        if part_bytes:
            return write(fd, data[:part_bytes])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing)
        with pytest.raises(TransportError, match="can't be written: No space left on device") as raised:
            send(transport(topic), [made[0]], [made[1]])
    assert raised.value.retriable
    assert [seq for seq, _ in stored(topic)] == stored_seqs
    assert len(list(topic.iterdir())) == files
    send(transport(topic), made)
    assert [seq for seq, _ in stored(topic)] == [*stored_seqs, 0, 1]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """A file in its place is an error that names the folder."""
    (tmp_path / "topic").write_text("")
    with pytest.raises(TransportError, match="topic"):
        send(transport(tmp_path / "topic"))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deleted_folder_takes_nothing_more(tmp_path: Path, *, replaced: bool) -> None:
    """What would go into a file that nobody finds is not acknowledged, and goes again into a new one."""
    made = batches(tmp_path, 3)
    topic = tmp_path / "topic"
    sender = transport(topic)

    async def run() -> None:
        await sender.open()
        await sender.send(made[:1])
        (file,) = topic.iterdir()
        file.unlink()
        if replaced:
            file.write_bytes(b"")
        else:
            topic.rmdir()
        with pytest.raises(TransportError) as caught:
            await sender.send(made[1:])
        assert caught.value.retriable
        assert file.exists() == replaced
        await sender.open()
        await sender.send(made[1:])
        await sender.close()

    asyncio.run(run())
    assert [seq for seq, _ in stored(topic)] == [1, 2]
