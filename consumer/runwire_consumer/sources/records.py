"""Records whose header names are no UTF-8: aiokafka can't read them, and would never get past one.

A broker takes such a record from anybody, and aiokafka's reader raises UnicodeDecodeError at it whenever its batch is
read: the partition stands still for ever. `be_tolerant` has such a batch read by aiokafka's own reader in Python, which
sees names with the odd bytes written out. Every other batch is read as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

_MAGIC_AT, _MAGIC = 16, 2


def be_tolerant() -> None:
    """Let every aiokafka consumer of this process read header names that are no UTF-8."""
    fetcher.MemoryRecords = _Records


class _Records:
    """The batches of one partition in one answer of a broker."""

    def __init__(self, data: bytes) -> None:
        self._fast = MemoryRecords(data)
        self._slices = _MemoryRecordsPy(data)

    def size_in_bytes(self) -> int:
        return int(self._fast.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._fast.has_next())

    def next_batch(self) -> Any:
        part = self._slices._next_slice  # noqa: SLF001 - the bytes of a batch are to be had nowhere else
        self._slices._cache_next()  # noqa: SLF001 - as above
        batch = self._fast.next_batch()
        return _Batch(batch, bytes(part)) if part is not None and part[_MAGIC_AT] == _MAGIC else batch


class _Batch:
    """A batch that is read again, tolerantly, where it has to be."""

    def __init__(self, fast: Any, data: bytes) -> None:
        self._fast = fast
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._fast))
        except UnicodeDecodeError:
            return iter(list(_TolerantBatch(bytearray(self._data))))


class _TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch in Python whose texts may be anything."""

    def __iter__(self) -> _TolerantBatch:
        self._maybe_uncompress()
        self._buffer: bytes = _Bytes(self._buffer)
        return self


class _Bytes(bytes):
    """Bytes whose parts become text whatever they are."""

    __slots__ = ()

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Bytes(found) if isinstance(found, bytes) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - as bytes has it
        return super().decode(encoding, "backslashreplace")
