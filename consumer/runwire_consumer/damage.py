"""Which errors of the engine prove that the file is damaged, and which a retry could heal: only the first cost a file.

A damaged file is set aside and a snapshot takes its place (`repair.py`); whatever else keeps a file from opening
leaves it where it is. So an error counts as damage only where the engine's own check sums or formats say so, and never
where the operating system had a word in it: rights, descriptors, room, memory, a disk that doesn't answer. What is
unknown counts as no damage. (No error code tells these apart: DuckDB 1.5 says all of it in texts, tried one by one in
tests/consumer/test_repair.py.)
"""

from __future__ import annotations

INTERNAL = "INTERNAL Error"
DAMAGED = (
    "Corrupt database file",
    "Corrupt WAL file",
    "Failure while replaying WAL",
    "not a valid DuckDB database file",
    "Could not read enough bytes from file",
    "Failed to deserialize",
    "Serialization Error",
    INTERNAL,
)
HEALABLE = (
    "Permission denied",
    "Operation not permitted",
    "Too many open files",
    "No space left",
    "Disk quota",
    "Input/output error",
    "Read-only file system",
    "Stale file handle",
    "Is a directory",
    "Cannot allocate memory",
    "Out of Memory",
    "failed to allocate",
    "could not allocate",
    "Could not set lock",
    "INTERRUPT",
)
CONFLICT = "Could not set lock"
SQLITE = "sqlite_scanner"  # what DuckDB looks for when it sees such a file
NEWER = ("newer version of DuckDB", "newer DuckDB version")


def is_damage(text: str) -> bool:
    """Whether an error's text proves that the file itself is broken."""
    return any(words in text for words in DAMAGED) and not any(words in text for words in HEALABLE)


def is_conflict(text: str) -> bool:
    """Whether another program has the file open."""
    return CONFLICT in text


def is_newer(text: str) -> bool:
    """Whether a newer engine wrote the file."""
    return any(words in text for words in NEWER)


def is_sqlite(text: str) -> bool:
    """Whether another engine made the file."""
    return SQLITE in text
